//! Runs a request in one of the two modes. In standalone mode the function executes a task at once and keeps
//! no record. In ledger mode a worker executes due jobs, before the reply or after it.

use super::{
    problem::Problem,
    response::{json, json_as},
};
use crate::{
    config::Settings,
    domain::{account::Account, outcome::Outcome, reference::Reference},
    jobs::{self, Context, Task},
    ledger::{
        Ledger,
        job::{Answer, JobStatus},
        rpc::LedgerError,
    },
    log::{Level, Line, milliseconds},
    runtime::Runtime,
    time_budget,
    worker::{self, Executed, TimeLimits},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;
use std::time::Duration;

/// Marks a reply that holds the outcome of an earlier call. This call executed nothing.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The worker's run after the reply.
#[derive(Debug, PartialEq, Eq)]
pub struct AfterReply {
    requested: Vec<Reference>,
}

/// A reply, and the worker's run after it.
pub type Reply = (Response<Vec<u8>>, Option<AfterReply>);

/// Executes a task without a ledger, at once, and keeps no record.
pub async fn run_standalone(
    settings: &Settings,
    task: &Task,
    agent_id: &str,
    reference: &Reference,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    line.reference = Some(reference.as_str().to_owned());
    let (purple_flea, account) = (&settings.purple_flea, &Account::shared(agent_id));
    let started = runtime.monotonic();
    let idempotency_key = reference.as_str();
    let context =
        Context { purple_flea, account, idempotency_key, deadline: None, good_until: None, runtime };
    let outcome = jobs::execute(task, &context).await;
    if matches!(outcome, Outcome::Executed { .. } | Outcome::Failed { .. }) {
        line.purple_flea_ms = Some(milliseconds(runtime.monotonic().saturating_sub(started)));
    }
    outcome.write_to(line);
    Ok((response(outcome, reference)?, None))
}

/// Executes due jobs of the ledger, and replies about the requested job.
pub async fn run_via_ledger(
    settings: &Settings,
    ledger: &Ledger,
    reference: Option<Reference>,
    headers: &HeaderMap,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    line.reference = reference.as_ref().map(|reference| reference.as_str().to_owned());
    let requested: Vec<Reference> = reference.into_iter().collect();
    if settings.after_reply && prefers_async(headers) {
        let body = json!({ "status": "accepted", "reference": line.reference });
        let accepted = json_as(StatusCode::ACCEPTED, "application/json", &body);
        return Ok((accepted, Some(AfterReply { requested })));
    }
    let began = runtime.monotonic();
    let limits = TimeLimits {
        claims_end: time_budget::claims_end_before_reply(began, settings.purple_flea.timeout),
        reports_end: time_budget::reports_end(began),
        linger: Duration::ZERO,
    };
    let run = worker::run(settings, ledger, &requested, limits, runtime).await?;
    line.jobs = Some(run.claimed);
    Ok((reply(&requested, run, line)?, None))
}

impl AfterReply {
    /// Runs a worker after the reply.
    pub async fn run(self, settings: &Settings, runtime: &impl Runtime) {
        let Some(ledger) = &settings.ledger else { return };
        let mut line = Line::new(runtime.now(), "worker");
        line.reference = self.requested.first().map(|reference| reference.as_str().to_owned());
        let started = runtime.monotonic();
        let limits = TimeLimits {
            claims_end: time_budget::claims_end_after_reply(started, settings.purple_flea.timeout),
            reports_end: time_budget::reports_end(started),
            linger: settings.linger,
        };
        match worker::run(settings, ledger, &self.requested, limits, runtime).await {
            Ok(run) => line.jobs = Some(run.claimed),
            Err(error) => {
                (line.code, line.cause) = (Some(error.code()), Some(error.cause()));
                line.level = Level::Error;
            }
        }
        line.ms = milliseconds(runtime.monotonic().saturating_sub(started));
        runtime.log(&line);
    }
}

/// Returns whether a reply holds the outcome of an earlier call.
pub fn is_replayed((response, _): &Reply) -> bool {
    response.headers().contains_key(REPLAYED)
}

/// Returns whether the request prefers `respond-async`, as RFC 7240 defines it.
fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|preference| {
        preference.split(';').next().is_some_and(|p| p.trim().eq_ignore_ascii_case("respond-async"))
    })
}

/// Replies about the requested job, or about the worker's run if the request names no job.
fn reply(requested: &[Reference], run: Executed, line: &mut Line) -> Result<Response<Vec<u8>>, Problem> {
    let Some(reference) = requested.first() else {
        return Ok(json(&json!({ "status": "drained", "jobs": run.claimed })));
    };
    if let Some((_, outcome)) = run.outcomes.into_iter().find(|(name, _)| name == reference) {
        outcome.write_to(line);
        return response(outcome, reference);
    }
    let answer = run.answers.into_iter().find(|answer| answer.reference == reference.as_str());
    reply_from_ledger(answer.ok_or(Problem::Ledger(LedgerError::Unreadable))?, line)
}

/// Replies with an outcome.
pub fn response(outcome: Outcome, reference: &Reference) -> Result<Response<Vec<u8>>, Problem> {
    match outcome {
        Outcome::Failed { failure, .. } => Err(failure.into()),
        outcome => Ok(json(&outcome.body(reference))),
    }
}

/// Replies with the ledger's answer about a job that this worker did not claim.
fn reply_from_ledger(answer: Answer, line: &mut Line) -> Result<Response<Vec<u8>>, Problem> {
    line.agent = answer.agent_id.clone();
    let wait_s = answer.retry_after_s.unwrap_or(1);
    match answer.state {
        JobStatus::Executed | JobStatus::Skipped | JobStatus::Rejected => {
            line.decision = Some("replayed");
            let result = answer.result.ok_or(Problem::Ledger(LedgerError::Unreadable))?;
            let mut response = json(&result);
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        JobStatus::Waiting => {
            line.decision = Some("waiting");
            Ok(json(&json!({
                "status": "waiting", "reason": answer.reason.as_deref().unwrap_or("not_its_turn"),
                "detail": "This call did not execute the job. The ledger keeps the job, and a worker executes it later.",
                "reference": answer.reference, "agent_id": answer.agent_id, "retry_after_s": wait_s,
            })))
        }
        // `reply` handles the outcomes of this worker's claims, so another claim has this job.
        JobStatus::Claimed | JobStatus::InFlight => Err(Problem::InFlight(wait_s)),
        JobStatus::Unknown => Err(Problem::Unresolved(answer.reason.unwrap_or_default())),
        JobStatus::Dead => Err(Problem::TooOld),
        JobStatus::NotFound => Err(Problem::UnknownDeposit),
    }
}
