//! Shows the whole life of two agents, step by step, by the rows in the tables: registration, the faucet, the first
//! deposit's bet, an escrow with its fee and referral, a trade, and in the live dialect a bet on hi-lo.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use stack::{
    host::Kind,
    local::Local,
    postgres::OWNER,
    purple_flea::{Limits, TRADING_KEY},
    sweeper::{self, Sweeper},
    webhook,
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};

/// How often a condition is checked.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Longest time of one step: a failed call is retried after seconds.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// The user that owns the agents.
const OWNER_ID: &str = "00000000-0000-0000-0000-000000000001";

/// Options of `stack tour`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Purple Flea's dialect: gateway or live.
    #[arg(long, default_value = "gateway", value_parser = ["gateway", "live"])]
    api: String,
    /// Print each step as a line of JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// The tour, and the rows that it has shown.
struct Tour<'a> {
    stack: &'a Local,
    options: &'a Options,
    step: u32,
    started: Instant,
}

/// Writes a value for people: a string without its quotes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Runs it. Fails if a step does not succeed.
pub(crate) async fn run(options: &Options) -> Result<ExitCode> {
    let settings = [("purple_flea_api", options.api.as_str()), ("purple_flea_trading_key", TRADING_KEY)];
    let changes = if options.api == "live" { &settings[..] } else { &settings[..1] };
    let kind = Kind::from_env()?;
    let stack = Local::start(kind, changes, None, |what| eprintln!("==> {what}")).await?;
    // The settings are those of an installation: new agents claim the faucet, and both sides enforce Purple Flea's
    // limits. The faucet credits one agent a day from an address. In `live` the first agent gets the claim that its
    // registration makes from the casino's address, and the second one its own claim, from the function's.
    stack.cluster.migrate(OWNER).await?;
    stack.purple_flea.limit(Some(Limits::default()));
    let rules = "update purple_flea.trade_policies set claim_faucet = true, min_balance = 0.5";
    stack.owner.batch_execute(rules).await?;
    let _sweeper = Sweeper::start(&stack.cluster, sweeper::EVERY);
    eprintln!("==> The tour, dialect {}: play money at a simulator", options.api);
    let mut tour = Tour { stack: &stack, options, step: 0, started: Instant::now() };
    tour.register("scout", None).await?;
    tour.register("runner", Some("scout")).await?;
    for agent in ["scout", "runner"] {
        tour.faucet(agent).await?;
        tour.first_trade(agent).await?;
    }
    let escrow = tour.escrow("runner", "scout").await?;
    tour.release(escrow).await?;
    tour.referral("scout").await?;
    tour.trade("runner").await?;
    if options.api == "live" {
        tour.hi_lo("scout").await?;
    }
    if !options.json {
        println!("Done: {} steps, each of them in the tables.", tour.step);
    }
    Ok(ExitCode::SUCCESS)
}

