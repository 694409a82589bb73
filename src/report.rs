//! Reports outcomes to the ledger, for as long as the host lets the function live. What cannot be recorded stands in the log
//! whole: nothing else knows it. `scripts/ops record-logged` settles from there.

use crate::{
    ledger::{Ledger, Settled, job::Settlement, rpc::LedgerError},
    log::{Level, Line},
    outside::Outside,
};
use std::time::Duration;

/// Most outcomes of one report: what the database takes in one call.
const REPORT_LIMIT: usize = 100;

/// The first wait before outcomes are reported again, in milliseconds; it doubles, up to [`RETRY_MAX_MS`].
const RETRY_FIRST_MS: u64 = 100;

/// The longest wait before outcomes are reported again, in milliseconds.
const RETRY_MAX_MS: u64 = 2_000;

/// For how long a report is repeated that the ledger refuses (our key, the schema), in seconds: an operator mends that, and
/// not within a minute.
const REFUSED_S: u64 = 10;

/// Reports outcomes until each is recorded or `until` is over, on the monotonic clock.
///
/// An outcome whose first report fails is logged at once: the host may end the function before the last one.
pub async fn run(ledger: &Ledger, mut open: Vec<Settlement>, until: Duration, outside: &impl Outside) {
    let refused_until = outside.monotonic().saturating_add(Duration::from_secs(REFUSED_S)).min(until);
    let mut wait = Duration::from_millis(RETRY_FIRST_MS);
    let mut logged = false;
    loop {
        let mut failed = None;
        let mut again = Vec::new();
        while !open.is_empty() {
            let rest = open.split_off(open.len().min(REPORT_LIMIT));
            match ledger.settle(&open, outside).await {
                Ok(reports) => again.extend(take_in(open, &reports, outside)),
                Err(error) => {
                    again.extend(open);
                    failed = Some(error);
                }
            }
            open = rest;
        }
        if again.is_empty() {
            return;
        }
        let end = if failed.as_ref().is_some_and(|error| !error.may_pass()) { refused_until } else { until };
        let over = outside.monotonic().saturating_add(wait) >= end;
        if over || !logged {
            let cause = failed.as_ref().map_or_else(|| "not_now".to_owned(), LedgerError::cause);
            let code = if over { "not_settled" } else { "not_settled_yet" };
            again.iter().for_each(|settlement| log(settlement, Some(code), &cause, outside));
            logged = true;
        }
        if over {
            return;
        }
        outside.sleep(wait).await;
        wait = wait.saturating_mul(2).min(Duration::from_millis(RETRY_MAX_MS));
        open = again;
    }
}

/// Takes in what the database said of each outcome; gives back those that are to be reported again.
fn take_in(reported: Vec<Settlement>, reports: &[Settled], outside: &impl Outside) -> Vec<Settlement> {
    let mut again = Vec::new();
    for settlement in reported {
        let report =
            reports.iter().find(|report| report.reference.as_deref() == Some(settlement.reference.as_str()));
        match report.map_or("no_answer", |report| report.did.as_str()) {
            "settled" | "settled_before" => {}
            "not_now" | "no_answer" => again.push(settlement),
            // The ledger keeps it as an event of the job; its `detail` has the outcome.
            did @ ("conflict" | "too_late" | "late_answer" | "not_settled") => {
                log(&settlement, None, did, outside)
            }
            did => log(&settlement, Some("not_settled"), did, outside),
        }
    }
    again
}

fn log(settlement: &Settlement, code: Option<&'static str>, cause: &str, outside: &impl Outside) {
    let mut line = Line::new(outside.now(), "settle");
    line.level = Level::Error;
    line.reference = Some(settlement.reference.clone());
    line.code = code;
    line.cause = Some(cause.to_owned());
    line.token = Some(settlement.token.clone());
    line.state = Some(settlement.state.name());
    line.result = Some(settlement.result.clone());
    outside.log(&line);
}
