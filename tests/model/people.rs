//! The people beside the functions, and the clock: depositors, owners of agents, operators, the sweeper.

use super::{
    Sequence,
    books::{Stake, StakedOn},
    instance::TO_THE_LOCK,
    parts::Part,
    purple_flea, restore,
    world::World,
};
use futures::future::join_all;
use std::time::Duration;

/// The agents of a sequence: the name, whether the agent has an account of its own, and its policy.
///
/// The plain one bets by the policy for all agents. The others have a daily limit (some four bets), flip coins, trade, or
/// have an account of their own, which a function has yet to register.
const AGENTS: [(&str, bool, &str); 5] = [
    (PLAIN, false, ""),
    ("limited", false, "(agent_id, daily_wager_limit) values ('limited', 40)"),
    (
        "flipping",
        false,
        "(agent_id, game, side, check_balance) values ('flipping', 'coin-flip', 'tails', true)",
    ),
    ("trading", false, "(agent_id, game, market) values ('trading', 'trade', 'BTC-USD')"),
    ("own", true, ""),
];

/// The agent that every sequence has. It takes the place of an agent that is left out.
const PLAIN: &str = "plain";

/// Most agents that come later.
const NEWCOMERS: u32 = 3;

/// The longest time until a deposit comes during a watch, in milliseconds.
const DEPOSIT_WITHIN_MS: u64 = 4_000;

/// The longest time for which a deposit's transaction stays open, in milliseconds.
const OPEN_FOR_MS: u64 = 3_000;

/// The longest time that another call waits for a deposit's transaction, by the machine's clock: much less than the second
/// after which a watch ends without having seen the deposit.
const WAITED_FOR: Duration = Duration::from_millis(20);

/// A deposit that is to come.
pub(super) struct Deposit {
    after: Duration,
    /// The statement; `None` if all rows are left out.
    sql: Option<String>,
    /// How long the transaction stays open.
    open_for: Duration,
    /// How many other calls have a turn at the database meanwhile: one of them may wait for the transaction.
    others: u64,
}

/// Names the secret that holds an agent's own key.
pub(super) fn key_name(agent: &str) -> String {
    format!("purple_flea_key:{agent}")
}

