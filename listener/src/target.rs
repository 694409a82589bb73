//! Where a delivery goes: the parts of a subscription's URL. The database checked the URL when the subscription was
//! made; the listener checks it again, because a row may be older than the rules.

use http::{HeaderValue, Uri, uri::PathAndQuery};
use rustls::pki_types::ServerName;
use std::net::IpAddr;

/// The port of https.
const HTTPS: u16 = 443;

/// Below it are the ports of other services: mail, shells, databases of old. The database has the same limit
/// (`purple_flea.is_subscription_url`).
const FIRST_FREE_PORT: u16 = 1024;

/// Longest URL, in bytes: as in the database.
const URL_LIMIT_BYTES: usize = 2048;

/// Longest event key of Inngest, in bytes: as in the database (`purple_flea.is_event_key`).
const EVENT_KEY_LIMIT_BYTES: usize = 256;

/// The parts of a URL.
#[derive(Debug)]
pub(crate) struct Target {
    /// The host's name in lower case, or its address.
    pub(crate) host: String,
    /// The port to connect to.
    pub(crate) port: u16,
    /// The name that the certificate must have.
    pub(crate) server_name: ServerName<'static>,
    /// The header `host`.
    pub(crate) authority: HeaderValue,
    /// The path.
    pub(crate) path: PathAndQuery,
}

impl Target {
    /// Reads `https://host[:port][/path]`. Returns `None` for another scheme, a user, a query, a fragment, or a port
    /// of another service.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        if url.len() > URL_LIMIT_BYTES || url.contains(['@', '?', '#']) {
            return None;
        }
        let uri: Uri = url.parse().ok()?;
        if uri.scheme_str() != Some("https") {
            return None;
        }
        let authority = uri.authority()?;
        // A port that is no number in range is refused, and not taken for none.
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => HTTPS,
            rest => rest.strip_prefix(':')?.parse().ok()?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if port != HTTPS && port < FIRST_FREE_PORT {
            return None;
        }
        Some(Self {
            server_name: ServerName::try_from(host.clone()).ok()?,
            authority: HeaderValue::from_str(authority.as_str()).ok()?,
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            host,
            port,
        })
    }

    /// Returns the path of Inngest's event API for a key: `{path}/e/{key}`. Returns `None` for a key that would make another
    /// path.
    pub(crate) fn path_of_event_key(&self, key: &str) -> Option<PathAndQuery> {
        let plain = (1..=EVENT_KEY_LIMIT_BYTES).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            && !key.starts_with("whsec_");
        plain.then(|| format!("{}/e/{key}", self.path.path().trim_end_matches('/')).parse().ok()).flatten()
    }

    /// Returns the address if the URL has one in place of a name.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_keeps_the_hosts_name_its_port_and_the_path() {
        let target = Target::parse("https://Hooks.Example.com:8443/a/b").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("hooks.example.com", 8443));
        assert_eq!(
            (target.path.as_str(), target.authority.to_str().unwrap()),
            ("/a/b", "Hooks.Example.com:8443")
        );
        let target = Target::parse("https://hooks.example.com").unwrap();
        assert_eq!((target.port, target.path.as_str(), target.address()), (443, "/", None));
        assert_eq!(Target::parse("https://[::1]/").unwrap().address(), Some("::1".parse().unwrap()));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in [
            "",
            "hooks.example.com",
            "http://hooks.example.com/",
            "ftp://hooks.example.com/",
            "https://",
            "https://user@hooks.example.com/",
            "https://user:word@hooks.example.com/",
            "https://hooks.example.com/?token=1",
            "https://hooks.example.com/#a",
            "https://hooks.example.com:22/",
            "https://hooks.example.com:0/",
            "https://hooks.example.com:65536/",
            "https://hooks.example.com:/",
            "https://hooks example.com/",
            "https://hooks.example.com\\@127.0.0.1/",
        ] {
            assert!(Target::parse(url).is_none(), "{url}");
        }
        assert!(Target::parse(&format!("https://hooks.example.com/{}", "a".repeat(2048))).is_none());
    }
}
