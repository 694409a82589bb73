//! The parts that every way from a deposit's row to its trade's has: a database, a worker and Purple Flea.

use crate::server::Server;
use anyhow::{Result, bail};
use stack::{postgres::Cluster, purple_flea::PurpleFlea};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use tokio_postgres::Client;

/// The number of agents that deposit.
pub const AGENTS: u32 = 8;

/// Each agent's balance at Purple Flea, in dollars. It must outlast the measurement.
const FUNDS: u32 = 1_000_000_000;

/// How long Purple Flea takes for a bet, like a server near by. It is the only part of a trade's time that is nobody's
/// merit.
pub const PURPLE_FLEA: Duration = Duration::from_millis(5);

/// How long a worker may take to start.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the bench checks a condition.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest time from the last deposit until every deposit has been traded.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);

/// The parts. They end when this is dropped.
pub struct Stage {
    /// The process that makes the calls: the function's host, or a rival's worker.
    pub worker: Server,
    /// Purple Flea.
    pub purple_flea: PurpleFlea,
    /// A connection as the database's owner.
    pub owner: Client,
    /// PostgreSQL.
    pub cluster: Arc<Cluster>,
    /// The query that says whether a deposit still waits for its trade.
    pub open: &'static str,
}

impl Stage {
    /// Waits until every deposit has been traded, or at least settled.
    pub async fn quiet(&self) -> Result<()> {
        let from = Instant::now();
        while self.owner.query_one(self.open, &[]).await?.get(0) {
            if from.elapsed() > QUIET_TIMEOUT {
                bail!("deposits still wait after {} s", QUIET_TIMEOUT.as_secs());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Gives the last deposit's id.
    pub async fn last_id(&self) -> Result<i64> {
        let last = "select coalesce(max(id), 0) from public.wallet_changes";
        Ok(self.owner.query_one(last, &[]).await?.get(0))
    }
}

/// Gives each agent money at Purple Flea, and lets Purple Flea take its time from now on.
pub fn fund(purple_flea: &PurpleFlea) {
    for n in 1..=AGENTS {
        purple_flea.fund(&format!("agent-{n:03}"), FUNDS.into());
    }
    purple_flea.delay(Some(PURPLE_FLEA));
}
