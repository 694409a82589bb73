//! Makes deposits while faults are injected, and reports deposits that were forgotten or bet on twice.

mod disaster;
mod monkey;
mod neighbours;
mod operator;
mod plan;
mod verdict;

use anyhow::{Context, Result, bail};
use monkey::{Monkey, Report};
use stack::{
    host::Kind,
    local::{AGENT, Local},
    postgres::{OWNER, SUPERUSER},
    purple_flea::{Chaos, LIVE_AGENT},
    sweeper,
};
use std::{
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};
use tokio::time::sleep;
use tokio_postgres::{Client, Row};

/// Time in which the specification's own design delivers 5,000 deposits through pg_net, in seconds: 25 batches of 200, a
/// second apart. Measured on the real extension.
const SPECIFICATION_S: f64 = 24.8;

/// Number of those deposits.
const SPECIFICATION_DEPOSITS: u32 = 5_000;

/// Number of agents that deposit. The first has a daily limit.
const AGENTS: u32 = 25;

/// Daily wager limit of that agent, in dollars: some tens of bets.
const DAILY_WAGER_LIMIT: i64 = 100;

/// Longest time from the last deposit to the end of a run, when no more faults are injected.
const QUIET_TIMEOUT: Duration = Duration::from_secs(240);

/// Longest time that the database may be away, or a statement may fail, while faults are injected: the longest lock,
/// and a recovery.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_secs(2);

/// Share of requests, per mille, that Purple Flea answers with a fault.
const MISBEHAVED_PER_MILLE: u32 = 150;

/// Share of ledger calls, per mille, that get lost, before or after the ledger executed them.
const LOST_PER_MILLE: u32 = 30;

/// Shortens the ledger's waits, so that a run takes a minute or two. Their order stays: a lease is longer than an
/// exchange (1 s here) and its margin, and a look-up comes after every exchange has ended.
const SHORT_TIMING: &str = "create or replace function purple_flea.timing(out lease interval, out lookup_wait interval, \
    out lookup_hold interval, out max_age interval, out backoff interval, out backoff_max interval) language sql immutable \
    set search_path = '' as $$ select interval '6 seconds', interval '3 seconds', interval '3 seconds', interval '24 hours', \
    interval '200 milliseconds', interval '2 seconds' $$";

/// Options of `stack chaos`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The number of deposits.
    #[arg(long, default_value_t = 2_000)]
    deposits: u32,
    /// The seed of everything random; without it, each run has a new one.
    #[arg(long)]
    seed: Option<u64>,
    /// Purple Flea's dialect: gateway or live.
    #[arg(long, default_value = "gateway", value_parser = ["gateway", "live"])]
    api: String,
    /// Inject no fault, make all deposits in one statement, and show how long they take.
    #[arg(long)]
    calm: bool,
    /// Print the verdict as a line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it. Violations are an exit code; an error means that it could not run.
pub(crate) async fn run(options: &Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(fresh_seed);
    eprintln!("==> {} deposits, dialect {}, seed {seed}", options.deposits, options.api);
    let kind = match Kind::from_env()? {
        // The host must be a process that can be killed.
        Kind::Embedded => Kind::Child,
        kind => kind,
    };
    let timeout_ms = if options.calm { "8000" } else { "1000" };
    let settings = [("purple_flea_api", options.api.as_str()), ("purple_flea_timeout_ms", timeout_ms)];
    let sweep_every = if options.calm { sweeper::EVERY } else { Duration::from_secs(1) };
    let mut stack = Local::start(kind, &settings, Some(sweep_every), |what| eprintln!("==> {what}")).await?;
    prepare(&stack, options).await?;
    let started = Instant::now();
    let report = if options.calm {
        deposit_at_once(&stack.owner, options.deposits).await?;
        Report::default()
    } else {
        go_wrong(&mut stack, seed, options.deposits).await?
    };
    let owner = reconnect(&stack).await?;
    if !options.calm {
        operate(&stack, &owner, options, started).await?;
    }
    let settled_in = settled(&owner, options, started, "").await?;
    let verdict = verdict::reach(&stack, &owner, &options.api, report).await?;
    verdict.print(options.json, seed, settled_in);
    if options.calm && !options.json {
        speed(options, settled_in);
    }
    Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the deposits while faults are injected.
async fn go_wrong(stack: &mut Local, seed: u64, deposits: u32) -> Result<Report> {
    stack.purple_flea.misbehave_at_random(Some(Chaos::new(seed, MISBEHAVED_PER_MILLE)));
    stack.postgrest.misbehave_at_random(Some((seed, LOST_PER_MILLE)));
    eprintln!(
        "==> The ledger's waits are shortened for this run: a lease of 6 s, a first look-up 3 s after its end"
    );
    let report = Monkey::new(seed).run(stack, deposits).await?;
    stack.purple_flea.misbehave_at_random(None);
    stack.postgrest.misbehave_at_random(None);
    eprintln!("==> All deposits are made; from now on nothing goes wrong any more");
    Ok(report)
}

/// Does the operator's part, each task when everything else is settled. So the run shows that a job that waits for the
/// operator blocks no other job.
async fn operate(stack: &Local, owner: &Client, options: &Options, started: Instant) -> Result<()> {
    // Purple Flea accepts our key again, and the operator does not wait for the next retry.
    let refused = "select reference from purple_flea.jobs where state = 'pending' and reason = 'purple_flea_refused_us'";
    operator::retry_jobs(owner, &owner.query(refused, &[]).await?).await;
    let keyless = format!("and agent_id <> '{}'", neighbours::UNREADABLE);
    settled(owner, options, started, &format!("and reason is distinct from 'daily_limit_open' {keyless}"))
        .await?;
    operator::mend_key(stack, owner).await?;
    settled(owner, options, started, "and reason is distinct from 'daily_limit_open'").await?;
    operator::settle_restored(stack, owner).await?;
    settled(owner, options, started, "and reason is distinct from 'daily_limit_open'").await?;
    operator::settle_unknown(stack, owner).await?;
    // A bet that was claimed before then still found the limit used up.
    settled(owner, options, started, "and reason is distinct from 'daily_limit_open'").await?;
    operator::retry_limited(owner).await
}

fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_micros())
}

