//! An order: a position that a caller asked for, under its agent's daily limits.

use super::Context;
use crate::{
    domain::{
        amount::Amount,
        completed::{Attempted, Completed},
        job::OrderTask,
        outcome::Outcome,
        reason::SkipReason,
    },
    runtime::Runtime,
};

/// Opens the position, if the day's limits leave room for it.
pub(super) async fn execute(task: &OrderTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let OrderTask { agent_id, order, policy, spent } = task;
    if !order.size.is_whole_cents() || order.size <= Amount::ZERO {
        return Outcome::skipped(agent_id, SkipReason::InvalidAmount);
    }
    if let Some(policy) = policy
        && let Err(hold) = policy.within_the_day(order.size, spent.as_ref())
    {
        return Outcome::held(agent_id, hold);
    }
    if let Err(outcome) = context.check_time(agent_id) {
        return outcome;
    }
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let fill = purple_flea.open_position(order, account, idempotency_key, runtime).await;
    Outcome::of(agent_id, fill.map(|fill| Completed::trade(order.clone(), fill)), Attempted::from(order))
}
