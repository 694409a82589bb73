//! Measures what an event costs the transaction that fires it: the same statement without the event's trigger, with it,
//! and with the message that Realtime broadcasts.

use crate::{
    figures::{median, rounded},
    progress::Progress,
    settlement,
    table::number,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stack::{
    local::AGENT,
    pg_net::PgNet,
    postgres::{Cluster, OWNER, SUPERUSER},
};
use std::time::Instant;
use tokio_postgres::Client;

/// Realtime's SQL, which writes the messages.
const REALTIME: &str = include_str!("../../../stack/src/realtime.sql");

/// Blocks of each statement. In a block the three ways follow one another, so that a busy minute of the machine is in
/// all of them.
const QUICK_BLOCKS: usize = 8;
const FULL_BLOCKS: usize = 25;

/// Statements of one way in a block, after some that are not measured: switching a trigger lets Postgres forget plans.
const ROUNDS: usize = 10;
const WARM_UP: usize = 4;

/// A statement that fires events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    /// A settlement of so many jobs.
    Settlement(usize),
    /// The move of one submission of a frame.
    Move,
}

const STATEMENTS: [Statement; 3] = [Statement::Settlement(1), Statement::Settlement(64), Statement::Move];

/// A way to run a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its trigger is off.
    Silent,
    /// Its events are written.
    Written,
    /// They are broadcast, too.
    Broadcast,
}

const WAYS: [Way; 3] = [Way::Silent, Way::Written, Way::Broadcast];

/// The measurement of one statement. Times are medians in milliseconds.
pub struct Cost {
    statement: Statement,
    rounds: usize,
    /// Whole transactions, in the order of [`WAYS`].
    ms: [f64; 3],
    /// For each event: written, and written and broadcast. Each is the median of the blocks' differences.
    each_ms: [f64; 2],
}

impl Statement {
    fn events(self) -> usize {
        match self {
            Self::Settlement(jobs) => jobs,
            Self::Move => 1,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Settlement(1) => "a settlement of 1 job".to_owned(),
            Self::Settlement(jobs) => format!("a settlement of {jobs} jobs"),
            Self::Move => "a submission's move".to_owned(),
        }
    }

    fn trigger(self) -> (&'static str, &'static str) {
        match self {
            Self::Settlement(_) => ("purple_flea.jobs", "jobs_tell_feed"),
            Self::Move => ("public.frame_submissions", "purple_flea_tell_move"),
        }
    }
}

/// Counts the measurements.
pub fn steps() -> usize {
    1 + STATEMENTS.len()
}

/// Measures all statements, in a cluster of its own.
pub async fn measure(quick: bool, progress: &mut Progress) -> Result<Vec<Cost>> {
    progress.step("feed: a database with frames and Realtime's SQL starts");
    let cluster = Cluster::start().await?;
    // The deposits' trigger sends notifications. No function receives them.
    let _pg_net = PgNet::start(&cluster).await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute(REALTIME).await?;
    let client = cluster.install("http://127.0.0.1:9/execute-trade", AGENT).await?;
    cluster.migrate_with(OWNER, &["--with", "frames"]).await?;
    // Vacuum now and then would change one figure and not the next.
    superuser.batch_execute("alter system set autovacuum = off").await?;
    superuser.batch_execute("select pg_reload_conf()").await?;
    client
        .batch_execute(
            "set client_min_messages = error; \
             insert into public.channels (tenant_id, name) select purple_flea.operator_tenant(), 'bench'",
        )
        .await?;
    let mut costs = Vec::new();
    for statement in STATEMENTS {
        progress.step(&format!("feed: the events of {}", statement.name()));
        let blocks = if quick { QUICK_BLOCKS } else { FULL_BLOCKS };
        costs.push(of_statement(&client, &superuser, statement, blocks).await?);
    }
    Ok(costs)
}

