//! Starts the stack, and shows each deposit, decision and trade as it happens.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stack::{
    host::Kind,
    local::{AGENT, Local},
    postgres::OWNER,
    postgrest::{key, user_key},
    process::{Process, Signal, plain_command},
    realtime, sweeper, webhook,
};
use std::{collections::HashSet, process::Stdio, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

/// The agent's balance at the simulator. The wallet in Postgres starts empty, and deposits fill it.
const AT_PURPLE_FLEA: i64 = 1_000_000;

/// The user who owns the agent.
const AGENTS_OWNER: &str = "11111111-1111-4111-8111-111111111111";

/// How often it looks for new rows.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Longest time for the one deposit of `--once`.
const ONCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of `stack dev`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Make one deposit of 100, print its row of trade_results and then its settled job, end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Print each event as a line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the stack: forever, or with `--once` until the deposit is settled.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let kind = Kind::from_env()?;
    let (sweep_every, realtime) = (Some(sweeper::EVERY), Some(realtime::Options::default()));
    let progress = |what: &str| eprintln!("==> {what}");
    let stack = Local::start_with_realtime(kind, &[], sweep_every, realtime, progress).await?;
    stack.purple_flea.fund(AGENT, AT_PURPLE_FLEA.into());
    let own = format!(
        "insert into auth.users values ('{AGENTS_OWNER}'); \
         update public.agents set owner_id = '{AGENTS_OWNER}' where id = '{AGENT}'"
    );
    stack.owner.batch_execute(&own).await?;
    introduce(&stack);
    let _listener = listen(&stack)?;
    let mut watch = Watch::default();
    if options.once {
        return timeout(ONCE_TIMEOUT, once(&stack, &mut watch, options))
            .await
            .context("the deposit was not settled within 30 s")?;
    }
    hint(&stack)?;
    loop {
        watch.look(&stack.owner, options).await?;
        watch.read(&stack.host.log.lines(), options);
        sleep(LOOK_EVERY).await;
    }
}

/// Starts the listener beside the stack, as the worker, if it was built: it brings in clients' signals and presence.
fn listen(stack: &Local) -> Result<Option<Process>> {
    let program = std::env::current_exe()?.with_file_name("purple-flea-listener");
    let (Some(realtime), true) = (&stack.realtime, program.exists()) else { return Ok(None) };
    let mut command = plain_command(&program);
    command.args(["--admin", "127.0.0.1:0"]).env_clear();
    command.env("SUPABASE_URL", &stack.postgrest.url).env("SUPABASE_KEY", key("purple_flea_worker")?);
    command.env("SUPABASE_APIKEY", key("anon")?).env("REALTIME_URL", realtime.url());
    command.env("FUNCTION_URL", format!("{}/execute-trade", stack.host.url));
    command.env("WEBHOOK_SECRET", webhook::SECRET).stdout(Stdio::null()).stderr(Stdio::null());
    let listener = Process::spawn(&mut command, Signal::TERM)?;
    eprintln!("  listener     brings in clients' signals and presence, and sends webhooks");
    eprintln!();
    Ok(Some(listener))
}

fn introduce(stack: &Local) {
    eprintln!();
    eprintln!("  PostgreSQL   {}", stack.cluster.url(OWNER));
    eprintln!("  pg_net       {}", stack.pg_net.name());
    eprintln!("  PostgREST    {} at {}", stack.postgrest.name(), stack.postgrest.url);
    if let Some(realtime) = &stack.realtime {
        eprintln!("  Realtime     a stand-in at {}", realtime.url());
    }
    eprintln!("  sweeper      a stand-in for pg_cron, every {} s", sweeper::EVERY.as_secs());
    eprintln!("  Purple Flea  a simulator at {}", stack.purple_flea.url);
    eprintln!("  function     {}/execute-trade, in ledger mode", stack.host.url);
    eprintln!("  agent        {AGENT}, with ${AT_PURPLE_FLEA} of play money at Purple Flea");
    eprintln!();
}

fn hint(stack: &Local) -> Result<()> {
    eprintln!("Try, in another terminal:");
    eprintln!();
    eprintln!(
        "  psql {} -c \"insert into wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)\"",
        stack.cluster.url(OWNER)
    );
    eprintln!();
    eprintln!("  psql {} -c \"select * from purple_flea.job_events\"", stack.cluster.url(OWNER));
    eprintln!();
    eprintln!(
        "  # the same deposit a second time: its outcome comes back, and no second bet is made\n  \
         psql {} -XAtc \"select row_to_json(w) from wallet_changes w where id = 1\" | \n    \
         FUNCTION_URL={}/execute-trade WEBHOOK_SECRET={} scripts/invoke -",
        stack.cluster.url(OWNER),
        stack.host.url,
        webhook::SECRET
    );
    eprintln!();
    eprintln!("  curl {}/health", stack.host.url);
    eprintln!();
    if let Some(realtime) = &stack.realtime {
        eprintln!("  # a program that stays, and hears what becomes of deposits (examples/README.md)");
        eprintln!(
            "  AGENT_ID={AGENT} SUPABASE_URL={} \\\n    SUPABASE_KEY={} \\\n    SUPABASE_ACCESS_TOKEN={} \\\n    \
             npm start --prefix examples/javascript    # or examples/python/run",
            realtime.project_url(),
            key("anon")?,
            user_key(AGENTS_OWNER)?
        );
        eprintln!();
    }
    eprintln!("Deposits, trades and the function's log appear here. Ctrl-C ends everything.");
    eprintln!();
    Ok(())
}

