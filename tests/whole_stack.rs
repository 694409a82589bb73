//! Starts Postgres, the function in ledger mode, and a simulator of Purple Flea, for the tests of the ledger.

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

/// Time between two looks at a condition: short against any wait, and long against one query.
pub const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Body of a notification that names no deposit: the function executes every due job.
pub const NOTIFY_ALL: &str = r#"{"ledger": true}"#;

/// Starts the whole stack without a sweeper, with some settings changed. All accounts are well funded.
pub async fn start(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = Local::start(Kind::Embedded, changes, None, |_| {}).await?;
    stack.purple_flea.fund(AGENT, 50_000_000.into());
    stack.purple_flea.fund(LIVE_AGENT, 50_000_000.into());
    Ok(stack)
}

/// Starts the same stack with silenced triggers: the test sends the notifications.
pub async fn start_silent(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = start(changes).await?;
    silence(&stack).await?;
    Ok(stack)
}

/// Disables the triggers on deposits and on agents that notify the function. A worker that either of them calls
/// would claim jobs before the test does.
pub async fn silence(stack: &Local) -> Result<()> {
    let triggers = "alter table public.wallet_changes disable trigger purple_flea_notify; \
                    alter table public.agents disable trigger purple_flea_notify";
    sql(stack, triggers).await
}

/// Inserts a deposit whose amount is also the new balance, and gives its id.
pub async fn deposit(stack: &Local, balance: &str) -> Result<i64> {
    let insert = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         values ('{AGENT}', 'deposit', {balance}, {balance}) returning id"
    );
    Ok(stack.owner.query_one(&insert, &[]).await?.get(0))
}

/// Notifies the function of a deposit, as its trigger does, and waits for the reply.
pub async fn notify(stack: &Local, id: i64) -> Result<Reply> {
    let reference = format!("wallet-change-{id}");
    send(stack, &reference, &format!("{{\"ledger\": true, \"reference\": \"{reference}\"}}")).await
}

/// Signs a body and sends it to `/execute-trade`.
pub async fn send(stack: &Local, webhook_id: &str, body: &str) -> Result<Reply> {
    let url = format!("{}/execute-trade", stack.host.url);
    reply(webhook::signed(&url, webhook_id, body.as_bytes())?.body(body.into())?).await
}

/// Reads all columns of a deposit's job. Fails if there is no such job.
pub async fn job(stack: &Local, id: i64) -> Result<Value> {
    let sql = "select to_jsonb(j)::text from purple_flea.jobs j where wallet_change_id = $1";
    let row = stack.owner.query_opt(sql, &[&id]).await?;
    let row = row.with_context(|| format!("deposit {id} has no job"))?;
    Ok(serde_json::from_str(row.get(0))?)
}

/// Waits until a deposit's job is in a state, and reads the job.
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

/// Runs SQL as the database's owner.
pub async fn sql(stack: &Local, sql: &str) -> Result<()> {
    stack.owner.batch_execute(sql).await.with_context(|| sql.to_owned())
}

/// Reads one number with SQL.
pub async fn count(stack: &Local, sql: &str) -> Result<i64> {
    Ok(stack.owner.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
}

/// Makes time pass for one job: moves all its times, and the times of the rate limits, into the past by an interval.
pub async fn pass_time(stack: &Local, id: i64, interval: &str) -> Result<()> {
    let times = ["lease_until", "claimed_at", "due_at", "lookup_at", "expires_at", "created_at"]
        .map(|column| format!("{column} = {column} - interval '{interval}'"))
        .join(", ");
    let shift = format!(
        "update purple_flea.jobs set {times} where wallet_change_id = {id}; \
         update purple_flea.rate_stops set until = until - interval '{interval}'"
    );
    sql(stack, &shift).await
}
