//! Reads the settings of Inngest.

use super::{Reader, table::*};
use crate::{
    endpoint::{BaseUrl, Key},
    inngest::{Inngest, signing::SigningKey},
    purple_flea::PurpleFlea,
};
use http::{HeaderValue, Uri};
use std::str::FromStr;

/// Longest event key, in characters. Inngest's have 86.
const EVENT_KEY_LIMIT_CHARS: usize = 256;

/// Longest name of an environment, in characters.
const ENV_LIMIT_CHARS: usize = 64;

impl<F: Fn(&'static str) -> Option<String>> Reader<F> {
    /// Reads Inngest's settings. The inner `None`: the function has nothing to do with Inngest.
    pub(super) fn inngest(
        &mut self,
        purple_flea: Option<&PurpleFlea>,
        database: Option<&BaseUrl>,
    ) -> Option<Option<Inngest>> {
        let key = self.optional(INNGEST_SIGNING_KEY, SigningKey::parse);
        let fallback = self.optional(INNGEST_SIGNING_KEY_FALLBACK, SigningKey::parse);
        let event_key = self.optional(INNGEST_EVENT_KEY, |text| {
            is_made_of(text, EVENT_KEY_LIMIT_CHARS, "_-").then(|| Key::parse(text)).flatten()
        });
        let api = self.required(INNGEST_API_URL, BaseUrl::parse);
        let events = self.documented(INNGEST_EVENT_URL, !self.is_default(INNGEST_API_URL));
        let serve_url = self.optional(INNGEST_SERVE_URL, serve_url);
        let is_dev = self.required(INNGEST_DEV, |text| bool::from_str(text).ok());
        let env = self.optional(INNGEST_ENV, |text| {
            is_made_of(text, ENV_LIMIT_CHARS, "._/-").then(|| HeaderValue::from_str(text).ok()).flatten()
        });
        let (key, fallback, event_key, env) = (key?, fallback?, event_key?, env?);
        let (api, serve_url, is_dev) = (api?, serve_url?, is_dev?);
        let events = events?.unwrap_or_else(|| api.clone());
        if key.is_none() && fallback.is_some() {
            self.refuse(INNGEST_SIGNING_KEY, "set, because inngest_signing_key_fallback is set");
            return None;
        }
        if (key.is_some() || is_dev) && serve_url.is_none() {
            self.refuse(INNGEST_SERVE_URL, "set, because inngest_signing_key or inngest_dev is set");
            return None;
        }
        if is_dev {
            // A stranger's call becomes rows of the ledger, too.
            let near = [Some(&api), Some(&events), database].into_iter().flatten().all(BaseUrl::is_loopback);
            if !near || !purple_flea?.urls().into_iter().all(BaseUrl::is_loopback) {
                self.refuse(INNGEST_DEV, INNGEST_DEV.limits);
                return None;
            }
        }
        if key.is_none() && event_key.is_none() && !is_dev {
            return Some(None);
        }
        let keys = key.into_iter().chain(fallback).collect();
        Some(Some(Inngest { is_dev, keys, event_key, api, events, serve_url, env }))
    }
}

/// Reads a URL with a path.
fn serve_url(text: &str) -> Option<String> {
    let url = BaseUrl::parse(text)?.to_string();
    let has_path = url.parse::<Uri>().is_ok_and(|uri| uri.path().len() > 1);
    has_path.then_some(url)
}

/// Returns whether a text has 1 to `limit` characters, each a letter, a digit or one of `more`.
fn is_made_of(text: &str, limit: usize, more: &str) -> bool {
    (1..=limit).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}