/// Makes one deposit, and prints its row of `trade_results` and its settled job.
async fn once(stack: &Local, watch: &mut Watch, options: &Options) -> Result<()> {
    let deposit = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
                   values ($1, 'deposit', 100, 100) returning 'wallet-change-' || id";
    let reference: String = stack.owner.query_one(deposit, &[&AGENT]).await?.get(0);
    let settled = "select state, coalesce(result, jsonb_build_object('status', state, 'reason', reason))::text, \
                   (select to_json(t)::text from public.trade_results t where t.reference = j.reference) \
                   from purple_flea.jobs j where reference = $1 and state not in ('pending', 'claimed')";
    loop {
        watch.look(&stack.owner, options).await?;
        if let Some(row) = stack.owner.query_opt(settled, &[&reference]).await? {
            watch.look(&stack.owner, options).await?;
            if let Some(trade) = row.get::<_, Option<&str>>(2) {
                println!("{{\"trade_results\":{trade}}}");
            }
            let result: Value = serde_json::from_str(row.get(1))?;
            println!("{result}");
            if row.get::<_, &str>(0) != "executed" {
                bail!("the deposit was not bet on: {}", result["reason"]);
            }
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The number of rows that each look reads again. A row with a lower id can become visible later.
const LOOK_BACK_ROWS: i64 = 500;

/// The events shown so far.
#[derive(Default)]
struct Watch {
    changes: HashSet<i64>,
    events: HashSet<i64>,
    lines: usize,
}

impl Watch {
    /// Shows new rows of the database.
    async fn look(&mut self, client: &Client, options: &Options) -> Result<()> {
        let changes = "select id, to_jsonb(w)::text from \
                       (select * from public.wallet_changes order by id desc limit $1) as w order by id";
        for row in client.query(changes, &[&LOOK_BACK_ROWS]).await? {
            if self.changes.insert(row.get(0)) {
                show_change(&serde_json::from_str(row.get(1))?, options);
            }
        }
        let events = "select id, jsonb_build_object('reference', reference, 'kind', kind, 'state', to_state, 'why', why, \
                      'attempt', attempt, 'detail', detail)::text from \
                      (select * from purple_flea.job_events order by id desc limit $1) as e order by id";
        for row in client.query(events, &[&LOOK_BACK_ROWS]).await? {
            if self.events.insert(row.get(0)) {
                show_event(&serde_json::from_str(row.get(1))?, options);
            }
        }
        Ok(())
    }

    /// Shows new lines of the function's log.
    fn read(&mut self, lines: &[String], options: &Options) {
        for line in lines.iter().skip(self.lines).filter(|_| !options.json) {
            eprintln!("log       {line}");
        }
        self.lines = lines.len();
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn show_change(row: &Value, options: &Options) {
    let (kind, id) = (text(&row["change_type"]), text(&row["id"]));
    if options.json {
        let (amount, balance) = (&row["change_amount"], &row["new_balance"]);
        let event = serde_json::json!({"event": kind, "reference": format!("wallet-change-{id}"), "agent_id": row["agent_id"],
            "change_amount": amount, "new_balance": balance});
        println!("{event}");
    } else {
        let agent = text(&row["agent_id"]);
        let (amount, balance) = (text(&row["change_amount"]), text(&row["new_balance"]));
        eprintln!("{kind:<9} wallet-change-{id}  {agent}  {amount} → balance {balance}");
    }
}

fn show_event(event: &Value, options: &Options) {
    let (reference, state, detail) = (text(&event["reference"]), text(&event["state"]), &event["detail"]);
    if options.json {
        println!("{event}");
    } else if state == "executed" && detail["game"].is_string() {
        let on = if let Some(choice) =
            ["side", "guess"].map(|name| &detail[name]).into_iter().find(|choice| choice.is_string())
        {
            text(choice)
        } else {
            format!("cash-out at {}", text(&detail["cashout_at"]))
        };
        eprintln!("decision  {reference}  {} {} on {on}", text(&detail["game"]), text(&detail["wager"]));
        let (outcome, payout, bet) =
            (text(&detail["outcome"]), text(&detail["payout"]), text(&detail["bet_id"]));
        eprintln!("trade     {reference}  {outcome}, paid {payout}  ({bet})");
    } else if event["attempt"] != 0 && state != "claimed" {
        eprintln!("job       {reference}  {state} ({})", text(&event["why"]));
    }
}
