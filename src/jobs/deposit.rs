//! Deposit tasks: the agent's policy decides whether the function bets on the deposit, trades with it, or
//! skips it.

use super::{Context, Task};
use crate::{
    domain::{
        account::Api,
        completed::{Attempted, Completed},
        deposit::{self, WalletChange},
        failure::Failure,
        outcome::Outcome,
        policy::{Policy, Spent, Stake},
        reason::{RetryReason, SkipReason},
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
    if task.policy.check_balance
        && let Some(outcome) = refused_by_balance(agent_id, &stake, context).await
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

/// Returns an outcome if the balance does not cover the stake, or if Purple Flea does not report the balance.
async fn refused_by_balance(
    agent_id: &str,
    stake: &Stake,
    context: &Context<'_, impl Runtime>,
) -> Option<Outcome> {
    // Live trading does not report a balance.
    if context.purple_flea.api == Api::Live && matches!(stake, Stake::Order(_)) {
        return None;
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return Some(outcome);
    }
    match context.purple_flea.balance(context.account, context.runtime).await {
        Ok(balance) if balance >= stake.amount() => None,
        Ok(balance) => Some(Outcome::Skipped {
            agent_id: agent_id.to_owned(),
            reason: SkipReason::InsufficientBalance,
            balance: Some(balance),
            next_eligible_at: None,
        }),
        // Purple Flea did not report the balance. The stake itself met no rate limit.
        Err(Failure::RateLimited { .. } | Failure::NoAnswer(_)) => {
            Some(Outcome::waiting(agent_id, RetryReason::BalanceNotKnown))
        }
        Err(failure) => Some(Outcome::failed(agent_id, stake.into(), failure)),
    }
}
