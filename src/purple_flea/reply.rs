//! Interprets Purple Flea's replies: executed, certainly not executed, or unknown. The rules are the same for
//! every service. Each service reads its own success.

use crate::{
    domain::{
        amount::{self, Amount},
        failure::{Doubt, Failure, ONE_CLAIM_A_DAY, Refusal},
    },
    runtime::{Answer, SendError},
};
use http::{StatusCode, header::RETRY_AFTER};
use rust_decimal::Decimal;
use serde_json::Value;
use std::time::SystemTime;

/// Retry delay, in seconds, after a 429 that names no time. Purple Flea's windows last 60 s.
const RATE_LIMITED_S: u64 = 60;

/// Longest retry delay that the function accepts from Purple Flea, in seconds. A longer one is a mistake, or
/// one more request after an hour does no harm.
const RETRY_AFTER_MAX_S: u64 = 3_600;

/// Longest retry delay after [`ONE_CLAIM_A_DAY`], in seconds: a day. It is also the delay if the reply names
/// no time. Within the day the faucet refuses every request from the address.
const ADDRESS_RETRY_MAX_S: u64 = 86_400;

/// Purple Flea's codes for a trade or a close that failed, before or after it sent an order to the exchange.
const FAILED_AT_THE_EXCHANGE: [&str; 2] = ["trade_failed", "close_failed"];

/// The beginnings of the messages of such a failure that comes before the order (docs/purple-flea.md, section 4).
const BEFORE_THE_ORDER: [&str; 6] = [
    "Market not found",
    "No price available",
    "Max leverage for",
    "Position size too small",
    "No price for",
    "No open position for",
];

/// Purple Flea's code for a claim that was made before.
pub(super) const ALREADY_CLAIMED: &str = "already_claimed";

/// Longest code, bet id or other identifier of Purple Flea's that is passed on, in bytes.
const WORD_LIMIT_BYTES: usize = 64;

/// Longest hash of a transaction, in bytes. Ethereum's have 66 characters, Solana's 88.
const TX_HASH_LIMIT_BYTES: usize = 128;

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(cause) => Self::NotSent(cause),
            SendError::TimedOut => Self::TimedOut,
            SendError::Broken(how) => Self::Unknown(Doubt::Broken(how)),
        }
    }
}

/// Interprets an answer. Returns the body of a success, or a failure. With one of `final_codes` a 403 or 404
/// refuses this request for good. Any other 403 or 404 refuses our key or URL.
pub(super) fn interpret(
    answer: &Answer,
    final_codes: &[&str],
    own_key: bool,
    now: SystemTime,
) -> Result<Value, Failure> {
    let body: Option<Value> =
        str::from_utf8(&answer.body).ok().and_then(|text| serde_json::from_str(text).ok());
    let field = |name| body.as_ref().and_then(|b| b.get(name)).and_then(Value::as_str).and_then(identifier);
    let code = field("error").or_else(|| field("code"));
    let status = answer.head.status;
    match status.as_u16() {
        200..=299 => body
            .filter(|b| b.is_object() && b.field("error").is_none())
            .ok_or(Failure::Unknown(Doubt::Unrecognised)),
        // The exchange that executes a trade can refuse or fail after it got the order.
        400 if code.as_deref().is_some_and(|code| FAILED_AT_THE_EXCHANGE.contains(&code))
            && !precedes_the_order(body.as_ref()) =>
        {
            Err(Failure::Unknown(Doubt::Status(status)))
        }
        403 | 404 if !code.as_deref().is_some_and(|code| final_codes.contains(&code)) => {
            // A missing path does not depend on the key.
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
            let asked_s = retry_after_s(answer, body.as_ref(), now);
            let retry_after_s = if code.as_deref() == Some(ONE_CLAIM_A_DAY) {
                let asked_s = asked_s.or_else(|| hours_in_message(body.as_ref()));
                asked_s.unwrap_or(ADDRESS_RETRY_MAX_S).min(ADDRESS_RETRY_MAX_S)
            } else {
                asked_s.unwrap_or(RATE_LIMITED_S).min(RETRY_AFTER_MAX_S)
            };
            Err(Failure::RateLimited { retry_after_s, code })
        }
        // A 5xx may have moved money. Any other status proves nothing.
        _ => Err(Failure::Unknown(Doubt::Status(status))),
    }
}

