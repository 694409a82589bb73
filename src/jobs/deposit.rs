//! Deposit tasks: the agent's policy decides whether the function bets on the deposit, trades with it, or
//! skips it.

use super::{Context, Task, bankroll};
use crate::{
    domain::{
        completed::{Attempted, Completed},
        deposit::{self, WalletChange},
        outcome::Outcome,
        policy::{Policy, Spent, Stake},
        reason::SkipReason,
    },
    ledger::job::Columns,
    runtime::Runtime,
};

/// A deposit, and the policy that decides about it. In ledger mode the claim fixes both.
#[derive(Debug)]
pub struct DepositTask {
    /// The deposit's row.
    pub row: WalletChange,
    /// The agent's policy.
    pub policy: Policy,
    /// The agent's stakes of the day, if the policy has a daily limit.
    pub spent: Option<Spent>,
}

/// Makes the task of a claimed deposit.
pub(super) fn decode(columns: &Columns) -> Option<Task> {
    let (row, policy) = (deposit::read_row(&columns.row).ok()?, columns.policy.clone()?);
    Some(Task::Deposit(Box::new(DepositTask { row, policy, spent: columns.spent })))
}

/// Decides about the deposit, and places the stake that the policy names.
pub(super) async fn execute(task: &DepositTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let agent_id = &task.row.agent_id;
    let stake = match task.policy.decide(&task.row, task.spent.as_ref()) {
        Ok(stake) => stake,
        Err(hold) => return Outcome::held(agent_id, hold),
    };
    if let Stake::Bet(bet) = &stake
        && !context.purple_flea.has_game(bet.game)
    {
        return Outcome::skipped(agent_id, SkipReason::NoHiLo);
    }
    let told = task.row.new_balance;
    let bankroll = match bankroll::of(agent_id, &task.policy, &stake, told, context).await {
        Ok(bankroll) => bankroll,
        Err(outcome) => return outcome,
    };
    if let Stake::Bet(bet) = &stake
        && let Some(outcome) =
            bankroll::refused_by_kelly(&task.policy, bet, bankroll, context.purple_flea.api)
    {
        return outcome;
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return outcome;
    }
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let attempted = Attempted::from(&stake);
    let result = match stake {
        Stake::Bet(bet) => {
            let outcome = purple_flea.place_bet(&bet, account, idempotency_key, runtime).await;
            outcome.map(|outcome| Completed::bet(&bet, &outcome, None))
        }
        Stake::Order(order) => {
            let fill = purple_flea.open_position(&order, account, idempotency_key, runtime).await;
            fill.map(|fill| Completed::trade(order, fill))
        }
    };
    Outcome::of(agent_id, result, attempted)
}
