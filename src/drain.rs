//! Claim, play, settle: what a doorbell starts. The three go on side by side until nothing is due or the time is over.
//! Who goes on after the reply then waits for the next job, so that a steady stream finds somebody at the door.

mod pace;

use crate::{
    config::Settings,
    ending::{Ending, Wait},
    ledger::{
        Claim, Ledger, Watcher,
        job::{Answer, Job, Settlement, State},
        rpc::LedgerError,
    },
    log::{Level, Line, milliseconds},
    outside::Outside,
    reconcile, report,
    webhook::reference::Reference,
    work::{Means, Work},
};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use pace::{Next, Pace};
use std::time::Duration;

/// How long to rest when jobs are due that nobody may claim yet, in milliseconds: somebody else is at them, or Purple
/// Flea's limits are reached. To ask again at once would only be work.
const REST_MS: u64 = 50;

/// How long all places must be taken, in milliseconds, before the watch is given up so that other hosts are called. A claim's
/// bets usually take less.
const FULL_MS: u64 = 100;

/// How far and how long to go.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// No claim is begun after it, on the monotonic clock.
    pub until: Duration,
    /// Nothing is reported after it.
    pub ends: Duration,
    /// How long to wait for another job after the last one; zero: not at all.
    pub linger: Duration,
}

/// What a drain did.
#[derive(Debug, Default)]
pub struct Drained {
    /// The ledger's word on every reference that was asked about.
    pub answers: Vec<Answer>,
    /// How those of them ended that were ours to execute.
    pub endings: Vec<(Reference, Ending)>,
    /// How many jobs were claimed, in all.
    pub claimed: usize,
}

/// Executes what is due, what was `asked` for first.
///
/// # Errors
///
/// If the first claim fails. Later ones are complained of in the log, and what they would have taken waits.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    asked: &[Reference],
    span: Span,
    outside: &impl Outside,
) -> Result<Drained, LedgerError> {
    // Who is paused has nothing to wait for.
    let Span { until, ends, linger } =
        if settings.policy.paused { Span { linger: Duration::ZERO, ..span } } else { span };
    let slots = if settings.policy.paused { 0 } else { ledger.bets_at_once };
    let watcher = (!linger.is_zero()).then(|| Watcher::new(linger, outside));
    let claim = ledger.claim(asked, slots, settings.purple_flea.api, watcher.as_ref(), outside).await?;
    let mut drain = Drain {
        settings,
        ledger,
        asked,
        watcher: watcher.as_ref(),
        outside,
        ends,
        pace: Pace::new(slots, until, linger),
        steps: FuturesUnordered::new(),
        timing_full: false,
        unsettled: Vec::new(),
        drained: Drained::default(),
    };
    if claim.lookups {
        drain.steps.push(Box::pin(look_up(settings, ledger, until, ends, outside)));
    }
    drain.play(claim);
    drain.go_on().await;
    drain.leave().await;
    Ok(drain.drained)
}

/// Something that goes on beside the rest, when it is over.
enum Step {
    Claimed(Result<Claim, LedgerError>),
    Watched(Result<bool, LedgerError>),
    Rested,
    Played {
        reference: Reference,
        token: String,
        ending: Box<Ending>,
    },
    /// What is left of a report: outcomes whose rows are locked.
    Settled(Vec<Settlement>),
    LookedUp,
    SettledAlone,
    BeenFull,
    HandedOver,
}

struct Drain<'a, O> {
    settings: &'a Settings,
    ledger: &'a Ledger,
    asked: &'a [Reference],
    watcher: Option<&'a Watcher>,
    outside: &'a O,
    ends: Duration,
    pace: Pace,
    steps: FuturesUnordered<LocalBoxFuture<'a, Step>>,
    /// Whether it is being waited for that places become free.
    timing_full: bool,
    unsettled: Vec<Settlement>,
    drained: Drained,
}

impl<'a, O: Outside> Drain<'a, O> {
    async fn go_on(&mut self) {
        loop {
            self.begin();
            match self.steps.next().await {
                Some(Step::Claimed(Ok(claim))) => self.play(claim),
                Some(Step::Claimed(Err(error))) => {
                    complain("claim_failed", &error, self.outside);
                    self.pace.claim_failed();
                }
                Some(Step::Watched(due)) => {
                    if let Err(error) = &due {
                        complain("watch_failed", error, self.outside);
                    }
                    self.pace.watched(due.ok());
                }
                Some(Step::Rested) => self.pace.rested(),
                Some(Step::Played { reference, token, ending }) => self.note(reference, token, *ending),
                Some(Step::Settled(locked)) => self.settled(locked),
                Some(Step::LookedUp | Step::SettledAlone | Step::HandedOver) => {}
                Some(Step::BeenFull) => self.hand_over_if_full(),
                None => return,
            }
        }
    }