async fn of_statement(
    client: &Client,
    superuser: &Client,
    statement: Statement,
    blocks: usize,
) -> Result<Cost> {
    let mut all: [Vec<f64>; 3] = Default::default();
    let mut differences: [Vec<f64>; 2] = Default::default();
    for block in 0..blocks + 1 {
        let mut medians = [0.0; 3];
        // The first way of a block differs, so none is always the one after another.
        for turn in 0..WAYS.len() {
            let index = (block + turn) % WAYS.len();
            let way = *WAYS.get(index).context("no such way")?;
            switch(superuser, statement, way).await?;
            let before = events(client).await?;
            let times = times(client, statement).await?;
            let fired = events(client).await? - before;
            let expected = if way == Way::Silent { 0 } else { statement.events() * (WARM_UP + ROUNDS) };
            ensure!(fired == i64::try_from(expected)?, "{way:?} fired {fired} events and not {expected}");
            medians[index] = median(times.iter().copied()).unwrap_or_default();
            // The first block fills caches, and gives the statistics something to read.
            if block > 0 {
                all[index].extend(times);
            }
        }
        switch(superuser, statement, Way::Broadcast).await?;
        if block == 0 {
            client.batch_execute("analyze").await?;
            continue;
        }
        let [silent, written, broadcast] = medians;
        differences[0].push(written - silent);
        differences[1].push(broadcast - silent);
    }
    let middle = |values: &Vec<f64>| median(values.iter().copied()).unwrap_or_default();
    Ok(Cost {
        statement,
        rounds: blocks * ROUNDS,
        ms: all.each_ref().map(middle),
        each_ms: differences.each_ref().map(|values| middle(values) / statement.events() as f64),
    })
}

/// Lets a statement run in a way from now on. The way [`Way::Broadcast`] is how the ledger is installed.
async fn switch(superuser: &Client, statement: Statement, way: Way) -> Result<()> {
    let (table, trigger) = statement.trigger();
    let verb = if way == Way::Silent { "disable" } else { "enable" };
    superuser.batch_execute(&format!("alter table {table} {verb} trigger {trigger}")).await?;
    // The feed broadcasts if there is a schema of this name.
    let (from, to) =
        if way == Way::Broadcast { ("realtime_away", "realtime") } else { ("realtime", "realtime_away") };
    let there = "select to_regnamespace($1::text) is not null";
    if superuser.query_one(there, &[&from]).await?.get(0) {
        superuser.batch_execute(&format!("alter schema {from} rename to {to}")).await?;
    }
    Ok(())
}

async fn events(client: &Client) -> Result<i64> {
    let count = "select count(*) from public.frame_events where type <> 'frame.submission.created'";
    Ok(client.query_one(count, &[]).await?.get(0))
}

/// Runs a statement some times, and gives the times of the measured transactions in milliseconds.
async fn times(client: &Client, statement: Statement) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    match statement {
        Statement::Settlement(jobs) => {
            for _ in 0..WARM_UP + ROUNDS {
                times.push(settlement::round(client, jobs).await?.settle.as_secs_f64() * 1e3);
            }
        }
        Statement::Move => {
            let advance =
                "update public.frame_submissions set status = 'processing' where id = $1::text::uuid";
            let advance = client.prepare(advance).await?;
            for id in submissions(client, WARM_UP + ROUNDS).await? {
                let from = Instant::now();
                client.execute(&advance, &[&id]).await?;
                times.push(from.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(times.split_off(WARM_UP))
}

/// Makes submissions that were received, and gives their ids.
async fn submissions(client: &Client, count: usize) -> Result<Vec<String>> {
    let submit = format!(
        "insert into public.frame_submissions (tenant_id, channel_id, agent_id) \
         select c.tenant_id, c.id, '{AGENT}' from public.channels c, generate_series(1, {count}) returning id::text"
    );
    Ok(client.query(&submit, &[]).await?.iter().map(|row| row.get(0)).collect())
}

impl Cost {
    /// Gives the time of one event with its message, in milliseconds.
    pub fn event_ms(&self) -> f64 {
        self.each_ms[1]
    }

    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        let told = |value: f64| rounded(Some(value));
        let [silent, written, broadcast] = self.ms.map(told);
        let [event, with_message] = self.each_ms.map(told);
        json!({
            "statement": self.statement.name(), "events": self.statement.events(), "rounds": self.rounds,
            "without_ms": silent, "written_ms": written, "broadcast_ms": broadcast,
            "event_ms": event, "event_with_message_ms": with_message,
        })
    }

    /// Gives the table's cells: statement, events, the three times, and the two costs of an event.
    pub fn cells(&self) -> Vec<String> {
        let times = self.ms.map(|ms| number(Some(ms), 2));
        let each = self.each_ms.map(|ms| number(Some(ms), 3));
        let words = [self.statement.name(), self.statement.events().to_string()];
        [words.to_vec(), times.to_vec(), each.to_vec()].concat()
    }
}
