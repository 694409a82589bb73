//! Money steps: each is a job of the ledger, whose name depends on the workflow, the event and the step.
//!
//! Inngest calls a step again where its answer was lost. Purple Flea would execute the same request again. The ledger
//! does not: the job is there, and its outcome is the answer.

use super::{Host, agent};
use crate::{
    domain::{job::RequestKind, job::State},
    inngest::run::{Run, StepError},
    ledger::{
        job::{Answer, JobStatus},
        workflows::WorkflowStep,
    },
    runtime::Runtime,
    worker::step::{self, Ended},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

/// Longest id of an event, in characters: the ledger's limit.
const EVENT_ID_LIMIT_CHARS: usize = 256;

/// A money step.
pub(super) struct Money<'a> {
    /// The workflow's id.
    pub(super) workflow: &'static str,
    /// The step's name.
    pub(super) step: &'static str,
    /// The kind of job.
    pub(super) kind: RequestKind,
    /// The request, as the ledger keeps it.
    pub(super) details: Value,
    /// The event's own name of the escrow that the step makes.
    pub(super) subject: Option<&'a str>,
}

/// How the job ended.
pub(super) enum Settled<T> {
    /// Purple Flea executed it.
    Done(T),
    /// Nothing was executed, for good.
    NotDone(NotDone),
}

/// The reason why a job ended without effect.
#[derive(Debug, Default, Deserialize)]
pub(super) struct NotDone {
    /// The reason's code.
    #[serde(default)]
    pub(super) reason: String,
    /// The reason as a sentence, if there is one.
    #[serde(default)]
    pub(super) detail: Option<String>,
    /// The state of the escrow, if Purple Flea refused to end it.
    #[serde(default)]
    pub(super) escrow_status: Option<String>,
    /// The time of the next daily claim.
    #[serde(default)]
    pub(super) next_eligible_at: Option<String>,
}

impl NotDone {
    /// Returns the error of a step that has no other way on.
    pub(super) fn into_error(self) -> StepError {
        let detail = self.detail.unwrap_or_else(|| "Purple Flea refused the request for good.".to_owned());
        StepError::last(self.reason, format!("{detail} Nothing was executed."))
    }
}

/// The part of an outcome that says when another attempt makes sense.
#[derive(Deserialize)]
struct Later {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    retry_after_s: u64,
}

/// An attempt that settled nothing.
struct Unsettled {
    /// The job, if there is one.
    reference: Option<String>,
    error: StepError,
}

impl From<StepError> for Unsettled {
    fn from(error: StepError) -> Self {
        Self { reference: None, error }
    }
}

/// Executes the step's job, or returns what became of it before. After the last attempt a job that was not executed
/// ends: nothing is sent for it hours later.
pub(super) async fn execute<T: DeserializeOwned>(
    run: &Run<'_>,
    host: &Host<'_, impl Runtime>,
    money: Money<'_>,
) -> Result<Settled<T>, StepError> {
    match settle(run, host, money).await? {
        Settled::Done(outcome) => Ok(Settled::Done(read(&outcome)?)),
        Settled::NotDone(why) => Ok(Settled::NotDone(why)),
    }
}

/// Executes the step's job, and returns its outcome as it is written. Each type of outcome would otherwise bring a copy
/// of this code into the component.
async fn settle(
    run: &Run<'_>,
    host: &Host<'_, impl Runtime>,
    money: Money<'_>,
) -> Result<Settled<String>, StepError> {
    let unsettled = match attempt(run, host, &money).await {
        Ok(settled) => return Ok(settled),
        Err(unsettled) => unsettled,
    };
    let Unsettled { reference: Some(reference), error: error @ StepError::Retry { .. } } = unsettled else {
        return Err(unsettled.error);
    };
    if !run.is_last_attempt() {
        return Err(error);
    }
    match agent::ledger(host)?.end_step(&reference, host.runtime).await.as_deref() {
        Ok("dead") => {
            let (code, message) = parts(error);
            Err(StepError::last(code, format!("{message}. This was the last attempt: nothing was executed.")))
        }
        // Another attempt has settled it meanwhile.
        Ok("executed" | "skipped" | "rejected" | "unknown") => {
            attempt(run, host, &money).await.map_err(|unsettled| unsettled.error)
        }
        // It ends by itself (purple_flea.workflow_limits).
        _ => Err(error),
    }
}

/// Executes the step's job, and fails where it ended without effect.
pub(super) async fn done<T: DeserializeOwned>(
    run: &Run<'_>,
    host: &Host<'_, impl Runtime>,
    money: Money<'_>,
) -> Result<T, StepError> {
    match execute(run, host, money).await? {
        Settled::Done(value) => Ok(value),
        Settled::NotDone(why) => Err(why.into_error()),
    }
}