/// Returns whether the body of an answer names an error.
pub(super) fn names_an_error(answer: &Answer) -> bool {
    serde_json::from_slice::<Value>(&answer.body).is_ok_and(|body| body.field("error").is_some())
}

/// Returns whether Purple Flea refused a trade before it sent an order to the exchange.
fn precedes_the_order(body: Option<&Value>) -> bool {
    let message = body.and_then(|body| body.get("message")).and_then(Value::as_str).unwrap_or_default();
    BEFORE_THE_ORDER.iter().any(|beginning| message.starts_with(beginning))
}

/// Reads a body leniently: fields at the top or under `result`, numbers as strings, and any other fields.
pub(super) trait Field {
    /// Returns a field that is present and not null.
    fn field(&self, name: &str) -> Option<&Value>;

    /// Returns the first of these fields, if it is an identifier or a number.
    fn identifier(&self, names: &[&str]) -> Option<String>;

    /// Returns the first of these fields, if it is an amount.
    fn amount(&self, names: &[&str]) -> Option<Amount>;

    /// Returns the first of these fields, if it is a time, in RFC 3339 with whole seconds.
    fn time(&self, names: &[&str]) -> Option<String>;

    /// Returns the first of these fields, if it is the hash of a transaction.
    fn tx_hash(&self, names: &[&str]) -> Option<String>;
}

impl Field for Value {
    fn field(&self, name: &str) -> Option<&Value> {
        let under = self.get("result").filter(|result| result.is_object());
        [Some(self), under]
            .into_iter()
            .flatten()
            .find_map(|map| map.get(name).filter(|value| !value.is_null()))
    }

    fn identifier(&self, names: &[&str]) -> Option<String> {
        match names.iter().find_map(|name| self.field(name))? {
            Value::String(text) => identifier(text),
            Value::Number(number) => identifier(number.as_str()),
            _ => None,
        }
    }

    fn amount(&self, names: &[&str]) -> Option<Amount> {
        names.iter().find_map(|name| self.field(name)).and_then(amount)
    }

    fn time(&self, names: &[&str]) -> Option<String> {
        let time = names.iter().find_map(|name| self.field(name))?.as_str()?;
        let time = humantime::parse_rfc3339_weak(time).ok()?;
        Some(humantime::format_rfc3339_seconds(time).to_string())
    }

    fn tx_hash(&self, names: &[&str]) -> Option<String> {
        let text = names.iter().find_map(|name| self.field(name))?.as_str()?;
        plain(text, TX_HASH_LIMIT_BYTES).then(|| text.to_owned())
    }
}

pub(super) fn amount(value: &Value) -> Option<Amount> {
    Amount::rounded(number(value)?).ok()
}

/// Returns a number with all its digits.
pub(super) fn decimal(value: &Value) -> Option<Decimal> {
    amount::decimal(number(value)?).ok()
}

