//! What a reply of Purple Flea's proves: executed, certainly not executed, or unknown.

use crate::{
    game::Game,
    money::Amount,
    outside::{Answer, SendError},
    policy::Bet,
};
use http::{StatusCode, header::RETRY_AFTER};
use serde_json::{Map, Value, json};

/// What we wait when Purple Flea says "too many" and not for how long: its windows are of 60 s.
const RATE_LIMITED_S: u64 = 60;

/// The longest wait that we pass on from Purple Flea: an hour. What is more is a mistake, not a window.
const RETRY_AFTER_MAX_S: u64 = 3_600;

/// Longest code, bet id or other word of Purple Flea's that is passed on, in bytes.
const WORD_LIMIT_BYTES: usize = 64;

/// How a bet that was made ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Won or lost.
    pub won: bool,
    /// What was paid, the stake included: 0 for a loss, `None` where a win does not say.
    pub payout: Option<Amount>,
    /// Purple Flea's name for the bet.
    pub bet_id: Option<String>,
    /// Where the multiplier crashed, for a crash bet that says so.
    pub crash_point: Option<Amount>,
}

/// Why a bet was not made, or why nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Purple Flea refused this bet for good. Nothing was executed.
    Rejected {
        /// Its own word for why.
        code: Option<String>,
        /// The most it would have taken, where it says so.
        max_bet: Option<Amount>,
    },
    /// Purple Flea refused us: our key, our URL. Nothing was executed, and no other bet would fare better.
    NotAuthorized(StatusCode),
    /// Too many requests. Nothing was executed.
    RateLimited {
        /// After how many seconds it is worth trying again.
        retry_after_s: u64,
    },
    /// The request was certainly not sent.
    NotSent(&'static str),
    /// It was sent, and the time was over before an answer came. It may have been executed.
    TimedOut,
    /// It was sent, and what came back does not say whether it was executed.
    Unknown(Doubt),
}

/// What kept us from knowing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The connection broke before a whole answer was there; the text says how, for the log.
    Broken(&'static str),
    /// A status that does not prove that nothing was executed.
    Status(StatusCode),
    /// A success without an outcome that can be recognised.
    Unrecognised,
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(why) => Self::NotSent(why),
            SendError::TimedOut => Self::TimedOut,
            SendError::Broken(how) => Self::Unknown(Doubt::Broken(how)),
        }
    }
}

/// What an answer proves.
pub(super) fn read(bet: &Bet, answer: &Answer) -> Result<Outcome, Failure> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let word = |name| body.as_ref().and_then(|b| b.get(name)).and_then(Value::as_str).and_then(word);
    let code = || word("error").or_else(|| word("code"));
    match answer.head.status.as_u16() {
        200..=299 => {
            body.as_ref().and_then(|body| recognise(bet, body)).ok_or(Failure::Unknown(Doubt::Unrecognised))
        }
        // The exchange behind a trade can refuse, or fail, after the order was sent.
        400 if code().as_deref() == Some("trade_failed") => {
            Err(Failure::Unknown(Doubt::Status(answer.head.status)))
        }
        400 | 402 | 409 | 422 => Err(Failure::Rejected {
            code: code(),
            max_bet: body.as_ref().and_then(|b| b.get("max_bet")).and_then(amount),
        }),
        401 | 403 | 404 => Err(Failure::NotAuthorized(answer.head.status)),
        429 => Err(Failure::RateLimited { retry_after_s: retry_after_s(answer) }),
        // A 5xx can have moved money. What is not listed proves nothing.
        _ => Err(Failure::Unknown(Doubt::Status(answer.head.status))),
    }
}

