//! Runs the whole stack: a deposit in its Postgres becomes a row of `trade_results`.

use crate::{
    host::{
        AFTER_REPLY, Build, Host, Kind, Options as HostOptions, Settings, ledger_settings, local_settings,
    },
    pg_net::PgNet,
    postgres::Cluster,
    postgrest::PostgRest,
    purple_flea::PurpleFlea,
    realtime::{Options as RealtimeOptions, Realtime},
    sweeper::Sweeper,
};
use anyhow::Result;
use std::time::Duration;
use tokio_postgres::Client;

/// The agent that exists from the start.
pub const AGENT: &str = "agent-001";

/// The words of a host whose component trapped or failed: those of our own, and those of Spin and `wasmtime serve`. The
/// component's own lines are JSON and contain none of them.
const TRAP_WORDS: [&str; 4] =
    ["the component trapped", "the component failed", "worker failed:", "Error processing request:"];

/// Everything that runs. Ends when it is dropped.
pub struct Local {
    /// The function's host.
    pub host: Host,
    /// The options of the host's start.
    pub options: HostOptions,
    /// The kind of host.
    pub kind: Kind,
    /// The traps that earlier hosts printed.
    earlier_traps: usize,
    /// Purple Flea.
    pub purple_flea: PurpleFlea,
    /// Realtime, where it was asked for.
    pub realtime: Option<Realtime>,
    /// PostgREST.
    pub postgrest: PostgRest,
    /// pg_net.
    pub pg_net: PgNet,
    /// The stand-in for the cron job.
    pub sweeper: Option<Sweeper>,
    /// A connection of the database's owner.
    pub owner: Client,
    /// PostgreSQL.
    pub cluster: Cluster,
}

impl Local {
    /// Starts everything, with some of the function's settings changed, and logs each step.
    pub async fn start(
        kind: Kind,
        changes: &[(&str, &str)],
        sweep_every: Option<Duration>,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        Self::start_with_realtime(kind, changes, sweep_every, None, progress).await
    }

    /// Does the same with Realtime, whose URL then serves PostgREST too.
    pub async fn start_with_realtime(
        kind: Kind,
        changes: &[(&str, &str)],
        sweep_every: Option<Duration>,
        realtime: Option<RealtimeOptions>,
        progress: impl Fn(&str),
    ) -> Result<Self> {
        progress("PostgreSQL: a throw-away cluster with Supabase's roles");
        let cluster = Cluster::start().await?;
        let pg_net = PgNet::start(&cluster).await?;
        let postgrest = PostgRest::start(&cluster).await?;
        let realtime = match realtime {
            Some(options) => {
                progress("Realtime: a stand-in");
                let options = RealtimeOptions { rest: Some(postgrest.url.clone()), ..options };
                Some(Realtime::start(&cluster, options).await?)
            }
            None => None,
        };
        progress("Purple Flea: a simulator");
        let purple_flea = PurpleFlea::start().await?;
        progress(&format!("The function: the component on its host ({kind:?})"));
        let mut settings: Settings = local_settings(&purple_flea.url);
        settings.extend(ledger_settings(&postgrest.url)?);
        settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // A change can name the real servers of Purple Flea instead of the simulator.
        let origins = settings.iter().filter(|(name, _)| name.ends_with("_url"));
        let origins = origins.map(|(_, url)| url.clone()).collect();
        let mut options = HostOptions {
            build: Build::on(kind),
            settings,
            allowed_origins: Some(origins),
            listen: None,
            after_reply: AFTER_REPLY,
        };
        let host = Host::start(kind, &options).await?;
        options.listen = host.url.strip_prefix("http://").map(str::to_owned);
        progress("The SQL: scripts/migrate");
        let owner = cluster.install(&format!("{}/execute-trade", host.url), AGENT).await?;
        let sweeper = sweep_every.map(|every| Sweeper::start(&cluster, every));
        Ok(Self {
            host,
            options,
            kind,
            earlier_traps: 0,
            purple_flea,
            realtime,
            postgrest,
            pg_net,
            sweeper,
            owner,
            cluster,
        })
    }

    /// Kills the host, waits, and starts another host at its address.
    pub async fn restart_host(&mut self, pause: Duration) -> Result<()> {
        self.host.kill().await?;
        tokio::time::sleep(pause).await;
        self.start_host().await
    }

    /// Starts a host at the address of one that was killed.
    pub async fn start_host(&mut self) -> Result<()> {
        let host = Host::start(self.kind, &self.options).await?;
        self.earlier_traps = self.traps();
        self.host = host;
        Ok(())
    }

    /// Counts the lines by which the hosts told that the component trapped or failed.
    pub fn traps(&self) -> usize {
        let failed = |line: &&String| TRAP_WORDS.iter().any(|words| line.contains(words));
        self.earlier_traps + self.host.log.lines().iter().filter(failed).count()
    }
}
