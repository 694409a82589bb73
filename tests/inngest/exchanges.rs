//! The documented exchanges, word for word.

use super::app::{self, Counts, settings, workflows};
use anyhow::{Context, Result};
use http::{Method, Request, Response};
use serde_json::{Value, json};

/// The ids of steps, as the documentation has them.
const CHECK_BALANCE: &str = "2ab335dca707fc7fc5d11a8fe2599ee848a638d9";
const PLACE_ORDER: &str = "b40bc8a41fc16354ff226204f3d110850ce170c6";
const WAIT: &str = "ecd2ebfdff0ea25941fb9ec3831b8b469bf3539b";
const LOOP_1: &str = "a0cb75f0a464ed6731caadd18aa9932daf00bb50";
const LOOP_2: &str = "dd014976323740b5623326fd7169be3055c1b536";

/// A call of a workflow.
struct Call<'a> {
    function: &'a str,
    step: &'a str,
    event: Value,
    steps: Value,
    more: Value,
}

impl Call<'_> {
    /// A run's first call of a workflow.
    fn of(function: &str) -> Call<'_> {
        let event = json!({ "id": "01KB", "name": format!("test/{function}"), "data": { "price": 1 }, "ts": 1, "user": {} });
        Call { function, step: "step", event, steps: json!({}), more: json!({}) }
    }

    fn body(&self) -> Value {
        let mut ctx = json!({
            "run_id": "01KB0000000000000000000001", "fn_id": "5a6e1d1c-7f0e-4f3e-9f0a-2f6b8d3c4e5f", "step_id": self.step,
            "attempt": 0, "max_attempts": 4, "disable_immediate_execution": false, "use_api": false, "env": "",
            "qi_id": "q", "job_id": "j", "request_id": "r", "generation_id": 1,
            "stack": { "current": 0, "stack": [] }, "a_field_of_the_future": [1],
        });
        for (name, value) in self.more.as_object().into_iter().flatten() {
            ctx[name] = value.clone();
        }
        json!({
            "ctx": ctx, "event": self.event, "events": [self.event], "steps": self.steps, "defers": {},
            "use_api": false, "version": 2,
        })
    }

    /// Sends the call to the app of a development server. Returns the status, the headers that decide, and the body.
    async fn answer(&self) -> (u16, [Option<String>; 2], Value) {
        let response = self.response().await;
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(
            header("x-inngest-sdk").unwrap(),
            format!("purple-flea-edge:v{}", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(header("x-inngest-req-version").unwrap(), "2");
        assert_eq!(header("content-type").unwrap(), "application/json");
        assert_eq!(header("content-length").unwrap(), response.body().len().to_string());
        let headers = [header("x-inngest-no-retry"), header("retry-after")];
        (response.status().as_u16(), headers, serde_json::from_slice(response.body()).unwrap())
    }

    async fn response(&self) -> Response<Vec<u8>> {
        let uri = format!("/api/inngest?fnId=purple-flea-{}&stepId={}", self.function, self.step);
        let body = serde_json::to_vec(&self.body()).unwrap();
        send(&dev(), Method::POST, &uri, &[("content-type", "application/json")], body).await
    }
}

fn dev() -> Vec<(&'static str, String)> {
    let url = "http://127.0.0.1:1".to_owned();
    vec![
        ("inngest_dev", "true".to_owned()),
        ("inngest_api_url", url.clone()),
        ("inngest_event_url", url.clone()),
        ("inngest_serve_url", url + "/api/inngest"),
    ]
}

async fn send(
    changes: &[(&'static str, String)],
    method: Method,
    uri: &str,
    headers: &[(&'static str, &str)],
    body: Vec<u8>,
) -> Response<Vec<u8>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app::respond(&settings(changes), &Counts::default(), request.body(body).unwrap()).await.0
}

const NONE: [Option<String>; 2] = [None, None];

fn retry(no_retry: &str, after: Option<&str>) -> [Option<String>; 2] {
    [Some(no_retry.to_owned()), after.map(str::to_owned)]
}

#[tokio::test]
async fn each_outcome_of_a_call_is_answered_as_documented() {
    // A step ran.
    let mut call = Call::of("serial");
    let ran =
        json!([{ "id": CHECK_BALANCE, "op": "StepRun", "displayName": "check-balance", "data": "12.3400" }]);
    assert_eq!(call.answer().await, (206, NONE, ran.clone()));
    // It is memoised: the next one runs.
    call.steps = json!({ CHECK_BALANCE: { "data": "12.3400" } });
    let ordered = json!([{ "id": PLACE_ORDER, "op": "StepRun", "displayName": "place-order", "data": { "order": "12.3400" } }]);
    assert_eq!(call.answer().await, (206, NONE, ordered.clone()));
    // All are memoised: the function returns.
    call.steps[PLACE_ORDER] = json!({ "data": { "order": "12.3400" } });
    assert_eq!(call.answer().await, (200, NONE, json!({ "order": "12.3400" })));
    // A step threw, and may be tried again.
    let thrown = json!([{ "id": PLACE_ORDER, "op": "StepError", "displayName": "place-order",
        "error": { "name": "not_reached", "message": "Purple Flea was not reached" } }]);
    assert_eq!(Call::of("flaky").answer().await, (206, retry("false", None), thrown));
    // A step threw for good.
    let error = json!({ "name": "rejected", "message": "no such asset" });
    let mut call = Call::of("fails");
    let failed =
        json!([{ "id": PLACE_ORDER, "op": "StepFailed", "displayName": "place-order", "error": error }]);
    assert_eq!(call.answer().await, (206, retry("true", None), failed));
    // Its memo is not caught by the function, or is.
    call.steps =
        json!({ PLACE_ORDER: { "error": { "name": "rejected", "message": "no such asset", "stack": "…" } } });
    assert_eq!(call.answer().await, (400, retry("true", None), error));
    call.function = "catches";
    call.event["name"] = json!("test/catches");
    assert_eq!(call.answer().await, (200, NONE, json!({ "failed": "place-order", "code": "rejected" })));
    // A wait and a sleep.
    let waits = json!([{ "id": WAIT, "op": "WaitForEvent", "displayName": "wait-for-counterparty", "opts": {
        "event": "test/confirmed", "timeout": "7d", "if": "event.data.escrow_id == async.data.escrow_id" } }]);
    assert_eq!(Call::of("waits").answer().await, (206, NONE, waits));
    let (status, headers, body) = Call::of("repeats").answer().await;
    assert_eq!(
        (status, headers, &body[0]["opts"], &body[0]["op"]),
        (206, NONE, &json!({ "duration": "2s" }), &json!("Sleep"))
    );
    // The function itself threw.
    let mut call = Call::of("throws");
    assert_eq!(call.answer().await, (200, NONE, json!(1.0)));
    call.event["data"]["price"] = json!(-1);
    let thrown = json!({ "name": "no_price", "message": "the price is not known yet" });
    assert_eq!(call.answer().await, (500, retry("false", None), thrown));
    call.event["data"] = json!({});
    let (status, headers, body) = call.answer().await;
    assert_eq!((status, headers, &body["name"]), (400, retry("true", None), &json!("invalid_event")));
    assert!(body["message"].as_str().unwrap().contains("missing field `price`"), "{body}");
}

#[tokio::test]
async fn a_wait_reads_a_bare_event_or_null_and_a_repeated_name_has_a_number() {
    let mut call = Call::of("waits");
    call.steps = json!({ WAIT: { "data": { "escrow_id": 7 }, "id": "e", "name": "test/confirmed", "ts": 1, "user": {} } });
    let (_, _, body) = call.answer().await;
    assert_eq!(
        (&body[0]["displayName"], &body[0]["data"]),
        (&json!("release-escrow"), &json!(r#"{"escrow_id":7}"#))
    );
    call.steps = json!({ WAIT: null });
    let (_, _, body) = call.answer().await;
    assert_eq!((&body[0]["displayName"], &body[0]["data"]), (&json!("cancel-escrow"), &json!("cancelled")));
    let sleep = sha1("cool-down");
    let mut call = Call::of("repeats");
    call.steps = json!({ sleep: null, sha1("loop"): { "data": 0 } });
    let (_, _, body) = call.answer().await;
    assert_eq!(body[0]["id"], LOOP_1);
    call.steps[LOOP_1] = json!({ "data": 1 });
    let (_, _, body) = call.answer().await;
    assert_eq!(body[0]["id"], LOOP_2);
}

fn sha1(name: &str) -> String {
    purple_flea_edge::inngest::op::step_id(name, 0)
}

#[tokio::test]
async fn a_step_that_is_asked_for_is_run_and_a_plan_runs_none() {
    let mut call = Call::of("serial");
    call.more = json!({ "disable_immediate_execution": true });
    let planned = json!([{ "id": CHECK_BALANCE, "op": "StepPlanned", "displayName": "check-balance" }]);
    assert_eq!(call.answer().await, (206, NONE, planned));
    call.step = CHECK_BALANCE;
    let (status, _, body) = call.answer().await;
    assert_eq!((status, &body[0]["op"]), (206, &json!("StepRun")));
    // The function does not come to the second step without the first one's memo.
    call.step = PLACE_ORDER;
    let (status, headers, body) = call.answer().await;
    assert_eq!((status, headers), (500, retry("false", None)));
    assert_eq!(
        (&body["requestedStep"], &body["foundSteps"], &body["totalFoundSteps"]),
        (&json!(PLACE_ORDER), &json!([{ "id": CHECK_BALANCE, "name": "check-balance" }]), &json!(1))
    );
}

#[tokio::test]
async fn a_memo_of_another_type_ends_the_run_and_names_the_step() {
    for (function, steps, step) in [
        ("serial", json!({ CHECK_BALANCE: { "data": 7 } }), "check-balance"),
        ("serial", json!({ CHECK_BALANCE: null }), "check-balance"),
        ("serial", json!({ CHECK_BALANCE: { "date": "x" } }), "check-balance"),
        ("serial", json!({ CHECK_BALANCE: { "error": "x" } }), "check-balance"),
        ("waits", json!({ WAIT: { "data": {} } }), "wait-for-counterparty"),
        ("waits", json!({ WAIT: [] }), "wait-for-counterparty"),
        ("repeats", json!({ sha1("cool-down"): { "data": 1 } }), "cool-down"),
    ] {
        let mut call = Call::of(function);
        call.steps = steps.clone();
        let (status, headers, body) = call.answer().await;
        assert_eq!(
            (status, headers, &body["name"]),
            (400, retry("true", None), &json!("memo_of_another_type")),
            "{steps}"
        );
        assert!(body["message"].as_str().unwrap().contains(&format!("`{step}`")), "{body}");
    }
}

#[tokio::test]
async fn a_call_that_is_no_call_is_refused_in_the_form_that_inngest_reads() {
    let mut unknown = Call::of("nothing");
    let (status, headers, body) = unknown.answer().await;
    assert_eq!((status, headers), (500, NONE));
    assert_eq!((&body["type"], &body["name"]), (&json!("internal"), &json!("Error")));
    // A signed call of one function is no call of another one.
    unknown.function = "serial";
    let (status, headers, body) = unknown.answer().await;
    assert_eq!(
        (status, headers, &body["name"]),
        (400, retry("true", None), &json!("event_of_another_function"))
    );
    // Inngest's own events start any: a person ran it by hand. The clock's start what has a cron.
    for (function, event, expected) in [
        ("serial", "inngest/function.invoked", 206),
        ("repeats", "inngest/scheduled.timer", 206),
        ("serial", "inngest/scheduled.timer", 400),
    ] {
        let mut call = Call::of(function);
        call.event["name"] = json!(event);
        assert_eq!(call.answer().await.0, expected, "{function} {event}");
    }
    let uri = "/api/inngest?fnId=purple-flea-serial&stepId=step";
    let json_type = [("content-type", "application/json")];
    let run = |run_id: &str| {
        let mut body = Call::of("serial").body();
        body["ctx"]["run_id"] = json!(run_id);
        body.to_string()
    };
    for (headers, body, status, code) in [
        (&json_type[..], "{".to_owned(), 400, "invalid_json"),
        (&json_type[..], "[]".to_owned(), 400, "invalid_event"),
        (&json_type[..], r#"{"ctx":{}}"#.to_owned(), 400, "invalid_event"),
        (&json_type[..], run("../../../v1/events"), 400, "invalid_event"),
        (&json_type[..], run(""), 400, "invalid_event"),
        (&[][..], "{}".to_owned(), 415, "unsupported_media_type"),
    ] {
        let response = send(&dev(), Method::POST, uri, headers, body.clone().into()).await;
        let said: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((response.status().as_u16(), &said["name"]), (status, &json!(code)), "{body}");
        assert_eq!(response.headers()["x-inngest-no-retry"], "true");
        assert!(response.headers().contains_key("x-inngest-sdk"));
    }
}

#[tokio::test]
async fn the_introspection_tells_a_stranger_little_and_a_signed_caller_more() -> Result<()> {
    let response = send(&dev(), Method::GET, "/api/inngest", &[], vec![]).await;
    assert_eq!(response.status(), 200);
    let expected = json!({
        "function_count": workflows().len(), "has_event_key": false, "has_signing_key": false, "mode": "dev",
        "schema_version": "2024-05-24", "extra": { "is_mode_explicit": true },
    });
    assert_eq!(serde_json::from_slice::<Value>(response.body())?, expected);
    let keys = keys();
    let response = send(&keys, Method::GET, "/api/inngest", &[], vec![]).await;
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (401, &br#"{"message":"Unauthorized"}"#[..])
    );
    let signature = signature(b"")?;
    let response =
        send(&keys, Method::GET, "/api/inngest", &[("x-inngest-signature", &signature)], vec![]).await;
    let body: Value = serde_json::from_slice(response.body())?;
    assert_eq!(
        (response.status().as_u16(), &body["mode"], &body["has_event_key"]),
        (200, &json!("cloud"), &json!(true))
    );
    // The first digits of `printf %s KEY | xxd -r -p | sha256sum`, and the whole of `printf %s EVENTKEY | sha256sum`.
    assert_eq!(body["signing_key_hash"], "4884fdaafea4");
    assert_eq!(body["signing_key_fallback_hash"], Value::Null);
    assert_eq!(body["event_key_hash"].as_str().context("a hash")?.len(), 64);
    assert_eq!(
        (&body["serve_origin"], &body["serve_path"]),
        (&json!("https://app.test"), &json!("/api/inngest"))
    );
    assert_eq!((&body["app_id"], &body["env"]), (&json!("purple-flea"), &json!("branch/x")));
    let text = body.to_string();
    assert!(!text.contains(stack::inngest::EVENT_KEY) && !text.contains("0123456789abcdef0123"), "{text}");
    Ok(())
}

fn keys() -> Vec<(&'static str, String)> {
    vec![
        ("inngest_signing_key", stack::inngest::SIGNING_KEY.to_owned()),
        ("inngest_event_key", stack::inngest::EVENT_KEY.to_owned()),
        ("inngest_serve_url", "https://app.test/api/inngest".to_owned()),
        ("inngest_env", "branch/x".to_owned()),
    ]
}

fn signature(body: &[u8]) -> Result<String> {
    stack::inngest::signature(stack::inngest::SIGNING_KEY, body, stack::webhook::unix_s())
}

#[tokio::test]
async fn a_trust_probe_is_answered_without_a_body_once_it_is_signed() -> Result<()> {
    let probe = "/api/inngest?probe=trust";
    let response = send(&dev(), Method::POST, probe, &[], vec![]).await;
    assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
    assert_eq!(send(&keys(), Method::POST, probe, &[], vec![]).await.status(), 401);
    let signature = signature(b"")?;
    let signed = send(&keys(), Method::POST, probe, &[("x-inngest-signature", &signature)], vec![]).await;
    assert_eq!(signed.status(), 200);
    Ok(())
}

#[tokio::test]
async fn without_keys_and_outside_dev_mode_nobody_is_let_in() {
    for (method, changes) in [
        (Method::GET, vec![]),
        (Method::PUT, vec![]),
        (Method::POST, vec![]),
        (Method::POST, vec![("inngest_event_key", "only-sends".to_owned())]),
    ] {
        let response = send(&changes, method, "/api/inngest", &[], vec![]).await;
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (401, &br#"{"message":"Unauthorized"}"#[..])
        );
    }
}
