//! Answers: how the outcome of a call becomes a status, a body and headers.

use super::{
    op::{Op, OpCode, quoted},
    run::{Report, Run, StepError, Stop, Thrown},
};
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::Value;
use std::time::Duration;

/// The header that tells Inngest whether to try again. Without it Inngest does.
const NO_RETRY: HeaderName = HeaderName::from_static("x-inngest-no-retry");

/// An answer, and its name in the log.
#[derive(Debug)]
pub struct Answer {
    /// The reply.
    pub response: Response<Vec<u8>>,
    /// The event: `returned`, `failed`, or the operation.
    pub outcome: &'static str,
    /// The failure, for the log.
    pub cause: Option<String>,
}

impl Answer {
    /// Answers a call whose function has ended, or was stopped.
    pub fn of(run: &Run<'_>, ended: Result<Value, Stop>) -> Self {
        let (report, found) = run.take_report();
        match (report, ended) {
            (Some(report), _) => Self::of_report(&report),
            // Nobody knows whether the step moved money, so nothing is tried again.
            (None, _) if run.has_dropped_a_step() => Self::of_error(&StepError::last(
                "step_dropped",
                "the function dropped a step that it had begun",
            )),
            (None, Ok(value)) => {
                Self { response: reply(StatusCode::OK, value.to_string()), outcome: "returned", cause: None }
            }
            (None, Err(Stop::Failed(error))) => Self::of_error(&error),
            (None, Err(Stop::StepFailed { error, .. })) => Self::of_error(&StepError::Final(error)),
            (None, Err(Stop::Reported)) => {
                Self::of_missing_step(run.requested_step().unwrap_or_default(), &found)
            }
        }
    }

    /// Answers a call of a function that does not exist.
    pub fn of_unknown_function(id: &str) -> Self {
        let id: String = id.chars().take(crate::json::DETAIL_LIMIT_CHARS).collect();
        let message = format!(
            "this app has no function `{id}`: register it again with a PUT, or call the app that has it"
        );
        let body = format!(r#"{{"type":"internal","name":"Error","message":{}}}"#, quoted(&message));
        Self {
            response: reply(StatusCode::INTERNAL_SERVER_ERROR, body),
            outcome: "unknown_function",
            cause: None,
        }
    }

    /// Answers with an error of the function itself.
    pub fn of_error(error: &StepError) -> Self {
        let (status, thrown, after) = match error {
            StepError::Retry { error, after } => (StatusCode::INTERNAL_SERVER_ERROR, error, *after),
            StepError::Final(error) => (StatusCode::BAD_REQUEST, error, None),
        };
        let mut response = reply(status, thrown_text(thrown));
        let is_final = matches!(error, StepError::Final(_));
        set_retry(&mut response, is_final, after);
        Self { response, outcome: "failed", cause: Some(named(thrown)) }
    }

    fn of_report(Report { op, retry_after }: &Report) -> Self {
        let (outcome, is_final) = match op.code {
            OpCode::StepRun => ("step_run", None),
            OpCode::StepPlanned => ("step_planned", None),
            OpCode::WaitForEvent => ("wait_for_event", None),
            OpCode::Sleep => ("sleep", None),
            OpCode::StepError => ("step_error", Some(false)),
            OpCode::StepFailed => ("step_failed", Some(true)),
        };
        let mut response = reply(StatusCode::PARTIAL_CONTENT, format!("[{}]", text(op)));
        if let Some(is_final) = is_final {
            set_retry(&mut response, is_final, *retry_after);
        }
        Self { response, outcome, cause: op.error.as_ref().map(named) }
    }

    /// Answers a call for a step that the function does not come to.
    fn of_missing_step(requested: &str, found: &[(String, String)]) -> Self {
        let step =
            |(id, name): &(String, String)| format!(r#"{{"id":{},"name":{}}}"#, quoted(id), quoted(name));
        let steps: Vec<String> = found.iter().map(step).collect();
        let (steps, count, requested) = (steps.join(","), found.len(), quoted(requested));
        let error = "the function does not come to the requested step: its code, or a memo, has changed";
        let body = format!(
            r#"{{"error":"{error}","requestedStep":{requested},"foundSteps":[{steps}],"totalFoundSteps":{count}}}"#
        );
        let mut response = reply(StatusCode::INTERNAL_SERVER_ERROR, body);
        set_retry(&mut response, false, None);
        Self { response, outcome: "step_not_found", cause: None }
    }
}

/// Makes an answer with a JSON body and its length.
pub fn reply(status: StatusCode, body: String) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body.into_bytes());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// Writes an error.
fn thrown_text(Thrown { name, message }: &Thrown) -> String {
    format!(r#"{{"name":{},"message":{}}}"#, quoted(name), quoted(message))
}

/// Writes an operation. All keys are strings and all values are of known types, so this always serialises.
fn text(op: &Op) -> String {
    serde_json::to_string(op).unwrap_or_default()
}

/// Tells Inngest whether to try again, and how long to wait before.
pub fn set_retry(response: &mut Response<Vec<u8>>, is_final: bool, after: Option<Duration>) {
    let headers = response.headers_mut();
    headers.insert(NO_RETRY, HeaderValue::from_static(if is_final { "true" } else { "false" }));
    if let Some(after) = after {
        // A part of a second is rounded up.
        let whole_s = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0));
        headers.insert(RETRY_AFTER, whole_s.into());
    }
}

/// Returns an error's code for the log. Its message can hold a caller's data.
fn named(thrown: &Thrown) -> String {
    thrown.name.chars().take(crate::json::DETAIL_LIMIT_CHARS).collect()
}
