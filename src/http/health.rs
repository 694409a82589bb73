//! Answers `GET /health`: whether the function could do its work.
//!
//! Everybody may ask, and so everybody is told words only; the counts are for operators. However many callers ask, an
//! instance looks at the ledger once a second at most.

use super::{problem::Problem, response::json};
use crate::{
    config::Settings,
    ledger::{
        Ledger,
        health::{Counts, Health, State},
        rpc::LedgerError,
    },
    runtime::Runtime,
};
use http::Response;
use serde::Serialize;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Shortest time between the starts of two looks at the ledger, in milliseconds: what anybody can make an instance ask
/// of the database, and as old as an answer is while the database answers.
const LOOK_EVERY_MS: u64 = 1_000;

/// How often a caller asks whether the first look of all is over, in milliseconds: a look takes a few.
const WAIT_MS: u64 = 10;

/// The looks at the ledger that an instance has made: when the last one started, and what the newest one found.
#[derive(Debug, Default)]
pub struct Looks(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// When the last look started, on the monotonic clock.
    started: Option<Duration>,
    /// What was found, and by the look of which start.
    found: Option<(Duration, Result<Health, LedgerError>)>,
}

/// What a caller gets.
enum Turn {
    /// It looks itself; the look has started.
    Look(Duration),
    /// The answer that is known.
    Known(Result<Health, LedgerError>),
    /// Another caller is at the first look.
    Wait,
}

impl Looks {
    /// No look so far.
    pub const fn none() -> Self {
        Self(Mutex::new(Seen { started: None, found: None }))
    }

    async fn look(&self, ledger: &Ledger, runtime: &impl Runtime) -> Result<Health, LedgerError> {
        loop {
            match self.turn(runtime.monotonic()) {
                Turn::Known(found) => return found,
                Turn::Wait => runtime.sleep(Duration::from_millis(WAIT_MS)).await,
                Turn::Look(started) => {
                    let found = ledger.health(runtime).await;
                    self.keep(started, &found);
                    return found;
                }
            }
        }
    }

    fn turn(&self, now: Duration) -> Turn {
        let mut seen = self.seen();
        let every = Duration::from_millis(LOOK_EVERY_MS);
        if seen.started.is_none_or(|started| now.saturating_sub(started) >= every) {
            seen.started = Some(now);
            return Turn::Look(now);
        }
        seen.found.clone().map_or(Turn::Wait, |(_, found)| Turn::Known(found))
    }

    /// Keeps what a look found, unless a later one was faster.
    fn keep(&self, started: Duration, found: &Result<Health, LedgerError>) {
        let mut seen = self.seen();
        if seen.found.as_ref().is_none_or(|(newest, _)| *newest <= started) {
            seen.found = Some((started, found.clone()));
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'a str,
    version: &'static str,
    mode: &'static str,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sweeper: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a [String]>,
    #[serde(flatten)]
    counts: Option<&'a Counts>,
}

/// Answers 200 when the settings are complete and the ledger, where there is one, answers. (When settings are missing or
/// wrong the router's 503 names them.) Answers 503, too, while deposits wait because Purple Flea refuses our key or URL.
pub async fn check(
    settings: &Settings,
    looks: &Looks,
    for_operator: bool,
    runtime: &impl Runtime,
) -> Result<Response<Vec<u8>>, Problem> {
    let ledger = match &settings.ledger {
        Some(ledger) => Some(looks.look(ledger, runtime).await?),
        None => None,
    };
    if ledger.as_ref().is_some_and(|ledger| ledger.refused_by_purple_flea) {
        return Err(Problem::PurpleFleaRefusedUs);
    }
    let state: Option<&State> = ledger.as_ref().map(|ledger| &ledger.state);
    let body = Body {
        status: state.map_or("ok", |state| &state.status),
        version: env!("CARGO_PKG_VERSION"),
        mode: if ledger.is_some() { "ledger" } else { "standalone" },
        paused: settings.policy.paused,
        sweeper: state.map(|state| state.sweeper.as_str()),
        why: state.map(|state| state.why.as_slice()),
        counts: ledger.as_ref().filter(|_| for_operator).map(|ledger| &ledger.counts),
    };
    Ok(json(&body))
}

#[cfg(test)]
mod tests;
