//! Postgres, the function in ledger mode, and a simulator: what the tests of the ledger start from.

use crate::front_door::{Reply, reply, soon};
use anyhow::{Context, Result};
use serde_json::Value;
use stack::{
    host::Kind,
    local::{AGENT, Local},
    purple_flea::LIVE_AGENT,
    webhook,
};
use std::time::Duration;

/// How often a condition is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(25);

/// The whole stack without a sweeper, some settings changed; all accounts are well funded.
pub async fn start(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = Local::start(Kind::Embedded, changes, None, |_| {}).await?;
    stack.purple_flea.fund(AGENT, 1_000_000_000.into());
    stack.purple_flea.fund(LIVE_AGENT, 1_000_000_000.into());
    Ok(stack)
}

/// The same, with a doorbell that does not ring: the tests ring by hand.
pub async fn start_silent(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = start(changes).await?;
    stack
        .owner
        .batch_execute("alter table public.wallet_changes disable trigger purple_flea_doorbell")
        .await?;
    Ok(stack)
}

/// Inserts a deposit of so much that leaves as much, and gives its id.
pub async fn deposit(stack: &Local, balance: &str) -> Result<i64> {
    let insert = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         values ('{AGENT}', 'deposit', {balance}, {balance}) returning id"
    );
    Ok(stack.owner.query_one(&insert, &[]).await?.get(0))
}

/// Rings for a deposit, as its trigger does, and waits for the answer.
pub async fn ring(stack: &Local, id: i64) -> Result<Reply> {
    let reference = format!("wallet-change-{id}");
    send(stack, &reference, &format!("{{\"ledger\": true, \"reference\": \"{reference}\"}}")).await
}

/// Signs a body and sends it.
pub async fn send(stack: &Local, webhook_id: &str, body: &str) -> Result<Reply> {
    let url = format!("{}/execute-trade", stack.host.url);
    reply(webhook::signed(&url, webhook_id, body.as_bytes())?.body(body.into())?).await
}

/// A deposit's job, all of it.
pub async fn job(stack: &Local, id: i64) -> Result<Value> {
    let sql = "select to_jsonb(j)::text from purple_flea.jobs j where wallet_change_id = $1";
    let row = stack.owner.query_opt(sql, &[&id]).await?.context("there is no such job")?;
    Ok(serde_json::from_str(row.get(0))?)
}

/// The same, as soon as it is in a certain state.
pub async fn job_in(stack: &Local, id: i64, state: &str) -> Result<Value> {
    soon(async {
        loop {
            let job = job(stack, id).await?;
            if job["state"] == state {
                return Ok(job);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?
}

/// Runs SQL as the owner.
pub async fn sql(stack: &Local, sql: &str) -> Result<()> {
    stack.owner.batch_execute(sql).await.with_context(|| sql.to_owned())
}

/// One number from SQL.
pub async fn count(stack: &Local, sql: &str) -> Result<i64> {
    Ok(stack.owner.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
}

/// Lets time pass for one job: everything it waits for lies so much nearer.
pub async fn later(stack: &Local, id: i64, interval: &str) -> Result<()> {
    let shift = format!(
        "update purple_flea.jobs set lease_until = lease_until - interval '{interval}', claimed_at = claimed_at - interval '{interval}', \
         due_at = due_at - interval '{interval}', lookup_at = lookup_at - interval '{interval}', expires_at = expires_at - interval '{interval}', created_at = created_at - interval '{interval}' \
         where wallet_change_id = {id}; update purple_flea.rate_stops set until = until - interval '{interval}'"
    );
    sql(stack, &shift).await
}
