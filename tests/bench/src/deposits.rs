//! Makes deposits as people do: each in a transaction of its own, at random times with a steady mean, without waiting
//! for earlier deposits. The database's record of commit times tells how long each trade took.

use crate::stage::{AGENTS, Stage};
use anyhow::{Context, Result, bail, ensure};
use stack::postgres::{Cluster, OWNER};
use std::time::{Duration, Instant};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::sleep_until,
};
use tokio_postgres::{Client, Statement};

/// Connections that insert deposits: an application's pool.
const CONNECTIONS: usize = 24;

/// Reads the deposits after one id, and their trades: the number of each, the latencies, and the backlog when the last
/// deposit was committed. The last two columns are the times from the first deposit's commit to the last deposit's and
/// to the last trade's. A deposit without a trade, or with two, makes the numbers of deposits and trades differ.
const TRADES_AFTER: &str = "\
    with pair as materialized ( \
      select w.id, pg_xact_commit_timestamp(w.xmin) as deposited, t.id as trade, pg_xact_commit_timestamp(t.xmin) as traded \
      from public.wallet_changes w left join public.trade_results t on t.reference = 'wallet-change-' || w.id \
      where w.id > $1 \
    ), ends as (select min(deposited) as first, max(deposited) as last from pair) \
    select count(distinct id), count(trade), \
      percentile_disc(array[0.5, 0.99, 1]) within group (order by (extract(epoch from traded - deposited) * 1000)::float8), \
      count(*) filter (where traded > ends.last), \
      extract(epoch from ends.last - ends.first)::float8, \
      extract(epoch from max(traded) - ends.first)::float8 \
    from pair, ends group by ends.first, ends.last";

/// Reads the latency of each deposit after one id.
const EACH_AFTER: &str = "\
    select (extract(epoch from pg_xact_commit_timestamp(t.xmin) - pg_xact_commit_timestamp(w.xmin)) * 1000)::float8 \
    from public.wallet_changes w join public.trade_results t on t.reference = 'wallet-change-' || w.id \
    where w.id > $1";

/// The deposits of one measurement, and their trades.
#[derive(Debug, Clone, Copy)]
pub struct Traded {
    /// The number of deposits.
    pub deposits: i64,
    /// The median time from a deposit's commit to its trade's, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of that time, in milliseconds.
    pub p99_ms: f64,
    /// The longest of these times, in milliseconds.
    pub max_ms: f64,
    /// The number of trades that were missing when the last deposit was committed.
    pub backlog: i64,
    /// The time from the first deposit to the last one, in seconds.
    pub deposited_s: f64,
    /// The time from the first deposit to the last trade, in seconds.
    pub traded_s: f64,
}

impl Traded {
    /// Measures every deposit after one id. Fails if a deposit has no trade or two. Fails also if Purple Flea's number
    /// of bets has not grown from `bets` by the number of deposits.
    pub async fn after(stage: &Stage, last_id: i64, bets: usize) -> Result<Self> {
        stage.quiet().await?;
        let row = stage
            .owner
            .query_opt(TRADES_AFTER, &[&last_id])
            .await?
            .context("there were no deposits at all")?;
        let (deposits, trades): (i64, i64) = (row.get(0), row.get(1));
        let bets = stage.purple_flea.bets().len() - bets;
        ensure!(
            deposits == trades && i64::try_from(bets)? == deposits,
            "{deposits} deposits led to {trades} trades and {bets} bets"
        );
        let latencies: Vec<f64> = row.get(2);
        let &[p50_ms, p99_ms, max_ms] = latencies.as_slice() else { bail!("there are no latencies") };
        let (backlog, deposited_s, traded_s) = (row.get(3), row.get(4), row.get(5));
        Ok(Self { deposits, p50_ms, p99_ms, max_ms, backlog, deposited_s, traded_s })
    }
}

/// Gives the time from the commit of each deposit after one id to its trade's, in milliseconds. Call it when every
/// deposit has its trade.
pub async fn each_ms(stage: &Stage, last_id: i64) -> Result<Vec<f64>> {
    let rows = stage.owner.query(EACH_AFTER, &[&last_id]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A connection and its prepared insert.
type Connection = (Client, Statement);

/// The connections that insert deposits.
pub struct Depositors {
    give: UnboundedSender<Connection>,
    take: UnboundedReceiver<Connection>,
}

impl Depositors {
    /// Connects.
    pub async fn connect(stage: &Stage) -> Result<Self> {
        Self::to(&stage.cluster).await
    }

    /// Connects to a database.
    pub async fn to(cluster: &Cluster) -> Result<Self> {
        let (give, take) = unbounded_channel();
        for _ in 0..CONNECTIONS {
            let client = cluster.connect(OWNER).await?;
            let insert = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
                          values ($1, 'deposit', 100, 100)";
            let insert = client.prepare(insert).await?;
            give.send((client, insert)).ok().context("the pool is closed")?;
        }
        Ok(Self { give, take })
    }

    /// Deposits at a mean rate for a while, and waits until all deposits are committed. Gives their number.
    pub async fn arrive(&mut self, per_s: f64, time: Duration) -> Result<usize> {
        let (from, mut at_s, mut made) = (Instant::now(), 0.0, 0);
        let mut under_way = JoinSet::new();
        loop {
            // The arrivals are a Poisson process, so the time between two of them is exponential.
            at_s += -(1.0 - fastrand::f64()).ln() / per_s;
            if at_s > time.as_secs_f64() {
                break;
            }
            sleep_until((from + Duration::from_secs_f64(at_s)).into()).await;
            let connection = self.take.recv().await.context("the pool is closed")?;
            under_way.spawn(deposit(connection, self.give.clone()));
            made += 1;
            while let Some(done) = under_way.try_join_next() {
                done??;
            }
        }
        while let Some(done) = under_way.join_next().await {
            done??;
        }
        Ok(made)
    }

    /// Makes one deposit now.
    pub async fn once(&mut self) -> Result<()> {
        let connection = self.take.recv().await.context("the pool is closed")?;
        deposit(connection, self.give.clone()).await
    }
}

async fn deposit((client, insert): Connection, back: UnboundedSender<Connection>) -> Result<()> {
    let agent = format!("agent-{:03}", fastrand::u32(1..=AGENTS));
    client.execute(&insert, &[&agent]).await?;
    back.send((client, insert)).ok().context("the pool is closed")
}

/// Makes all deposits in one statement.
pub async fn at_once(owner: &Client, deposits: u64) -> Result<()> {
    let all = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         select 'agent-' || lpad((1 + n % {AGENTS})::text, 3, '0'), 'deposit', 100, 100 from generate_series(1, {deposits}) as n"
    );
    owner.batch_execute(&all).await.context("the deposits could not be made")
}
