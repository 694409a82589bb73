//! Claims and settles jobs by the ledger's own functions, without a worker. A measurement of one call needs no more.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stack::local::AGENT;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// The times of a round's two calls.
pub struct Round {
    /// The time of the claim.
    pub claim: Duration,
    /// The time of the settlement, its commit included.
    pub settle: Duration,
}

/// Makes some deposits, claims their jobs, and settles them as won bets.
pub async fn round(client: &Client, jobs: usize) -> Result<Round> {
    let deposits = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         select '{AGENT}', 'deposit', 100, 100 from generate_series(1, {jobs})"
    );
    client.batch_execute(&deposits).await?;
    let claim = "select public.claim_jobs('{}', $1, gen_random_uuid(), 'gateway')::text";
    let claim = client.prepare(claim).await?;
    let settle = client.prepare("select public.settle_jobs($1::text::json)::text").await?;
    let from = Instant::now();
    let claimed = client.query_one(&claim, &[&i32::try_from(jobs)?]).await?;
    let claim_time = from.elapsed();
    let claimed: Value = serde_json::from_str(claimed.get(0))?;
    let claimed_jobs = claimed["jobs"].as_array().context("a claim without jobs")?;
    ensure!(claimed_jobs.len() == jobs, "{} of {jobs} jobs were claimed", claimed_jobs.len());
    let outcomes: Vec<Value> =
        claimed_jobs.iter().map(|job| won(&job["reference"], &claimed["token"])).collect();
    let outcomes = Value::Array(outcomes).to_string();
    let from = Instant::now();
    let settled = client.query_one(&settle, &[&outcomes]).await?;
    let settle_time = from.elapsed();
    let done = settled.get::<_, &str>(0).matches(r#""did": "settled""#).count();
    ensure!(done == jobs, "{done} of {jobs} jobs were settled: {}", settled.get::<_, &str>(0));
    Ok(Round { claim: claim_time, settle: settle_time })
}

/// Makes the outcome that the function reports of a won bet.
fn won(reference: &Value, token: &Value) -> Value {
    let name = reference.as_str().unwrap_or_default();
    json!({
        "reference": reference, "token": token, "state": "executed",
        "result": {
            "status": "executed", "reference": reference, "agent_id": AGENT, "game": "crash", "cashout_at": 1.5,
            "wager": 10, "outcome": "win", "payout": 15, "crash_point": 1.84, "bet_id": format!("bet_{name}"),
        },
    })
}
