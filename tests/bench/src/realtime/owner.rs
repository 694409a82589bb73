//! The time from a settlement's commit to the callback of the agents' owner, who listens on `owner:{uid}` with supabase-js.

use super::{
    OWNER_ID,
    program::{Program, supabase_js},
};
use crate::{
    deposits::Depositors,
    figures::percentile,
    peers::Machine,
    rig::Rig,
    stage::{LOOK_EVERY, Stage},
};
use anyhow::{Context, Result};
use serde_json::Value;
use stack::postgrest::{key, user_key};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Deposits a second, and how long they come: about 240 results, or 660. With their bells they stay below the database's
/// own limit of messages. The feed's events count too, and leave half of that to them.
const PER_S: f64 = 11.0;
const QUICK: Duration = Duration::from_secs(22);
const FULL: Duration = Duration::from_secs(60);

/// How long a message may be on its way after the last settlement.
const LATEST: Duration = Duration::from_secs(2);

/// Reads when the results of the deposits after one id were committed, in milliseconds since 1970.
const COMMITTED: &str = "\
    select t.reference, (extract(epoch from pg_xact_commit_timestamp(t.xmin)) * 1000)::float8 \
    from public.wallet_changes w join public.trade_results t on t.reference = 'wallet-change-' || w.id \
    where w.id > $1";

/// The callbacks.
pub struct Callbacks {
    /// The version of supabase-js.
    pub version: String,
    /// The number of results.
    pub results: usize,
    /// Results that no callback got.
    pub missed: usize,
    /// The median time from a result's commit to its callback, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of that time, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// Measures them. Gives nothing if this machine has no supabase-js.
pub async fn measure(
    machine: &Machine,
    rig: &Rig,
    depositors: &mut Depositors,
    quick: bool,
) -> Result<Option<Callbacks>> {
    let Some(version) = supabase_js(machine) else { return Ok(None) };
    let realtime = rig.realtime.as_ref().context("no Realtime")?;
    let environment = [
        ("SUPABASE_URL", realtime.project_url()),
        ("SUPABASE_KEY", &key("anon")?),
        ("SUPABASE_ACCESS_TOKEN", &user_key(OWNER_ID)?),
        ("OWNER_ID", OWNER_ID),
    ];
    let owner = Program::on_node(machine, "owner/owner.mjs", &environment)?;
    owner.says(|line| line["status"] == "SUBSCRIBED").await?;
    // The first callback includes code that is new to Node.js.
    depositors.once().await?;
    owner.says(|line| line["references"].is_array()).await?;
    rig.stage.quiet().await?;
    let last_id = rig.stage.last_id().await?;
    depositors.arrive(PER_S, if quick { QUICK } else { FULL }).await?;
    rig.stage.quiet().await?;
    let committed = committed(&rig.stage, last_id).await?;
    let settled = Instant::now();
    let mut called = called(&owner);
    while committed.keys().any(|reference| !called.contains_key(reference)) && settled.elapsed() < LATEST {
        sleep(LOOK_EVERY).await;
        called = self::called(&owner);
    }
    let times: Vec<f64> = committed
        .iter()
        .filter_map(|(reference, committed_ms)| Some(called.get(reference)? - committed_ms))
        .collect();
    Ok(Some(Callbacks {
        version,
        results: committed.len(),
        missed: committed.len() - times.len(),
        p50_ms: percentile(&times, 0.5),
        p99_ms: percentile(&times, 0.99),
    }))
}

async fn committed(stage: &Stage, last_id: i64) -> Result<HashMap<String, f64>> {
    let rows = stage.owner.query(COMMITTED, &[&last_id]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Gives when each result's callback was called, in milliseconds since 1970.
fn called(owner: &Program) -> HashMap<String, f64> {
    let mut called = HashMap::new();
    for line in owner.lines() {
        let Some(at_ms) = line["at_ms"].as_f64() else { continue };
        let references = line["references"].as_array().into_iter().flatten();
        for reference in references.filter_map(Value::as_str) {
            called.entry(reference.to_owned()).or_insert(at_ms);
        }
    }
    called
}
