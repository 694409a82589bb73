//! The worker: claims due jobs, executes them, and settles their outcomes.
//!
//! A notification starts the worker. The three steps run concurrently until no job is due or the time is
//! over. After the reply the worker long-polls for the next job, so a steady stream of deposits needs no
//! notifications.

pub mod reconcile;
pub mod report;
mod schedule;
pub mod step;

use crate::{
    config::Settings,
    domain::{job::State, outcome::Outcome, reason::RetryReason, reference::Reference},
    jobs::{self, Context},
    ledger::{
        Claim, Ledger, Watcher,
        job::{Answer, Columns, Job, Settlement},
        rpc::LedgerError,
    },
    log::{Level, Line, milliseconds},
    runtime::Runtime,
};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use schedule::{Next, Scheduler};
use std::time::Duration;

/// The wait of a worker whose due jobs are not claimable yet, in milliseconds. Another worker has claimed
/// the agents' other jobs, or a rate limit holds the jobs back.
const DELAY_MS: u64 = 50;

/// The time for which a worker must be at capacity before it gives up the watch, in milliseconds. The ledger
/// then notifies other hosts. Most claims' bets take less time.
const AT_CAPACITY_MS: u64 = 100;

/// The time limits of a worker.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimits {
    /// The worker begins no claim after this time, on the monotonic clock.
    pub claims_end: Duration,
    /// The worker reports no outcome after this time.
    pub reports_end: Duration,
    /// The time for which the worker long-polls after its last job; zero: it does not.
    pub linger: Duration,
}

/// The results of a worker's run.
#[derive(Debug, Default)]
pub struct Executed {
    /// The ledger's answer about each requested job.
    pub answers: Vec<Answer>,
    /// The outcomes of the requested jobs that this worker executed.
    pub outcomes: Vec<(Reference, Outcome)>,
    /// The number of jobs that the worker claimed.
    pub claimed: usize,
}

/// Executes due jobs, the `requested` ones first.
///
/// # Errors
///
/// Fails if the first claim fails. If a later claim fails, the worker logs the error, and the jobs wait.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    requested: &[Reference],
    limits: TimeLimits,
    runtime: &impl Runtime,
) -> Result<Executed, LedgerError> {
    // A paused worker claims no job, so it does not long-poll.
    let TimeLimits { claims_end, reports_end, linger } =
        if settings.policy.paused { TimeLimits { linger: Duration::ZERO, ..limits } } else { limits };
    let capacity = if settings.policy.paused { 0 } else { ledger.bets_at_once };
    let watcher = (!linger.is_zero()).then(|| Watcher::new(linger, runtime));
    let claim =
        ledger.claim(requested, capacity, settings.purple_flea.api, watcher.as_ref(), runtime).await?;
    let mut worker = Worker {
        settings,
        ledger,
        requested,
        watcher: watcher.as_ref(),
        runtime,
        reports_end,
        schedule: Scheduler::new(capacity, claims_end, linger),
        steps: FuturesUnordered::new(),
        timing_capacity: false,
        unsettled: Vec::new(),
        executed: Executed::default(),
    };
    if claim.lookups {
        worker.steps.push(Box::pin(look_up(settings, ledger, claims_end, reports_end, runtime)));
    }
    worker.execute(claim);
    worker.run_steps().await;
    worker.end_watch().await;
    Ok(worker.executed)
}

/// The end of one of the worker's concurrent steps.
enum Event {
    Claimed(Result<Claim, LedgerError>),
    Watched(Result<bool, LedgerError>),
    Delayed,
    Executed {
        reference: Reference,
        token: String,
        outcome: Box<Outcome>,
    },
    /// A report is over. Other transactions hold the rows of these outcomes.
    Settled(Vec<Settlement>),
    LookedUp,
    SettledLocked,
    CapacityTimed,
    HandedOver,
}

struct Worker<'a, R> {
    settings: &'a Settings,
    ledger: &'a Ledger,
    requested: &'a [Reference],
    watcher: Option<&'a Watcher>,
    runtime: &'a R,
    reports_end: Duration,
    schedule: Scheduler,
    steps: FuturesUnordered<LocalBoxFuture<'a, Event>>,
    /// Whether a step waits to see if the worker stays at capacity.
    timing_capacity: bool,
    unsettled: Vec<Settlement>,
    executed: Executed,
}

