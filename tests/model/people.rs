//! What people and the clock do beside the functions: depositors, owners of agents, operators, the sweeper.

use super::{Sequence, books::What, instance::TO_THE_LOCK, purple_flea, restore, world::World};
use futures::future::join_all;
use std::time::Duration;

/// The agents of a sequence: the secret that each names, if it has an account of its own, and its policy.
///
/// One bets by everybody's policy, one has a daily limit (some four bets), one flips coins, one trades, and one has an account
/// of its own, which is yet to be made.
const AGENTS: [(&str, bool, &str); 5] = [
    ("plain", false, ""),
    ("limited", false, "(agent_id, daily_wager_limit) values ('limited', 40)"),
    (
        "flipping",
        false,
        "(agent_id, game, side, check_balance) values ('flipping', 'coin-flip', 'tails', true)",
    ),
    ("trading", false, "(agent_id, game, market) values ('trading', 'trade', 'BTC-USD')"),
    ("own", true, ""),
];

/// Most agents that come later.
const NEWCOMERS: u32 = 3;

/// The longest that a deposit takes to come during a watch, in milliseconds.
const DEPOSIT_WITHIN_MS: u64 = 4_000;

/// The longest that a deposit's transaction stays open, in milliseconds.
const OPEN_FOR_MS: u64 = 3_000;

/// How long another waits for a deposit's transaction at most, by the machine's clock: much less than the second after which a
/// watch ends without having seen it.
const WAITED_FOR: Duration = Duration::from_millis(20);

/// A deposit that is to come.
pub(super) struct Deposit {
    after: Duration,
    sql: String,
    /// How long its transaction stays open, and how many others have a turn at the database meanwhile at most: one of them
    /// may wait for it.
    open_for: Duration,
    others: u64,
}

/// The name of the secret that holds an agent's own key.
pub(super) fn key_name(agent: &str) -> String {
    format!("purple_flea_key:{agent}")
}

impl Sequence<'_> {
    /// Makes the agents, under policies of this sequence's own.
    pub(super) async fn begin(&mut self) {
        let chance = &mut self.chance;
        let (faucet, daily) = (chance.bool(), chance.u32(0..4) == 0);
        let balance_every = if chance.u32(0..4) == 0 { "interval '10 minutes'" } else { "null" };
        let mut sql = format!(
            "update purple_flea.trade_policies set claim_faucet = {faucet}, claim_daily = {daily}, balance_every = {balance_every} \
             where agent_id is null;"
        );
        for (agent, own, policy) in AGENTS {
            sql += &make_agent(agent, own);
            if !policy.is_empty() {
                sql += &format!("insert into purple_flea.trade_policies {policy};");
            }
        }
        self.world.run(&sql).await;
    }

    /// Another agent comes.
    pub(super) async fn newcomer(&mut self) {
        if self.newcomers < NEWCOMERS {
            self.newcomers += 1;
            let sql = make_agent(&format!("new-{}", self.newcomers), self.chance.bool());
            self.world.run(&sql).await;
        }
    }

    pub(super) fn any_agent(&mut self) -> String {
        let place = self.chance.usize(0..AGENTS.len() + usize::try_from(self.newcomers).unwrap());
        AGENTS
            .get(place)
            .map_or_else(|| format!("new-{}", place - AGENTS.len() + 1), |agent| agent.0.to_owned())
    }

    pub(super) fn a_deposit(&mut self) -> String {
        let rows: Vec<String> = (0..self.chance.u32(1..4))
            .map(|_| format!("('{}', 'deposit', {1}, {1})", self.any_agent(), self.chance.u32(1..200)))
            .collect();
        format!(
            "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values {}",
            rows.join(", ")
        )
    }

    /// Deposits that will come while functions run, each in a transaction that may stay open for a while.
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
        let world = &self.world;
        let deposits = deposits.into_iter().map(|Deposit { after, sql, open_for, others }| async move {
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
                // Another waits for this one, and nothing else goes on.
                () = tokio::time::sleep(WAITED_FOR) => world.schedule.turn_beside(0).await,
            };
            // The others get to where they wait.
            tokio::time::sleep(TO_THE_LOCK).await;
            depositor.run("commit").await;
            drop(turn);
            world.database.give_back(depositor);
        });
        join_all(deposits).await;
    }

    /// An owner asks for an escrow by a row, or for the end of one.
    pub(super) async fn ask_for_an_escrow(&mut self) {
        let (sender, receiver) = (self.any_agent(), self.any_agent());
        let id = self.chance.u32(1..4);
        let sql = match self.chance.u32(0..3) {
            0 if sender != receiver => format!(
                "insert into public.escrow_requests (sender_id, receiver_id, amount) values ('{sender}', '{receiver}', {})",
                self.chance.u32(1..20)
            ),
            // What cannot be asked for any more is refused.
            n => format!(
                "update public.escrow_requests e set requested_status = '{}' \
                 where e.id = {id} and e.status = 'pending' and e.requested_status is null",
                if n == 1 { "released" } else { "cancelled" }
            ),
        };
        self.world.run(&sql).await;
    }

    /// Holds bets of an agent, or of all agents, back, or lets them go.
    pub(super) async fn pause(&mut self) {
        let agent = if self.chance.bool() { "null".to_owned() } else { format!("'{}'", self.any_agent()) };
        let pause = self.chance.bool();
        // What is paused at the confirmation may have been bet on in the time that was lost: the pause ended then, or began since.
        if let (false, Some(copy)) = (pause, &mut self.copy) {
            copy.let_go = true;
        }
        self.let_go |= pause && self.world.claims.is_unconfirmed();
        self.world.run(&format!("select model.pause({agent}, {pause})")).await;
    }
}

