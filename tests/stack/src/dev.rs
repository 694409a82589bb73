//! Starts the stack, registers an agent, and shows each deposit, decision and trade as it happens.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stack::{
    host::{Build, Host, Kind, Options as HostOptions, local_settings},
    pg_net::PgNet,
    postgres::{Cluster, OWNER},
    purple_flea::PurpleFlea,
    webhook,
};
use std::{collections::HashSet, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Row};

/// The agent that is there from the start.
const AGENT: &str = "agent-001";

/// What it holds at the simulator. The wallet in Postgres starts empty: deposits fill it.
const AT_PURPLE_FLEA: i64 = 1_000_000;

/// How often the database is looked at for something new.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long the one deposit of `--once` may take.
const ONCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `stack dev`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Make one deposit of 100, print the function's reply as the last line, and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Print each event as a line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Everything that runs.
struct Stack {
    cluster: Cluster,
    pg_net: PgNet,
    purple_flea: PurpleFlea,
    host: Host,
    owner: Client,
}

/// Runs the stack: until the one deposit is answered, or for ever.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let stack = Stack::start().await?;
    stack.introduce();
    if options.once {
        let reply =
            timeout(ONCE_TIMEOUT, stack.once(options)).await.context("no reply came within 30 s")??;
        println!("{reply}");
        if reply["status"] != "executed" {
            bail!("the deposit was not bet on: {}", reply["detail"]);
        }
        return Ok(());
    }
    stack.hint();
    let mut watch = Watch::default();
    loop {
        for reply in watch.look(&stack.owner, options).await? {
            if let Err(error) = reply {
                eprintln!("reply     none: {error:#}");
            }
        }
        watch.read(&stack.host.log.lines(), options);
        sleep(LOOK_EVERY).await;
    }
}

impl Stack {
    async fn start() -> Result<Self> {
        let kind = Kind::from_env()?;
        progress("PostgreSQL: a throw-away cluster with Supabase's roles");
        let cluster = Cluster::start().await?;
        let pg_net = PgNet::start(&cluster).await?;
        progress("Purple Flea: a simulator");
        let purple_flea = PurpleFlea::start().await?;
        purple_flea.fund(AGENT, AT_PURPLE_FLEA.into());
        progress(&format!("The function: the component on its host ({kind:?})"));
        let options = HostOptions {
            build: if kind == Kind::Wasmtime { Build::Wasi } else { Build::Spin },
            settings: local_settings(&purple_flea.url),
            allowed_origins: Some(vec![purple_flea.url.clone()]),
        };
        let host = Host::start(kind, options).await?;
        progress("The SQL: scripts/migrate");
        let owner = cluster.install(&format!("{}/execute-trade", host.url), AGENT).await?;
        Ok(Self { cluster, pg_net, purple_flea, host, owner })
    }

    fn introduce(&self) {
        eprintln!();
        eprintln!("  PostgreSQL   {}", self.cluster.url(OWNER));
        eprintln!("  pg_net       {}", self.pg_net.name());
        eprintln!("  Purple Flea  a simulator at {}", self.purple_flea.url);
        eprintln!("  function     {}/execute-trade", self.host.url);
        eprintln!("  agent        {AGENT}, with ${AT_PURPLE_FLEA} of play money at Purple Flea");
        eprintln!();
    }

    fn hint(&self) {
        eprintln!("Try, in another terminal:");
        eprintln!();
        eprintln!(
            "  psql {} -c \"insert into wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)\"",
            self.cluster.url(OWNER)
        );
        eprintln!();
        eprintln!(
            "  FUNCTION_URL={}/execute-trade WEBHOOK_SECRET={} scripts/invoke docs/deposit.json",
            self.host.url,
            webhook::SECRET
        );
        eprintln!();
        eprintln!("  curl {}/health", self.host.url);
        eprintln!();
        eprintln!("Deposits, trades and the function's log appear here. Ctrl-C ends everything.");
        eprintln!();
    }

