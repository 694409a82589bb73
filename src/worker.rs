//! The worker: claims due jobs, executes them, settles their outcomes. A notification starts it. The three steps go on side
//! by side until nothing is due or the time is over. After the reply, the worker then waits for the next job, so that a
//! steady stream of deposits needs no notifications.

pub mod reconcile;
pub mod report;
mod schedule;

use crate::{
    config::Settings,
    domain::{job::State, outcome::Outcome, reason::RetryReason, reference::Reference},
    jobs::{self, Context},
    ledger::{
        Claim, Ledger, Watcher,
        job::{Answer, Job, Settlement, Work},
        rpc::LedgerError,
    },
    log::{Level, Line, milliseconds},
    runtime::Runtime,
};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use schedule::{Next, Scheduler};
use std::time::Duration;

/// How long to rest when jobs are due that nobody may claim yet, in milliseconds: somebody else is at them, or Purple
/// Flea's limits are reached. To ask again at once would only be work.
const REST_MS: u64 = 50;

/// How long all places must be taken, in milliseconds, before the watch is given up so that other hosts are called. A claim's
/// bets usually take less.
const FULL_MS: u64 = 100;

/// How long a worker goes on.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The worker begins no claim after this time, on the monotonic clock.
    pub until: Duration,
    /// The worker reports nothing after this time.
    pub ends: Duration,
    /// How long the worker waits for another job after the last one; zero: not at all.
    pub linger: Duration,
}

/// What a worker executed.
#[derive(Debug, Default)]
pub struct Executed {
    /// The ledger's answer about every job that was requested.
    pub answers: Vec<Answer>,
    /// The outcomes of those of them that this worker executed.
    pub outcomes: Vec<(Reference, Outcome)>,
    /// The number of jobs that the worker claimed.
    pub claimed: usize,
}

/// Executes what is due, the `requested` jobs first.
///
/// # Errors
///
/// If the first claim fails. If a later one fails, the worker logs the error, and the jobs wait.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    requested: &[Reference],
    span: Span,
    runtime: &impl Runtime,
) -> Result<Executed, LedgerError> {
    // A paused worker has nothing to wait for.
    let Span { until, ends, linger } =
        if settings.policy.paused { Span { linger: Duration::ZERO, ..span } } else { span };
    let slots = if settings.policy.paused { 0 } else { ledger.bets_at_once };
    let watcher = (!linger.is_zero()).then(|| Watcher::new(linger, runtime));
    let claim = ledger.claim(requested, slots, settings.purple_flea.api, watcher.as_ref(), runtime).await?;
    let mut worker = Worker {
        settings,
        ledger,
        requested,
        watcher: watcher.as_ref(),
        runtime,
        ends,
        schedule: Scheduler::new(slots, until, linger),
        steps: FuturesUnordered::new(),
        timing_full: false,
        unsettled: Vec::new(),
        executed: Executed::default(),
    };
    if claim.lookups {
        worker.steps.push(Box::pin(look_up(settings, ledger, until, ends, runtime)));
    }
    worker.execute(claim);
    worker.work().await;
    worker.leave().await;
    Ok(worker.executed)
}

/// A step that goes on beside the others, once it is over.
enum Step {
    Claimed(Result<Claim, LedgerError>),
    Watched(Result<bool, LedgerError>),
    Rested,
    Executed {
        reference: Reference,
        token: String,
        outcome: Box<Outcome>,
    },
    /// A report is over; these outcomes are left, because another transaction holds their rows.
    Settled(Vec<Settlement>),
    LookedUp,
    SettledAlone,
    BeenFull,
    HandedOver,
}

struct Worker<'a, O> {
    settings: &'a Settings,
    ledger: &'a Ledger,
    requested: &'a [Reference],
    watcher: Option<&'a Watcher>,
    runtime: &'a O,
    ends: Duration,
    schedule: Scheduler,
    steps: FuturesUnordered<LocalBoxFuture<'a, Step>>,
    /// Whether a step waits to see if all places stay taken.
    timing_full: bool,
    unsettled: Vec<Settlement>,
    executed: Executed,
}

impl<'a, O: Runtime> Worker<'a, O> {
    async fn work(&mut self) {
        loop {
            self.begin();
            match self.steps.next().await {
                Some(Step::Claimed(Ok(claim))) => self.execute(claim),
                Some(Step::Claimed(Err(error))) => {
                    complain("claim_failed", &error, self.runtime);
                    self.schedule.claim_failed();
                }
                Some(Step::Watched(due)) => {
                    if let Err(error) = &due {
                        complain("watch_failed", error, self.runtime);
                    }
                    self.schedule.watched(due.ok());
                }
                Some(Step::Rested) => self.schedule.rested(),
                Some(Step::Executed { reference, token, outcome }) => self.note(reference, token, *outcome),
                Some(Step::Settled(locked)) => self.settled(locked),
                Some(Step::LookedUp | Step::SettledAlone | Step::HandedOver) => {}
                Some(Step::BeenFull) => self.hand_over_if_full(),
                None => return,
            }
        }
    }

