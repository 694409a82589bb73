//! Deposit tasks: the agent's policy decides whether the function bets on the deposit, trades with it, or
//! skips it.

use super::{Context, Task};
use crate::{
    domain::{
        account::Api,
        amount::Amount,
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
    if let Stake::Bet(bet) = &stake
        && !context.purple_flea.has_game(bet.game)
    {
        return Outcome::skipped(agent_id, SkipReason::NoHiLo);
    }
    let bankroll = match bankroll(task, &stake, context).await {
        Ok(bankroll) => bankroll,
        Err(outcome) => return outcome,
    };
    if let Some(outcome) = refused_by_kelly(task, &stake, bankroll, context.purple_flea.api) {
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

/// Returns the balance that the stake comes from: Purple Flea's, if the policy asks for it, otherwise the row's.
/// Fails with an outcome if Purple Flea's balance does not cover the stake, or is not reported.
async fn bankroll(
    task: &DepositTask,
    stake: &Stake,
    context: &Context<'_, impl Runtime>,
) -> Result<Option<Amount>, Outcome> {
    let agent_id = &task.row.agent_id;
    // Live trading does not report a balance.
    let is_reported = context.purple_flea.api == Api::Gateway || matches!(stake, Stake::Bet(_));
    if !task.policy.check_balance || !is_reported {
        return Ok(task.row.new_balance);
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return Err(outcome);
    }
    match context.purple_flea.balance(context.account, context.runtime).await {
        Ok(balance) if balance >= stake.amount() => Ok(Some(balance)),
        Ok(balance) => Err(Outcome::Skipped {
            agent_id: agent_id.to_owned(),
            reason: SkipReason::InsufficientBalance,
            balance: Some(balance),
            max_bet: None,
        }),
        // Purple Flea did not report the balance. The stake itself met no rate limit.
        Err(Failure::RateLimited { .. } | Failure::NoAnswer(_)) => {
            Err(Outcome::waiting(agent_id, RetryReason::BalanceNotKnown))
        }
        Err(failure) => Err(Outcome::failed(agent_id, stake.into(), failure)),
    }
}

/// Returns an outcome if the bet is above Kelly's limit for the bankroll. The `live` servers enforce that limit
/// on the account's balance, which [`bankroll`] knows only if the policy asks for it.
fn refused_by_kelly(
    task: &DepositTask,
    stake: &Stake,
    bankroll: Option<Amount>,
    api: Api,
) -> Option<Outcome> {
    let Stake::Bet(bet) = stake else { return None };
    let limit = task.policy.kelly_limit(bet.game, bankroll?).filter(|_| api == Api::Live)?;
    (bet.wager > limit).then(|| Outcome::Skipped {
        agent_id: task.row.agent_id.clone(),
        reason: SkipReason::AboveKellyLimit,
        balance: bankroll.filter(|_| task.policy.check_balance),
        max_bet: Some(limit),
    })
}
