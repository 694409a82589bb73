//! Finds an escrow whose creation got no answer, in the `live` dialect.
//!
//! The ledger of the sender's account lists the money that each escrow holds, and names the escrow. The
//! escrow's description ends in the idempotency key of its creation. Purple Flea shows the ledger's last 50
//! lines, so an escrow that is not among them proves nothing.

use super::{
    Call, PurpleFlea, REPLY_LIMIT_BYTES,
    escrow::read_without_id,
    history::{CLOCK_SKEW_S, HistoryError},
    reply::{self, Field},
};
use crate::{
    domain::{
        account::Account,
        escrow::{Escrow, Terms},
        failure::Failure,
    },
    runtime::Runtime,
};
use serde_json::Value;
use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

/// The lines of a full ledger. Purple Flea shows no older ones.
const LINES_LIMIT: usize = 50;

/// Most escrows that one search reads. The amount and the time select them, so there is rarely more than one.
const ESCROWS_LIMIT: usize = 10;

/// The beginning of the reason of a line that holds an escrow's money. The escrow's id follows it.
const HELD: &str = "escrow_lock: ";

/// The result of a search for an escrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EscrowSearch {
    /// Purple Flea made the escrow.
    Found(Box<Escrow>),
    /// The ledger has every line since the call, and none holds the escrow's money.
    NotFound,
    /// The ledger's lines, or the candidates among them, are too many to be read to their end.
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
        let lines = self.ledger_lines(account, runtime).await?;
        let since = seconds.start().saturating_sub(CLOCK_SKEW_S);
        let until = seconds.end().saturating_add(CLOCK_SKEW_S);
        let whole =
            lines.len() < LINES_LIMIT || lines.iter().filter_map(Line::unix_s).any(|line_s| line_s < since);
        let held = lines.iter().filter(|line| line.unix_s().is_none_or(|s| (since..=until).contains(&s)));
        let held: Vec<String> = held.filter_map(|line| line.holds(terms)).collect();
        let ending = format!("[{idempotency_key}]");
        for id in held.iter().take(ESCROWS_LIMIT) {
            if runtime.monotonic() >= deadline {
                return Ok(EscrowSearch::TooLong);
            }
            let escrow = self.escrow_object(id, account, runtime).await;
            let escrow = escrow.map_err(|_| HistoryError::Unreadable("no_escrow"))?;
            let description = escrow.field("description").and_then(Value::as_str).unwrap_or_default();
            if description.ends_with(&ending) {
                let found = Escrow {
                    pf_escrow_id: id.clone(),
                    reason: Some("found_in_ledger"),
                    ..read_without_id(&escrow)
                };
                return Ok(EscrowSearch::Found(Box::new(self.with_referral(found, terms))));
            }
        }
        let all_read = held.len() <= ESCROWS_LIMIT;
        Ok(if whole && all_read { EscrowSearch::NotFound } else { EscrowSearch::TooLong })
    }

    async fn ledger_lines(
        &self,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Vec<Line>, HistoryError> {
        let call = Call::get("/api/v1/auth/ledger".to_owned());
        let answer = match self.exchange(&self.casino, account, call, REPLY_LIMIT_BYTES, runtime).await {
            Ok(answer) => answer,
            Err(Failure::NoKey) => return Err(HistoryError::Unreadable("no_key")),
            Err(_) => return Err(HistoryError::Unreadable("no_answer")),
        };
        match answer.head.status.as_u16() {
            200 => lines_of(&answer.body).ok_or(HistoryError::Unreadable("not_a_ledger")),
            401 | 403 | 404 => Err(HistoryError::NotAuthorized(answer.head.status)),
            _ => Err(HistoryError::Unreadable("status")),
        }
    }
}

/// A line of an account's ledger.
struct Line(Value);

fn lines_of(body: &[u8]) -> Option<Vec<Line>> {
    match serde_json::from_slice::<Value>(body).ok()?.get_mut("entries")?.take() {
        Value::Array(lines) => Some(lines.into_iter().map(Line).collect()),
        _ => None,
    }
}

impl Line {
    /// Returns the time of the line, in Unix seconds.
    fn unix_s(&self) -> Option<u64> {
        let at = humantime::parse_rfc3339_weak(self.0.get("at")?.as_str()?).ok()?;
        at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    /// Returns the id of the escrow, if the line holds the money of an escrow of these terms.
    fn holds(&self, terms: &Terms) -> Option<String> {
        let id = self.0.get("reason")?.as_str()?.strip_prefix(HELD)?;
        let same = self.0.get("amount").and_then(reply::amount) == Some(terms.amount);
        reply::identifier(id).filter(|_| same)
    }
}
