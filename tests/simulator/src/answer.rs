//! Makes answers: JSON with `_info`, and refusals of one shape.

use http::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// An answer without a fault.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

/// A service's answer. `Err` is a failure.
pub(super) type Said = Result<Answer, Answer>;

/// Makes a JSON answer. Every JSON object carries `_info` (purple-flea.md, section 2).
pub(super) fn json_answer(status: StatusCode, mut body: Value) -> Answer {
    if let Value::Object(body) = &mut body {
        body.insert("_info".to_owned(), json!({"service": "simulator", "version": "1.0.0"}));
    }
    Answer { status, content_type: "application/json", body: body.to_string() }
}

pub(super) fn ok(body: Value) -> Said {
    Ok(json_answer(StatusCode::OK, body))
}

pub(super) fn created(body: Value) -> Said {
    Ok(json_answer(StatusCode::CREATED, body))
}

/// Makes a refusal; an empty message is left out.
pub(super) fn refuse(status: u16, error: &str, message: &str) -> Answer {
    refuse_with(status, error, message, Value::Null)
}

/// Makes a refusal with further fields.
pub(super) fn refuse_with(status: u16, error: &str, message: &str, more: Value) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = json!({ "error": error });
    if let Value::Object(body) = &mut body {
        if !message.is_empty() {
            body.insert("message".to_owned(), message.into());
        }
        if let Value::Object(more) = more {
            body.extend(more);
        }
    }
    json_answer(status, body)
}

/// Makes the reply to an internal error. The request's earlier effects remain. Escrow and the faucet have no message
/// for it.
pub(super) fn failed() -> Answer {
    refuse(500, "internal_error", "")
}

/// Writes a time as Purple Flea does.
pub(super) fn iso(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Writes a time that Purple Flea stores in whole seconds.
pub(super) fn iso_seconds(time: SystemTime) -> String {
    iso(whole_seconds(time))
}

/// Cuts a time to its whole second.
pub(super) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
