//! Endpoints: the base URL of a service, and the key that the function shows it.

use http::{HeaderValue, Uri};
use std::{fmt, net::Ipv4Addr};

/// An origin and a path prefix without a trailing slash.
#[derive(Debug, Clone)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// Reads `https://host[:port][/prefix]`, without user, query or fragment. Accepts `http` for a loopback
    /// host only, because a key travels in a header.
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

    /// Returns whether the URL leads to this machine.
    pub fn is_loopback(&self) -> bool {
        let uri: Option<Uri> = self.0.parse().ok();
        uri.as_ref().and_then(Uri::host).is_some_and(is_loopback)
    }

    /// Returns the URL of a route. Our own routes never lead to `None`.
    pub fn join(&self, route: &str) -> Option<String> {
        let url = format!("{}{route}", self.0);
        url.parse::<Uri>().ok().map(|_| url)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// A secret that the function shows a service. Its `Debug` text does not contain the secret.
#[derive(Clone)]
pub struct Key {
    bare: HeaderValue,
    bearer: HeaderValue,
}

impl Key {
    /// Makes a key of visible ASCII characters. Returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let sensitive = |text: &str| {
            let mut value = HeaderValue::from_str(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        Some(Self { bare: sensitive(text)?, bearer: sensitive(&format!("Bearer {text}"))? })
    }

    /// Returns the value of an `authorization` header.
    pub fn bearer(&self) -> HeaderValue {
        self.bearer.clone()
    }

    /// Returns whether the key is one of Supabase's API keys, which its gateway exchanges for a token of its own.
    /// Such a key is no bearer token.
    pub fn is_api_key(&self) -> bool {
        let text = self.bare.as_bytes();
        text.starts_with(b"sb_secret_") || text.starts_with(b"sb_publishable_")
    }

    /// Returns the secret itself, for the settlement that stores it.
    pub fn expose(&self) -> &str {
        self.bare.to_str().unwrap_or_default()
    }

    /// Returns the key as the value of a header of its own.
    pub fn bare(&self) -> HeaderValue {
        self.bare.clone()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}
