//! Looks up unknown bets in Purple Flea's history, unknown escrows in their senders' statements, and unknown closes
//! among the positions, for `POST /reconcile` and for a worker whose claim reports due look-ups.
//!
//! A bet in the history was executed, and its row holds the outcome. An escrow in the statement was made. A
//! position that is closed was closed. Any other job stays unknown, for one of these reasons. Only an operator
//! may release its job.
//!
//! - `not_found`: the function read the history to its end. Purple Flea has been seen to take a bet and leave no row.
//! - `history_too_long`: the function did not reach the end of the history.
//! - `history_unreadable`: the bet's row does not say how the bet ended.
//! - `no_history`: the dialect has no history.

use super::report;
use crate::{
    config::Settings,
    domain::{
        account::{Account, AccountKey, Api},
        bet::Bet,
        completed::Completed,
        escrow::{Counterparty, EscrowRow, Terms},
        job::State,
        position::CloseRow,
    },
    ledger::{
        Ledger,
        job::{Lookup, Settlement, Sought},
        rpc::LedgerError,
    },
    log::{Level, Line},
    purple_flea::{
        escrow_search::{EscrowSearch, NO_ESCROW},
        history::{FoundBet, History, HistoryError},
    },
    runtime::Runtime,
};
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use std::time::Duration;

/// Most rounds of `POST /reconcile`. Each round looks up at most 50 jobs.
pub const ROUNDS_LIMIT: usize = 20;

/// The time after which `POST /reconcile` starts no further round, in seconds.
pub const TIME_S: u64 = 30;

/// The longest gap between two jobs of one query, in seconds. Separate queries do not read the bets between
/// jobs of different days.
const WINDOW_S: u64 = 3_600;

/// The result of `POST /reconcile`.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    status: &'static str,
    /// The number of jobs whose bets are in the history.
    found: usize,
    /// The number of jobs that stay unknown.
    not_found: usize,
}

/// The reason why a look-up failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReconcileError {
    /// The ledger gave no usable answer.
    Ledger(LedgerError),
    /// The function could not read Purple Flea's history.
    History(HistoryError),
}

impl ReconcileError {
    /// Returns the stable code that replies and the log share.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.code(),
            Self::History(HistoryError::NotAuthorized(_)) => "purple_flea_refused_us",
            Self::History(HistoryError::Unreadable(_)) => "not_reached",
        }
    }

    /// Returns the detail that the log adds to the code.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Ledger(error) => Some(error.cause()),
            Self::History(HistoryError::NotAuthorized(status)) => Some(format!("status_{}", status.as_u16())),
            Self::History(HistoryError::Unreadable(cause)) => Some((*cause).to_owned()),
        }
    }
}

impl From<LedgerError> for ReconcileError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

/// Looks up due jobs in at most `rounds` rounds. No round starts after `until`, and no report starts after
/// `ends`, on the monotonic clock.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    rounds: usize,
    until: Duration,
    ends: Duration,
    runtime: &impl Runtime,
) -> Result<Report, ReconcileError> {
    let mut report = Report { status: "reconciled", ..Report::default() };
    for _ in 0..rounds {
        if runtime.monotonic() >= until {
            break;
        }
        let jobs = ledger.claim_lookups(runtime).await?;
        if jobs.is_empty() {
            break;
        }
        let settlements = look_up(settings, jobs, until, runtime).await?;
        let found = settlements.iter().filter(|s| s.state == State::Executed).count();
        report.found = report.found.saturating_add(found);
        report.not_found = report.not_found.saturating_add(settlements.len().saturating_sub(found));
        let locked = report::run(ledger, settlements, ends, runtime).await;
        report::run_locked(ledger, locked, ends, runtime).await;
    }
    let mut line = Line::new(runtime.now(), "reconcile");
    line.jobs = Some(report.found.saturating_add(report.not_found));
    line.level = if report.not_found > 0 { Level::Warn } else { Level::Info };
    runtime.log(&line);
    Ok(report)
}

async fn look_up(
    settings: &Settings,
    mut jobs: Vec<Lookup>,
    until: Duration,
    runtime: &impl Runtime,
) -> Result<Vec<Settlement>, ReconcileError> {
    // The gateway has no history. The live dialect has a history of bets, statements with escrows, and a list of
    // positions. An operator has to ask Purple Flea about the other jobs.
    let live = settings.purple_flea.api == Api::Live;
    let in_history = |job: &mut Lookup| live && job.sought.is_some();
    let mut found = Found::default();
    let others = jobs.extract_if(.., |job| !in_history(job));
    found.settlements.extend(others.map(|job| still_unknown(&job, "no_history")));
    let alone: Vec<Lookup> = jobs.extract_if(.., |job| !matches!(job.sought, Some(Sought::Bet(_)))).collect();
    let bets = sorted_by_key_and_time(jobs);
    let in_one_query = |one: &Lookup, next: &Lookup| {
        one.key_name == next.key_name && next.until_s.saturating_sub(one.from_s) <= WINDOW_S
    };
    for jobs in bets.chunk_by(in_one_query).chain(alone.chunks(1)) {
        if runtime.monotonic() >= until {
            // The remaining jobs get no report. A later look-up takes them.
            break;
        }
        let account = jobs.first().map(Lookup::account).unwrap_or_else(|| Account::shared(""));
        let settlements = match jobs {
            [job @ Lookup { sought: Some(Sought::Escrow(row)), .. }] => {
                look_up_escrow(settings, job, row, &account, until, runtime).await.map(|found| vec![found])
            }
            [job @ Lookup { sought: Some(Sought::Close(row)), .. }] => {
                look_up_close(settings, job, row, &account, runtime).await.map(|found| vec![found])
            }
            jobs => look_up_bets(settings, jobs, &account, until, runtime).await,
        };
        found.add(settlements, jobs, &account);
    }
    match found.failed {
        Some(error) if found.settlements.is_empty() => Err(ReconcileError::History(error)),
        _ => Ok(found.settlements),
    }
}