impl Sequence<'_> {
    /// Makes the agents, under policies of this sequence's own.
    pub(super) async fn begin(&mut self) {
        let chance = &mut self.chance;
        let (faucet, daily) = (chance.bool(), chance.u32(0..4) == 0);
        let balances = chance.u32(0..4) == 0;
        let record = &self.world.record;
        let automatic = (faucet || daily || balances) && record.keeps(Part::AutomaticJobs);
        let mut sql = format!(
            "update purple_flea.trade_policies set claim_faucet = {}, claim_daily = {}, balance_every = {} \
             where agent_id is null;",
            faucet && automatic,
            daily && automatic,
            if balances && automatic { "interval '10 minutes'" } else { "null" },
        );
        for (place, (agent, own, policy)) in AGENTS.into_iter().enumerate() {
            if agent != PLAIN && !record.keeps(Part::Agent(place)) {
                continue;
            }
            self.agents.push(agent);
            sql += &make_agent(agent, own);
            if !policy.is_empty() {
                sql += &format!("insert into purple_flea.trade_policies {policy};");
            }
        }
        self.world.tell(self.surroundings(automatic.then_some((faucet, daily, balances))));
        self.world.run(&sql).await;
    }

    /// Says in words which agents, functions and policies a sequence has.
    fn surroundings(&self, automatic: Option<(bool, bool, bool)>) -> String {
        let mut words = format!("the agents are {}", self.agents.join(", "));
        if let Some((faucet, daily, balances)) = automatic {
            let jobs = [(faucet, "faucet"), (daily, "daily claim"), (balances, "balance")];
            let jobs: Vec<_> = jobs.into_iter().filter_map(|(asked, job)| asked.then_some(job)).collect();
            words += &format!("; the policy makes the jobs {}", jobs.join(", "));
        }
        words + "; " + &self.world.schedule.describe()
    }

    /// Lets another agent come.
    pub(super) async fn newcomer(&mut self) {
        let own = self.chance.bool();
        if self.newcomers < NEWCOMERS {
            self.newcomers += 1;
            let agent = format!("new-{}", self.newcomers);
            self.world.tell(format!(
                "the agent {agent} comes{}",
                if own { " with an account of its own" } else { "" }
            ));
            self.world.run(&make_agent(&agent, own)).await;
        }
    }

    pub(super) fn any_agent(&mut self) -> String {
        let place = self.chance.usize(0..AGENTS.len() + usize::try_from(self.newcomers).unwrap());
        match AGENTS.get(place) {
            Some((agent, ..)) if self.agents.contains(agent) => (*agent).to_owned(),
            Some(_) => PLAIN.to_owned(),
            None => format!("new-{}", place - AGENTS.len() + 1),
        }
    }

    /// Gives the statement of one to three deposits; `None` if all of them are left out.
    pub(super) fn a_deposit(&mut self) -> Option<String> {
        let mut rows = Vec::new();
        for _ in 0..self.chance.u32(1..4) {
            let (agent, amount) = (self.any_agent(), self.chance.u32(1..200));
            let part = self.world.next_deposit();
            if self.world.record.keeps(part) {
                self.world.tell(format!("a depositor inserts {amount} for {agent} ({part})"));
                rows.push(format!("('{agent}', 'deposit', {amount}, {amount})"));
            }
        }
        let columns = "(agent_id, change_type, change_amount, new_balance)";
        (!rows.is_empty())
            .then(|| format!("insert into public.wallet_changes {columns} values {}", rows.join(", ")))
    }

    /// Plans deposits that come while functions run, each in a transaction that may stay open for a while.
    pub(super) fn plan_deposits(&mut self, count: usize) -> Vec<Deposit> {
        let plan = |_| Deposit {
            after: Duration::from_millis(self.chance.u64(0..DEPOSIT_WITHIN_MS)),
            open_for: Duration::from_millis(self.chance.u64(0..OPEN_FOR_MS)),
            others: self.chance.u64(0..4),
            sql: self.a_deposit(),
        };
        (0..count).map(plan).collect()
    }

    pub(super) async fn deposit_meanwhile(&self, deposits: Vec<Deposit>) {
        join_all(deposits.into_iter().map(|deposit| self.deposit(deposit))).await;
    }

    async fn deposit(&self, Deposit { after, sql, open_for, others }: Deposit) {
        let (world, Some(sql)) = (&self.world, sql) else { return };
        world.schedule.sleep(after).await;
        let turn = world.turn().await;
        let depositor = world.database.depositor().await;
        world.trace(|| format!("deposit {sql}"));
        depositor.run(&format!("begin; {sql}")).await;
        drop(turn);
        let turn = tokio::select! {
            biased;
            turn = world.schedule.turn_beside(others) => turn,
            () = world.schedule.sleep(open_for) => world.schedule.turn_beside(0).await,
            // Another call waits for this transaction, and nothing else goes on.
            () = tokio::time::sleep(WAITED_FOR) => world.schedule.turn_beside(0).await,
        };
        // The other calls get to the lock that they wait for.
        tokio::time::sleep(TO_THE_LOCK).await;
        depositor.run("commit").await;
        drop(turn);
        world.database.give_back(depositor);
    }

    /// Lets an owner ask by a row for an escrow, or for the end of one.
    pub(super) async fn ask_for_an_escrow(&mut self) {
        let (sender, receiver) = (self.any_agent(), self.any_agent());
        let id = self.chance.u32(1..4);
        let sql = match self.chance.u32(0..3) {
            0 if sender != receiver => format!(
                "insert into public.escrow_requests (sender_id, receiver_id, amount) \
                 values ('{sender}', '{receiver}', {})",
                self.chance.u32(1..20)
            ),
            // (The row refuses what the owner can no longer ask for.)
            n => format!(
                "update public.escrow_requests e set requested_status = '{}' \
                 where e.id = {id} and e.status = 'pending' and e.requested_status is null",
                if n == 1 { "released" } else { "cancelled" }
            ),
        };
        self.world.tell(format!("an owner runs: {sql}"));
        self.world.run(&sql).await;
    }

    /// Lets an operator hold back the bets of one agent or of all agents, or end that.
    pub(super) async fn pause(&mut self) {
        let agent = if self.chance.bool() { "null".to_owned() } else { format!("'{}'", self.any_agent()) };
        let pause = self.chance.bool();
        // A job that is paused at the confirmation may have been bet on in the time that the restore lost: its pause ended in
        // that time, or began later.
        if let (false, Some(copy)) = (pause, &mut self.copy) {
            copy.let_go = true;
        }
        self.let_go |= pause && self.world.claims.is_unconfirmed();
        let held = if agent == "null" { "all agents" } else { &agent };
        self.world
            .tell(format!("an operator {} the bets of {held}", if pause { "pauses" } else { "resumes" }));
        self.world.run(&format!("select model.pause({agent}, {pause})")).await;
    }
}

