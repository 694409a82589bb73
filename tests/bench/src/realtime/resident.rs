//! The specification's own design: a resident agent on Node.js that follows the table of deposits by supabase-js, with the
//! specification's two tables in a database of its own. `peers/resident` has the agent.

use super::program::{Program, supabase_js};
use crate::{
    aside::Threads,
    deposits::Depositors,
    peers::Machine,
    stage::{LOOK_EVERY, START_TIMEOUT, fund},
};
use anyhow::{Context, Result, ensure};
use stack::{
    postgres::{Cluster, OWNER},
    postgrest::{PostgRest, key},
    purple_flea::{KEY, PurpleFlea},
    realtime::{Options, Realtime},
};
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tokio_postgres::Client;

/// Deposits a second, and how long they come: about 100 deposits, or 200.
pub const PER_S: u32 = 5;
const QUICK: Duration = Duration::from_secs(20);
const FULL: Duration = Duration::from_secs(40);

/// After so long without another result the rest is lost: six times as long as Realtime sleeps between two polls.
const SILENCE: Duration = Duration::from_secs(3);

const RESULTS: &str = "select count(*) from public.trade_results";

/// Reads the deposits after one id: their number, how many have no result, how many have more than one, and the
/// percentiles of the time from a deposit's commit to its first result's.
const AFTER: &str = "\
    select count(*), count(*) filter (where trades = 0), count(*) filter (where trades > 1), \
      percentile_disc(array[0.5, 0.99]) within group (order by ms) filter (where ms is not null) \
    from public.wallet_changes w cross join lateral ( \
      select count(*) as trades, \
        (extract(epoch from min(pg_xact_commit_timestamp(t.xmin)) - pg_xact_commit_timestamp(w.xmin)) * 1000)::float8 as ms \
      from public.trade_results t where t.reference = 'wallet-change-' || w.id) as result \
    where w.id > $1";

/// The deposits of the resident agent, and what became of them.
pub struct Resident {
    /// The version of supabase-js.
    pub version: String,
    /// The number of deposits.
    pub deposits: i64,
    /// Deposits without a result.
    pub lost: i64,
    /// Deposits with more than one result.
    pub doubled: i64,
    /// The median and the 99th percentile of the time from a deposit's commit to its result's, in milliseconds. Nothing
    /// if every deposit was lost.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// The agent and what it needs.
struct Parts {
    _agent: Program,
    _realtime: Realtime,
    _postgrest: PostgRest,
    _purple_flea: PurpleFlea,
    owner: Client,
    cluster: Arc<Cluster>,
    _threads: [Threads; 3],
}

/// Measures it. Gives nothing if this machine has no supabase-js.
pub async fn measure(machine: &Machine, quick: bool) -> Result<Option<Resident>> {
    let Some(version) = supabase_js(machine) else { return Ok(None) };
    let parts = Parts::start(machine).await?;
    let mut depositors = Depositors::to(&parts.cluster).await?;
    // The first result includes connections and code that are new to the agent.
    depositors.once().await?;
    let first = Instant::now();
    while count(&parts.owner, RESULTS).await? == 0 {
        ensure!(first.elapsed() < START_TIMEOUT, "the resident agent has not traded its first deposit");
        sleep(LOOK_EVERY).await;
    }
    let last_id = count(&parts.owner, "select max(id) from public.wallet_changes").await?;
    depositors.arrive(PER_S.into(), if quick { QUICK } else { FULL }).await?;
    silent(&parts.owner).await?;
    let row = parts.owner.query_one(AFTER, &[&last_id]).await?;
    let ms: Option<Vec<f64>> = row.get(3);
    let place = |n: usize| ms.as_ref().and_then(|ms| ms.get(n).copied());
    let [deposits, lost, doubled] = [0, 1, 2].map(|n| row.get(n));
    Ok(Some(Resident { version, deposits, lost, doubled, p50_ms: place(0), p99_ms: place(1) }))
}

impl Parts {
    async fn start(machine: &Machine) -> Result<Self> {
        let threads = [
            Threads::start("realtime", 1)?,
            Threads::start("postgrest", 1)?,
            Threads::start("purple_flea", 1)?,
        ];
        let [for_realtime, for_postgrest, for_purple_flea] = &threads;
        let cluster = Arc::new(Cluster::start().await?);
        let owner = cluster.connect(OWNER).await?;
        let schema = machine.root.join("tests/bench/peers/resident/schema.sql");
        // Realtime reads the list of published tables once a minute.
        owner.batch_execute(&fs::read_to_string(schema)?).await.context("the agent's schema failed")?;
        let at = cluster.clone();
        let postgrest = for_postgrest.run(async move { PostgRest::start(&at).await }).await?;
        let options = Options { rest: Some(postgrest.url.clone()), ..super::options() };
        let at = cluster.clone();
        let realtime = for_realtime.run(async move { Realtime::start(&at, options).await }).await?;
        let purple_flea = for_purple_flea.run(PurpleFlea::start()).await?;
        fund(&purple_flea);
        let environment = [
            ("SUPABASE_URL", realtime.project_url()),
            ("SUPABASE_SERVICE_ROLE_KEY", &key("service_role")?),
            ("PURPLE_FLEA_URL", &purple_flea.url),
            ("PURPLE_FLEA_KEY", KEY),
        ];
        let agent = Program::on_node(machine, "resident/agent.mjs", &environment)?;
        agent.says(|line| line["ready"] == true).await?;
        let (_realtime, _postgrest, _purple_flea) = (realtime, postgrest, purple_flea);
        Ok(Self { _agent: agent, _realtime, _postgrest, _purple_flea, owner, cluster, _threads: threads })
    }
}

/// Waits until no more results come.
async fn silent(owner: &Client) -> Result<()> {
    let (mut results, mut since) = (count(owner, RESULTS).await?, Instant::now());
    while since.elapsed() < SILENCE {
        sleep(LOOK_EVERY).await;
        let now = count(owner, RESULTS).await?;
        if now != results {
            (results, since) = (now, Instant::now());
        }
    }
    Ok(())
}

async fn count(owner: &Client, query: &str) -> Result<i64> {
    Ok(owner.query_one(query, &[]).await?.get(0))
}
