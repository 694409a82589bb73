//! What a reply of Purple Flea's proves: done, certainly not done, or unknown. The same for every service; what a
//! success says is each service's own.

use crate::{
    domain::{
        amount::Amount,
        failure::{Doubt, Failure, Refusal},
    },
    runtime::{Answer, SendError},
};
use http::{StatusCode, header::RETRY_AFTER};
use serde_json::Value;
use std::time::SystemTime;

/// What we wait when Purple Flea says "too many" and not for how long: its windows are of 60 s.
const RATE_LIMITED_S: u64 = 60;

/// The longest wait that we pass on from Purple Flea: an hour. What is more is a mistake, or may as well be asked again.
const RETRY_AFTER_MAX_S: u64 = 3_600;

/// The faucet's word for an address that has claimed today.
pub(super) const ONE_A_DAY: &str = "ip_rate_limited";

/// Longest code, bet id or other word of Purple Flea's that is passed on, in bytes.
const WORD_LIMIT_BYTES: usize = 64;

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(why) => Self::NotSent(why),
            SendError::TimedOut => Self::TimedOut,
            SendError::Broken(how) => Self::Unknown(Doubt::Broken(how)),
        }
    }
}

/// What an answer proves: a success's body, or a failure. `finals` are the words with which this service's 403 and 404
/// refuse one request for good, where any other 403 or 404 refuses us.
pub(super) fn judge(
    answer: &Answer,
    finals: &[&str],
    own_key: bool,
    now: SystemTime,
) -> Result<Value, Failure> {
    let body: Option<Value> =
        str::from_utf8(&answer.body).ok().and_then(|text| serde_json::from_str(text).ok());
    let said = |name| body.as_ref().and_then(|b| b.get(name)).and_then(Value::as_str).and_then(word);
    let code = said("error").or_else(|| said("code"));
    let status = answer.head.status;
    match status.as_u16() {
        200..=299 => body
            .filter(|b| b.is_object() && b.field("error").is_none())
            .ok_or(Failure::Unknown(Doubt::Unrecognised)),
        // The exchange behind a trade can refuse, or fail, after the order was sent.
        400 if code.as_deref() == Some("trade_failed") => Err(Failure::Unknown(Doubt::Status(status))),
        403 | 404 if !code.as_deref().is_some_and(|code| finals.contains(&code)) => {
            // A path that is not there is nobody's key's trouble.
            let own_key = own_key && status != StatusCode::NOT_FOUND;
            Err(Failure::NotAuthorized { status, own_key })
        }
        401 => Err(Failure::NotAuthorized { status, own_key }),
        400 | 402 | 403 | 404 | 409 | 422 => Err(Failure::Rejected(Refusal {
            code,
            max_bet: body.as_ref().and_then(|b| b.get("max_bet")).and_then(amount),
            escrow_status: None,
        })),
        429 => {
            // The faucet's limit of one a day says no time either.
            let unsaid_s =
                if code.as_deref() == Some(ONE_A_DAY) { RETRY_AFTER_MAX_S } else { RATE_LIMITED_S };
            let retry_after_s = retry_after_s(answer, body.as_ref(), now).unwrap_or(unsaid_s);
            Err(Failure::RateLimited { retry_after_s, code })
        }
        // A 5xx can have moved money. What is not listed proves nothing.
        _ => Err(Failure::Unknown(Doubt::Status(status))),
    }
}

/// Reading a body leniently: fields on the top or under `result`, numbers as strings, whatever else beside them.
pub(super) trait Field {
    /// A field that is there and not null.
    fn field(&self, name: &str) -> Option<&Value>;

    /// The first of these that is a plain word, or a number.
    fn word(&self, names: &[&str]) -> Option<String>;

    /// The first of these that is there, if it is an amount.
    fn amount(&self, names: &[&str]) -> Option<Amount>;
}

impl Field for Value {
    fn field(&self, name: &str) -> Option<&Value> {
        let under = self.get("result").filter(|result| result.is_object());
        [Some(self), under]
            .into_iter()
            .flatten()
            .find_map(|map| map.get(name).filter(|value| !value.is_null()))
    }

    fn word(&self, names: &[&str]) -> Option<String> {
        match names.iter().find_map(|name| self.field(name))? {
            Value::String(text) => word(text),
            Value::Number(number) => word(number.as_str()),
            _ => None,
        }
    }

    fn amount(&self, names: &[&str]) -> Option<Amount> {
        names.iter().find_map(|name| self.field(name)).and_then(amount)
    }
}

pub(super) fn amount(value: &Value) -> Option<Amount> {
    match value {
        Value::Number(number) => Amount::rounded(number.as_str()).ok(),
        Value::String(text) => Amount::rounded(text).ok(),
        _ => None,
    }
}

/// A short word of another party's, safe to pass on and to log.
pub(super) fn word(text: &str) -> Option<String> {
    let plain = text.len() <= WORD_LIMIT_BYTES
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    plain.then(|| text.to_owned())
}

