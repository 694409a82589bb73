//! Runs the whole stack, from the deposit's row to the trade's, so that each part's CPU time can be told from the
//! others'. PostgreSQL and the project's own host are processes. The stand-ins for pg_net, PostgREST, Realtime and
//! Purple Flea have threads of their own.

use crate::{
    aside::Threads,
    peers::{EMBEDDED, Machine, Platform, free_port},
    server::Server,
    stage::{AGENTS, LOOK_EVERY, START_TIMEOUT, Stage, fund},
};
use anyhow::{Result, bail};
use stack::{
    host::{ledger_settings, local_settings},
    local::AGENT,
    pg_net::PgNet,
    postgres::Cluster,
    postgrest::PostgRest,
    purple_flea::PurpleFlea,
    realtime::{Options as RealtimeOptions, Realtime},
    sweeper::{self, Sweeper},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, time::sleep};

/// A deposit's job that waits for its outcome.
const OPEN: &str = "select exists (select from purple_flea.jobs where state = 'pending') \
                    or exists (select from purple_flea.jobs where state = 'claimed')";

/// The running stack. Ends when it is dropped.
pub struct Rig {
    /// The database, the function's host and Purple Flea.
    pub stage: Stage,
    /// PostgREST.
    pub postgrest: PostgRest,
    /// pg_net.
    pub pg_net: PgNet,
    /// Realtime, where it was asked for.
    pub realtime: Option<Realtime>,
    /// The URL of the function's notification endpoint.
    pub function_url: String,
    _sweeper: Sweeper,
    _threads: [Threads; 4],
}

impl Rig {
    /// Starts the stack, with the function on a platform and some of its settings changed.
    pub async fn start(machine: &Machine, platform: Platform, changes: &[(&str, &str)]) -> Result<Self> {
        Self::start_all(machine, platform, changes, None).await
    }

    /// Starts the stack with Realtime, and the function on our own host.
    pub async fn start_with_realtime(
        machine: &Machine,
        changes: &[(&str, &str)],
        options: RealtimeOptions,
    ) -> Result<Self> {
        Self::start_all(machine, Platform::Embedded, changes, Some(options)).await
    }

    async fn start_all(
        machine: &Machine,
        platform: Platform,
        changes: &[(&str, &str)],
        options: Option<RealtimeOptions>,
    ) -> Result<Self> {
        let threads = [
            Threads::start("realtime", 1)?,
            Threads::start("pg_net", 1)?,
            Threads::start("postgrest", 1)?,
            Threads::start("purple_flea", 1)?,
        ];
        let [for_realtime, for_pg_net, for_postgrest, for_purple_flea] = &threads;
        let cluster = Arc::new(Cluster::start().await?);
        let at = cluster.clone();
        let pg_net = for_pg_net.run(async move { PgNet::start(&at).await }).await?;
        let at = cluster.clone();
        let postgrest = for_postgrest.run(async move { PostgRest::start(&at).await }).await?;
        let realtime = match options {
            Some(options) => {
                let at = cluster.clone();
                Some(for_realtime.run(async move { Realtime::start(&at, options).await }).await?)
            }
            None => None,
        };
        let purple_flea = for_purple_flea.run(PurpleFlea::start()).await?;
        let (host, url) = start_host(machine, platform, &purple_flea, &postgrest, changes).await?;
        let function_url = format!("{url}/execute-trade");
        let owner = cluster.install(&function_url, AGENT).await?;
        let at = cluster.clone();
        let sweeper = for_pg_net.run(async move { Ok(Sweeper::start(&at, sweeper::EVERY)) }).await?;
        let agents = format!(
            "insert into public.agents (id) select 'agent-' || lpad(n::text, 3, '0') \
             from generate_series(1, {AGENTS}) as n on conflict do nothing"
        );
        owner.batch_execute(&agents).await?;
        fund(&purple_flea);
        let stage = Stage { worker: host, purple_flea, owner, cluster, open: OPEN };
        Ok(Self { stage, postgrest, pg_net, realtime, function_url, _sweeper: sweeper, _threads: threads })
    }

    /// Counts the notifications that pg_net has sent.
    pub async fn notifications(&self) -> Result<i64> {
        Ok(self.stage.owner.query_one("select count(*) from net._http_response", &[]).await?.get(0))
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