impl<'a, R: Runtime> Worker<'a, R> {
    async fn run_steps(&mut self) {
        loop {
            self.start_steps();
            match self.steps.next().await {
                Some(Event::Claimed(Ok(claim))) => self.execute(claim),
                Some(Event::Claimed(Err(error))) => {
                    log_error("claim_failed", &error, self.runtime);
                    self.schedule.claim_failed();
                }
                Some(Event::Watched(due)) => {
                    if let Err(error) = &due {
                        log_error("watch_failed", error, self.runtime);
                    }
                    self.schedule.watched(due.ok());
                }
                Some(Event::Delayed) => self.schedule.delayed(),
                Some(Event::Executed { reference, token, outcome }) => {
                    self.record(reference, token, *outcome)
                }
                Some(Event::Settled(locked)) => self.settled(locked),
                Some(Event::LookedUp | Event::SettledLocked | Event::HandedOver) => {}
                Some(Event::CapacityTimed) => self.hand_over_if_needed(),
                None => return,
            }
        }
    }

    /// Starts the steps that the schedule allows now.
    fn start_steps(&mut self) {
        let Self { settings, ledger, runtime, reports_end, .. } = *self;
        if self.schedule.settles() {
            // The next report takes outcomes that arrive during this one.
            let settlements = std::mem::take(&mut self.unsettled);
            self.steps.push(Box::pin(async move {
                Event::Settled(report::run(ledger, settlements, reports_end, runtime).await)
            }));
        }
        if self.schedule.needs_other_hosts() && !self.timing_capacity {
            self.timing_capacity = true;
            self.steps.push(Box::pin(async move {
                runtime.sleep(Duration::from_millis(AT_CAPACITY_MS)).await;
                Event::CapacityTimed
            }));
        }
        let step: LocalBoxFuture<'a, Event> = match (self.schedule.next(runtime.monotonic()), self.watcher) {
            (Next::Claim(limit), watcher) => Box::pin(async move {
                Event::Claimed(ledger.claim(&[], limit, settings.purple_flea.api, watcher, runtime).await)
            }),
            (Next::Watch(time), Some(watcher)) => {
                Box::pin(async move { Event::Watched(ledger.await_jobs(watcher, time, runtime).await) })
            }
            (Next::Delay, _) => Box::pin(async move {
                runtime.sleep(Duration::from_millis(DELAY_MS)).await;
                Event::Delayed
            }),
            (Next::Nothing, _) | (Next::Watch(_), None) => return,
        };
        self.schedule.start();
        self.steps.push(step);
    }

    /// Handles the end of a report. The worker reports locked outcomes again in a step of their own, so later
    /// reports do not wait.
    fn settled(&mut self, locked: Vec<Settlement>) {
        self.schedule.settled();
        let Self { ledger, runtime, reports_end, .. } = *self;
        if !locked.is_empty() {
            self.steps.push(Box::pin(async move {
                report::run_locked(ledger, locked, reports_end, runtime).await;
                Event::SettledLocked
            }));
        }
    }

    /// Gives up the watch if the worker is still at capacity, so the ledger notifies other hosts.
    fn hand_over_if_needed(&mut self) {
        self.timing_capacity = false;
        let Self { ledger, runtime, .. } = *self;
        if let (true, Some(watcher)) = (self.schedule.needs_other_hosts(), self.watcher) {
            self.schedule.handed_over();
            self.steps.push(Box::pin(async move {
                if let Err(error) = ledger.end_watch(watcher, true, runtime).await {
                    log_error("watch_failed", &error, runtime);
                }
                Event::HandedOver
            }));
        }
    }

    /// Starts the execution of a claim's jobs.
    fn execute(&mut self, claim: Claim) {
        let Self { settings, runtime, .. } = *self;
        let Claim { token, sent_at, deadline, jobs, unreadable, answers, more, watching, .. } = claim;
        let one_at_a_time =
            jobs.iter().any(|job| job.columns.as_ref().is_some_and(Columns::is_one_at_a_time));
        let count = u32::try_from(jobs.len().saturating_add(unreadable.len())).unwrap_or(u32::MAX);
        self.schedule.claimed(count, one_at_a_time, more, watching, runtime.monotonic());
        self.executed.claimed =
            self.executed.claimed.saturating_add(jobs.len().saturating_add(unreadable.len()));
        self.executed.answers.extend(answers);
        for reference in unreadable {
            let outcome = Outcome::Waiting { agent_id: None, reason: RetryReason::Unreadable };
            log_job(&reference, None, Duration::ZERO, &outcome, runtime);
            self.record(reference, token.clone(), outcome);
        }
        for job in jobs {
            let token = token.clone();
            self.steps.push(Box::pin(async move {
                let outcome = Box::new(execute_one(settings, &job, sent_at, deadline, runtime).await);
                Event::Executed { reference: job.reference, token, outcome }
            }));
        }
    }

    /// Records the outcome of a job until the next report.
    fn record(&mut self, reference: Reference, token: String, outcome: Outcome) {
        self.schedule.executed(outcome.stops_claims(), outcome.favours_claims());
        self.unsettled.push(Settlement {
            reference: reference.as_str().to_owned(),
            token,
            state: outcome.state(),
            result: outcome.body(&reference),
            secret: outcome.secret().cloned(),
        });
        if self.requested.contains(&reference) {
            self.executed.outcomes.push((reference, outcome));
        }
    }

    /// Ends the watch, if this worker has it. The ledger notifies another host if more jobs are due.
    async fn end_watch(&mut self) {
        let (Some(watcher), true) = (self.watcher, self.schedule.is_watching()) else { return };
        let hand_over = self.schedule.is_cut_short(self.runtime.monotonic());
        if let Err(error) = self.ledger.end_watch(watcher, hand_over, self.runtime).await {
            log_error("watch_failed", &error, self.runtime);
        }
    }
}

