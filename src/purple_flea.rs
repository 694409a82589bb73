//! What goes out: one bet as an HTTP request in the `gateway` dialect; [`reply`] says what comes back.
//!
//! Purple Flea has no idempotency: the same request twice moves money twice. So a request is sent once, and
//! whatever its fate, the result says one of three things: executed, certainly not executed, or unknown.

pub mod reply;

use crate::{game::Game, outside::Outside, policy::Bet, webhook::reference::Reference};
use http::{
    HeaderValue, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
};
use reply::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{fmt, net::Ipv4Addr, time::Duration};

/// The header that carries our bet key. Purple Flea ignores it today; an operator can find a bet by it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Purple Flea, as the settings describe it.
#[derive(Debug, Clone)]
pub struct PurpleFlea {
    /// Where it is.
    pub url: BaseUrl,
    /// Our key there.
    pub key: Key,
    /// Which dialect it speaks.
    pub api: Api,
    /// How long one exchange may take.
    pub timeout: Duration,
}

/// A dialect of Purple Flea's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The paths and fields of the public documentation: `/casino/crash`, `wager`, `cashout_at`.
    Gateway,
}

/// An origin and a path prefix without a slash at its end.
#[derive(Debug, Clone)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Reads `https://host[:port][/prefix]`. `http` is taken for a loopback host only, as the key travels in a
    /// header. No user, no query, no fragment.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let encrypted = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let plain = !text.contains(['@', '?', '#']) && !authority.host().is_empty();
        (plain && (encrypted || is_loopback(authority.host())))
            .then(|| Self(text.trim_end_matches('/').to_owned()))
    }

    /// The URL of a route; `None` never happens for the routes of this module.
    pub fn join(&self, route: &str) -> Option<String> {
        let url = format!("{}{route}", self.0);
        url.parse::<Uri>().ok().map(|_| url)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Our key at Purple Flea. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Key(HeaderValue);

impl Key {
    /// Takes visible ASCII characters; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl PurpleFlea {
    /// Makes one bet, once.
    pub async fn play(
        &self,
        bet: &Bet,
        reference: &Reference,
        outside: &impl Outside,
    ) -> Result<Outcome, Failure> {
        let Some(request) = self.request(bet, reference) else {
            return Err(Failure::NotSent("request_not_built"));
        };
        reply::read(bet, &outside.send(request, self.timeout).await?)
    }

    fn request(&self, bet: &Bet, reference: &Reference) -> Option<http::Request<Vec<u8>>> {
        let (route, body) = match (self.api, bet.game) {
            (Api::Gateway, Game::Crash(cashout_at)) => (
                "/casino/crash",
                json!({"agent_id": bet.agent_id, "wager": bet.wager, "cashout_at": cashout_at}),
            ),
            (Api::Gateway, Game::CoinFlip(side)) => {
                ("/casino/coin-flip", json!({"agent_id": bet.agent_id, "wager": bet.wager, "side": side}))
            }
        };
        let body = serde_json::to_vec(&body).ok()?;
        http::Request::post(self.url.join(route)?)
            .header(AUTHORIZATION, self.key.0.clone())
            .header(CONTENT_TYPE, "application/json")
            // With its length known, head and body leave in one piece on every host.
            .header(CONTENT_LENGTH, body.len())
            .header(ACCEPT, "application/json")
            .header(IDEMPOTENCY_KEY, reference.as_str())
            .body(body)
            .ok()
    }
}
