//! Looks unknown bets up in Purple Flea's history: `POST /reconcile`, and the end of a drain when some are due.
//!
//! A bet that is found was executed, with the outcome that stands there. Any other stays unknown, with what is known:
//! `not_found` (the history was read to its end; a bet has been seen to move money and leave no row),
//! `history_too_long` (it was not), `history_unreadable` (a row of the bet is there and does not say how it ended),
//! `no_history` (the dialect has none). Only an operator may release it.

use super::report;
use crate::{
    config::Settings,
    domain::{
        account::{Account, AccountKey, Api},
        bet::Bet,
        completed::Completed,
        job::State,
    },
    ledger::{
        Ledger,
        job::{Lookup, Settlement},
        rpc::LedgerError,
    },
    log::{Level, Line},
    purple_flea::history::{Found, History, HistoryError},
    runtime::Runtime,
};
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use std::time::Duration;

/// Most rounds of `POST /reconcile`: each looks up to 50 jobs up.
pub const ROUNDS_LIMIT: usize = 20;

/// Until how long after it began `POST /reconcile` asks for more, in seconds.
pub const TIME_S: u64 = 30;

/// Jobs that lie further apart than this, in seconds, are looked for apart: what was bet between one of yesterday's and
/// one of today's need not be read.
const WINDOW_S: u64 = 3_600;

/// What was found out.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    status: &'static str,
    /// Jobs that turned out to have been executed.
    found: usize,
    /// Jobs that stay unknown.
    not_found: usize,
}

/// Why a look-up failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReconcileError {
    /// The ledger gave no answer that can be used.
    Ledger(LedgerError),
    /// Purple Flea's history could not be read.
    History(HistoryError),
}

impl ReconcileError {
    /// The stable code that replies and the log share.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.code(),
            Self::History(HistoryError::NotAuthorized(_)) => "purple_flea_refused_us",
            Self::History(HistoryError::Unreadable(_)) => "not_reached",
        }
    }

    /// What the log says beyond the code.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Ledger(error) => Some(error.cause()),
            Self::History(HistoryError::NotAuthorized(status)) => Some(format!("status_{}", status.as_u16())),
            Self::History(HistoryError::Unreadable(why)) => Some((*why).to_owned()),
        }
    }
}

impl From<LedgerError> for ReconcileError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// Looks up what is due, in so many rounds at most. None is begun after `until`, and nothing is reported after `ends`, on the
/// monotonic clock.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    rounds: usize,
    until: Duration,
    ends: Duration,
    runtime: &impl Runtime,
) -> Result<Report, ReconcileError> {
    let mut told = Report { status: "reconciled", ..Report::default() };
    for _ in 0..rounds {
        if runtime.monotonic() >= until {
            break;
        }
        let jobs = ledger.lookups(runtime).await?;
        if jobs.is_empty() {
            break;
        }
        let settlements = look_up(settings, jobs, until, runtime).await?;
        let found = settlements.iter().filter(|s| s.state == State::Executed).count();
        told.found = told.found.saturating_add(found);
        told.not_found = told.not_found.saturating_add(settlements.len().saturating_sub(found));
        let locked = report::run(ledger, settlements, ends, runtime).await;
        report::alone(ledger, locked, ends, runtime).await;
    }
    let mut line = Line::new(runtime.now(), "reconcile");
    line.jobs = Some(told.found.saturating_add(told.not_found));
    line.level = if told.not_found > 0 { Level::Warn } else { Level::Info };
    runtime.log(&line);
    Ok(told)
}

async fn look_up(
    settings: &Settings,
    mut jobs: Vec<Lookup>,
    until: Duration,
    runtime: &impl Runtime,
) -> Result<Vec<Settlement>, ReconcileError> {
    // The gateway has no history, and the live dialect one of bets alone. Of the rest an operator has to ask Purple Flea.
    let in_history = |job: &mut Lookup| settings.purple_flea.api == Api::Live && job.game.is_some();
    let mut settlements: Vec<_> =
        jobs.extract_if(.., |job| !in_history(job)).map(|job| still_unknown(&job, "no_history")).collect();
    let jobs = in_order(jobs);
    let together = |one: &Lookup, next: &Lookup| {
        one.key_name == next.key_name && next.until_s.saturating_sub(one.from_s) <= WINDOW_S
    };
    let mut failed = None;
    for jobs in jobs.chunk_by(together) {
        if runtime.monotonic() >= until {
            // The others were not looked for, so nothing is said of them: they come up again.
            break;
        }
        let keys: Vec<&str> = jobs.iter().map(|job| job.idempotency_key.as_str()).collect();
        let from_s = jobs.iter().map(|job| job.from_s).min().unwrap_or_default();
        let until_s = jobs.iter().map(|job| job.until_s).max().unwrap_or_default();
        let account = jobs.first().map(Lookup::account).unwrap_or_else(|| Account::shared(""));
        match settings.purple_flea.history(&account, from_s..=until_s, &keys, until, runtime).await {
            Ok(history) => settlements.extend(jobs.iter().flat_map(|job| settle(job, &history))),
            Err(error) => {
                failed = Some(error);
                // An agent's own key that is refused is not asked with all day, and keeps nobody else's bets unknown.
                let own = !matches!(account.key, AccountKey::Shared);
                let unreadable =
                    jobs.iter().filter(|_| own).map(|job| still_unknown(job, "history_unreadable"));
                settlements.extend(unreadable);
            }
        }
    }
    match failed {
        Some(error) if settlements.is_empty() => Err(ReconcileError::History(error)),
        _ => Ok(settlements),
    }
}

/// By key and time. There are at most 50, and a sort that is quick for many is a large piece of code.
fn in_order(jobs: Vec<Lookup>) -> Vec<Lookup> {
    let mut sorted: Vec<Lookup> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let place =
            sorted.partition_point(|other| (&other.key_name, other.from_s) <= (&job.key_name, job.from_s));
        sorted.insert(place, job);
    }
    sorted
}

/// What a look-up found. Should it be more than one bet, the ledger is told of each: the first is the outcome, any
/// other a conflict that somebody has to look at.
fn settle(job: &Lookup, history: &History) -> Vec<Settlement> {
    let (Some(bets), Some(game)) = (history.bets.get(&job.idempotency_key), job.game) else {
        let reason = if history.whole { "not_found" } else { "history_too_long" };
        return vec![still_unknown(job, reason)];
    };
    let settled = bets.iter().map(|bet| match bet {
        Some(Found { wager, outcome }) => {
            let bet = Bet { agent_id: job.agent_id.clone(), game, wager: *wager };
            let done = Completed::bet(&bet, outcome, Some("found_in_history"));
            settlement(job, State::Executed, done.body(&job.agent_id, &job.reference))
        }
        None => still_unknown(job, "history_unreadable"),
    });
    settled.collect()
}

fn still_unknown(job: &Lookup, reason: &str) -> Settlement {
    let result = json!({ "status": "unknown", "reason": reason });
    settlement(job, State::Unknown, to_raw_value(&result).unwrap_or_default())
}

fn settlement(job: &Lookup, state: State, result: Box<RawValue>) -> Settlement {
    let (reference, token) = (job.reference.clone(), job.token.clone());
    Settlement { reference, token, state, result, secret: None }
}
