//! An escrow: Purple Flea makes it once, and releases or cancels it at most once.

use super::Context;
use crate::{
    domain::{
        account::Api,
        completed::{Attempted, Completed},
        escrow::{End, SMALLEST_ESCROW},
        job::{EscrowAction, EscrowTask},
        outcome::Outcome,
        reason::{RetryReason, SkipReason},
    },
    runtime::Runtime,
};

/// Does the step.
pub(super) async fn execute(task: &EscrowTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let EscrowTask { agent_id, action } = task;
    if let Err(outcome) = context.check_time(agent_id) {
        return outcome;
    }
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let escrow = match action {
        EscrowAction::Create(terms) => {
            if !terms.amount.is_whole_cents() || terms.amount.decimal() < SMALLEST_ESCROW {
                return Outcome::skipped(agent_id, SkipReason::InvalidAmount);
            }
            purple_flea.create_escrow(terms, account, idempotency_key, runtime).await
        }
        EscrowAction::End { end: End::Cancel, .. } if purple_flea.api == Api::Live => {
            return Outcome::skipped(agent_id, SkipReason::NoCancel);
        }
        EscrowAction::End { end, pf_escrow_id: Some(id), .. } => {
            purple_flea.end_escrow(*end, id, account, idempotency_key, runtime).await
        }
        EscrowAction::End { pending: true, .. } => {
            return Outcome::waiting(agent_id, RetryReason::EscrowNotMade);
        }
        EscrowAction::End { .. } => return Outcome::skipped(agent_id, SkipReason::EscrowNotOpen),
    };
    Outcome::of(agent_id, escrow.map(Completed::Escrow), Attempted::Other {})
}
