//! Answers `GET /health`: whether the function can work.
//!
//! The route needs no credential, so a reply holds codes only. An operator's reply holds counts as well.
//! However many callers ask, an instance queries the ledger at most once a second.

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

/// Shortest time between the starts of two health queries, in milliseconds. It limits the load that callers
/// can put on the database. It is also the greatest age of a reply while the database answers.
const QUERY_INTERVAL_MS: u64 = 1_000;

/// Time between two checks for the result of the first query, in milliseconds. A query takes a few
/// milliseconds.
const POLL_INTERVAL_MS: u64 = 10;

/// An instance's cache of the ledger's health.
#[derive(Debug, Default)]
pub struct HealthCache(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    /// The start of the last query, on the monotonic clock.
    started: Option<Duration>,
    /// The newest result, and the start of its query.
    newest: Option<(Duration, Result<Health, LedgerError>)>,
}

/// The next step of a caller.
enum Turn {
    /// The caller queries the ledger. The query starts at this time.
    Query(Duration),
    /// The caller gets the cached result.
    Cached(Result<Health, LedgerError>),
    /// Another caller runs the first query. This caller waits for its result.
    Wait,
}

impl HealthCache {
    /// Makes an empty cache.
    pub const fn empty() -> Self {
        Self(Mutex::new(Cached { started: None, newest: None }))
    }

    async fn health(&self, ledger: &Ledger, runtime: &impl Runtime) -> Result<Health, LedgerError> {
        loop {
            match self.turn(runtime.monotonic()) {
                Turn::Cached(result) => return result,
                Turn::Wait => runtime.sleep(Duration::from_millis(POLL_INTERVAL_MS)).await,
                Turn::Query(started) => {
                    let result = ledger.health(runtime).await;
                    self.store(started, &result);
                    return result;
                }
            }
        }
    }

    fn turn(&self, now: Duration) -> Turn {
        let mut cached = self.cached();
        let interval = Duration::from_millis(QUERY_INTERVAL_MS);
        if cached.started.is_none_or(|started| now.saturating_sub(started) >= interval) {
            cached.started = Some(now);
            return Turn::Query(now);
        }
        cached.newest.clone().map_or(Turn::Wait, |(_, result)| Turn::Cached(result))
    }

    /// Stores a result, unless a later query has already stored a newer one.
    fn store(&self, started: Duration, result: &Result<Health, LedgerError>) {
        let mut cached = self.cached();
        if cached.newest.as_ref().is_none_or(|(newest, _)| *newest <= started) {
            cached.newest = Some((started, result.clone()));
        }
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
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

/// Answers 200 if the settings are complete and the ledger, if there is one, answers. Answers 503 while
/// deposits wait because Purple Flea refuses our key or URL. If settings are missing or wrong, the router
/// answers before.
pub async fn check(
    settings: &Settings,
    cache: &HealthCache,
    for_operator: bool,
    runtime: &impl Runtime,
) -> Result<Response<Vec<u8>>, Problem> {
    let ledger = match &settings.ledger {
        Some(ledger) => Some(cache.health(ledger, runtime).await?),
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
