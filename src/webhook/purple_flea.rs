//! Purple Flea's own webhooks, as its page documents them. No released server sends any (docs/purple-flea.md).
//!
//! The signature is an HMAC-SHA256 over `{timestamp}.{body}`, over the bytes as they arrived. A repeat has another
//! timestamp and the same id.

use crate::json::{self, ReadError, refuse};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

/// Greatest difference between a timestamp and now, in seconds. Purple Flea names none; this is the tolerance of
/// Standard Webhooks.
const TOLERANCE_S: u64 = 300;

/// Shortest and longest secret, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// Longest id of an event or an escrow, in bytes.
const ID_LIMIT_BYTES: usize = 64;

/// The header with the signature: `sha256=` and hexadecimal digits.
pub const SIGNATURE: HeaderName = HeaderName::from_static("x-purpleflea-signature");

/// The header with the time of the signature, in Unix seconds.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("x-purpleflea-timestamp");

/// The types of events that say that an escrow's counterparty has delivered.
const CONFIRMATIONS: [&str; 4] =
    ["escrow.completed", "escrow.confirmed", "escrow_completed", "escrow_confirmed"];

/// The fields that name the counterparty of the escrow.
const NAMES: [&str; 5] =
    ["confirmed_by", "completed_by", "counterparty_id", "counterparty_agent_id", "counterparty_address"];

/// The secret of Purple Flea's webhooks. Its `Debug` text does not contain it.
#[derive(Clone)]
pub struct SigningSecret(Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

impl SigningSecret {
    /// Reads a secret of visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = SECRET_BYTES.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        plain.then(|| Self(text.as_bytes().to_vec()))
    }

    /// Returns whether a request was signed with the secret, within the tolerance.
    pub fn verifies(&self, headers: &HeaderMap, body: &[u8], now_s: u64) -> bool {
        let one = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => value.to_str().ok(),
                _ => None,
            }
        };
        let (Some(shown), Some(timestamp)) = (one(&SIGNATURE), one(&TIMESTAMP)) else { return false };
        // A sign or a space would make another text of the same number.
        if !timestamp.bytes().all(|b| b.is_ascii_digit()) {
            return false;
        }
        let fresh = timestamp.parse::<u64>().is_ok_and(|at_s| now_s.abs_diff(at_s) <= TOLERANCE_S);
        let shown = shown.strip_prefix("sha256=").and_then(digest);
        match (shown, self.sign(timestamp, body)) {
            (Some(shown), Some(expected)) => fresh && bool::from(shown.ct_eq(&expected)),
            _ => false,
        }
    }

    /// Returns the signature of a body, as its header has it.
    pub fn signature(&self, timestamp: &str, body: &[u8]) -> Option<String> {
        let digits = self.sign(timestamp, body)?.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(format!("sha256={digits}"))
    }

    fn sign(&self, timestamp: &str, body: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in [timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        Some(mac.finalize().into_bytes().into())
    }
}

/// Reads 64 hexadecimal digits.
fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0_u8; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        let at = place.checked_mul(2)?;
        *byte = u8::from_str_radix(text.get(at..at.checked_add(2)?)?, 16).ok()?;
    }
    Some(bytes)
}

/// The content of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The counterparty of an escrow has delivered.
    Confirmed(Confirmation),
    /// Anything else.
    Other,
}

/// The confirmation of an escrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The event's id, the same for each repeat.
    pub id: String,
    /// Purple Flea's id of the escrow.
    pub pf_escrow_id: String,
    /// All names that the message gives the counterparty: one at least.
    pub counterparty: Vec<String>,
}

/// The envelope. Purple Flea's pages call the type `event` or `type`.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(alias = "type")]
    event: String,
    #[serde(default)]
    data: Map<String, Value>,
}