/// An agent; with an account of its own it names a secret that is not there yet.
fn make_agent(agent: &str, own: bool) -> String {
    let key_name = if own { key_name(agent) } else { String::new() };
    format!("insert into public.agents (id, api_key) values ('{agent}', '{key_name}');")
}

/// The sweeper comes.
pub(super) async fn sweep(world: &World<'_>) {
    world.run("select purple_flea.ring()").await;
}

/// An operator looks unknown jobs up by hand, where their claimants cannot be at work any more, and releases what is not at
/// Purple Flea. After a jump of the clock the operator cannot tell, and releases nothing.
pub(super) async fn operate(world: &World<'_>) {
    let _turn = world.turn_alone().await;
    let sql = "select reference, bet_key, kind, changed_by = 'restore', reason, purple_flea.secret(key_name) from purple_flea.jobs where state = 'unknown' \
               and clock_timestamp() > lease_until + (purple_flea.timing()).lookup_wait + interval '1 second' order by reference";
    let mut restored = Vec::new();
    for row in world.database.rows(sql, &[]).await {
        let (reference, bet_key): (String, String) = (row.get(0), row.get(1));
        let staked = world.purple_flea.books.stakes_of(&bet_key).into_iter().next();
        let searched = ["not_found", "no_history"].contains(&row.get(4));
        let sql = match staked {
            Some(stake) => {
                if row.get::<_, &str>(4) == "not_found"
                    && stake.is_in_history_of(row.get(5))
                    && !world.has_jumped()
                {
                    world.accuse(format!(
                        "{reference}: looked for in vain, and its bet stands in the history"
                    ));
                }
                let (id, amount) = (&stake.id, stake.amount);
                match stake.what {
                    What::Bet { payout, .. } => {
                        format!(
                            "record_bet('{reference}', '{id}', {amount}, {}, {payout})",
                            !payout.is_zero()
                        )
                    }
                    What::Position => format!("record_trade('{reference}', '{id}', {amount})"),
                    What::Escrow { .. } => {
                        format!("record_escrow('{reference}', '{id}', {})", purple_flea::fee(amount))
                    }
                }
            }
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

/// An operator records outcomes that functions have logged because they could not report them, as scripts/ops record-logged
/// does.
pub(super) async fn record_logged(world: &World<'_>) {
    let outcomes = world.take_logged();
    if !outcomes.is_empty() {
        world
            .call("settle_jobs", &serde_json::json!({ "outcomes": outcomes, "protocol": 2 }).to_string())
            .await;
    }
}

/// Agents whose registration came to nothing are registered by hand.
pub(super) async fn register_by_hand(world: &World<'_>) {
    let sql = "select a.id from public.agents a where a.api_key <> '' and purple_flea.secret(a.api_key) is null \
               and not exists (select from purple_flea.jobs j where j.agent_id = a.id and j.kind = 'registration' and j.state in ('pending', 'claimed'))";
    for agent in world.texts(sql).await {
        let details = serde_json::json!({
            "kind": "registration", "reference": format!("by-hand-{agent}"), "details": { "agent_id": agent }
        });
        world.call("request_job", &details.to_string()).await;
    }
}
