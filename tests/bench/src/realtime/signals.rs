//! Measures signals and results over Realtime in the database alone: the time from a signal to the commit of the last of
//! 1,000 followers' jobs, and what the owners' message costs a settlement of 64 jobs.
//!
//! Realtime's SQL is a stand-in, which writes the same rows. No worker claims the jobs meanwhile.

use crate::{
    figures::{median, percentile, rounded},
    progress::Progress,
    settlement,
    table::{Table, number},
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use stack::{
    local::AGENT,
    pg_net::PgNet,
    postgres::{Cluster, SUPERUSER},
};
use std::time::Instant;
use tokio_postgres::Client;

/// Realtime's SQL, which writes the messages.
const REALTIME: &str = include_str!("../../../stack/src/realtime.sql");

/// The followers of the measured sender, and their owners.
const FOLLOWERS: i64 = 1_000;
const OWNERS: usize = 50;

/// The jobs of a measured settlement.
const JOBS: usize = 64;

/// Signals that are measured, after some that are not.
const QUICK_SIGNALS: usize = 10;
const FULL_SIGNALS: usize = 30;

/// Pairs of settlements, with a message to the owner and without.
const QUICK_PAIRS: usize = 30;
const FULL_PAIRS: usize = 150;

const WARM_UP: usize = 4;

/// The goals: the last of 1,000 jobs in milliseconds, and the part that a message adds to a settlement.
const LAST_MS: f64 = 100.0;
const SHARE: f64 = 0.15;

/// The steps of its progress.
pub const STEPS: usize = 3;

/// The measurements, in milliseconds.
pub struct Figures {
    fan_out: Vec<f64>,
    silent: Vec<f64>,
    told: Vec<f64>,
}

/// Measures in a database of its own.
pub async fn measure(quick: bool, progress: &mut Progress) -> Result<Figures> {
    progress.step("signals: a database with Realtime's SQL starts");
    let cluster = Cluster::start().await?;
    // The triggers send notifications. No function receives them.
    let _pg_net = PgNet::start(&cluster).await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute(REALTIME).await?;
    let client = cluster.install("http://127.0.0.1:9/execute-trade", AGENT).await?;
    superuser.batch_execute("alter system set autovacuum = off").await?;
    superuser.batch_execute("select pg_reload_conf()").await?;
    client.batch_execute(&fleet()).await?;
    progress.step("signals: 1,000 followers");
    let signals = if quick { QUICK_SIGNALS } else { FULL_SIGNALS };
    let fan_out = fan_out(&client, signals).await?;
    progress.step("signals: the message of a settlement");
    let (silent, told) = shares(&client, &superuser, if quick { QUICK_PAIRS } else { FULL_PAIRS }).await?;
    Ok(Figures { fan_out, silent, told })
}

/// Makes the SQL of a fleet whose orchestrator is the sender, and of 9,000 agents beside it.
fn fleet() -> String {
    format!(
        "set client_min_messages = error; \
         update purple_flea.trade_policies set claim_faucet = false where agent_id is null; \
         insert into auth.users (id) select md5('owner ' || n)::uuid from generate_series(0, {OWNERS}) as n; \
         insert into public.agents (id) values ('sender'); \
         insert into public.agents (id, orchestrator_id, owner_id) \
         select 'follower-' || n, 'sender', md5('owner ' || n % {OWNERS})::uuid from generate_series(1, {FOLLOWERS}) as n; \
         insert into public.agents (id) select 'other-' || n from generate_series(1, 9000) as n; \
         insert into public.signal_policies (agent_id, max_size) \
         select 'follower-' || n, 10 from generate_series(1, {FOLLOWERS}) as n; \
         analyze"
    )
}

/// Publishes signals one after the other, and gives the time of each call, its commit included.
async fn fan_out(client: &Client, signals: usize) -> Result<Vec<f64>> {
    let publish = "select (public.publish_signal('{\"agent_id\": \"sender\", \"market\": \"BTC\", \
                   \"action\": \"BUY\", \"confidence\": 0.9, \"size\": 25}') ->> 'jobs')::bigint";
    let publish = client.prepare(publish).await?;
    let mut times = Vec::new();
    for _ in 0..WARM_UP + signals {
        let from = Instant::now();
        let jobs: i64 = client.query_one(&publish, &[]).await?.get(0);
        times.push(from.elapsed().as_secs_f64() * 1e3);
        ensure!(jobs == FOLLOWERS, "a signal made {jobs} jobs");
        // The next settlement claims the oldest jobs, and these are not its subject.
        client
            .batch_execute("update purple_flea.jobs set due_at = 'infinity' where state = 'pending'")
            .await?;
    }
    Ok(times.split_off(WARM_UP))
}

/// Settles jobs of an agent without an owner and with one in turn, and gives the times of both. The feed's events are in
/// both.
async fn shares(client: &Client, superuser: &Client, pairs: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    // The rate would drop messages that come faster than from any real settlement.
    client
        .batch_execute("update purple_flea.ledger set realtime_events_per_s = 10000 where only_row")
        .await?;
    let (mut silent, mut told) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP + pairs {
        // The first of a pair differs, so none is always the one after the other.
        for with_owner in [pair % 2 == 0, pair % 2 != 0] {
            let owner = if with_owner { "md5('owner 0')::uuid" } else { "null" };
            client
                .batch_execute(&format!("update public.agents set owner_id = {owner} where id = '{AGENT}'"))
                .await?;
            let time = settlement::round(client, JOBS).await?.settle.as_secs_f64() * 1e3;
            if pair >= WARM_UP {
                if with_owner { &mut told } else { &mut silent }.push(time);
            }
        }
    }
    let messages = "select count(*) from realtime.messages where event = 'trade_result'";
    let messages: i64 = superuser.query_one(messages, &[]).await?.get(0);
    ensure!(messages >= i64::try_from(pairs)?, "only {messages} messages were sent");
    Ok((silent, told))
}

impl Figures {
    /// Gives the median time from a signal to the last of its jobs, in milliseconds.
    pub fn last_ms(&self) -> Option<f64> {
        median(self.fan_out.iter().copied())
    }

    /// Gives the part that the message adds: of the medians.
    pub fn share(&self) -> Option<f64> {
        let middle = |values: &Vec<f64>| median(values.iter().copied());
        Some(middle(&self.told)? / middle(&self.silent)? - 1.0)
    }

    /// Gives the figures and the goals.
    pub fn to_json(&self) -> Value {
        let p50 = |values: &Vec<f64>| rounded(median(values.iter().copied()));
        json!({
            "followers": FOLLOWERS,
            "last_job_p50_ms": p50(&self.fan_out),
            "last_job_p99_ms": rounded(percentile(&self.fan_out, 0.99)),
            "settlement_jobs": JOBS,
            "settlement_without_message_ms": p50(&self.silent),
            "settlement_with_message_ms": p50(&self.told),
            "goals_met": {
                "the last of 1,000 followers' jobs < 100 ms":
                    self.last_ms().is_some_and(|ms| ms < LAST_MS),
                "a message adds at most 15 % to a settlement of 64": self.share().is_some_and(|share| share <= SHARE),
            },
        })
    }

    /// Prints the table.
    pub fn print(&self) {
        let p50 = |values: &Vec<f64>| number(median(values.iter().copied()), 1);
        let p99 = |values: &Vec<f64>| number(percentile(values, 0.99), 1);
        let mut table = Table::new(1, &["transaction", "p50 ms", "p99 ms"]);
        for (name, values) in [
            ("a signal for 1,000 followers", &self.fan_out),
            ("a settlement of 64 jobs without a message", &self.silent),
            ("the same with the owner's message", &self.told),
        ] {
            table.row(vec![name.to_owned(), p50(values), p99(values)]);
        }
        table.print();
        println!("The message adds {} %", number(self.share().map(|share| share * 100.0), 1));
    }
}
