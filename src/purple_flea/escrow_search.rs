//! Finds an escrow whose creation got no answer, in the `live` dialect.
//!
//! The statement of the sender's account lists the money that each escrow holds, and names the escrow. The
//! escrow's description ends in the idempotency key of its creation. A statement has 50 lines, so an escrow
//! that is not among them proves nothing.

use super::{
    PurpleFlea,
    escrow::read_without_id,
    history::{CLOCK_SKEW_S, HistoryError},
    reply::{self, Field},
};
use crate::{
    domain::{
        account::Account,
        escrow::{Escrow, Terms},
    },
    runtime::Runtime,
};
use serde_json::Value;
use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

/// The lines of a full statement. Purple Flea shows no older ones.
const LINES_LIMIT: usize = 50;

/// Most escrows that one search reads. The amount and the time select them, so there is rarely more than one.
const ESCROWS_LIMIT: usize = 10;

/// The beginning of the reason of a line that holds an escrow's money. The escrow's id follows it.
const HELD: &str = "escrow_lock: ";

/// The reason of a search that could not read one of the escrows. It says nothing about the key.
pub const NO_ESCROW: HistoryError = HistoryError::Unreadable("no_escrow");

/// The result of a search for an escrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EscrowSearch {
    /// Purple Flea made the escrow.
    Found(Box<Escrow>),
    /// The statement has every line since the call, and none holds the escrow's money.
    NotFound,
    /// The statement's lines, or the candidates among them, are too many to be read to their end.
    TooLong,
}

impl PurpleFlea {
    /// Searches the sender's account for the escrow that a call made between two times (Unix seconds). After
    /// `deadline`, on the monotonic clock, it reads no further escrow.
    pub async fn find_escrow(
        &self,
        terms: &Terms,
        account: &Account,
        idempotency_key: &str,
        seconds: RangeInclusive<u64>,
        deadline: Duration,
        runtime: &impl Runtime,
    ) -> Result<EscrowSearch, HistoryError> {
        let lines = self.statement(account, runtime).await?;
        let since = seconds.start().saturating_sub(CLOCK_SKEW_S);
        let until = seconds.end().saturating_add(CLOCK_SKEW_S);
        let whole = lines.len() < LINES_LIMIT || lines.iter().filter_map(unix_s).any(|line_s| line_s < since);
        let held = lines.iter().filter(|line| unix_s(line).is_none_or(|s| (since..=until).contains(&s)));
        let held: Vec<String> = held.filter_map(|line| held_for(line, terms)).collect();
        let ending = format!("[{idempotency_key}]");
        for id in held.iter().take(ESCROWS_LIMIT) {
            if runtime.monotonic() >= deadline {
                return Ok(EscrowSearch::TooLong);
            }
            let escrow = self.escrow_object(id, account, runtime).await;
            let escrow = escrow.map_err(|_| NO_ESCROW)?;
            let description = escrow.field("description").and_then(Value::as_str).unwrap_or_default();
            if description.ends_with(&ending) {
                let found = Escrow {
                    pf_escrow_id: id.clone(),
                    reason: Some("found_in_statement"),
                    ..read_without_id(&escrow)
                };
                return Ok(EscrowSearch::Found(Box::new(self.with_referral(found, terms))));
            }
        }
        let all_read = held.len() <= ESCROWS_LIMIT;
        Ok(if whole && all_read { EscrowSearch::NotFound } else { EscrowSearch::TooLong })
    }
}