/// The results of the look-ups so far.
#[derive(Default)]
struct Found {
    settlements: Vec<Settlement>,
    failed: Option<HistoryError>,
}

impl Found {
    /// Adds the result of one look-up.
    fn add(&mut self, looked: Result<Vec<Settlement>, HistoryError>, jobs: &[Lookup], account: &Account) {
        match looked {
            Ok(settlements) => self.settlements.extend(settlements),
            Err(error) => {
                self.failed = Some(error);
                // A look-up with an agent's own key failed, or that of one escrow. Its jobs get a later look-up,
                // and other jobs go on.
                let alone = !matches!(account.key, AccountKey::Shared) || error == NO_ESCROW;
                let unreadable =
                    jobs.iter().filter(|_| alone).map(|job| still_unknown(job, "history_unreadable"));
                self.settlements.extend(unreadable);
            }
        }
    }
}

/// Looks up the bets of one account in one query.
async fn look_up_bets(
    settings: &Settings,
    jobs: &[Lookup],
    account: &Account,
    until: Duration,
    runtime: &impl Runtime,
) -> Result<Vec<Settlement>, HistoryError> {
    let keys: Vec<&str> = jobs.iter().map(|job| job.idempotency_key.as_str()).collect();
    let from_s = jobs.iter().map(|job| job.from_s).min().unwrap_or_default();
    let until_s = jobs.iter().map(|job| job.until_s).max().unwrap_or_default();
    let history = settings.purple_flea.history(account, from_s..=until_s, &keys, until, runtime).await?;
    Ok(jobs.iter().flat_map(|job| settle(job, &history)).collect())
}

/// Looks up an escrow in its sender's statement.
async fn look_up_escrow(
    settings: &Settings,
    job: &Lookup,
    row: &EscrowRow,
    account: &Account,
    until: Duration,
    runtime: &impl Runtime,
) -> Result<Settlement, HistoryError> {
    let terms = Terms::of(row.clone(), Counterparty::default(), job.referral_code.clone());
    let seconds = job.from_s..=job.until_s;
    let search =
        settings.purple_flea.find_escrow(&terms, account, &job.idempotency_key, seconds, until, runtime);
    Ok(match search.await? {
        EscrowSearch::Found(escrow) => {
            let body = Completed::Escrow(*escrow).body(&job.agent_id, &job.reference);
            settlement(job, State::Executed, body)
        }
        EscrowSearch::NotFound => still_unknown(job, "not_found"),
        EscrowSearch::TooLong => still_unknown(job, "history_too_long"),
    })
}

/// Looks up the close of a position among the account's positions. A position that is still open proves nothing:
/// Purple Flea has been seen to send an order to the exchange and leave the position open.
async fn look_up_close(
    settings: &Settings,
    job: &Lookup,
    row: &CloseRow,
    account: &Account,
    runtime: &impl Runtime,
) -> Result<Settlement, HistoryError> {
    let closed = settings.purple_flea.closed_before(&row.position_id, account, runtime).await?;
    Ok(match closed {
        Some(closed) => {
            let body = Completed::Close(closed).body(&job.agent_id, &job.reference);
            settlement(job, State::Executed, body)
        }
        None => still_unknown(job, "not_found"),
    })
}

/// Sorts jobs by key and time. There are at most 50, and the standard sort would add much code to the
/// component.
fn sorted_by_key_and_time(jobs: Vec<Lookup>) -> Vec<Lookup> {
    let mut sorted: Vec<Lookup> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let place =
            sorted.partition_point(|other| (&other.key_name, other.from_s) <= (&job.key_name, job.from_s));
        sorted.insert(place, job);
    }
    sorted
}

/// Makes the settlements of a look-up. If the history holds more than one bet of a job, the ledger gets all
/// of them. It records the first as the outcome, and each other one as a conflict for an operator.
fn settle(job: &Lookup, history: &History) -> Vec<Settlement> {
    let (Some(bets), Some(Sought::Bet(game))) = (history.bets(&job.idempotency_key), &job.sought) else {
        let reason = if history.whole { "not_found" } else { "history_too_long" };
        return vec![still_unknown(job, reason)];
    };
    let settled = bets.iter().map(|bet| match bet {
        Some(FoundBet { wager, outcome }) => {
            let bet = Bet { agent_id: job.agent_id.clone(), game: *game, wager: *wager };
            let completed = Completed::bet(&bet, outcome, Some("found_in_history"));
            settlement(job, State::Executed, completed.body(&job.agent_id, &job.reference))
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