/// Returns the text of a number, or of a string that may hold one.
fn number(value: &Value) -> Option<&str> {
    match value {
        Value::Number(number) => Some(number.as_str()),
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// Returns the text if it is a short identifier, which replies and the log may hold.
pub(super) fn identifier(text: &str) -> Option<String> {
    plain(text, WORD_LIMIT_BYTES).then(|| text.to_owned())
}

fn plain(text: &str, limit_bytes: usize) -> bool {
    (1..=limit_bytes).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// Returns the retry delay from the first of these that names one: the header, `retry_after_seconds`,
/// `reset_at`.
fn retry_after_s(answer: &Answer, body: Option<&Value>, now: SystemTime) -> Option<u64> {
    let header =
        answer.head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // A fraction of a second counts as one second.
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
        // The delay is a second longer, because the reply names tenths of a second and the delay is in whole
        // seconds.
        Some(at.duration_since(now).map_or(0, |wait| wait.as_secs()).saturating_add(1))
    };
    header.or_else(seconds).or_else(reset).map(|s: u64| s.max(1))
}

/// Returns the delay that the faucet names in its message to people, in seconds: "Try again in ~7h."
fn hours_in_message(body: Option<&Value>) -> Option<u64> {
    let message = body?.get("message")?.as_str()?;
    let (_, rest) = message.split_once('~')?;
    let hours: u64 = rest.split_once('h')?.0.parse().ok()?;
    Some(hours.max(1).saturating_mul(3_600))
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
        interpret(answer, &["forbidden"], false, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn each_status_leads_to_the_failure_that_it_proves() {
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
        for message in [
            "Market not found",
            "No price available for XYZ",
            "Max leverage for BTC is 3",
            "Position size too small",
        ] {
            let refused = read(&answer(400, &format!(r#"{{"error":"trade_failed","message":"{message}"}}"#)));
            assert!(matches!(refused, Err(Failure::Rejected(_))), "{message}: {refused:?}");
        }
        let failed =
            read(&answer(400, r#"{"error":"trade_failed","message":"Order rejected by the exchange"}"#));
        assert_eq!(failed, Err(Failure::Unknown(Doubt::Status(StatusCode::BAD_REQUEST))));
        for (message, code) in [
            ("Close order not filled", Failure::Unknown(Doubt::Status(StatusCode::BAD_REQUEST))),
            ("No open position for BTC on Hyperliquid", Failure::rejected("close_failed")),
            ("No price for BTC", Failure::rejected("close_failed")),
        ] {
            let refused = read(&answer(400, &format!(r#"{{"error":"close_failed","message":"{message}"}}"#)));
            assert_eq!(refused, Err(code), "{message}");
        }
        let failed = read(&answer(400, r#"{"error":"trade_failed"}"#));
        assert_eq!(failed, Err(Failure::Unknown(Doubt::Status(StatusCode::BAD_REQUEST))));
        for body in ["", "null", "[]", "true", r#"{"error":"oops"}"#, r#"{"won":true"#] {
            assert_eq!(read(&answer(200, body)), Err(Failure::Unknown(Doubt::Unrecognised)), "{body}");
        }
    }

    #[test]
    fn a_403_with_a_final_code_refuses_the_request_and_any_other_refuses_the_key() {
        let refused = read(&answer(403, r#"{"error":"forbidden"}"#));
        assert!(matches!(refused, Err(Failure::Rejected(Refusal { code: Some(_), .. }))));
        let refused = read(&answer(403, r#"{"error":"unauthorized"}"#));
        assert!(matches!(refused, Err(Failure::NotAuthorized { .. })));
    }

    #[test]
    fn a_rate_limit_waits_as_long_as_purple_flea_says_up_to_an_hour() {
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
    fn the_faucets_limit_of_an_address_waits_as_long_as_the_reply_says_up_to_a_day() {
        for (body, seconds) in [
            (r#"{"error":"ip_rate_limited"}"#, 86_400),
            (r#"{"error":"ip_rate_limited","message":"One claim a day"}"#, 86_400),
            (r#"{"error":"ip_rate_limited","message":"Already claimed today. Try again in ~7h."}"#, 25_200),
            (r#"{"error":"ip_rate_limited","message":"Try again in ~0h."}"#, 3_600),
            (r#"{"error":"ip_rate_limited","message":"Try again in ~99999999999999999999h."}"#, 86_400),
            (r#"{"error":"ip_rate_limited","retry_after_seconds":7200}"#, 7_200),
            (r#"{"error":"ip_rate_limited","retry_after_seconds":9000000}"#, 86_400),
        ] {
            let limited = read(&answer(429, body));
            let expected =
                Failure::RateLimited { retry_after_s: seconds, code: Some(ONE_CLAIM_A_DAY.to_owned()) };
            assert_eq!(limited, Err(expected), "{body}");
        }
    }

    #[test]
    fn another_partys_code_is_passed_on_only_if_it_is_a_short_identifier() {
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
