//! The balance that a stake comes from, and the limits that it sets to the stake.

use super::Context;
use crate::{
    domain::{
        account::Api,
        amount::Amount,
        bet::Bet,
        failure::Failure,
        outcome::{Outcome, SkipFacts},
        policy::{Policy, Stake},
        reason::{RetryReason, SkipReason},
    },
    runtime::Runtime,
};

/// Returns the balance that the stake comes from: Purple Flea's, if the policy asks for it, otherwise `told`. Fails
/// with an outcome if Purple Flea's balance does not cover the stake, or is not reported.
pub(super) async fn of(
    agent_id: &str,
    policy: &Policy,
    stake: &Stake,
    told: Option<Amount>,
    context: &Context<'_, impl Runtime>,
) -> Result<Option<Amount>, Outcome> {
    // Live trading does not report a balance.
    let is_reported = context.purple_flea.api == Api::Gateway || matches!(stake, Stake::Bet(_));
    if !policy.check_balance || !is_reported {
        return Ok(told);
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return Err(outcome);
    }
    match context.purple_flea.balance(context.account, context.runtime).await {
        Ok(balance) if balance >= stake.amount() => Ok(Some(balance)),
        Ok(balance) => Err(Outcome::Skipped {
            agent_id: agent_id.to_owned(),
            reason: SkipReason::InsufficientBalance,
            facts: SkipFacts { balance: Some(balance), ..SkipFacts::default() },
        }),
        // Purple Flea did not report the balance. The stake itself met no rate limit.
        Err(Failure::RateLimited { .. } | Failure::NoAnswer(_)) => {
            Err(Outcome::waiting(agent_id, RetryReason::BalanceNotKnown))
        }
        Err(failure) => Err(Outcome::failed(agent_id, stake.into(), failure)),
    }
}

/// Returns an outcome if the bet is above Kelly's limit for the bankroll. The `live` servers enforce that limit
/// on the account's balance, which [`of`] knows only if the policy asks for it.
pub(super) fn refused_by_kelly(
    policy: &Policy,
    bet: &Bet,
    bankroll: Option<Amount>,
    api: Api,
) -> Option<Outcome> {
    let limit = policy.kelly_limit(bet.game, bankroll?).filter(|_| api == Api::Live)?;
    (bet.wager > limit).then(|| Outcome::Skipped {
        agent_id: bet.agent_id.clone(),
        reason: SkipReason::AboveKellyLimit,
        facts: SkipFacts {
            balance: bankroll.filter(|_| policy.check_balance),
            max_bet: Some(limit),
            ..SkipFacts::default()
        },
    })
}
