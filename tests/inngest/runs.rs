//! Whole runs against a server: the stand-in, or the real one where `INNGEST_CLI` names it.

use super::app::{A_WEEK, Served};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::inngest::{Inngest, Options, Run, Status};
use std::time::Duration;

async fn started(options: Options) -> Result<(Inngest, Served)> {
    let inngest = Inngest::with(options).await?;
    let app = Served::by(&inngest).await?;
    Ok((inngest, app))
}

/// Starts the stand-in, for tests of time and faults.
async fn stand_in() -> Result<(Inngest, Served)> {
    let inngest = Inngest::stand_in(Options::default()).await?;
    let app = Served::by(&inngest).await?;
    Ok((inngest, app))
}

#[track_caller]
fn assert_ended(run: &Run, status: Status, output: &Value) {
    assert_eq!((run.status, &run.output), (status, output), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_executes_each_step_once_with_and_without_keys() -> Result<()> {
    for options in [Options::default(), Options::with_keys()] {
        let (inngest, app) = started(options).await?;
        let event = inngest.send_named("test/serial", json!({ "price": 1 })).await?;
        assert_ended(&inngest.ended(&event).await?, Status::Completed, &json!({ "order": "12.3400" }));
        assert_eq!((app.counts.first(), app.counts.second()), (1, 1));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_state_is_too_large_for_its_calls_gets_it_from_the_server() -> Result<()> {
    let options = Options { sends_state: false, ..Options::with_keys() };
    let (inngest, app) = started(options).await?;
    let event = inngest.send_named("test/serial", json!({})).await?;
    assert_ended(&inngest.ended(&event).await?, Status::Completed, &json!({ "order": "12.3400" }));
    assert_eq!((app.counts.first(), app.counts.second()), (1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_plans_each_step_sees_it_executed_once() -> Result<()> {
    let (inngest, app) = started(Options { plans_steps: true, ..Options::default() }).await?;
    let event = inngest.send_named("test/serial", json!({})).await?;
    let run = inngest.ended(&event).await?;
    assert_ended(&run, Status::Completed, &json!({ "order": "12.3400" }));
    // Two plans, two executions and the end.
    assert_eq!((run.calls, app.counts.first(), app.counts.second()), (5, 1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_twice_is_tried_a_third_time() -> Result<()> {
    let (inngest, app) = started(Options::default()).await?;
    let event = inngest.send_named("test/flaky", json!({})).await?;
    let run = inngest.ended(&event).await?;
    // After the step's success the attempts are counted anew.
    assert_ended(&run, Status::Completed, &json!({ "attempt": 2, "last": false }));
    assert_eq!(app.counts.first(), 3);
    if inngest.is_real() {
        return Ok(());
    }
    let exchanges = inngest.clock()?.exchanges();
    let waits: Vec<Option<&str>> =
        exchanges.iter().map(|e| e.answer_headers.get("retry-after").map(|v| v.to_str().unwrap())).collect();
    // A second and a half is rounded up.
    assert_eq!(waits, [None, Some("2"), None, None]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_for_good_ends_the_run_unless_the_function_catches_it() -> Result<()> {
    let (inngest, _app) = started(Options::default()).await?;
    let event = inngest.send_named("test/fails", json!({})).await?;
    let run = inngest.ended(&event).await?;
    assert_eq!((run.status, &run.output["message"]), (Status::Failed, &json!("no such asset")));
    let event = inngest.send_named("test/catches", json!({})).await?;
    let run = inngest.ended(&event).await?;
    assert_ended(&run, Status::Completed, &json!({ "failed": "place-order", "code": "busy" }));
    if !inngest.is_real() {
        // Three attempts, and the call that catches.
        assert_eq!(run.calls, 4);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_resumed_by_the_matching_event_alone() -> Result<()> {
    let (inngest, _app) = started(Options::default()).await?;
    let event = inngest.send_named("test/waits", json!({ "escrow_id": "e1" })).await?;
    inngest.rest().await?;
    if inngest.is_real() {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    inngest.send_named("test/confirmed", json!({ "escrow_id": "e2" })).await?;
    inngest.rest().await?;
    let runs = inngest.runs_of(&event).await?;
    assert_eq!((runs.len(), runs[0].status), (1, Status::Running));
    inngest.send_named("test/confirmed", json!({ "escrow_id": "e1", "by": "Zoë" })).await?;
    inngest.rest().await?;
    let run = inngest.ended(&event).await?;
    let released: Value = serde_json::from_str(run.output.as_str().context("a text")?)?;
    assert_eq!((run.status, released), (Status::Completed, json!({ "escrow_id": "e1", "by": "Zoë" })));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_nobody_ends_times_out_after_seven_days_and_not_before() -> Result<()> {
    let (inngest, _app) = stand_in().await?;
    let event = inngest.send_named("test/waits", json!({ "escrow_id": "e1" })).await?;
    let clock = inngest.clock()?;
    clock.advance(A_WEEK - Duration::from_secs(1)).await?;
    let run = inngest.runs_of(&event).await?.remove(0);
    assert_eq!((run.status, &run.waits_for[..]), (Status::Running, &["test/confirmed".to_owned()][..]));
    clock.advance(Duration::from_secs(1)).await?;
    let run = inngest.runs_of(&event).await?.remove(0);
    assert_ended(&run, Status::Completed, &json!("cancelled"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_finished_in_time_is_cancelled() -> Result<()> {
    let (inngest, _app) = stand_in().await?;
    let clock = inngest.clock()?;
    assert_eq!(clock.functions()[4]["timeouts"], json!({ "finish": "8d" }));
    let event = inngest.send_named("test/waits", json!({ "escrow_id": "e1" })).await?;
    inngest.rest().await?;
    clock.advance(Duration::from_secs(8 * 24 * 60 * 60)).await?;
    assert_eq!(inngest.runs_of(&event).await?.remove(0).status, Status::Cancelled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_names_sleeps_and_sent_events_are_each_done_once() -> Result<()> {
    let (inngest, app) = started(Options::with_keys()).await?;
    let event = inngest.send_named("test/repeats", json!({})).await?;
    let run = inngest.ended(&event).await?;
    assert_ended(&run, Status::Completed, &json!({ "numbers": [0, 1, 2], "ids": 2 }));
    assert_eq!(app.counts.first(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_sends_events_twice_sends_them_with_the_same_ids() -> Result<()> {
    let (inngest, _app) = stand_in().await?;
    let clock = inngest.clock()?;
    clock.lose_answer("notify");
    let event = inngest.send_named("test/repeats", json!({})).await?;
    let run = inngest.ended(&event).await?;
    assert_eq!(run.status, Status::Completed, "{run:?}");
    let ids: Vec<Value> = clock.events().iter().skip(1).map(|event| event["id"].clone()).collect();
    assert_eq!((ids.len(), &ids[..2]), (4, &ids[2..]));
    assert!(ids[0].as_str().context("an id")?.starts_with(&run.id) && ids[0] != ids[1], "{ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_and_a_lost_end_too() -> Result<()> {
    let (inngest, app) = stand_in().await?;
    let clock = inngest.clock()?;
    for step in ["check-balance", ""] {
        clock.lose_answer(step);
    }
    let event = inngest.send_named("test/serial", json!({})).await?;
    assert_ended(&inngest.ended(&event).await?, Status::Completed, &json!({ "order": "12.3400" }));
    // A step itself has to make a repeat harmless: the server cannot.
    assert_eq!((app.counts.first(), app.counts.second()), (2, 1));
    assert_eq!(clock.exchanges().iter().filter(|exchange| exchange.lost).count(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_sent_again_within_a_day_starts_nothing() -> Result<()> {
    let (inngest, app) = stand_in().await?;
    let clock = inngest.clock()?;
    let event = json!({ "id": "alert-1", "name": "test/serial", "data": {} });
    let id = inngest.send(&event).await?;
    inngest.ended(&id).await?;
    clock.advance(Duration::from_secs(24 * 60 * 60 - 1)).await?;
    inngest.send(&event).await?;
    inngest.rest().await?;
    assert_eq!((inngest.runs_of(&id).await?.len(), app.counts.first()), (1, 1));
    clock.advance(Duration::from_secs(2)).await?;
    inngest.send(&event).await?;
    inngest.rest().await?;
    assert_eq!((inngest.runs_of(&id).await?.len(), app.counts.first()), (2, 2));
    clock.rerun(&id)?;
    inngest.rest().await?;
    assert_eq!((inngest.runs_of(&id).await?.len(), app.counts.first()), (3, 3));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_function_with_a_limit_of_one_never_overlap() -> Result<()> {
    let (inngest, app) = stand_in().await?;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(inngest.send_named("test/serial", json!({})).await?);
    }
    for event in events {
        assert_eq!(inngest.ended(&event).await?.status, Status::Completed);
    }
    assert_eq!((inngest.clock()?.most_at_once("serial"), app.counts.first()), (1, 3));
    // Without a limit they do.
    for _ in 0..3 {
        inngest.send_named("test/waits", json!({})).await?;
    }
    inngest.rest().await?;
    assert!(inngest.clock()?.most_at_once("waits") >= 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_starts_a_run_whose_event_has_the_fire_time_as_its_id() -> Result<()> {
    let (inngest, _app) = stand_in().await?;
    let first = inngest.clock()?.fire("repeats")?;
    assert_eq!(first, "2026-12-01T09:00:00Z");
    assert_eq!(inngest.ended(&first).await?.status, Status::Completed);
    let second = inngest.clock()?.fire("repeats")?;
    assert_eq!(second, "2026-12-02T09:00:00Z");
    assert!(inngest.clock()?.fire("serial").is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_ignores_a_stop_or_starts_two_steps_executes_one_a_call() -> Result<()> {
    let (inngest, app) = started(Options::default()).await?;
    let event = inngest.send_named("test/swallows", json!({})).await?;
    assert_ended(&inngest.ended(&event).await?, Status::Completed, &json!([true, true]));
    assert_eq!((app.counts.first(), app.counts.second()), (1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registration_is_the_documented_one() -> Result<()> {
    let inngest = Inngest::stand_in(Options::with_keys()).await?;
    let app = Served::by(&inngest).await?;
    let (headers, query, body) = inngest.clock()?.registration().context("no registration")?;
    let url = format!("{}/api/inngest", app.url);
    let version = env!("CARGO_PKG_VERSION");
    let function = |id: &str| {
        json!({ "id": format!("purple-flea-{id}"), "name": id, "steps": { "step": { "id": "step", "name": "step",
            "retries": { "attempts": 3 },
            "runtime": { "type": "http", "url": format!("{url}?fnId=purple-flea-{id}&stepId=step") } } } })
    };
    let mut serial = function("serial");
    serial["triggers"] = json!([{ "event": "test/serial" }]);
    serial["concurrency"] = json!({ "limit": 1 });
    let mut repeats = function("repeats");
    repeats["triggers"] = json!([{ "event": "test/repeats" }, { "cron": "0 9 * * *" }]);
    repeats["steps"]["step"]["retries"]["attempts"] = json!(2);
    assert_eq!((&body["functions"][0], &body["functions"][5]), (&serial, &repeats));
    let mut rest = body.clone();
    rest["functions"] = json!([]);
    let expected = json!({
        "url": url, "deployType": "ping", "appName": "purple-flea", "sdk": format!("purple-flea-edge:v{version}"),
        "v": "0.1", "framework": "wasi-http", "functions": [],
    });
    assert_eq!(rest, expected);
    // The documented vector.
    let hash = "4884fdaafea47c29fea7159d0daddd9c085d6200e1359e85bb81736af6b7c837";
    assert_eq!(headers["authorization"], format!("Bearer signkey-test-{hash}"));
    assert_eq!((&headers["x-inngest-expected-server-kind"], query.as_str()), (&"cloud".parse()?, ""));
    assert_eq!(headers["content-type"], "application/json");
    Ok(())
}