async fn look_up(
    settings: &Settings,
    ledger: &Ledger,
    claims_end: Duration,
    reports_end: Duration,
    runtime: &impl Runtime,
) -> Event {
    if let Err(error) = reconcile::run(settings, ledger, 1, claims_end, reports_end, runtime).await {
        let mut line = Line::new(runtime.now(), "reconcile");
        line.level = Level::Warn;
        (line.code, line.cause) = (Some(error.code()), error.cause());
        runtime.log(&line);
    }
    Event::LookedUp
}

async fn execute_one(
    settings: &Settings,
    job: &Job,
    sent_at: Duration,
    deadline: Duration,
    runtime: &impl Runtime,
) -> Outcome {
    let started = runtime.monotonic();
    let decoded = job.columns.as_ref().and_then(|columns| Some((columns, jobs::decode(columns)?)));
    let outcome = match decoded {
        Some((columns, task)) => {
            let context = Context {
                purple_flea: &settings.purple_flea,
                account: &columns.account,
                idempotency_key: job.idempotency_key.as_str(),
                deadline: Some(deadline),
                // The ledger counted from a later time, so this one is never too late.
                good_until: columns.good_for.map(|time| sent_at.saturating_add(time)),
                runtime,
            };
            jobs::execute(&task, &context).await
        }
        None => Outcome::Waiting { agent_id: None, reason: RetryReason::Unreadable },
    };
    log_job(
        &job.reference,
        Some(job.attempt),
        runtime.monotonic().saturating_sub(started),
        &outcome,
        runtime,
    );
    outcome
}

/// Logs the outcome of a job.
fn log_job(
    reference: &Reference,
    attempt: Option<u32>,
    took: Duration,
    outcome: &Outcome,
    runtime: &impl Runtime,
) {
    let mut line = Line::new(runtime.now(), "job");
    line.reference = Some(reference.as_str().to_owned());
    line.attempt = attempt;
    line.ms = milliseconds(took);
    outcome.write_to(&mut line);
    line.level = match (outcome.state(), outcome) {
        (State::Unknown, _) | (_, Outcome::Waiting { reason: RetryReason::Unreadable, .. }) => Level::Error,
        (State::Pending, _) => Level::Warn,
        _ => Level::Info,
    };
    runtime.log(&line);
}

fn log_error(code: &'static str, error: &LedgerError, runtime: &impl Runtime) {
    let mut line = Line::new(runtime.now(), "worker");
    line.level = Level::Error;
    (line.code, line.cause) = (Some(code), Some(error.cause()));
    runtime.log(&line);
}