/// Gives the statement that makes an agent. An agent with an account of its own names a secret that does not exist yet.
fn make_agent(agent: &str, own: bool) -> String {
    let key_name = if own { key_name(agent) } else { String::new() };
    format!("insert into public.agents (id, api_key) values ('{agent}', '{key_name}');")
}

/// Runs the sweeper.
pub(super) async fn sweep(world: &World<'_>) {
    world.run("select purple_flea.sweep()").await;
}

/// Lets an operator look up the unknown jobs whose claimants are certainly gone, and release those that Purple Flea does not
/// have. After a jump of the database's clock that clock proves nothing: the operator releases no job. The operator waits by
/// another clock until no request can still arrive, and closes the job then.
pub(super) async fn operate(world: &World<'_>) {
    let _turn = world.turn_alone().await;
    let sql = "select reference, idempotency_key, kind, changed_by = 'restore', reason, \
               purple_flea.secret(key_name) from purple_flea.jobs where state = 'unknown' \
               and clock_timestamp() > lease_until + (purple_flea.timing()).lookup_wait + interval '1 second' order by reference";
    let mut restored = Vec::new();
    for row in world.database.rows(sql, &[]).await {
        let (reference, idempotency_key): (String, String) = (row.get(0), row.get(1));
        let stake = world.purple_flea.books.stakes_of(&idempotency_key).into_iter().next();
        let reason: &str = row.get(4);
        let searched = ["not_found", "no_history"].contains(&reason);
        let sql = match stake {
            Some(stake) => {
                if reason == "not_found" && stake.is_in_history_of(row.get(5)) && !world.has_jumped() {
                    world.accuse("a look-up missed a bet that the history shows", reference.clone());
                }
                record(&reference, &stake)
            }
            None if world.is_on_its_way(&idempotency_key) && world.has_jumped() => continue,
            None if world.has_jumped() => format!("close_job('{reference}', 'model')"),
            None if row.get(3) && searched => {
                restored.push(reference);
                continue;
            }
            None => format!("release_job('{reference}', 'model')"),
        };
        world.trace(|| format!("operator: {sql}"));
        world.database.run(&format!("select purple_flea.{sql}")).await;
    }
    restore::release(world, &restored).await;
}

/// Gives the call that records a stake as the outcome of its job.
fn record(reference: &str, stake: &Stake) -> String {
    let (id, amount) = (&stake.id, stake.amount);
    match stake.staked_on {
        StakedOn::Bet { payout, .. } => {
            format!("record_bet('{reference}', '{id}', {amount}, {}, {payout})", !payout.is_zero())
        }
        StakedOn::Position => format!("record_trade('{reference}', '{id}', {amount})"),
        StakedOn::Escrow { .. } => {
            format!("record_escrow('{reference}', '{id}', {})", purple_flea::fee(amount))
        }
    }
}

/// Lets an operator record the outcomes that functions have logged because no report got through, as scripts/ops
/// record-logged does.
pub(super) async fn record_logged(world: &World<'_>) {
    let outcomes = world.take_logged();
    if !outcomes.is_empty() {
        world
            .call("settle_jobs", &serde_json::json!({ "outcomes": outcomes, "protocol": 2 }).to_string())
            .await;
    }
}

/// Asks once more for the registrations that failed.
pub(super) async fn register_again(world: &World<'_>) {
    let sql = "select a.id from public.agents a where a.api_key <> '' \
               and purple_flea.secret(a.api_key) is null \
               and not exists (select from purple_flea.jobs j where j.agent_id = a.id \
               and j.kind = 'registration' and j.state in ('pending', 'claimed'))";
    for agent in world.texts(sql).await {
        let details = serde_json::json!({
            "kind": "registration", "reference": format!("again-{agent}"), "details": { "agent_id": agent }
        });
        world.call("request_job", &details.to_string()).await;
    }
}