async fn attempt(
    run: &Run<'_>,
    host: &Host<'_, impl Runtime>,
    money: &Money<'_>,
) -> Result<Settled<String>, Unsettled> {
    let event = run.event().id.as_deref().filter(|id| !id.is_empty());
    let event = event.filter(|id| id.chars().count() <= EVENT_ID_LIMIT_CHARS).ok_or_else(|| {
        StepError::last("invalid_event", "the event must have an id of at most 256 characters")
    })?;
    let step = WorkflowStep {
        function: money.workflow,
        event,
        step: money.step,
        run: run.run_id(),
        agent: agent::id(host)?,
        kind: money.kind,
        details: money.details.clone(),
        subject: money.subject,
    };
    let ended = step::run(host.settings, agent::ledger(host)?, &step, host.runtime).await;
    match ended.map_err(agent::of_ledger)? {
        Ended::Refused(code) => Err(refused(&code).into()),
        Ended::Told(answer) => told(answer),
        Ended::Executed { reference, outcome } => {
            let body = outcome.body(&reference);
            let reference = reference.as_str().to_owned();
            match outcome.state() {
                State::Executed => Ok(Settled::Done(body.get().to_owned())),
                State::Skipped | State::Rejected => Ok(Settled::NotDone(read(body.get())?)),
                State::Unknown => Err(fate_unknown(&reference).into()),
                State::Pending => {
                    let Later { reason, retry_after_s } = read(body.get())?;
                    Err(Unsettled { reference: Some(reference), error: later(reason, retry_after_s) })
                }
            }
        }
    }
}

/// Reads the ledger's answer about a job that this attempt did not execute.
fn told(answer: Answer) -> Result<Settled<String>, Unsettled> {
    let result = || answer.result.as_ref().map_or("{}", |result| result.get());
    let reason = || answer.reason.clone().unwrap_or_default();
    match answer.state {
        JobStatus::Executed => Ok(Settled::Done(result().to_owned())),
        JobStatus::Skipped | JobStatus::Rejected => Ok(Settled::NotDone(read(result())?)),
        JobStatus::Unknown => Err(fate_unknown(&answer.reference).into()),
        JobStatus::Dead => {
            let message = "the job of this step has expired: nothing was executed, and a new event is needed";
            Err(StepError::last("expired", format!("{message} ({}: {})", answer.reference, reason())).into())
        }
        JobStatus::Claimed | JobStatus::InFlight => {
            let error = later("in_flight".to_owned(), answer.retry_after_s.unwrap_or(1));
            Err(Unsettled { reference: Some(answer.reference), error })
        }
        JobStatus::Waiting | JobStatus::NotFound => {
            let error = later(Some(reason()).filter(|r| !r.is_empty()).unwrap_or("waiting".to_owned()), 0);
            Err(Unsettled { reference: Some(answer.reference), error })
        }
    }
}

fn later(reason: String, retry_after_s: u64) -> StepError {
    let message = "nothing was executed yet";
    match retry_after_s {
        0 => StepError::retry(reason, message),
        seconds => StepError::retry_after(reason, message, Duration::from_secs(seconds)),
    }
}

/// Purple Flea may have executed the job. Another attempt could execute it twice, so there is none.
fn fate_unknown(reference: &str) -> StepError {
    let message = "Purple Flea may have executed it. The ledger looks for it; an operator sees the job";
    StepError::last("outcome_unknown", format!("{message} {reference}."))
}

fn refused(code: &str) -> StepError {
    let last = |message: &str| StepError::last(code.to_owned(), message);
    match code {
        "under_way" => StepError::retry("under_way", "another claim of the agent is under way"),
        "unknown_agent" => agent::unknown(),
        "unknown_counterparty" => last(
            "`counterparty` is not the id, the account or the wallet of exactly one row of `agents`: nothing was paid",
        ),
        "escrow_taken" => {
            last("an escrow of this `escrow_id` has been made for another event: nothing was paid")
        }
        "reference_taken" => {
            last("the same event has asked for something else, or for another agent: nothing was executed")
        }
        "escrow_not_open" => last("the escrow has ended, or another end is requested: nothing was executed"),
        "unknown_escrow" => last("this workflow has made no such escrow"),
        _ => last("the ledger refuses what the event asks for: nothing was executed"),
    }
}

fn parts(error: StepError) -> (std::borrow::Cow<'static, str>, String) {
    match error {
        StepError::Retry { error, .. } | StepError::Final(error) => (error.name, error.message),
    }
}

/// Reads an outcome. One that an earlier release wrote may have another shape.
fn read<T: DeserializeOwned>(outcome: &str) -> Result<T, StepError> {
    serde_json::from_str(outcome).map_err(|_| {
        StepError::last("unreadable_outcome", "the job has ended, and this version cannot read its outcome")
    })
}