/// Reads an outcome leniently: fields on the top or under `result`, numbers as strings, whatever else beside
/// them. But never blindly: something must say won or lost, nothing may contradict it, and a payout that is there
/// must be one.
fn recognise(bet: &Bet, body: &Value) -> Option<Outcome> {
    let top = body.as_object()?;
    let under = top.get("result").and_then(Value::as_object);
    let field = |name: &str| {
        let present = |map: &Map<String, Value>| map.get(name).filter(|v| !v.is_null()).cloned();
        present(top).or_else(|| under.and_then(present))
    };
    if field("error").is_some() {
        return None;
    }
    let verdicts: Vec<bool> = [
        field("won").as_ref().and_then(flag),
        field("cashed_out").as_ref().and_then(flag),
        field("outcome").as_ref().and_then(|word| won(bet.game, word)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let won = *verdicts.first()?;
    if verdicts.iter().any(|verdict| *verdict != won) {
        return None;
    }
    let payout = match field("payout").or_else(|| field("amount_won")) {
        None if won => None,
        None => Some(Amount::ZERO),
        Some(value) => Some(amount(&value)?),
    };
    if payout.is_some_and(|p| p.is_negative() || p.decimal().is_zero() == won) {
        return None;
    }
    Some(Outcome {
        won,
        payout,
        bet_id: field("bet_id").or_else(|| field("id")).as_ref().and_then(|id| match id {
            Value::String(text) => word(text),
            Value::Number(number) => word(number.as_str()),
            _ => None,
        }),
        crash_point: field("crash_point").as_ref().and_then(amount),
    })
}

/// `outcome` is win or loss in one place and the face of the coin in another.
fn won(game: Game, outcome: &Value) -> Option<bool> {
    match (outcome.as_str()?.to_ascii_lowercase().as_str(), game) {
        ("win" | "won", _) => Some(true),
        ("loss" | "lose" | "lost", _) => Some(false),
        (face @ ("heads" | "tails"), Game::CoinFlip(side)) => Some(json!(side) == face),
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| value.as_str()?.parse().ok())
}

fn amount(value: &Value) -> Option<Amount> {
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

fn retry_after_s(answer: &Answer) -> u64 {
    let header = answer.head.headers.get(RETRY_AFTER);
    header
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(RATE_LIMITED_S, |s: u64| s.clamp(1, RETRY_AFTER_MAX_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::game::{CashoutAt, Side};
    use http::HeaderValue;
    use proptest::prelude::*;

    fn bet(game: Game) -> Bet {
        Bet { agent_id: "agent-001".into(), game, wager: "10.00".parse().unwrap() }
    }

    fn crash() -> Bet {
        bet(Game::Crash(CashoutAt::new("1.5".parse().unwrap()).unwrap()))
    }

    fn flip() -> Bet {
        bet(Game::CoinFlip(Side::Heads))
    }

    fn answer(status: u16, body: &str) -> Answer {
        let (head, ()) = http::Response::builder().status(status).body(()).unwrap().into_parts();
        Answer { head, body: body.into(), whole: true }
    }

    fn outcome(bet: &Bet, body: &str) -> Option<(bool, Option<String>)> {
        let outcome = read(bet, &answer(200, body)).ok()?;
        Some((outcome.won, outcome.payout.map(|p| p.to_string())))
    }

    #[test]
    fn an_outcome_is_recognised_in_every_form_that_purple_flea_writes() {
        let won = |payout: &str| Some((true, Some(payout.to_owned())));
        let lost = Some((false, Some("0".to_owned())));
        for (bet, body, expected) in [
            (crash(), r#"{"outcome":"win","payout":15.00,"_info":{}}"#, won("15.00")),
            (crash(), r#"{"outcome":"win","payout":"15.00"}"#, won("15.00")),
            (crash(), r#"{"outcome":"WIN","payout":15.0000000000002}"#, won("15.0000")),
            (crash(), r#"{"outcome":"loss","payout":0}"#, lost.clone()),
            (crash(), r#"{"outcome":"lose"}"#, lost.clone()),
            (crash(), r#"{"cashed_out":true,"crash_point":9.38,"payout":15}"#, won("15")),
            (crash(), r#"{"won":"true","amount_won":15}"#, won("15")),
            (crash(), r#"{"won":true}"#, Some((true, None))),
            (
                crash(),
                r#"{"result":{"cashed_out":false},"won":false,"amount_won":0,"error":null}"#,
                lost.clone(),
            ),
            (flip(), r#"{"outcome":"heads","payout":19.9}"#, won("19.9")),
            (flip(), r#"{"outcome":"tails","payout":0}"#, lost.clone()),
            (flip(), r#"{"won":true,"result":{"outcome":"heads"},"amount_won":9.95}"#, won("9.95")),
        ] {
            assert_eq!(outcome(&bet, body), expected, "{body}");
        }
    }

    #[test]
    fn a_success_without_a_recognisable_outcome_is_unknown_and_never_a_success() {
        for body in [
            "",
            "null",
            "{}",
            "[]",
            "<html>",
            "true",
            "{\"won\":null}",
            "{\"won\":1}",
            "{\"outcome\":\"heads\",\"payout\":1}",
            "{\"outcome\":\"pending\"}",
            "{\"won\":true,\"outcome\":\"loss\"}",
            "{\"won\":true,\"payout\":0}",
            "{\"won\":false,\"payout\":5}",
            "{\"won\":true,\"payout\":-5}",
            "{\"won\":true,\"payout\":\"NaN\"}",
            "{\"won\":true,\"payout\":1e400}",
            "{\"won\":true,\"payout\":[]}",
            "{\"won\":true,\"error\":\"oops\"}",
            "{\"won\":true,\"payout\":15",
            "{\"won\":true,\"cashed_out\":false}",
        ] {
            assert_eq!(
                read(&crash(), &answer(200, body)),
                Err(Failure::Unknown(Doubt::Unrecognised)),
                "{body}"
            );
        }
    }

    #[test]
    fn a_status_proves_what_it_proves_and_no_more() {
        let refused = r#"{"error":"kelly_limit_exceeded","message":"…","max_bet":4.9318}"#;
        let expected = Failure::Rejected {
            code: Some("kelly_limit_exceeded".into()),
            max_bet: Some("4.9318".parse().unwrap()),
        };
        assert_eq!(read(&crash(), &answer(400, refused)), Err(expected));
        for status in [400, 402, 409, 422] {
            let nothing_said = Failure::Rejected { code: None, max_bet: None };
            assert_eq!(read(&crash(), &answer(status, "<html>")), Err(nothing_said));
        }
        for status in [401, 403, 404] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(read(&crash(), &answer(status.as_u16(), "{}")), Err(Failure::NotAuthorized(status)));
        }
        for status in [301, 302, 307, 408, 405, 410, 418, 500, 502, 503, 504, 599] {
            let won = r#"{"outcome":"win","payout":15}"#;
            let doubt = Doubt::Status(StatusCode::from_u16(status).unwrap());
            assert_eq!(read(&crash(), &answer(status, won)), Err(Failure::Unknown(doubt)));
        }
        let failed = read(&crash(), &answer(400, r#"{"error":"trade_failed"}"#));
        assert_eq!(failed, Err(Failure::Unknown(Doubt::Status(StatusCode::BAD_REQUEST))));
    }

    #[test]
    fn too_many_requests_wait_as_long_as_purple_flea_says_within_reason() {
        for (header, seconds) in
            [(None, 60), (Some("7"), 7), (Some("0"), 1), (Some("999999"), 3_600), (Some("soon"), 60)]
        {
            let mut answer = answer(429, r#"{"error":"rate_limited"}"#);
            if let Some(header) = header {
                answer.head.headers.insert(RETRY_AFTER, HeaderValue::from_static(header));
            }
            assert_eq!(read(&crash(), &answer), Err(Failure::RateLimited { retry_after_s: seconds }));
        }
    }

    #[test]
    fn words_of_another_party_are_passed_on_only_when_they_are_plain_and_short() {
        for code in ["two words", "ctrl\\u0007", "<script>", &"x".repeat(65), ""] {
            let body = format!(r#"{{"error":"{code}"}}"#);
            let nothing = Failure::Rejected { code: None, max_bet: None };
            assert_eq!(read(&crash(), &answer(400, &body)), Err(nothing));
        }
    }

    proptest! {
        #[test]
        fn any_reply_is_read_without_a_panic(status in 100..600_u16, body in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut answer = answer(status, "");
            answer.body = body;
            let _ = read(&flip(), &answer);
        }
    }
}
