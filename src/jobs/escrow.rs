//! Escrow tasks: Purple Flea makes an escrow once, and releases or cancels it at most once.

use super::{Context, Request, Task};
use crate::{
    domain::{
        account::Api,
        completed::{Attempted, Completed},
        deposit::check_agent_id,
        escrow::{End, EscrowRow, SMALLEST_ESCROW, Terms},
        job::Subject,
        outcome::Outcome,
        reason::{RetryReason, SkipReason},
        reference::Reference,
    },
    json::{self, ReadError, refuse},
    ledger::job::Columns,
    runtime::Runtime,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A step of an escrow.
#[derive(Debug)]
pub struct EscrowTask {
    /// The agent that pays.
    pub agent_id: String,
    /// The step.
    pub action: EscrowAction,
}

/// The action of an [`EscrowTask`].
#[derive(Debug)]
pub enum EscrowAction {
    /// Make the escrow.
    Create(Box<Terms>),
    /// End the escrow.
    End {
        /// The way in which the escrow ends.
        end: End,
        /// Purple Flea's id of the escrow, if it was made.
        pf_escrow_id: Option<String>,
        /// Whether Purple Flea may still make the escrow. Its end waits until then.
        pending: bool,
    },
}

/// A request to end an escrow. In ledger mode it names the row's id, in standalone mode Purple Flea's id.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EndRequest {
    escrow_id: Option<i64>,
    #[serde(skip_serializing)]
    pf_escrow_id: Option<String>,
    #[serde(skip_serializing)]
    agent_id: Option<String>,
}

impl EscrowTask {
    /// Makes the task for a row's escrow. `counterparty` is the receiver's name at Purple Flea, if it differs
    /// from the row's.
    pub fn create(row: EscrowRow, counterparty: Option<String>, referral_code: Option<String>) -> Self {
        let EscrowRow { sender_id, receiver_id, amount, description, timeout_hours } = row;
        let counterparty = counterparty.unwrap_or(receiver_id);
        let terms = Terms { counterparty, amount, description, timeout_hours, referral_code };
        Self { agent_id: sender_id, action: EscrowAction::Create(Box::new(terms)) }
    }
}

/// Makes the task of a claimed job that makes an escrow.
pub(super) fn decode(columns: &Columns) -> Option<Task> {
    let row: EscrowRow = json::read_columns(&columns.row).ok()?;
    let (counterparty, referral_code) = (columns.counterparty.clone(), columns.referral_code.clone());
    Some(Task::Escrow(EscrowTask::create(row, counterparty, referral_code)))
}

/// Makes the task of a claimed job that ends an escrow.
pub(super) fn decode_end(columns: &Columns, end: End) -> Option<Task> {
    let escrow = columns.escrow.as_ref()?;
    let action = EscrowAction::End { end, pf_escrow_id: escrow.id.clone(), pending: escrow.pending };
    Some(Task::Escrow(EscrowTask { agent_id: columns.agent_id.clone(), action }))
}

/// Reads a caller's request for an escrow.
pub(super) fn read(body: &[u8]) -> Result<Request, ReadError> {
    // A row may have other columns. An unknown field in a request is a caller's mistake.
    let fields: Map<String, Value> = json::arguments(body)?;
    let known = ["sender_id", "receiver_id", "amount", "description", "timeout_hours"];
    if !fields.keys().all(|field| known.contains(&field.as_str())) {
        return refuse("the fields are sender_id, receiver_id, amount, description and timeout_hours");
    }
    let row: EscrowRow = json::arguments(body)?;
    row.check().or_else(refuse)?;
    check_agent_id(row.receiver_id.clone())?;
    let (agent_id, details) = (check_agent_id(row.sender_id.clone())?, json!(row));
    let task = Some(Task::Escrow(EscrowTask::create(row, None, None)));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

/// Reads a caller's request to end an escrow.
pub(super) fn read_end(body: &[u8], end: End, with_ledger: bool) -> Result<Request, ReadError> {
    let row: EndRequest = json::arguments(body)?;
    let details = json!(row);
    match (with_ledger, row.escrow_id, row.agent_id, row.pf_escrow_id) {
        (true, Some(id), None, None) => Ok(Request { subject: Subject::SenderOf(id), details, task: None }),
        (false, None, Some(agent_id), Some(id)) if Reference::parse(&id).is_some() => {
            let agent_id = check_agent_id(agent_id)?;
            let action = EscrowAction::End { end, pf_escrow_id: Some(id), pending: false };
            let task = Some(Task::Escrow(EscrowTask { agent_id: agent_id.clone(), action }));
            Ok(Request { subject: Subject::Agent(agent_id), details, task })
        }
        (true, ..) => refuse("in ledger mode `escrow_id` alone names the escrow"),
        (false, ..) => refuse("in standalone mode `pf_escrow_id` and `agent_id` name the escrow"),
    }
}

/// Executes the task.
pub(super) async fn execute(task: &EscrowTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let EscrowTask { agent_id, action } = task;
    if let Some(outcome) = context.out_of_time(agent_id) {
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