/// How long to wait, in the first of the ways in which Purple Flea says so: the header, `retry_after_seconds`,
/// `reset_at`.
fn retry_after_s(answer: &Answer, body: Option<&Value>, now: SystemTime) -> Option<u64> {
    let header =
        answer.head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // 0.5 is a second.
    let seconds = || {
        let seconds = body?.get("retry_after_seconds")?.as_number()?.as_str();
        seconds
            .split('.')
            .next()?
            .parse::<u64>()
            .ok()
            .map(|s| s.saturating_add(u64::from(seconds.contains('.'))))
    };
    let reset = || {
        let at = humantime::parse_rfc3339_weak(body?.get("reset_at")?.as_str()?).ok()?;
        // A second more than it says: it says tenths, and we wait whole ones.
        Some(at.duration_since(now).map_or(0, |wait| wait.as_secs()).saturating_add(1))
    };
    header.or_else(seconds).or_else(reset).map(|s: u64| s.clamp(1, RETRY_AFTER_MAX_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn answer(status: u16, body: &str) -> Answer {
        let (head, ()) = http::Response::builder().status(status).body(()).unwrap().into_parts();
        Answer { head, body: body.into(), whole: true }
    }

    fn read(answer: &Answer) -> Result<Value, Failure> {
        judge(answer, &["forbidden"], false, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_status_proves_what_it_proves_and_no_more() {
        let refused = r#"{"error":"kelly_limit_exceeded","message":"…","max_bet":4.9318}"#;
        let expected = Failure::Rejected(Refusal {
            code: Some("kelly_limit_exceeded".into()),
            max_bet: Some("4.9318".parse().unwrap()),
            escrow_status: None,
        });
        assert_eq!(read(&answer(400, refused)), Err(expected));
        for status in [400, 402, 409, 422] {
            assert_eq!(read(&answer(status, "<html>")), Err(Failure::Rejected(Refusal::default())));
        }
        for status in [401, 403, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            let refused = Failure::NotAuthorized { status, own_key: false };
            assert_eq!(read(&answer(status.as_u16(), "{}")), Err(refused));
        }
        for status in [301, 302, 307, 408, 405, 410, 418, 500, 502, 503, 504, 599] {
            let won = r#"{"outcome":"win","payout":15}"#;
            let doubt = Doubt::Status(StatusCode::from_u16(status).unwrap());
            assert_eq!(read(&answer(status, won)), Err(Failure::Unknown(doubt)));
        }
        let failed = read(&answer(400, r#"{"error":"trade_failed"}"#));
        assert_eq!(failed, Err(Failure::Unknown(Doubt::Status(StatusCode::BAD_REQUEST))));
        for body in ["", "null", "[]", "true", r#"{"error":"oops"}"#, r#"{"won":true"#] {
            assert_eq!(read(&answer(200, body)), Err(Failure::Unknown(Doubt::Unrecognised)), "{body}");
        }
    }

    #[test]
    fn a_403_is_final_with_a_word_of_the_service_and_our_trouble_otherwise() {
        let refused = read(&answer(403, r#"{"error":"forbidden"}"#));
        assert!(matches!(refused, Err(Failure::Rejected(Refusal { code: Some(_), .. }))));
        let refused = read(&answer(403, r#"{"error":"unauthorized"}"#));
        assert!(matches!(refused, Err(Failure::NotAuthorized { .. })));
    }

    #[test]
    fn too_many_requests_wait_as_long_as_purple_flea_says_within_reason() {
        let limited = |answer: &Answer| match read(answer) {
            Err(Failure::RateLimited { retry_after_s, .. }) => retry_after_s,
            other => panic!("{other:?}"),
        };
        for (header, seconds) in
            [(None, 60), (Some("7"), 7), (Some("0"), 1), (Some("999999"), 3_600), (Some("soon"), 60)]
        {
            let mut answer = answer(429, r#"{"error":"rate_limited"}"#);
            if let Some(header) = header {
                answer.head.headers.insert(RETRY_AFTER, HeaderValue::from_static(header));
            }
            assert_eq!(limited(&answer), seconds);
        }
        for (body, seconds) in [
            (r#"{"retry_after_seconds":12}"#, 12),
            (r#"{"retry_after_seconds":0.5}"#, 1),
            (r#"{"retry_after_seconds":-3}"#, 60),
            (r#"{"reset_at":"1970-01-01T00:00:30.500Z"}"#, 31),
            (r#"{"reset_at":"1970-01-01T00:00:00Z"}"#, 1),
            (r#"{"reset_at":"later"}"#, 60),
        ] {
            assert_eq!(limited(&answer(429, body)), seconds, "{body}");
        }
    }

    #[test]
    fn words_of_another_party_are_passed_on_only_when_they_are_plain_and_short() {
        for code in ["two words", "ctrl\\u0007", "<script>", &"x".repeat(65), ""] {
            let body = format!(r#"{{"error":"{code}"}}"#);
            assert_eq!(read(&answer(400, &body)), Err(Failure::Rejected(Refusal::default())));
        }
    }

    proptest! {
        #[test]
        fn any_reply_is_read_without_a_panic(status in 100..600_u16, body in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut answer = answer(status, "");
            answer.body = body;
            let _ = read(&answer);
        }
    }
}