impl Tour<'_> {
    /// Shows a step: a line for people, or an object for programs.
    fn show(&mut self, name: &str, says: &str, seen: &Value) {
        self.step += 1;
        if self.options.json {
            let seconds = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            println!("{}", json!({"step": self.step, "name": name, "seconds": seconds, "seen": seen}));
        } else {
            println!("{:>2}. {name:<9} {says}", self.step);
        }
    }

    /// Waits for a row and gives it as JSON. Fails with the state of the jobs if no row comes.
    async fn seen(&self, sql: &str) -> Result<Value> {
        let look = async {
            loop {
                if let Some(row) =
                    self.stack.owner.query_opt(sql, &[]).await.with_context(|| sql.to_owned())?
                {
                    return anyhow::Ok(serde_json::from_str(row.get(0))?);
                }
                sleep(LOOK_EVERY).await;
            }
        };
        if let Ok(seen) = timeout(STEP_TIMEOUT, look).await {
            return seen;
        }
        let jobs = "select coalesce(jsonb_agg(jsonb_build_array(reference, state, reason, result) order by created_at), '[]')::text \
                    from purple_flea.jobs";
        let jobs: String = self.stack.owner.query_one(jobs, &[]).await?.get(0);
        bail!("after {} s there is nothing to see: {sql}\n{jobs}", STEP_TIMEOUT.as_secs());
    }

    async fn register(&mut self, agent: &str, orchestrator: Option<&str>) -> Result<()> {
        let orchestrator = orchestrator.map_or("null".to_owned(), |name| format!("'{name}'"));
        let insert = format!(
            "insert into public.agents (id, api_key, owner_id, orchestrator_id) \
             values ('{agent}', 'purple_flea_key:{agent}', '{OWNER_ID}', {orchestrator})"
        );
        self.stack.owner.batch_execute(&insert).await?;
        let seen = format!(
            "select jsonb_build_object('agent_id', id, 'pf_agent_id', pf_agent_id, 'referral_code', referral_code, \
               'key_in_vault', purple_flea.secret(api_key) is not null)::text \
             from public.agents where id = '{agent}' and referral_code is not null and purple_flea.secret(api_key) is not null"
        );
        let seen = self.seen(&seen).await?;
        let says = format!(
            "{agent} has an account, {}, and a referral code, {}; its key is in the vault",
            text(&seen["pf_agent_id"]),
            text(&seen["referral_code"])
        );
        self.show("register", &says, &seen);
        Ok(())
    }

    async fn faucet(&mut self, agent: &str) -> Result<()> {
        let seen = format!(
            "select (to_jsonb(w) || jsonb_build_object('balance', a.balance))::text from public.wallet_changes w \
             join public.agents a on a.id = w.agent_id where w.agent_id = '{agent}' and change_type = 'deposit'"
        );
        let seen = self.seen(&seen).await?;
        let says = format!(
            "{agent} was credited {} by the faucet, as deposit {}",
            text(&seen["change_amount"]),
            text(&seen["id"])
        );
        self.show("faucet", &says, &seen);
        Ok(())
    }

    /// Gives the agent a policy of its own for hi-lo, and its wallet a deposit. Its account holds more than the row says.
    async fn hi_lo(&mut self, agent: &str) -> Result<()> {
        let insert = format!(
            "insert into purple_flea.trade_policies (agent_id, game, guess, min_balance) values ('{agent}', 'hi-lo', 'higher', 0.5); \
             insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{agent}', 'deposit', 0.10, 0.90)"
        );
        self.stack.owner.batch_execute(&insert).await?;
        let seen = format!(
            "select to_jsonb(t)::text from public.trade_results t where agent_id = '{agent}' and game = 'hi-lo'"
        );
        let seen = self.seen(&seen).await?;
        let says = format!(
            "{agent} staked {} on hi-lo, by a policy of its own: {}, paid {} ({})",
            text(&seen["wager"]),
            text(&seen["outcome"]),
            text(&seen["payout"]),
            text(&seen["reference"])
        );
        self.show("hi-lo", &says, &seen);
        Ok(())
    }

    async fn first_trade(&mut self, agent: &str) -> Result<()> {
        let seen = format!(
            "select to_jsonb(t)::text from public.trade_results t where agent_id = '{agent}' and game is not null"
        );
        let seen = self.seen(&seen).await?;
        let says = format!(
            "{agent} staked {} of it on {}: {}, paid {} ({})",
            text(&seen["wager"]),
            text(&seen["game"]),
            text(&seen["outcome"]),
            text(&seen["payout"]),
            text(&seen["reference"])
        );
        self.show("bet", &says, &seen);
        Ok(())
    }

    async fn escrow(&mut self, sender: &str, receiver: &str) -> Result<i64> {
        let insert = format!(
            "insert into public.escrow_requests (sender_id, receiver_id, amount, description) \
             values ('{sender}', '{receiver}', 0.40, 'A tip for the road') returning id"
        );
        let id: i64 = self.stack.owner.query_one(&insert, &[]).await?.get(0);
        let seen = format!(
            "select to_jsonb(e)::text from public.escrow_requests e where id = {id} and pf_escrow_id is not null"
        );
        let seen = self.seen(&seen).await?;
        let says = format!(
            "{sender} holds {} ready for {receiver}: {}",
            text(&seen["amount"]),
            text(&seen["pf_escrow_id"])
        );
        self.show("escrow", &says, &seen);
        Ok(id)
    }

    /// Asks for the escrow as the sender's owner, a signed-in user.
    async fn release(&mut self, id: i64) -> Result<()> {
        let ask = format!(
            "begin; set local role authenticated; set local request.jwt.claims = '{{\"sub\": \"{OWNER_ID}\"}}'; \
             update public.escrow_requests set requested_status = 'released' where id = {id}; commit"
        );
        self.stack.owner.batch_execute(&ask).await?;
        let seen = format!(
            "select to_jsonb(e)::text from public.escrow_requests e where id = {id} and status = 'released'"
        );
        let seen = self.seen(&seen).await?;
        let says = format!(
            "its owner has released it: a fee of {}, of which the referral earned {}",
            text(&seen["fee"]),
            text(&seen["referral_earned"])
        );
        self.show("release", &says, &seen);
        Ok(())
    }

    async fn referral(&mut self, orchestrator: &str) -> Result<()> {
        // The database's owner may do everything that service_role may, and so sees every agent's rows.
        let earned = format!(
            "select to_jsonb(r)::text from public.referral_earnings r where orchestrator_id = '{orchestrator}' and earned > 0"
        );
        let seen = self.seen(&earned).await?;
        let says = format!("{orchestrator} has earned {} by those whom it brought in", text(&seen["earned"]));
        self.show("referral", &says, &seen);
        Ok(())
    }

    /// Sends a signed request over HTTP, as curl does.
    async fn trade(&mut self, agent: &str) -> Result<()> {
        if self.options.api == "live" {
            // In `live`, trading has accounts and keys of its own, for which the function cannot register.
            let account = "select pf_agent_id from public.agents where id = $1";
            let account: String = self.stack.owner.query_one(account, &[&agent]).await?.get(0);
            let key = self.stack.purple_flea.trading_key(&account);
            let set = "select purple_flea.set_agent_key($1, $2, trading => true)";
            self.stack.owner.execute(set, &[&agent, &key]).await?;
        }
        let body = json!({"operation": "trade", "agent_id": agent, "market": "BTC", "direction": "long", "size": 25});
        let body = body.to_string();
        let url = format!("{}/trade", self.stack.host.url);
        let reply = webhook::send(&url, "tour-trade-1", body.as_bytes()).await?;
        let (status, reply) = (reply.status(), String::from_utf8_lossy(reply.body()).into_owned());
        if !status.is_success() {
            bail!("the trade was answered with {status}: {reply}");
        }
        let seen = "select to_jsonb(t)::text from public.trade_results t where reference = 'tour-trade-1'";
        let seen = self.seen(seen).await?;
        let says = format!(
            "{agent} has opened {} of {} at {} ({})",
            text(&seen["wager"]),
            text(&seen["market"]),
            text(&seen["entry_price"]),
            text(&seen["order_id"])
        );
        self.show("trade", &says, &seen);
        Ok(())
    }
}
