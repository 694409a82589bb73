//! Reports outcomes to the ledger, for as long as the host lets the function run.
//!
//! The log holds every outcome that cannot be recorded, in full, because no other place has it. `scripts/ops
//! record-logged` settles jobs from the log.

use crate::{
    ledger::{Ledger, SettlementReply, job::Settlement, rpc::LedgerError},
    log::{Level, Line},
    runtime::Runtime,
};
use std::time::Duration;

/// Most outcomes of one report: the database's limit for one call.
const REPORT_LIMIT: usize = 100;

/// The first wait before another report, in milliseconds. Each wait doubles it, up to [`RETRY_MAX_MS`].
const RETRY_FIRST_MS: u64 = 100;

/// The longest wait before another report, in milliseconds.
const RETRY_MAX_MS: u64 = 2_000;

/// The time for which the worker repeats a report that the ledger refuses, in seconds. An operator has to
/// correct the key or the schema, which takes longer than a minute.
const REFUSED_S: u64 = 10;

/// Reports outcomes until the ledger has answered for each, or `until` is over, on the monotonic clock. Returns the
/// outcomes whose rows another transaction holds. [`run_locked`] reports them, so the other reports do not wait.
///
/// Logs an outcome as soon as its first report fails, because the host may end the function before the last report.
pub async fn run(
    ledger: &Ledger,
    mut open: Vec<Settlement>,
    until: Duration,
    runtime: &impl Runtime,
) -> Vec<Settlement> {
    let refused_until = runtime.monotonic().saturating_add(Duration::from_secs(REFUSED_S)).min(until);
    let mut wait = Duration::from_millis(RETRY_FIRST_MS);
    let mut locked = Vec::new();
    let mut logged = false;
    loop {
        let (failed, error) = attempt(ledger, open, &mut locked, runtime).await;
        let Some(error) = error else { return locked };
        let end = if error.may_pass() { until } else { refused_until };
        let over = runtime.monotonic().saturating_add(wait) >= end;
        if over || !logged {
            let code = if over { "not_settled" } else { "not_settled_yet" };
            failed.iter().for_each(|settlement| log(settlement, Some(code), &error.cause(), runtime));
            logged = true;
        }
        if over {
            return locked;
        }
        runtime.sleep(wait).await;
        wait = next_wait(wait);
        open = failed;
    }
}

/// Reports locked outcomes repeatedly, until the ledger has recorded each or `until` is over.
pub async fn run_locked(
    ledger: &Ledger,
    mut locked: Vec<Settlement>,
    until: Duration,
    runtime: &impl Runtime,
) {
    let mut wait = Duration::from_millis(RETRY_FIRST_MS);
    let mut logged = false;
    while !locked.is_empty() {
        let over = runtime.monotonic().saturating_add(wait) >= until;
        if over || !logged {
            let code = if over { "not_settled" } else { "not_settled_yet" };
            locked.iter().for_each(|settlement| log(settlement, Some(code), "not_now", runtime));
            logged = true;
        }
        if over {
            return;
        }
        runtime.sleep(wait).await;
        wait = next_wait(wait);
        locked = run(ledger, locked, until, runtime).await;
    }
}

/// Reports all outcomes once, in parts. Returns the outcomes without an answer, and the last error.
async fn attempt(
    ledger: &Ledger,
    mut open: Vec<Settlement>,
    locked: &mut Vec<Settlement>,
    runtime: &impl Runtime,
) -> (Vec<Settlement>, Option<LedgerError>) {
    let (mut failed, mut error) = (Vec::new(), None);
    while !open.is_empty() {
        let remaining = open.split_off(open.len().min(REPORT_LIMIT));
        match ledger.settle(&open, runtime).await {
            Ok(reports) => {
                let unanswered = handle_replies(open, &reports, locked, runtime);
                if !unanswered.is_empty() {
                    failed.extend(unanswered);
                    error = Some(LedgerError::Unreadable);
                }
            }
            Err(ledger_error) => {
                failed.extend(open);
                error = Some(ledger_error);
            }
        }
        open = remaining;
    }
    (failed, error)
}

/// Handles the ledger's answer for each outcome. Adds locked outcomes to `locked`, and returns the outcomes
/// without an answer.
fn handle_replies(
    reported: Vec<Settlement>,
    reports: &[SettlementReply],
    locked: &mut Vec<Settlement>,
    runtime: &impl Runtime,
) -> Vec<Settlement> {
    let mut unanswered = Vec::new();
    for settlement in reported {
        let report =
            reports.iter().find(|report| report.reference.as_deref() == Some(settlement.reference.as_str()));
        match report.map(|report| report.result.as_str()) {
            Some("settled" | "settled_before") => {}
            Some("not_now") => locked.push(settlement),
            // The ledger keeps the outcome in the `detail` of a job event.
            Some(result @ ("conflict" | "too_late" | "late_answer" | "not_settled")) => {
                log(&settlement, None, result, runtime);
            }
            Some(result) => log(&settlement, Some("not_settled"), result, runtime),
            None => unanswered.push(settlement),
        }
    }
    unanswered
}

fn next_wait(wait: Duration) -> Duration {
    wait.saturating_mul(2).min(Duration::from_millis(RETRY_MAX_MS))
}

