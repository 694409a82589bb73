//! Escrows through the whole stack: each step is taken once, and every end is written into the escrow's row.

use crate::{
    front_door::{Reply, assert_problem},
    services::{calls, request, wait_for_row},
    whole_stack::{count, sql, start},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    purple_flea::{Fault, How, TRADING_KEY},
    sweeper::Sweeper,
};
use std::time::Duration;

/// A second agent, which receives escrows.
pub const OTHER: &str = "agent-002";

/// Starts the stack with two agents. Both have funded accounts at Purple Flea.
pub async fn start_with_two_agents(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = start(changes).await?;
    stack.purple_flea.fund(OTHER, 100.into());
    sql(&stack, &format!("insert into public.agents (id) values ('{OTHER}')")).await?;
    Ok(stack)
}

/// Waits until the row of an escrow meets a condition, and reads the row.
pub async fn escrow_row(stack: &Local, id: i64, condition: &str) -> Result<Value> {
    wait_for_row(
        stack,
        &format!("select to_jsonb(e)::text from public.escrow_requests e where id = {id} and {condition}"),
    )
    .await
}

/// Inserts an escrow from the first agent to the second, and gives its id.
pub async fn insert_escrow(stack: &Local, amount: &str) -> Result<i64> {
    let insert = format!(
        "insert into public.escrow_requests (sender_id, receiver_id, amount) values ('{AGENT}', '{OTHER}', {amount}) returning id"
    );
    Ok(stack.owner.query_one(&insert, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_is_created_once_and_released_once_despite_concurrent_requests() -> Result<()> {
    let stack = start_with_two_agents(&[]).await?;
    let id = insert_escrow(&stack, "10").await?;
    let row = escrow_row(&stack, id, "pf_escrow_id is not null").await?;
    assert_eq!((&row["status"], row["fee"].to_string().as_str()), (&json!("pending"), "0.1000"));
    let release = json!({ "escrow_id": id });
    let requests = (0..8).map(|n| {
        let (stack, release) = (&stack, &release);
        async move { request(stack, "/escrow/release", &format!("release-{n}"), release).await }
    });
    let replies: Vec<Reply> = join_all(requests).await.into_iter().collect::<Result<_>>()?;
    // Each request is executed, waits, or meets another request's claim. None is refused.
    assert!(
        replies.iter().all(|reply| reply.status == 200 || reply.body["code"] == "in_flight"),
        "{replies:?}"
    );
    let row = escrow_row(&stack, id, "status = 'released'").await?;
    assert_eq!(row["reason"], json!(null));
    let pf_id = row["pf_escrow_id"].as_str().context("no id")?;
    assert_eq!((calls(&stack, "/escrow/create"), calls(&stack, &format!("/escrow/{pf_id}/release"))), (1, 1));
    assert_eq!(stack.purple_flea.balance(OTHER).normalize().to_string(), "109.9");
    let again = request(&stack, "/escrow/release", "release-9", &release).await?;
    assert_eq!((again.status.as_u16(), &again.body["status"]), (200, &json!("executed")));
    let cancel = request(&stack, "/escrow/cancel", "cancel-1", &release).await?;
    assert_problem(&cancel, 409, "escrow_not_open", "no");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_whose_reply_is_lost_becomes_unknown_and_is_not_created_twice() -> Result<()> {
    let stack = start_with_two_agents(&[]).await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    let id = insert_escrow(&stack, "10").await?;
    let row = escrow_row(&stack, id, "reason is not null").await?;
    assert_eq!(
        (&row["status"], &row["reason"], &row["pf_escrow_id"]),
        (&json!("pending"), &json!("outcome_unknown"), &json!(null))
    );
    sql(&stack, &format!("update public.escrow_requests set requested_status = 'released' where id = {id}"))
        .await?;
    sql(&stack, "select purple_flea.sweep()").await?;
    let held = "select count(*) from purple_flea.jobs where kind = 'escrow_release' and due_at = 'infinity' and state = 'pending'";
    assert_eq!(count(&stack, held).await?, 1, "the release must wait until the escrow is known");
    // An operator finds the escrow by its idempotency key and records it. Then the release continues.
    sql(
        &stack,
        "update purple_flea.jobs set lease_until = lease_until - interval '2 minutes' where kind = 'escrow'",
    )
    .await?;
    let made = stack.purple_flea.escrows().remove(0);
    let key = wait_for_row(
        &stack,
        "select to_jsonb(idempotency_key)::text from purple_flea.jobs where kind = 'escrow'",
    )
    .await?;
    assert_eq!(made.idempotency_key.as_deref(), key.as_str(), "{made:?}");
    sql(
        &stack,
        &format!("select purple_flea.record_escrow('escrow-{id}', '{}', fee => 0.10)", made.escrow_id),
    )
    .await?;
    sql(&stack, "select purple_flea.sweep()").await?;
    escrow_row(&stack, id, "status = 'released'").await?;
    assert_eq!(calls(&stack, "/escrow/create"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_reply_is_lost_is_retried_and_pays_once() -> Result<()> {
    let stack = start_with_two_agents(&[]).await?;
    let _sweeper = Sweeper::start(&stack.cluster, Duration::from_millis(200));
    let id = insert_escrow(&stack, "10").await?;
    let pf_id = escrow_row(&stack, id, "pf_escrow_id is not null").await?["pf_escrow_id"].clone();
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    sql(&stack, &format!("update public.escrow_requests set requested_status = 'released' where id = {id}"))
        .await?;
    escrow_row(&stack, id, "status = 'released'").await?;
    let path = format!("/escrow/{}/release", pf_id.as_str().context("no id")?);
    assert_eq!(calls(&stack, &path), 2);
    assert_eq!(
        stack.purple_flea.balance(OTHER).normalize().to_string(),
        "109.9",
        "the release must pay once"
    );
    Ok(())
}

/// The receiver's name at Purple Flea in the live dialect.
const LIVE_RECEIVER: &str = "ag_0123456789cd";

/// Starts the stack in the live dialect. The sender uses the shared key, and the receiver has a key of its own.
async fn start_live() -> Result<Local> {
    let stack = start(&[("purple_flea_api", "live"), ("purple_flea_trading_key", TRADING_KEY)]).await?;
    let key = stack.purple_flea.register(LIVE_RECEIVER);
    let receiver = format!(
        "insert into public.agents (id, pf_agent_id) values ('{OTHER}', '{LIVE_RECEIVER}'); \
         select purple_flea.set_agent_key('{OTHER}', '{key}')"
    );
    sql(&stack, &receiver).await?;
    Ok(stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_escrow_whose_reply_is_lost_is_found_in_its_senders_statement() -> Result<()> {
    let stack = start_live().await?;
    // Another escrow of the same amount and time, which is not ours to take.
    let other = insert_escrow(&stack, "10").await?;
    escrow_row(&stack, other, "pf_escrow_id is not null").await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    let id = insert_escrow(&stack, "10").await?;
    let row = escrow_row(&stack, id, "reason is not null").await?;
    assert_eq!((&row["reason"], &row["pf_escrow_id"]), (&json!("outcome_unknown"), &json!(null)));
    sql(&stack, "update purple_flea.jobs set lookup_at = now() where state = 'unknown'").await?;
    let looked = request(&stack, "/reconcile", "look-1", &json!({})).await?;
    assert_eq!((&looked.body["found"], &looked.body["not_found"]), (&json!(1), &json!(0)), "{}", looked.body);
    let row = escrow_row(&stack, id, "pf_escrow_id is not null").await?;
    let made = stack.purple_flea.escrows().pop().context("no escrow")?;
    assert_eq!((&row["pf_escrow_id"], &row["status"]), (&json!(made.escrow_id), &json!("pending")));
    assert_eq!(calls(&stack, "/escrow/create"), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_escrow_that_times_out_is_refunded_in_its_row_without_a_request() -> Result<()> {
    let stack = start_live().await?;
    let id = insert_escrow(&stack, "10").await?;
    escrow_row(&stack, id, "pf_escrow_id is not null and auto_release_at > now() + interval '23 hours'")
        .await?;
    stack.purple_flea.advance(Duration::from_secs(25 * 3_600));
    sql(&stack, "update public.escrow_requests set auto_release_at = now() - interval '1 hour'").await?;
    sql(&stack, "select purple_flea.sweep()").await?;
    let row = escrow_row(&stack, id, "status = 'refunded'").await?;
    assert_eq!((&row["reason"], row["fee"].to_string().as_str()), (&json!(null), "0.1000"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_completes_a_live_escrow_and_each_party_can_dispute_it() -> Result<()> {
    let stack = start_live().await?;
    let id = insert_escrow(&stack, "10").await?;
    escrow_row(&stack, id, "pf_escrow_id is not null").await?;
    let named = json!({ "escrow_id": id });
    let open = request(&stack, "/escrow/status", "status-1", &named).await?;
    assert_eq!((&open.body["status"], &open.body["reason"]), (&json!("waiting"), &json!("escrow_funded")));
    let completed = request(&stack, "/escrow/complete", "complete-1", &named).await?;
    assert_eq!(
        (&completed.body["status"], &completed.body["escrow_status"], &completed.body["agent_id"]),
        (&json!("executed"), &json!("completed"), &json!(OTHER)),
    );
    escrow_row(&stack, id, "completed_at is not null and status = 'pending'").await?;
    let open = request(&stack, "/escrow/status", "status-2", &named).await?;
    assert_eq!((&open.body["status"], &open.body["reason"]), (&json!("waiting"), &json!("escrow_completed")));
    let dispute = json!({ "escrow_id": id, "agent_id": OTHER, "reason": "not paid" });
    let disputed = request(&stack, "/escrow/dispute", "dispute-1", &dispute).await?;
    assert_eq!(
        (&disputed.body["status"], &disputed.body["agent_id"]),
        (&json!("executed"), &json!(OTHER)),
        "{}",
        disputed.body
    );
    escrow_row(&stack, id, "status = 'disputed' and reason is null").await?;
    let release = request(&stack, "/escrow/release", "release-1", &named).await?;
    assert_problem(&release, 409, "escrow_not_open", "no");
    // By row, as the sender's owner.
    let second = insert_escrow(&stack, "5").await?;
    escrow_row(&stack, second, "pf_escrow_id is not null").await?;
    let by_row = format!(
        "update public.escrow_requests set requested_status = 'disputed', dispute_reason = 'no logo' where id = {second}"
    );
    sql(&stack, &by_row).await?;
    escrow_row(&stack, second, "status = 'disputed'").await?;
    let seen = stack.purple_flea.requests().into_iter().rfind(|r| r.path.starts_with("/escrow/dispute/"));
    assert_eq!(
        serde_json::from_str::<Value>(&seen.context("no dispute")?.body)?,
        json!({"reason": "no logo"})
    );
    Ok(())
}
