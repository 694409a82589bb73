//! A deposit: its agent's policy decides whether the function bets on it, trades with it, or leaves it.

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
    ledger::job::Work,
    runtime::Runtime,
};

/// A deposit and the rules that decide about it; in ledger mode both as the database froze them.
#[derive(Debug)]
pub struct DepositTask {
    /// The deposit's row.
    pub row: WalletChange,
    /// The agent's policy.
    pub policy: Policy,
    /// What the agent has spent today, if the policy limits that.
    pub spent: Option<Spent>,
}

/// Makes the task of a claimed deposit.
pub(super) fn decode(work: &Work) -> Option<Task> {
    let (row, policy) = (deposit::read_row(&work.row).ok()?, work.policy.clone()?);
    Some(Task::Deposit(Box::new(DepositTask { row, policy, spent: work.spent })))
}

/// Decides about the deposit, and stakes what the policy says.
pub(super) async fn execute(task: &DepositTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let agent_id = &task.row.agent_id;
    let stake = match task.policy.decide(&task.row, task.spent.as_ref()) {
        Ok(stake) => stake,
        Err(hold) => return Outcome::held(agent_id, hold),
    };
    if task.policy.check_balance
        && let Err(outcome) = check_balance(agent_id, &stake, context).await
    {
        return outcome;
    }
    if let Err(outcome) = context.check_time(agent_id) {
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

/// Checks that the wallet holds the stake; gives the outcome if it does not, or if Purple Flea does not tell.
async fn check_balance(
    agent_id: &str,
    stake: &Stake,
    context: &Context<'_, impl Runtime>,
) -> Result<(), Outcome> {
    // Live trading has no balance to ask for.
    if context.purple_flea.api == Api::Live && matches!(stake, Stake::Order(_)) {
        return Ok(());
    }
    context.check_time(agent_id)?;
    let balance = context.purple_flea.balance(context.account, context.runtime).await;
    let balance = balance.map_err(|failure| match failure {
        // Purple Flea left the balance unanswered; the stake itself met no limit.
        Failure::RateLimited { .. } | Failure::NoAnswer(_) => {
            Outcome::waiting(agent_id, RetryReason::BalanceNotKnown)
        }
        failure => Outcome::failed(agent_id, stake.into(), failure),
    })?;
    if balance < stake.amount() {
        let (agent_id, reason) = (agent_id.to_owned(), SkipReason::InsufficientBalance);
        return Err(Outcome::Skipped { agent_id, reason, balance: Some(balance) });
    }
    Ok(())
}