    /// Begins whatever is to be begun now.
    fn begin(&mut self) {
        let Self { settings, ledger, outside, ends, .. } = *self;
        if self.pace.settles() {
            // What comes in meanwhile is reported together, after this.
            let settlements = std::mem::take(&mut self.unsettled);
            self.steps.push(Box::pin(async move {
                Step::Settled(report::run(ledger, settlements, ends, outside).await)
            }));
        }
        if self.pace.is_full() && !self.timing_full {
            self.timing_full = true;
            self.steps.push(Box::pin(async move {
                outside.sleep(Duration::from_millis(FULL_MS)).await;
                Step::BeenFull
            }));
        }
        let step: LocalBoxFuture<'a, Step> = match (self.pace.next(outside.monotonic()), self.watcher) {
            (Next::Claim(limit), watcher) => Box::pin(async move {
                Step::Claimed(ledger.claim(&[], limit, settings.purple_flea.api, watcher, outside).await)
            }),
            (Next::Watch(time), Some(watcher)) => {
                Box::pin(async move { Step::Watched(ledger.wait(watcher, time, outside).await) })
            }
            (Next::Rest, _) => Box::pin(async move {
                outside.sleep(Duration::from_millis(REST_MS)).await;
                Step::Rested
            }),
            (Next::Nothing, _) | (Next::Watch(_), None) => return,
        };
        self.pace.ask();
        self.steps.push(step);
    }

    /// Takes in that a report is over. What was locked is reported again beside the next reports, which do not wait for it.
    fn settled(&mut self, locked: Vec<Settlement>) {
        self.pace.settled();
        let Self { ledger, outside, ends, .. } = *self;
        if !locked.is_empty() {
            self.steps.push(Box::pin(async move {
                report::alone(ledger, locked, ends, outside).await;
                Step::SettledAlone
            }));
        }
    }

    /// Gives the watch up, and has others called, if all places are still taken.
    fn hand_over_if_full(&mut self) {
        self.timing_full = false;
        let Self { ledger, outside, .. } = *self;
        if let (true, Some(watcher)) = (self.pace.is_full(), self.watcher) {
            self.pace.handed_over();
            self.steps.push(Box::pin(async move {
                if let Err(error) = ledger.leave(watcher, true, outside).await {
                    complain("watch_failed", &error, outside);
                }
                Step::HandedOver
            }));
        }
    }

    /// Begins the bets of a claim.
    fn play(&mut self, claim: Claim) {
        let Self { settings, outside, .. } = *self;
        let Claim { token, deadline, jobs, unreadable, answers, more, watching, .. } = claim;
        let one_at_a_time = jobs.iter().any(|job| job.work.as_ref().is_some_and(Work::is_one_at_a_time));
        let count = u32::try_from(jobs.len().saturating_add(unreadable.len())).unwrap_or(u32::MAX);
        self.pace.claimed(count, one_at_a_time, more, watching, outside.monotonic());
        self.drained.claimed =
            self.drained.claimed.saturating_add(jobs.len().saturating_add(unreadable.len()));
        self.drained.answers.extend(answers);
        for reference in unreadable {
            let ending = Ending::Waiting { agent_id: None, wait: Wait::Unreadable };
            note_job(&reference, None, Duration::ZERO, &ending, outside);
            self.note(reference, token.clone(), ending);
        }
        for job in jobs {
            let token = token.clone();
            self.steps.push(Box::pin(async move {
                let ending = Box::new(play_one(settings, &job, deadline, outside).await);
                Step::Played { reference: job.reference, token, ending }
            }));
        }
    }

    /// Takes in how a bet ended.
    fn note(&mut self, reference: Reference, token: String, ending: Ending) {
        self.pace.played(ending.discourages(), ending.encourages());
        self.unsettled.push(Settlement {
            reference: reference.as_str().to_owned(),
            token,
            state: ending.state(),
            result: ending.body(&reference),
            secret: ending.secret().cloned(),
        });
        if self.asked.contains(&reference) {
            self.drained.endings.push((reference, ending));
        }
    }

    /// Ends the watch, if it is ours, and lets somebody else be called if more is due.
    async fn leave(&mut self) {
        let (Some(watcher), true) = (self.watcher, self.pace.is_watching()) else { return };
        let hand_over = self.pace.is_cut_short(self.outside.monotonic());
        if let Err(error) = self.ledger.leave(watcher, hand_over, self.outside).await {
            complain("watch_failed", &error, self.outside);
        }
    }
}

async fn look_up(
    settings: &Settings,
    ledger: &Ledger,
    until: Duration,
    ends: Duration,
    outside: &impl Outside,
) -> Step {
    if let Err(problem) = reconcile::run(settings, ledger, 1, until, ends, outside).await {
        let mut line = Line::new(outside.now(), "reconcile");
        line.level = Level::Warn;
        (line.code, line.cause) = (Some(problem.code()), problem.cause());
        outside.log(&line);
    }
    Step::LookedUp
}

async fn play_one(settings: &Settings, job: &Job, deadline: Duration, outside: &impl Outside) -> Ending {
    let started = outside.monotonic();
    let ending = match &job.work {
        Some(work) => {
            let Job { account, bet_key, .. } = job;
            let purple_flea = &settings.purple_flea;
            work.run(&Means { purple_flea, account, bet_key, deadline: Some(deadline), outside }).await
        }
        None => Ending::Waiting { agent_id: None, wait: Wait::Unreadable },
    };
    note_job(
        &job.reference,
        Some(job.attempt),
        outside.monotonic().saturating_sub(started),
        &ending,
        outside,
    );
    ending
}

/// Tells the log how a job ended.
fn note_job(
    reference: &Reference,
    attempt: Option<u32>,
    took: Duration,
    ending: &Ending,
    outside: &impl Outside,
) {
    let mut line = Line::new(outside.now(), "job");
    line.reference = Some(reference.as_str().to_owned());
    line.attempt = attempt;
    line.ms = milliseconds(took);
    ending.note(&mut line);
    line.level = match (ending.state(), ending) {
        (State::Unknown, _) | (_, Ending::Waiting { wait: Wait::Unreadable, .. }) => Level::Error,
        (State::Pending, _) => Level::Warn,
        _ => Level::Info,
    };
    outside.log(&line);
}

fn complain(code: &'static str, error: &LedgerError, outside: &impl Outside) {
    let mut line = Line::new(outside.now(), "drain");
    line.level = Level::Error;
    (line.code, line.cause) = (Some(code), Some(error.cause()));
    outside.log(&line);
}