    /// Makes one deposit and gives the function's reply to it.
    async fn once(&self, options: &Options) -> Result<Value> {
        let deposit = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
                       values ($1, 'deposit', 100, 100)";
        self.owner.execute(deposit, &[&AGENT]).await?;
        let mut watch = Watch::default();
        loop {
            if let Some(reply) = watch.look(&self.owner, options).await?.into_iter().next() {
                return reply;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// How many rows are looked at again each time: one that was made earlier can become visible later.
const LOOK_BACK_ROWS: i64 = 500;

/// What has been shown so far.
#[derive(Default)]
struct Watch {
    changes: HashSet<i64>,
    responses: HashSet<i64>,
    lines: usize,
}

impl Watch {
    /// Shows what is new in the database, and gives the function's replies among it.
    async fn look(&mut self, client: &Client, options: &Options) -> Result<Vec<Result<Value>>> {
        let changes = "select id, agent_id, change_type, coalesce(change_amount::text, '?'), \
                       coalesce(new_balance::text, '?') from \
                       (select * from public.wallet_changes order by id desc limit $1) as last order by id";
        for row in client.query(changes, &[&LOOK_BACK_ROWS]).await? {
            if self.changes.insert(row.get(0)) {
                show_change(&row, options);
            }
        }
        let responses = "select id, status_code, content, coalesce(error_msg, '') from \
                         (select * from net._http_response order by id desc limit $1) as last order by id";
        let mut replies = Vec::new();
        for row in client.query(responses, &[&LOOK_BACK_ROWS]).await? {
            if self.responses.insert(row.get(0)) {
                replies.push(show_response(&row, options));
            }
        }
        Ok(replies)
    }

    /// Shows what is new in the function's own log: calls by hand are there too.
    fn read(&mut self, lines: &[String], options: &Options) {
        for line in lines.iter().skip(self.lines).filter(|_| !options.json) {
            eprintln!("log       {line}");
        }
        self.lines = lines.len();
    }
}

fn show_change(row: &Row, options: &Options) {
    let (id, agent): (i64, &str) = (row.get(0), row.get(1));
    let (kind, amount, balance): (&str, &str, &str) = (row.get(2), row.get(3), row.get(4));
    if options.json {
        let event = serde_json::json!({"event": kind, "reference": format!("wallet-change-{id}"), "agent_id": agent,
            "change_amount": amount, "new_balance": balance});
        println!("{event}");
    } else {
        eprintln!("{kind:<9} wallet-change-{id}  {agent}  {amount} → balance {balance}");
    }
}

fn show_response(row: &Row, options: &Options) -> Result<Value> {
    let status: Option<i32> = row.get(1);
    let Some(content) = row.get::<_, Option<&str>>(2) else {
        bail!("the function did not answer: {}", row.get::<_, &str>(3));
    };
    let reply: Value = serde_json::from_str(content).with_context(|| format!("not JSON: {content}"))?;
    let text = |name: &str| reply[name].as_str().map_or_else(|| reply[name].to_string(), str::to_owned);
    if options.json {
        if !options.once {
            println!("{reply}");
        }
    } else if reply["status"] == "executed" {
        let game = if reply["side"].is_string() {
            text("side")
        } else {
            format!("cash-out at {}", text("cashout_at"))
        };
        eprintln!("decision  {}  {} {} on {game}", text("reference"), text("game"), text("wager"));
        eprintln!(
            "trade     {}  {}, paid {}  ({})",
            text("reference"),
            text("outcome"),
            text("payout"),
            text("bet_id")
        );
    } else {
        let why = if reply["reason"].is_string() { text("reason") } else { text("code") };
        eprintln!(
            "decision  {}  {} ({why}, HTTP {}): {}",
            text("reference"),
            text("status"),
            status.unwrap_or(0),
            text("detail")
        );
    }
    Ok(reply)
}

fn progress(what: &str) {
    eprintln!("==> {what}");
}
