//! Makes requests, signed as the trigger signs them, and checks the answers.

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use stack::webhook;

/// The callers' webhook secret. It guards nothing.
pub const SECRET: &str = "whsec_YmVuY2htYXJrLCBwbGF5IG1vbmV5IG9ubHkh";

/// A secret that the function does not know.
const WRONG_SECRET: &str = "whsec_YW5vdGhlciBzZWNyZXQsIGFuZCBub3Qgb3Vycw==";

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// A row on which the function places no bet.
    Skip,
    /// A deposit with an id of its own.
    Bet,
    /// A deposit with a wrong signature.
    Refused,
    /// The ledger's notification of a deposit that was executed before.
    Duplicate,
}

impl Load {
    /// Gives its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Bet => "bet",
            Self::Refused => "refused",
            Self::Duplicate => "duplicate",
        }
    }

    /// Makes the request for the deposit of this id.
    pub fn request(self, authority: &str, id: u64) -> Result<Request<Full<Bytes>>> {
        let name = format!("wallet-change-{id}");
        let row = |change_type| {
            format!(
                r#"{{"id":{id},"agent_id":"agent-001","change_type":"{change_type}","change_amount":100.0000,"new_balance":100.0000,"created_at":"2026-11-21T00:00:00+00:00"}}"#
            )
        };
        let body = match self {
            Self::Skip => row("withdrawal"),
            Self::Bet | Self::Refused => row("deposit"),
            Self::Duplicate => format!(r#"{{"ledger":true,"reference":"{name}"}}"#),
        };
        let secret = if self == Self::Refused { WRONG_SECRET } else { SECRET };
        let request = webhook::signed_with(secret, "/execute-trade", &name, body.as_bytes())?;
        Ok(request.header("host", authority).body(Full::from(body))?)
    }

    /// Fails unless this is the expected answer.
    pub fn check(self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<()> {
        let (expected, word) = match self {
            Self::Skip => (StatusCode::OK, r#""status":"skipped""#),
            Self::Bet => (StatusCode::OK, r#""bet_id":"bet_"#),
            Self::Refused => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Duplicate => (StatusCode::OK, r#""bet_id":"bet_"#),
        };
        let replayed = headers.get("idempotent-replayed").is_some_and(|value| value == "true");
        let told = body.windows(word.len()).any(|window| window == word.as_bytes());
        if status != expected || !told || replayed != (self == Self::Duplicate) {
            bail!("a wrong reply to {}: {status} {}", self.name(), String::from_utf8_lossy(body));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_reply_is_seen() {
        let ok = StatusCode::OK;
        let (none, body) = (HeaderMap::new(), br#"{"status":"skipped"}"#);
        assert!(Load::Skip.check(ok, &none, body).is_ok());
        assert!(Load::Skip.check(StatusCode::CREATED, &none, body).is_err());
        assert!(Load::Bet.check(ok, &none, body).is_err());
        let replayed = HeaderMap::from_iter([(
            http::HeaderName::from_static("idempotent-replayed"),
            http::HeaderValue::from_static("true"),
        )]);
        assert!(Load::Duplicate.check(ok, &replayed, br#"{"bet_id":"bet_1"}"#).is_ok());
        assert!(Load::Bet.check(ok, &replayed, br#"{"bet_id":"bet_1"}"#).is_err());
    }
}