    /// Begins every step that is to begin now.
    fn begin(&mut self) {
        let Self { settings, ledger, runtime, ends, .. } = *self;
        if self.schedule.settles() {
            // The next report takes the outcomes that come in meanwhile.
            let settlements = std::mem::take(&mut self.unsettled);
            self.steps.push(Box::pin(async move {
                Step::Settled(report::run(ledger, settlements, ends, runtime).await)
            }));
        }
        if self.schedule.is_full() && !self.timing_full {
            self.timing_full = true;
            self.steps.push(Box::pin(async move {
                runtime.sleep(Duration::from_millis(FULL_MS)).await;
                Step::BeenFull
            }));
        }
        let step: LocalBoxFuture<'a, Step> = match (self.schedule.next(runtime.monotonic()), self.watcher) {
            (Next::Claim(limit), watcher) => Box::pin(async move {
                Step::Claimed(ledger.claim(&[], limit, settings.purple_flea.api, watcher, runtime).await)
            }),
            (Next::Watch(time), Some(watcher)) => {
                Box::pin(async move { Step::Watched(ledger.wait(watcher, time, runtime).await) })
            }
            (Next::Rest, _) => Box::pin(async move {
                runtime.sleep(Duration::from_millis(REST_MS)).await;
                Step::Rested
            }),
            (Next::Nothing, _) | (Next::Watch(_), None) => return,
        };
        self.schedule.ask();
        self.steps.push(step);
    }

    /// Notes that a report is over. The worker reports locked outcomes again beside the next reports, so that these do not
    /// wait.
    fn settled(&mut self, locked: Vec<Settlement>) {
        self.schedule.settled();
        let Self { ledger, runtime, ends, .. } = *self;
        if !locked.is_empty() {
            self.steps.push(Box::pin(async move {
                report::alone(ledger, locked, ends, runtime).await;
                Step::SettledAlone
            }));
        }
    }

    /// Gives the watch up if all places are still taken, so that the ledger notifies other hosts.
    fn hand_over_if_full(&mut self) {
        self.timing_full = false;
        let Self { ledger, runtime, .. } = *self;
        if let (true, Some(watcher)) = (self.schedule.is_full(), self.watcher) {
            self.schedule.handed_over();
            self.steps.push(Box::pin(async move {
                if let Err(error) = ledger.leave(watcher, true, runtime).await {
                    complain("watch_failed", &error, runtime);
                }
                Step::HandedOver
            }));
        }
    }

    /// Begins to execute the jobs of a claim.
    fn execute(&mut self, claim: Claim) {
        let Self { settings, runtime, .. } = *self;
        let Claim { token, deadline, jobs, unreadable, answers, more, watching, .. } = claim;
        let one_at_a_time = jobs.iter().any(|job| job.work.as_ref().is_some_and(Work::is_one_at_a_time));
        let count = u32::try_from(jobs.len().saturating_add(unreadable.len())).unwrap_or(u32::MAX);
        self.schedule.claimed(count, one_at_a_time, more, watching, runtime.monotonic());
        self.executed.claimed =
            self.executed.claimed.saturating_add(jobs.len().saturating_add(unreadable.len()));
        self.executed.answers.extend(answers);
        for reference in unreadable {
            let outcome = Outcome::Waiting { agent_id: None, reason: RetryReason::Unreadable };
            log_job(&reference, None, Duration::ZERO, &outcome, runtime);
            self.note(reference, token.clone(), outcome);
        }
        for job in jobs {
            let token = token.clone();
            self.steps.push(Box::pin(async move {
                let outcome = Box::new(execute_one(settings, &job, deadline, runtime).await);
                Step::Executed { reference: job.reference, token, outcome }
            }));
        }
    }

    /// Notes the outcome of a job.
    fn note(&mut self, reference: Reference, token: String, outcome: Outcome) {
        self.schedule.executed(outcome.discourages(), outcome.encourages());
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

    /// Ends the watch, if this worker has it. The ledger notifies another host if more is due.
    async fn leave(&mut self) {
        let (Some(watcher), true) = (self.watcher, self.schedule.is_watching()) else { return };
        let hand_over = self.schedule.is_cut_short(self.runtime.monotonic());
        if let Err(error) = self.ledger.leave(watcher, hand_over, self.runtime).await {
            complain("watch_failed", &error, self.runtime);
        }
    }
}

async fn look_up(
    settings: &Settings,
    ledger: &Ledger,
    until: Duration,
    ends: Duration,
    runtime: &impl Runtime,
) -> Step {
    if let Err(error) = reconcile::run(settings, ledger, 1, until, ends, runtime).await {
        let mut line = Line::new(runtime.now(), "reconcile");
        line.level = Level::Warn;
        (line.code, line.cause) = (Some(error.code()), error.cause());
        runtime.log(&line);
    }
    Step::LookedUp
}

async fn execute_one(settings: &Settings, job: &Job, deadline: Duration, runtime: &impl Runtime) -> Outcome {
    let started = runtime.monotonic();
    let work = job.work.as_ref().and_then(|work| Some((&work.account, jobs::decode(work)?)));
    let outcome = match work {
        Some((account, task)) => {
            let (purple_flea, idempotency_key) = (&settings.purple_flea, job.idempotency_key.as_str());
            let deadline = Some(deadline);
            jobs::execute(&task, &Context { purple_flea, account, idempotency_key, deadline, runtime }).await
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

fn complain(code: &'static str, error: &LedgerError, runtime: &impl Runtime) {
    let mut line = Line::new(runtime.now(), "worker");
    line.level = Level::Error;
    (line.code, line.cause) = (Some(code), Some(error.cause()));
    runtime.log(&line);
}
