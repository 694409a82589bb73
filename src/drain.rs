//! Claim, play, settle; and again until nothing is due or the time is over. What a doorbell starts.

use crate::{
    config::Settings,
    ending::{Ending, Wait},
    ledger::{
        Claim, Ledger,
        job::{Answer, Job, Settlement, State},
        rpc::LedgerError,
    },
    log::{Level, Line, milliseconds},
    outside::Outside,
    reconcile,
    webhook::reference::Reference,
    work::{Means, Work},
};
use futures::{
    FutureExt, StreamExt,
    future::{Either, join, select},
    stream::FuturesUnordered,
};
use std::{pin::pin, time::Duration};

/// How long the bets that are over wait for the others of their claim, in milliseconds, before they are settled
/// without them: bets take some tens, and one that hangs must not keep the others' results from their observers.
const STRAGGLERS_MS: u64 = 300;

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

/// Executes what is due, what was `asked` for first. No new claim is begun after `until`, on the monotonic clock.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    asked: &[Reference],
    until: Duration,
    outside: &impl Outside,
) -> Result<Drained, LedgerError> {
    let mut drained = Drained::default();
    let mut claim = ledger.claim(asked, settings.policy.paused, settings.purple_flea.api, outside).await?;
    drained.answers = std::mem::take(&mut claim.answers);
    let lookups = claim.lookups;
    let mut unsettled = Vec::new();
    loop {
        drained.claimed = drained.claimed.saturating_add(claim.jobs.len());
        // What the claim before this one led to is settled meanwhile: this one's lease does not wait for it.
        let settling = settle(ledger, std::mem::take(&mut unsettled), outside);
        let (played, ()) = join(play(settings, ledger, &claim, asked, outside), settling).await;
        drained.endings.extend(played.asked);
        unsettled = played.unsettled;
        // Of an agent with a daily limit the next job can be claimed only when this one is settled.
        if claim.jobs.iter().any(|job| job.work.as_ref().is_some_and(Work::is_one_at_a_time)) {
            settle(ledger, std::mem::take(&mut unsettled), outside).await;
        }
        if played.stop || !claim.more || claim.jobs.is_empty() || outside.monotonic() >= until {
            break;
        }
        match ledger.claim(&[], settings.policy.paused, settings.purple_flea.api, outside).await {
            Ok(next) => claim = next,
            Err(error) => {
                complain("claim_failed", &error, outside);
                break;
            }
        }
    }
    settle(ledger, unsettled, outside).await;
    if lookups && let Err(problem) = reconcile::run(settings, ledger, 1, until, outside).await {
        let mut line = Line::new(outside.now(), "reconcile");
        line.level = Level::Warn;
        (line.code, line.cause) = (Some(problem.code()), problem.cause());
        outside.log(&line);
    }
    Ok(drained)
}

/// How the bets of one claim ended.
struct Played {
    /// What is yet to be settled.
    unsettled: Vec<Settlement>,
    /// The endings that were asked for.
    asked: Vec<(Reference, Ending)>,
    /// Whether further bets would not fare better.
    stop: bool,
}

/// Plays all jobs of a claim side by side.
async fn play(
    settings: &Settings,
    ledger: &Ledger,
    claim: &Claim,
    asked: &[Reference],
    outside: &impl Outside,
) -> Played {
    let mut steps: FuturesUnordered<_> = claim
        .jobs
        .iter()
        .map(|job| {
            play_one(settings, job, claim.deadline, outside)
                .map(move |ending| Some((job, ending)))
                .boxed_local()
        })
        .collect();
    let mut played = Played { unsettled: Vec::new(), asked: Vec::new(), stop: false };
    let (mut discouraged, mut encouraged) = (false, false);
    let mut patience = pin!(outside.sleep(Duration::from_millis(STRAGGLERS_MS)));
    loop {
        match select(steps.next(), patience.as_mut()).await {
            Either::Left((Some(Some((job, ending))), _)) => {
                discouraged |= ending.discourages();
                encouraged |= ending.encourages();
                played.unsettled.push(Settlement {
                    reference: job.reference.as_str().to_owned(),
                    token: claim.token.clone(),
                    state: ending.state(),
                    result: ending.body(&job.reference),
                    secret: ending.secret().cloned(),
                });
                if asked.contains(&job.reference) {
                    played.asked.push((job.reference.clone(), ending));
                }
            }
            // Those that were over early are settled.
            Either::Left((Some(None), _)) => {}
            Either::Left((None, _)) => break,
            Either::Right(_) => {
                let early = std::mem::take(&mut played.unsettled);
                // Beside the others: a reply that comes in meanwhile must be heard in its time.
                steps.push(settle(ledger, early, outside).map(|()| None).boxed_local());
                patience.set(outside.sleep(Duration::from_millis(STRAGGLERS_MS)));
            }
        }
    }
    // One agent's trouble is not everybody's.
    played.stop = discouraged && !encouraged;
    played
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
    let mut line = Line::new(outside.now(), "job");
    line.reference = Some(job.reference.as_str().to_owned());
    line.attempt = Some(job.attempt);
    line.ms = milliseconds(outside.monotonic().saturating_sub(started));
    ending.note(&mut line);
    line.level = match (ending.state(), &ending) {
        (State::Unknown, _) | (_, Ending::Waiting { wait: Wait::Unreadable, .. }) => Level::Error,
        (State::Pending, _) => Level::Warn,
        _ => Level::Info,
    };
    outside.log(&line);
    ending
}

/// Settles, and when that cannot be done leaves every outcome in the log: nothing else knows it.
async fn settle(ledger: &Ledger, settlements: Vec<Settlement>, outside: &impl Outside) {
    if settlements.is_empty() {
        return;
    }
    match ledger.settle(&settlements, outside).await {
        Ok(reports) => {
            let unheard = reports.iter().filter(|r| !matches!(r.did.as_str(), "settled" | "settled_before"));
            for report in unheard {
                let mut line = Line::new(outside.now(), "settle");
                line.level = Level::Error;
                line.reference = Some(report.reference.clone());
                line.cause = Some(report.did.clone());
                line.result =
                    settlements.iter().find(|s| s.reference == report.reference).map(|s| s.result.clone());
                outside.log(&line);
            }
        }
        Err(error) => {
            for settlement in settlements {
                let mut line = Line::new(outside.now(), "settle");
                line.level = Level::Error;
                line.reference = Some(settlement.reference);
                line.code = Some("not_settled");
                line.cause = Some(error.cause());
                line.result = Some(settlement.result);
                outside.log(&line);
            }
        }
    }
}

fn complain(code: &'static str, error: &LedgerError, outside: &impl Outside) {
    let mut line = Line::new(outside.now(), "drain");
    line.level = Level::Error;
    (line.code, line.cause) = (Some(code), Some(error.cause()));
    outside.log(&line);
}
