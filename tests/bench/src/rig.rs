//! Runs the whole stack, from the deposit's row to the trade's, so that each part's CPU time can be told from the
//! others'. PostgreSQL and the project's own host are processes. The stand-ins for pg_net, PostgREST and Purple Flea
//! have threads of their own.

use crate::{
    aside::Threads,
    peers::{EMBEDDED, Machine, Platform, free_port},
    server::Server,
};
use anyhow::{Result, bail};
use stack::{
    host::{ledger_settings, local_settings},
    local::AGENT,
    pg_net::PgNet,
    postgres::Cluster,
    postgrest::PostgRest,
    purple_flea::PurpleFlea,
    sweeper::{self, Sweeper},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::sleep};
use tokio_postgres::Client;

/// The number of agents that deposit.
pub const AGENTS: u32 = 8;

/// Each agent's balance at Purple Flea, in dollars. It must outlast the measurement.
const FUNDS: u32 = 1_000_000_000;

/// How long Purple Flea takes for a bet, like a server near by. It is the only part of a trade's time that is not ours.
pub const PURPLE_FLEA: Duration = Duration::from_millis(5);

/// How long the host may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the bench checks a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Longest time from the last deposit until every deposit has been traded.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);

/// The running stack. Ends when it is dropped.
pub struct Rig {
    /// The function's host.
    pub host: Server,
    /// Purple Flea.
    pub purple_flea: PurpleFlea,
    /// PostgREST.
    pub postgrest: PostgRest,
    /// pg_net.
    pub pg_net: PgNet,
    _sweeper: Sweeper,
    /// A connection as the database's owner.
    pub owner: Client,
    /// PostgreSQL.
    pub cluster: Arc<Cluster>,
    _threads: [Threads; 3],
}

impl Rig {
    /// Starts the stack, with the function on a platform and some of its settings changed.
    pub async fn start(machine: &Machine, platform: Platform, changes: &[(&str, &str)]) -> Result<Self> {
        let threads = [
            Threads::start("pg_net", 1)?,
            Threads::start("postgrest", 1)?,
            Threads::start("purple_flea", 1)?,
        ];
        let [for_pg_net, for_postgrest, for_purple_flea] = &threads;
        let cluster = Arc::new(Cluster::start().await?);
        let at = cluster.clone();
        let pg_net = for_pg_net.run(async move { PgNet::start(&at).await }).await?;
        let at = cluster.clone();
        let postgrest = for_postgrest.run(async move { PostgRest::start(&at).await }).await?;
        let purple_flea = for_purple_flea.run(PurpleFlea::start()).await?;
        let (host, url) = start_host(machine, platform, &purple_flea, &postgrest, changes).await?;
        let owner = cluster.install(&format!("{url}/execute-trade"), AGENT).await?;
        let at = cluster.clone();
        let sweeper = for_pg_net.run(async move { Ok(Sweeper::start(&at, sweeper::EVERY)) }).await?;
        let agents = format!(
            "insert into public.agents (id) select 'agent-' || lpad(n::text, 3, '0') \
             from generate_series(1, {AGENTS}) as n on conflict do nothing"
        );
        owner.batch_execute(&agents).await?;
        for n in 1..=AGENTS {
            purple_flea.fund(&format!("agent-{n:03}"), FUNDS.into());
        }
        purple_flea.delay(Some(PURPLE_FLEA));
        Ok(Self {
            host,
            purple_flea,
            postgrest,
            pg_net,
            _sweeper: sweeper,
            owner,
            cluster,
            _threads: threads,
        })
    }

    /// Waits until every deposit has been traded, or at least settled.
    pub async fn quiet(&self) -> Result<()> {
        let open = "select exists (select from purple_flea.jobs where state = 'pending') \
                    or exists (select from purple_flea.jobs where state = 'claimed')";
        let from = Instant::now();
        while self.owner.query_one(open, &[]).await?.get(0) {
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

    /// Counts the notifications that pg_net has sent.
    pub async fn notifications(&self) -> Result<i64> {
        Ok(self.owner.query_one("select count(*) from net._http_response", &[]).await?.get(0))
    }
}

async fn start_host(
    machine: &Machine,
    platform: Platform,
    purple_flea: &PurpleFlea,
    postgrest: &PostgRest,
    changes: &[(&str, &str)],
) -> Result<(Server, String)> {
    if platform == Platform::Embedded {
        machine.compile(EMBEDDED)?;
    }
    let port = free_port()?;
    let mut settings = local_settings(&purple_flea.url);
    settings.extend(ledger_settings(&postgrest.url)?);
    settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let recipe = machine.stack_recipe(platform, settings, port)?;
    let mut host = Server::start(&recipe, &machine.scratch.join("stack-host.log"), true)?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while TcpStream::connect(address).await.is_err() {
        host.must_live()?;
        if host.started.elapsed() > START_TIMEOUT {
            bail!("the host did not listen in time");
        }
        sleep(LOOK_EVERY).await;
    }
    Ok((host, format!("http://{address}")))
}
