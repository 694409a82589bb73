//! Bet tasks: bets that callers request, under the limits of the agent's policy.

use super::{Context, Request, Task, bankroll};
use crate::{
    domain::{
        amount::Amount,
        bet::{Bet, BetRow},
        completed::{Attempted, Completed},
        deposit::check_agent_id,
        job::Subject,
        outcome::Outcome,
        policy::{Policy, Spent, Stake},
        reason::SkipReason,
    },
    json::{self, ReadError, refuse},
    ledger::job::Columns,
    runtime::Runtime,
};
use serde_json::json;

/// A bet that a caller requested, and the limits that decide about it.
#[derive(Debug)]
pub struct BetTask {
    /// The bet.
    pub bet: Bet,
    /// The policy: the agent's in ledger mode, or that of standalone mode.
    pub policy: Option<Policy>,
    /// The agent's stakes of the day, if the policy has a daily limit.
    pub spent: Option<Spent>,
}

/// Makes the task of a claimed bet.
pub(super) fn decode(columns: &Columns) -> Option<Task> {
    let row: BetRow = json::read_columns(&columns.row).ok()?;
    let bet = Bet { game: row.game()?, agent_id: row.agent_id, wager: row.wager };
    let policy = Some(columns.policy.clone()?);
    Some(Task::Bet(Box::new(BetTask { bet, policy, spent: columns.spent })))
}

/// Reads a caller's request for a bet.
pub(super) fn read(body: &[u8], standalone: Option<&Policy>) -> Result<Request, ReadError> {
    let row: BetRow = json::arguments(body)?;
    if row.wager <= Amount::ZERO || !row.wager.is_whole_cents() {
        return refuse("`wager` must be whole cents, 0.01 or more");
    }
    let Some(game) = row.game() else {
        return refuse(
            "a `coin-flip` has a `side`, a `crash` a `cashout_at`, a `hi-lo` a `guess`, and no other parameter",
        );
    };
    let (agent_id, details) = (check_agent_id(row.agent_id.clone())?, json!(row));
    let bet = Bet { agent_id: agent_id.clone(), game, wager: row.wager };
    let task = Some(Task::Bet(Box::new(BetTask { bet, policy: standalone.cloned(), spent: None })));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

/// Places the bet, if the policy's limits allow it.
pub(super) async fn execute(task: &BetTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let BetTask { bet, policy, spent } = task;
    let agent_id = &bet.agent_id;
    if !bet.wager.is_whole_cents() || bet.wager <= Amount::ZERO {
        return Outcome::skipped(agent_id, SkipReason::InvalidAmount);
    }
    if !context.purple_flea.has_game(bet.game) {
        return Outcome::skipped(agent_id, SkipReason::NoHiLo);
    }
    if let Some(policy) = policy {
        let held = policy.check_bet(bet).and_then(|()| policy.check_daily_limits(bet.wager, spent.as_ref()));
        if let Err(hold) = held {
            return Outcome::held(agent_id, hold);
        }
        // No row tells a balance.
        let stake = Stake::Bet(bet.clone());
        let bankroll = match bankroll::of(agent_id, policy, &stake, None, context).await {
            Ok(bankroll) => bankroll,
            Err(outcome) => return outcome,
        };
        if let Some(outcome) = bankroll::refused_by_kelly(policy, bet, bankroll, context.purple_flea.api) {
            return outcome;
        }
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return outcome;
    }
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let result = purple_flea.place_bet(bet, account, idempotency_key, runtime).await;
    let result = result.map(|outcome| Completed::bet(bet, &outcome, None));
    Outcome::of(agent_id, result, Attempted::from(bet))
}
