//! Makes the stand-in's calls, and reads their answers as the server does.

use super::{
    PATH, Shared,
    state::{Due, Exchange, Outcome},
};
use crate::{http1, webhook::unix_s};
use anyhow::{Context, Result};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{fmt::Write, sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Longest wait for an answer. The real server waits two hours.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// Makes calls as they come due.
pub(super) async fn make(shared: Arc<Shared>) {
    let mut under_way = JoinSet::new();
    loop {
        let all_due = shared.state().due();
        for due in all_due {
            let shared = shared.clone();
            under_way.spawn(async move {
                let (exchange, outcome) = call(&shared, &due).await;
                {
                    let mut state = shared.state();
                    state.exchanges.push(exchange);
                    state.settle(&due, outcome);
                }
                shared.changed.notify_one();
            });
        }
        while under_way.try_join_next().is_some() {}
        if shared.state().is_at_rest() {
            shared.rested.notify_waiters();
        }
        shared.changed.notified().await;
    }
}

async fn call(shared: &Shared, due: &Due) -> (Exchange, Outcome) {
    let body = body(shared, due);
    let mut exchange = Exchange {
        url: String::new(),
        headers: HeaderMap::new(),
        call: body.clone(),
        status: None,
        answer_headers: HeaderMap::new(),
        answer: Value::Null,
        lost: false,
    };
    let sent = async {
        let request = request(shared, due, &body)?;
        exchange.url = request.uri().to_string();
        exchange.headers = request.headers().clone();
        tokio::time::timeout(ANSWER_LIMIT, http1::send(request)).await.context("no answer in time")?
    };
    let response = match sent.await {
        Ok(response) => response,
        Err(error) => return (exchange, failed(&format!("no answer: {error:#}"))),
    };
    exchange.status = Some(response.status().as_u16());
    exchange.answer_headers = response.headers().clone();
    exchange.answer = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    let reported = exchange.answer[0]["displayName"].as_str().unwrap_or_default();
    let mut state = shared.state();
    if let Some(place) = state.lost_answers.iter().position(|step| step == reported) {
        state.lost_answers.remove(place);
        exchange.lost = true;
        return (exchange, failed("the answer was lost"));
    }
    let version = response.headers().get("x-inngest-req-version");
    let version = version.and_then(|v| v.to_str().ok()?.parse().ok());
    // Without the header the server goes on with version 0.
    state.note_version(due.run, version.unwrap_or(0));
    drop(state);
    let outcome = read(&response, &exchange.answer);
    (exchange, outcome)
}

/// The server's own words for an attempt without a usable answer.
fn failed(message: &str) -> Outcome {
    let error = json!({ "name": "Error", "message": message });
    Outcome::Failed { error, is_final: false, after_ms: None }
}

/// The keys are sorted and there is no white space, as in the server's canonical JSON.
fn body(shared: &Shared, due: &Due) -> Value {
    let (kept, next) = (&due.kept, &due.next);
    let use_api = !shared.options.sends_state;
    let steps = if use_api { json!({}) } else { Value::Object(kept.memos.clone()) };
    let (event, events) =
        if use_api { (json!({}), json!([])) } else { (kept.event.clone(), json!([kept.event])) };
    let stack: Vec<&String> = kept.memos.keys().collect();
    let mut body = json!({
        "ctx": {
            "run_id": kept.id, "fn_id": "5a6e1d1c-7f0e-4f3e-9f0a-2f6b8d3c4e5f", "step_id": next.step,
            "attempt": next.attempt, "max_attempts": due.max_attempts,
            "disable_immediate_execution": shared.options.plans_steps, "use_api": use_api, "env": "",
            "qi_id": format!("qi-{}", kept.id), "job_id": format!("job-{}", kept.id),
            "request_id": format!("request-{}", kept.id), "generation_id": 1,
            "stack": { "current": stack.len(), "stack": stack },
        },
        "event": event, "events": events, "steps": steps, "defers": {}, "use_api": use_api, "version": kept.version,
    });
    if use_api && let Some(body) = body.as_object_mut() {
        body.remove("event");
    }
    body
}

fn request(shared: &Shared, due: &Due, body: &Value) -> Result<Request<Vec<u8>>> {
    let bytes = serde_json::to_vec(body)?;
    // The registered URL ends with the function's id and `stepId=step`.
    let (url, _) = due.url.rsplit_once("stepId=").context("the registered URL has no stepId")?;
    anyhow::ensure!(url.contains(PATH), "{url} is not the app's");
    let step = &due.next.step;
    let mut request = Request::post(format!("{url}stepId={step}"))
        .header("content-type", "application/json")
        .header("user-agent", "Inngest")
        .header("account-id", "00000000-0000-4000-a000-000000000000")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-run-id", &due.kept.id)
        .header("x-request-id", format!("request-{}", due.kept.id))
        .header("x-inngest-step-id", step)
        .header("x-inngest-job-id", format!("job-{}", due.kept.id))
        .header("x-inngest-generation-id", "1")
        .header("x-inngest-req-version", due.kept.version)
        .header("accept-encoding", "gzip")
        .header("connection", "close")
        .header("content-length", bytes.len());
    if let Some(key) = &shared.options.signing_key {
        request = request.header("x-inngest-signature", signature(key, &bytes, unix_s())?);
    }
    Ok(request.body(bytes)?)
}

/// Signs a body, as the server does. The key is the text after the prefix.
pub(super) fn signature(key: &str, body: &[u8], now_s: u64) -> Result<String> {
    let digits = key.rsplit('-').next().unwrap_or(key);
    let mut mac = Hmac::<Sha256>::new_from_slice(digits.as_bytes())?;
    mac.update(body);
    mac.update(now_s.to_string().as_bytes());
    let mut hex = String::new();
    for byte in mac.finalize().into_bytes() {
        write!(hex, "{byte:02x}")?;
    }
    Ok(format!("t={now_s}&s={hex}"))
}

/// Reads an answer.
fn read(response: &Response<Bytes>, body: &Value) -> Outcome {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if header("x-inngest-sdk").is_none_or(|sdk| !sdk.contains(":v")) {
        return failed("the answer does not come from an app");
    }
    let is_final = header("x-inngest-no-retry") == Some("true");
    let after_ms = header("retry-after").and_then(|s| s.parse::<i64>().ok()).map(|s| s * 1_000);
    match response.status().as_u16() {
        200 => Outcome::Returned(body.clone()),
        206 => match &body.as_array().map(Vec::as_slice).unwrap_or_default() {
            [op] => read_op(op, is_final, after_ms),
            _ => failed("the stand-in takes one operation at a time"),
        },
        _ => Outcome::Failed { error: body.clone(), is_final, after_ms },
    }
}

fn read_op(op: &Value, is_final: bool, after_ms: Option<i64>) -> Outcome {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let Some(id) = text(&op["id"]).filter(|id| id.len() == 40) else {
        return failed("an operation without an id");
    };
    let opts = &op["opts"];
    match op["op"].as_str().unwrap_or_default() {
        "StepRun" => Outcome::Memo { id, memo: json!({ "data": op["data"] }) },
        "StepFailed" => Outcome::Memo { id, memo: json!({ "error": op["error"] }) },
        "StepError" if is_final => Outcome::Memo { id, memo: json!({ "error": op["error"] }) },
        "StepError" => Outcome::StepError { id, error: op["error"].clone(), after_ms },
        "StepPlanned" => Outcome::Planned { id },
        "WaitForEvent" => {
            let timeout = text(&opts["timeout"]).unwrap_or_default();
            Outcome::Wait { id, event: text(&opts["event"]), condition: text(&opts["if"]), timeout }
        }
        "Sleep" => {
            let timeout = text(&opts["duration"]).unwrap_or_default();
            Outcome::Wait { id, event: None, condition: None, timeout }
        }
        other => failed(&format!("the server does not know the operation {other:?}")),
    }
}