/// Reads a webhook's body.
pub fn read(body: &[u8]) -> Result<Message, ReadError> {
    let Envelope { id, event, data } = json::read(body)?;
    if !is_id(&id) {
        return refuse("`id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -");
    }
    if !CONFIRMATIONS.contains(&event.as_str()) {
        return Ok(Message::Other);
    }
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let Some(pf_escrow_id) = text("escrow_id").filter(|id| is_id(id)) else {
        return refuse("`data.escrow_id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -");
    };
    let counterparty: Vec<String> = NAMES.iter().filter_map(|name| text(name)).map(str::to_owned).collect();
    if counterparty.is_empty() {
        return refuse("`data` must name the counterparty: `confirmed_by` or `counterparty_id`, for example");
    }
    Ok(Message::Confirmed(Confirmation { id, pf_escrow_id: pf_escrow_id.to_owned(), counterparty }))
}

fn is_id(text: &str) -> bool {
    (1..=ID_LIMIT_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const BODY: &[u8] =
        br#"{"event":"escrow.completed","id":"evt_1","data":{"escrow_id":"esc_1","counterparty_id":"ag_2"}}"#;

    fn signed(timestamp: &str, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TIMESTAMP, HeaderValue::from_str(timestamp).unwrap());
        headers.insert(SIGNATURE, HeaderValue::from_str(signature).unwrap());
        headers
    }

    #[test]
    fn a_signature_covers_the_time_and_the_body_and_is_fresh() {
        let secret = SigningSecret::parse("a-secret-of-purple-flea").unwrap();
        let good = secret.signature("1700000000", BODY).unwrap();
        // openssl dgst -sha256 -hmac a-secret-of-purple-flea, over `1700000000.` and the body.
        assert_eq!(good.len(), 7 + 64);
        assert!(secret.verifies(&signed("1700000000", &good), BODY, 1_700_000_000));
        assert!(secret.verifies(&signed("1700000000", &good), BODY, 1_700_000_300));
        for (timestamp, signature, body, now) in [
            ("1700000000", good.as_str(), BODY, 1_700_000_301),
            ("1700000000", &good, BODY, 1_699_999_699),
            ("1700000001", &good, BODY, 1_700_000_000),
            ("+1700000000", &good, BODY, 1_700_000_000),
            ("1700000000", &good, b"{}", 1_700_000_000),
            ("1700000000", &good[7..], BODY, 1_700_000_000),
            ("1700000000", &good[..70], BODY, 1_700_000_000),
            ("1700000000", "sha256=", BODY, 1_700_000_000),
        ] {
            assert!(!secret.verifies(&signed(timestamp, signature), body, now), "{timestamp} {signature}");
        }
        let mut twice = signed("1700000000", &good);
        twice.append(SIGNATURE, HeaderValue::from_str(&good).unwrap());
        assert!(!secret.verifies(&twice, BODY, 1_700_000_000));
        assert!(!secret.verifies(&HeaderMap::new(), BODY, 1_700_000_000));
        let other = SigningSecret::parse("another-secret-of-theirs").unwrap();
        assert!(!other.verifies(&signed("1700000000", &good), BODY, 1_700_000_000));
    }

    #[test]
    fn a_confirmation_names_its_escrow_and_its_counterparty() {
        let confirmed = Confirmation {
            id: "evt_1".to_owned(),
            pf_escrow_id: "esc_1".to_owned(),
            counterparty: vec!["ag_2".to_owned()],
        };
        assert_eq!(read(BODY).ok(), Some(Message::Confirmed(confirmed)));
        let other = read(br#"{"type":"trade_filled","id":"evt_2","data":{}}"#).ok();
        assert_eq!(other, Some(Message::Other));
        for body in [
            "",
            "[]",
            r#"{"event":"escrow.completed"}"#,
            r#"{"event":"escrow.completed","id":"evt_1"}"#,
            r#"{"event":"escrow.completed","id":"evt 1","data":{"escrow_id":"esc_1","confirmed_by":"a"}}"#,
            r#"{"event":"escrow.completed","id":"evt_1","data":{"escrow_id":"esc_1"}}"#,
            r#"{"event":"escrow.completed","id":"evt_1","data":{"escrow_id":7,"confirmed_by":"a"}}"#,
            r#"{"event":"escrow.completed","id":"evt_1","data":{"escrow_id":"../x","confirmed_by":"a"}}"#,
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }
}