/// Returns the time of a line, in Unix seconds.
fn unix_s(line: &Value) -> Option<u64> {
    let at = humantime::parse_rfc3339_weak(line.get("at")?.as_str()?).ok()?;
    at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Returns the id of the escrow, if the line holds the money of an escrow of these terms.
fn held_for(line: &Value, terms: &Terms) -> Option<String> {
    let id = line.get("reason")?.as_str()?.strip_prefix(HELD)?;
    let same = line.get("amount").and_then(reply::amount) == Some(terms.amount);
    reply::identifier(id).filter(|_| same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{account::AccountKey, escrow::Counterparty},
        endpoint::Key,
        log::Line,
        runtime::{Answer, Limits, SendError},
    };
    use futures::FutureExt;
    use serde_json::json;
    use std::cell::RefCell;

    /// Purple Flea with one statement, and escrows whose descriptions end in the key of their number.
    struct Casino {
        statement: Vec<Value>,
        read: RefCell<Vec<String>>,
    }

    impl Runtime for Casino {
        async fn send(&self, request: http::Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
            let path = request.uri().path().to_owned();
            let body = match path.strip_prefix("/escrow/esc_") {
                None => json!({ "entries": self.statement }),
                Some("broken") => return Err(SendError::TimedOut),
                Some(number) => json!({
                    "escrow_id": format!("esc_{number}"), "status": "funded", "commission_usd": 0.1,
                    "description": format!("A logo [key-{number}]"), "auto_release_at": "2026-11-22T02:28:12.000Z",
                }),
            };
            self.read.borrow_mut().push(path);
            let (head, body) = http::Response::new(body.to_string().into_bytes()).into_parts();
            Ok(Answer { head, body, whole: true })
        }

        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(u64::try_from(self.read.borrow().len()).unwrap())
        }

        async fn sleep(&self, _: Duration) {}

        fn random(&self) -> u128 {
            0
        }

        fn log(&self, _: &Line) {}
    }

    fn line(reason: &str, amount: u32, at: &str) -> Value {
        json!({ "type": "debit", "amount": amount, "reason": reason, "reference": null, "at": at })
    }

    /// Searches the statement for the escrow of $10 with the key `key-7`, made at 2026-11-21T02:28:00Z.
    fn search(statement: Vec<Value>, deadline_s: u64) -> (Result<EscrowSearch, HistoryError>, usize) {
        let casino = Casino { statement, read: RefCell::default() };
        let settings = crate::config::check(|name| match name {
            "purple_flea_api" => Some("live".to_owned()),
            "purple_flea_key" => Some("key".to_owned()),
            "webhook_token" => Some("0123456789abcdef".to_owned()),
            name if name.starts_with("purple_flea_") && name.ends_with("url") => {
                Some("https://purple-flea.test".to_owned())
            }
            _ => None,
        });
        let account = Account {
            name: "agent-001".into(),
            key: AccountKey::Own(Key::parse("sk_live_own").unwrap()),
            wallet_address: None,
        };
        let terms = Terms::of(
            serde_json::from_value(json!({ "sender_id": "a", "receiver_id": "b", "amount": 10 })).unwrap(),
            Counterparty::default(),
            Some("ref_boss".to_owned()),
        );
        let at = humantime::parse_rfc3339("2026-11-21T02:28:00Z").unwrap();
        let at_s = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let deadline = Duration::from_secs(deadline_s);
        let purple_flea = settings.unwrap().purple_flea;
        let found = purple_flea.find_escrow(&terms, &account, "key-7", at_s..=at_s + 30, deadline, &casino);
        let found = found.now_or_never().unwrap();
        (found, casino.read.borrow().len())
    }

    const NOW: &str = "2026-11-21T02:28:10.000Z";

    #[test]
    fn an_escrow_is_found_by_the_key_in_its_description_among_others_of_its_amount() {
        let lines = vec![
            line("reservation", 10, NOW),
            line("escrow_lock: esc_5", 11, NOW),
            line("escrow_lock: esc_6", 10, NOW),
            line("escrow_lock: esc_7", 10, NOW),
            line("escrow_lock: esc_8", 10, "2026-11-20T02:28:10.000Z"),
        ];
        let (found, read) = search(lines, 60);
        let Ok(EscrowSearch::Found(escrow)) = found else { panic!("{found:?}") };
        assert_eq!((escrow.pf_escrow_id.as_str(), escrow.reason), ("esc_7", Some("found_in_statement")));
        assert_eq!(escrow.referral_due, Some("0.015".parse().unwrap()));
        assert_eq!(read, 3, "the statement, and the two escrows of this amount and time");
    }

    #[test]
    fn only_a_statement_that_was_read_to_its_end_proves_that_an_escrow_is_missing() {
        assert_eq!(search(vec![line("escrow_lock: esc_6", 10, NOW)], 60).0, Ok(EscrowSearch::NotFound));
        let busy = vec![line("reservation", 1, NOW); LINES_LIMIT];
        assert_eq!(search(busy.clone(), 60).0, Ok(EscrowSearch::TooLong), "older lines are not shown");
        let old = line("reservation", 1, "2026-11-20T02:28:10.000Z");
        assert_eq!(search([&busy[1..], &[old]].concat(), 60).0, Ok(EscrowSearch::NotFound));
        let many = vec![line("escrow_lock: esc_6", 10, NOW); ESCROWS_LIMIT + 1];
        assert_eq!(search(many, 60), (Ok(EscrowSearch::TooLong), ESCROWS_LIMIT + 1), "too many escrows");
        let late = vec![line("escrow_lock: esc_7", 10, NOW)];
        assert_eq!(search(late, 1).0, Ok(EscrowSearch::TooLong), "the time was over");
        let unread = vec![line("escrow_lock: esc_broken", 10, NOW)];
        assert_eq!(search(unread, 60).0, Err(NO_ESCROW));
    }

    #[test]
    fn a_line_of_another_shape_is_passed_over() {
        let odd = vec![json!(null), json!({ "reason": 7 }), line("escrow_lock: <b>", 10, NOW), json!([])];
        assert_eq!(search(odd, 60), (Ok(EscrowSearch::NotFound), 1));
    }
}