fn log(settlement: &Settlement, code: Option<&'static str>, cause: &str, runtime: &impl Runtime) {
    let mut line = Line::new(runtime.now(), "settle");
    line.level = Level::Error;
    line.reference = Some(settlement.reference.clone());
    line.code = code;
    line.cause = Some(cause.to_owned());
    line.token = Some(settlement.token.clone());
    line.state = Some(settlement.state.name());
    line.result = Some(settlement.result.clone());
    runtime.log(&line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::job::State,
        endpoint::{BaseUrl, Key},
        ledger::rpc::Connection,
        runtime::{Answer, Limits, SendError},
    };
    use serde_json::{Value, json};
    use std::{
        cell::{Cell, RefCell},
        time::SystemTime,
    };

    /// A runtime whose ledger answers by a function of the time and the outcomes. Only sleeping makes time
    /// pass.
    struct World<F> {
        clock: Cell<Duration>,
        lines: RefCell<Vec<Value>>,
        calls: Cell<usize>,
        ledger: F,
    }

    impl<F: Fn(Duration, &Value) -> Result<Value, SendError>> World<F> {
        fn new(ledger: F) -> Self {
            Self { clock: Cell::default(), lines: RefCell::default(), calls: Cell::default(), ledger }
        }

        /// Reports `count` outcomes within a minute, and returns the codes of the log lines.
        async fn report(&self, count: usize) -> Vec<String> {
            let url = BaseUrl::parse("https://supabase.test").unwrap();
            let key = || Key::parse("a-key").unwrap();
            let ledger = Ledger {
                connection: Connection { url, key: key(), apikey: key() },
                operator_key: key(),
                bets_at_once: 1,
                answers_at_once: false,
            };
            let open = (0..count).map(|number| Settlement {
                reference: format!("job-{number}"),
                token: "t".to_owned(),
                state: State::Executed,
                result: serde_json::value::to_raw_value(&json!({ "bet_id": number })).unwrap(),
                secret: None,
            });
            let until = Duration::from_secs(60);
            let locked = run(&ledger, open.collect(), until, self).await;
            run_locked(&ledger, locked, until, self).await;
            let code = |line: &Value| line["code"].as_str().unwrap_or_default().to_owned();
            self.lines.borrow().iter().map(code).collect()
        }
    }

    impl<F: Fn(Duration, &Value) -> Result<Value, SendError>> Runtime for World<F> {
        async fn send(&self, request: http::Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
            self.calls.set(self.calls.get() + 1);
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            let reply = (self.ledger)(self.clock.get(), &body["outcomes"])?;
            let (head, ()) = http::Response::new(()).into_parts();
            Ok(Answer { head, body: reply.to_string().into_bytes(), whole: true })
        }

        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            self.clock.get()
        }

        async fn sleep(&self, time: Duration) {
            self.clock.set(self.clock.get() + time);
        }

        fn random(&self) -> u128 {
            4
        }

        fn log(&self, line: &Line) {
            self.lines.borrow_mut().push(serde_json::to_value(line).unwrap());
        }
    }

    fn all(outcomes: &Value, result: &str) -> Value {
        let each = outcomes.as_array().unwrap().iter();
        each.map(|outcome| json!({ "reference": outcome["reference"], "did": result })).collect()
    }

    #[tokio::test]
    async fn no_outcome_is_lost_while_the_database_is_down_for_forty_seconds_and_the_log_holds_it() {
        let world = World::new(|now, outcomes| {
            if now < Duration::from_secs(40) {
                return Err(SendError::NotSent("connection_refused"));
            }
            Ok(all(outcomes, "settled"))
        });
        assert_eq!(world.report(2).await, ["not_settled_yet", "not_settled_yet"]);
        let lines = world.lines.borrow();
        assert_eq!((&lines[0]["state"], &lines[0]["token"]), (&json!("executed"), &json!("t")));
        assert_eq!(lines[0]["result"], json!({ "bet_id": 0 }));
        assert!(world.clock.get() < Duration::from_secs(43));
    }

    #[tokio::test]
    async fn an_outcome_that_cannot_be_recorded_is_logged_in_full_before_the_hosts_end() {
        let world = World::new(|_, _| Err(SendError::TimedOut));
        assert_eq!(world.report(1).await, ["not_settled_yet", "not_settled"]);
        assert!(world.clock.get() < Duration::from_secs(60), "the host would have ended the function");
        let refused = World::new(|_, _| Ok(json!({ "not": "an array" })));
        refused.report(1).await;
        assert!(
            refused.clock.get() <= Duration::from_secs(REFUSED_S),
            "the worker does not wait for an operator"
        );
    }

    #[tokio::test]
    async fn an_outcome_whose_row_is_locked_is_reported_again_without_the_others() {
        let world = World::new(|now, outcomes| {
            let each = outcomes.as_array().unwrap().iter();
            let locked = |outcome: &Value| outcome["reference"] == "job-1" && now < Duration::from_secs(1);
            let did = |outcome: &Value| if locked(outcome) { "not_now" } else { "settled" };
            assert!(
                now.is_zero() || outcomes.as_array().unwrap().len() == 1,
                "the others were reported again"
            );
            Ok(each
                .map(|outcome| json!({ "reference": outcome["reference"], "did": did(outcome) }))
                .collect())
        });
        assert_eq!(world.report(3).await, ["not_settled_yet"]);
    }

    #[tokio::test]
    async fn more_outcomes_than_the_database_takes_are_reported_in_parts() {
        let world = World::new(|_, outcomes| {
            assert!(outcomes.as_array().unwrap().len() <= REPORT_LIMIT);
            Ok(all(outcomes, "settled"))
        });
        assert!(world.report(150).await.is_empty());
        assert_eq!(world.calls.get(), 2);
    }

    #[tokio::test]
    async fn an_outcome_that_the_ledger_keeps_as_an_event_is_not_logged_for_settlement() {
        let world = World::new(|_, outcomes| Ok(all(outcomes, "conflict")));
        assert_eq!(world.report(1).await, [""]);
        let lost = World::new(|_, outcomes| Ok(all(outcomes, "not_found")));
        assert_eq!(lost.report(1).await, ["not_settled"]);
    }
}
