//! The other direction: the feed's events go to Inngest and start no workflow of ours, and Purple Flea's own webhooks resume
//! the run that waits for them.

use super::setup::{Driven, escrow};
use crate::{
    escrows::OTHER,
    front_door::{Reply, assert_problem, reply, soon},
    receiver::{Answer, Receiver},
    whole_stack::{LOOK_EVERY, sql, start},
};
use anyhow::{Context, Result};
use http::Request;
use purple_flea_edge::webhook::purple_flea::SigningSecret;
use serde_json::{Value, json};
use stack::{
    inngest::{EVENT_KEY, Inngest, Options, Status},
    local::Local,
    webhook::unix_s,
};

const SECRET: &str = "a-secret-of-purple-fleas-webhooks";

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_the_feed_reaches_inngest_once_and_starts_no_workflow() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let receiver = Receiver::start(|_| Answer::Status(200)).await?;
    let listener = receiver.listener(&driven.stack.postgrest, &[]).await?;
    let subscribe = format!(
        "select public.create_event_subscription(purple_flea.operator_tenant(), '{}', '{{}}', 'inngest', '{EVENT_KEY}')",
        receiver.url("a", "/prefix")
    );
    sql(&driven.stack, &subscribe).await?;
    let types: Vec<String> = {
        let rows = driven.stack.owner.query("select type from public.event_types order by type", &[]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert!(types.len() >= 8, "only {types:?}");
    for name in &types {
        let fire = format!(
            "select purple_flea.emit('{name}', purple_flea.operator_tenant(), 'agent:x', '{{\"agent_id\": \"x\", \"escrow_id\": \"E1\", \
             \"amount_usdc\": 25, \"counterparty\": \"{OTHER}\"}}')"
        );
        sql(&driven.stack, &fire).await?;
    }
    let got = receiver.until(|got| got.len() >= types.len()).await?;
    drop(listener);
    assert_eq!(got.len(), types.len());
    let mut names = Vec::new();
    for request in &got {
        // The key is in the path, and in no header; the body is an event.
        assert_eq!(request.path, format!("/prefix/e/{EVENT_KEY}"));
        assert!(!request.headers.contains_key("webhook-signature"), "{request:?}");
        let event = request.event()?;
        assert!(event["id"].as_str().is_some_and(|id| id.starts_with("evt_")), "{event}");
        assert!(event["ts"].is_i64() && event["data"].is_object(), "{event}");
        names.push(event["name"].as_str().context("no name")?.to_owned());
        for _ in 0..2 {
            // A repeat has the same id.
            let id = driven.inngest.send(&event).await?;
            driven.inngest.rest().await?;
            let runs = driven.inngest.runs_of(&id).await?;
            assert!(runs.is_empty(), "{event} started {runs:?}");
        }
    }
    names.sort();
    assert_eq!(names, types.iter().map(|name| format!("purple-flea-edge/{name}")).collect::<Vec<_>>());
    assert!(driven.stack.purple_flea.requests().is_empty() && driven.steps().await?.is_empty());
    Ok(())
}

async fn webhook(stack: &Local, secret: &str, timestamp_s: u64, body: &Value) -> Result<Reply> {
    let (body, timestamp) = (body.to_string(), timestamp_s.to_string());
    let signature = SigningSecret::parse(secret).and_then(|secret| secret.signature(&timestamp, body.as_bytes()));
    let request = Request::post(format!("{}/webhooks/purple-flea", stack.host.url))
        .header("content-type", "application/json")
        .header("x-purpleflea-timestamp", timestamp)
        .header("x-purpleflea-signature", signature.context("no signature")?)
        .body(body.into())?;
    reply(request).await
}

fn completed(id: &str, pf_escrow_id: &str, by: &str) -> Value {
    json!({
        "event": "escrow.completed", "id": id, "timestamp": 1, "api_version": "2026-03-01",
        "data": { "escrow_id": pf_escrow_id, "counterparty_id": by, "amount_usd": 25 }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_purple_fleas_resumes_the_run_that_waits_for_its_escrow() -> Result<()> {
    let driven = Driven::start(&[("purple_flea_signing_secret", SECRET)]).await?;
    let event = driven.inngest.send_named("purple-flea/escrow.created", escrow("E1")).await?;
    driven.inngest.rest().await?;
    let pf_id = driven.stack.purple_flea.escrows().first().context("no escrow")?.escrow_id.clone();
    let (stack, now_s) = (&driven.stack, unix_s());
    let good = completed("evt_1", &pf_id, OTHER);
    for refused in [
        webhook(stack, "another-secret-of-somebody", now_s, &good).await?,
        webhook(stack, SECRET, now_s - 301, &good).await?,
        webhook(stack, SECRET, now_s + 302, &good).await?,
    ] {
        assert_problem(&refused, 401, "unauthorized", "no");
    }
    let unknown = webhook(stack, SECRET, now_s, &completed("evt_2", "esc_of_nobody", OTHER)).await?;
    assert_problem(&unknown, 422, "unknown_escrow", "no");
    let another = webhook(stack, SECRET, now_s, &completed("evt_3", &pf_id, "a-stranger")).await?;
    assert_problem(&another, 400, "invalid_event", "no");
    let mut two_names = good.clone();
    two_names["data"]["confirmed_by"] = json!("a-stranger");
    assert_problem(&webhook(stack, SECRET, now_s, &two_names).await?, 400, "invalid_event", "no");
    let other = json!({ "type": "trade_filled", "id": "evt_4", "data": {} });
    assert_eq!(webhook(stack, SECRET, now_s, &other).await?.body["status"], "ignored");
    driven.inngest.rest().await?;
    assert_eq!(driven.inngest.runs_of(&event).await?[0].status, Status::Running);
    for _ in 0..2 {
        // Purple Flea repeats a webhook with a new timestamp and the same id.
        let taken = webhook(stack, SECRET, unix_s(), &good).await?;
        assert_eq!((&taken.body["status"], &taken.body["escrow_id"]), (&json!("forwarded"), &json!("E1")));
    }
    let run = driven.inngest.ended(&event).await?;
    assert_eq!((run.status, &run.output["status"]), (Status::Completed, &json!("released")), "{run:?}");
    let sent = driven.clock()?.events();
    let confirmations: Vec<&Value> =
        sent.iter().filter(|event| event["name"] == "purple-flea/escrow.confirmed").collect();
    assert!(confirmations.iter().all(|event| event["id"] == "purple-flea-evt_1"), "{confirmations:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_no_webhook_of_purple_fleas_is_accepted() -> Result<()> {
    let stack = start(&[]).await?;
    let refused = webhook(&stack, SECRET, unix_s(), &completed("evt_1", "esc_1", OTHER)).await?;
    assert_problem(&refused, 401, "unauthorized", "no");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_that_inngest_does_not_take_is_asked_for_again() -> Result<()> {
    // This Inngest demands an event key, and the function has another one.
    let inngest = Inngest::stand_in(Options { event_key: Some(EVENT_KEY.to_owned()), ..Options::default() }).await?;
    let stack = start(&[
        ("inngest_api_url", inngest.url()),
        ("inngest_event_url", inngest.url()),
        ("inngest_event_key", "another-key"),
        ("purple_flea_signing_secret", SECRET),
    ])
    .await?;
    let rows = format!(
        "insert into public.agents (id) values ('{OTHER}'); \
         select public.claim_workflow_step(jsonb_build_object('function', 'escrow-lifecycle', 'event', 'e', 'step', 'create-escrow', \
           'run', 'r', 'agent', '{}', 'kind', 'escrow', 'subject', 'E1', 'details', jsonb_build_object('sender_id', '{}', \
           'counterparty', '{OTHER}', 'amount', 5, 'timeout_hours', 192)), gen_random_uuid(), 'gateway', 2, null, true); \
         update public.escrow_requests set pf_escrow_id = 'esc_1' where true",
        stack::local::AGENT, stack::local::AGENT
    );
    sql(&stack, &rows).await?;
    let refused = soon(async {
        loop {
            let refused = webhook(&stack, SECRET, unix_s(), &completed("evt_1", "esc_1", OTHER)).await?;
            if refused.status != 422 {
                return anyhow::Ok(refused);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await??;
    assert_problem(&refused, 503, "not_forwarded", "no");
    Ok(())
}
