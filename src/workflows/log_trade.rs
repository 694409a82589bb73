//! Posts a trade to the operator's own address. The order is placed and recorded before, so a post that fails repeats
//! nothing but itself.

use crate::{
    config::Log,
    inngest::run::StepError,
    runtime::{Limits, Runtime},
    webhook::signature::{ID, SIGNATURE, TIMESTAMP},
};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// Longest time of a post, in seconds. The receiver only takes a line.
const TIMEOUT_S: u64 = 5;

/// Longest reply that is read, in bytes. Its status has decided already.
const REPLY_LIMIT_BYTES: usize = 1024;

/// Posts the trade, and returns the status of the answer. `webhook-id` is the job's name, the same for each attempt.
pub(super) async fn post(
    log: &Log,
    reference: &str,
    trade: &Value,
    runtime: &impl Runtime,
) -> Result<u16, StepError> {
    let request = request(log, reference, trade, runtime.now())
        .ok_or_else(|| StepError::last("request_not_built", "the trade could not be written"))?;
    let limits = Limits {
        timeout: Duration::from_secs(TIMEOUT_S),
        hold: Duration::ZERO,
        reply_bytes: REPLY_LIMIT_BYTES,
    };
    match runtime.send(request, limits).await {
        Ok(answer) if answer.head.status.is_success() => Ok(answer.head.status.as_u16()),
        Ok(answer) => {
            let status = answer.head.status.as_u16();
            Err(StepError::retry("not_logged", format!("`inngest_log_url` answered {status}")))
        }
        Err(_) => Err(StepError::retry("not_logged", "`inngest_log_url` gave no answer")),
    }
}

fn request(log: &Log, reference: &str, trade: &Value, now: SystemTime) -> Option<http::Request<Vec<u8>>> {
    let body = serde_json::to_vec(trade).ok()?;
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let mut request = http::Request::post(log.url.join("")?)
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, body.len())
        .header(ID, reference)
        .header(TIMESTAMP, now_s);
    if let Some(secret) = &log.secret {
        request = request.header(SIGNATURE, secret.signature(reference, now_s, &body)?);
    }
    request.body(body).ok()
}