async fn prepare(stack: &Local, options: &Options) -> Result<()> {
    let agents = format!(
        "insert into public.agents (id) select 'agent-' || lpad(n::text, 3, '0') from generate_series(1, {AGENTS}) as n on conflict do nothing"
    );
    stack.owner.batch_execute(&agents).await?;
    let rich = 1_000_000_000.into();
    stack.purple_flea.fund(LIVE_AGENT, rich);
    for n in 1..=AGENTS {
        stack.purple_flea.fund(&format!("agent-{n:03}"), rich);
    }
    if !options.calm {
        stack.owner.batch_execute(SHORT_TIMING).await?;
        let limit = format!(
            "insert into purple_flea.trade_policies (agent_id, daily_wager_limit) values ('{AGENT}', {DAILY_WAGER_LIMIT})"
        );
        stack.owner.batch_execute(&limit).await?;
        neighbours::move_in(stack).await?;
        // Deposits may be lost in a crash; claims and settlements may not.
        let superuser = stack.cluster.connect(SUPERUSER).await?;
        superuser.batch_execute("alter database postgres set synchronous_commit = off").await?;
        let flips = "insert into purple_flea.trade_policies (agent_id, game, side) values ('agent-002', 'coin-flip', 'tails')";
        stack.owner.batch_execute(flips).await?;
    }
    Ok(())
}

async fn deposit_at_once(owner: &Client, deposits: u32) -> Result<()> {
    let all = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         select 'agent-' || lpad((1 + n % {AGENTS})::text, 3, '0'), 'deposit', 100, 100 from generate_series(1, {deposits}) as n"
    );
    owner.batch_execute(&all).await.context("the deposits could not be made")
}

/// Connects, until a connection works.
async fn reconnect(stack: &Local) -> Result<Client> {
    let started = Instant::now();
    loop {
        match stack.cluster.connect(OWNER).await {
            Ok(client) => return Ok(client),
            Err(error) if started.elapsed() > QUIET_TIMEOUT => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Runs a statement as a role and gives its rows; retries while the database refuses.
async fn ask(stack: &Local, role: &str, sql: &str) -> Result<Vec<Row>> {
    persist(stack, role, sql, async |client: Client| client.query(sql, &[]).await).await
}

/// Runs statements as a role; retries while the database refuses.
async fn retry(stack: &Local, role: &str, sql: &str) -> Result<()> {
    persist(stack, role, sql, async |client: Client| client.batch_execute(sql).await).await
}

async fn persist<T>(
    stack: &Local,
    role: &str,
    what: &str,
    run: impl AsyncFn(Client) -> Result<T, tokio_postgres::Error>,
) -> Result<T> {
    let started = Instant::now();
    let attempt = async || {
        let client = stack.cluster.connect(role).await?;
        // A statement that was confirmed to the operator survives a crash.
        client.batch_execute("set synchronous_commit = on").await?;
        Ok(run(client).await?)
    };
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if started.elapsed() > ASK_TIMEOUT => {
                return Err::<T, anyhow::Error>(error).context(what.to_owned());
            }
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until no job is pending, claimed, or due for a look-up. Gives the time that it took. An escrow whose line is no
/// longer in the statement of a busy account waits for an operator.
async fn settled(owner: &Client, options: &Options, started: Instant, but_for: &str) -> Result<Duration> {
    let quiet = Instant::now();
    let mut shown = Instant::now();
    let counts = format!(
        "select count(*) filter (where state = 'pending' {but_for}), count(*) filter (where state = 'claimed' {but_for}), \
         count(*) filter (where state = 'unknown' and reason not in ('not_found', 'no_history') \
           and (kind, reason) <> ('escrow', 'history_too_long') {but_for}), \
         count(*) filter (where kind = 'deposit') \
         from purple_flea.jobs"
    );
    loop {
        let row = owner.query_one(&counts, &[]).await?;
        let [pending, claimed, open, all]: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
        if pending + claimed + open == 0 && all >= i64::from(options.deposits) {
            return Ok(started.elapsed());
        }
        if quiet.elapsed() > QUIET_TIMEOUT {
            bail!(
                "after {} s there are still {pending} pending, {claimed} claimed and {open} to look up",
                QUIET_TIMEOUT.as_secs()
            );
        }
        if shown.elapsed() > SHOW_EVERY {
            shown = Instant::now();
            eprintln!("    {all} jobs: {pending} pending, {claimed} claimed, {open} to look up");
        }
        sleep(Duration::from_millis(if options.calm { 20 } else { 200 })).await;
    }
}

fn speed(options: &Options, took: Duration) {
    let seconds = took.as_secs_f64();
    println!("{} deposits from their insert to trade_results: {seconds:.2} s", options.deposits);
    if options.deposits == SPECIFICATION_DEPOSITS {
        println!(
            "The specification's design needs {SPECIFICATION_S} s to merely deliver them: {:.1} times as long.",
            SPECIFICATION_S / seconds
        );
    }
}
