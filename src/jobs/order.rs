//! Order tasks: positions that callers request, under the agent's daily limits.

use super::{Context, Request, Task};
use crate::{
    domain::{
        amount::Amount,
        completed::{Attempted, Completed},
        deposit::check_agent_id,
        job::Subject,
        order::{Form, Order, OrderRow},
        outcome::Outcome,
        policy::{Policy, Spent},
        reason::SkipReason,
    },
    json::{self, ReadError, refuse},
    ledger::job::Columns,
    runtime::Runtime,
};
use serde_json::json;

/// A position that a caller requested, and the limits that decide about it.
#[derive(Debug)]
pub struct OrderTask {
    /// The agent that the position is for.
    pub agent_id: String,
    /// The position.
    pub order: Order,
    /// The policy: the agent's in ledger mode, or that of standalone mode.
    pub policy: Option<Policy>,
    /// The agent's stakes of the day, if the policy has a daily limit.
    pub spent: Option<Spent>,
}

/// Makes the task of a claimed order.
pub(super) fn decode(columns: &Columns, form: Form) -> Option<Task> {
    let row: OrderRow = json::read_columns(&columns.row).ok()?;
    let (agent_id, policy) = (row.agent_id.clone(), Some(columns.policy.clone()?));
    let task = OrderTask { agent_id, order: row.order(form), policy, spent: columns.spent };
    Some(Task::Order(Box::new(task)))
}

/// Reads a caller's request for a position.
pub(super) fn read(body: &[u8], form: Form, standalone: Option<&Policy>) -> Result<Request, ReadError> {
    let row: OrderRow = json::arguments(body)?;
    if row.size <= Amount::ZERO || !row.size.is_whole_cents() {
        return refuse("`size` must be whole cents, 0.01 or more");
    }
    let (agent_id, details) = (check_agent_id(row.agent_id.clone())?, json!(row));
    let order = row.order(form);
    let task = OrderTask { agent_id: agent_id.clone(), order, policy: standalone.cloned(), spent: None };
    let task = Some(Task::Order(Box::new(task)));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

/// Opens the position, if the policy's limits allow it.
pub(super) async fn execute(task: &OrderTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let OrderTask { agent_id, order, policy, spent } = task;
    if !order.size.is_whole_cents() || order.size <= Amount::ZERO {
        return Outcome::skipped(agent_id, SkipReason::InvalidAmount);
    }
    let mut order = order.clone();
    if let Some(policy) = policy {
        match policy.leverage_of(&order) {
            Ok(leverage) => order.leverage = leverage,
            Err(reason) => return Outcome::skipped(agent_id, reason),
        }
        if let Err(hold) = policy.check_daily_limits(order.size, spent.as_ref()) {
            return Outcome::held(agent_id, hold);
        }
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return outcome;
    }
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let fill = purple_flea.open_position(&order, account, idempotency_key, runtime).await;
    let attempted = Attempted::from(&order);
    Outcome::of(agent_id, fill.map(|fill| Completed::trade(order, fill)), attempted)
}
