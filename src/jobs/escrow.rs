//! Escrow tasks: Purple Flea makes an escrow once, and takes each of its steps at most once.

use super::{Context, Request, Task};
use crate::{
    domain::{
        account::Api,
        completed::{Attempted, Completed},
        deposit::check_agent_id,
        escrow::{self, Counterparty, EscrowRow, SMALLEST_ESCROW, Step, Terms},
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

/// An agent's action on an escrow.
#[derive(Debug)]
pub struct EscrowTask {
    /// The agent that acts.
    pub agent_id: String,
    /// The action.
    pub action: EscrowAction,
}

/// The action of an [`EscrowTask`].
#[derive(Debug)]
pub enum EscrowAction {
    /// Make the escrow.
    Create(Box<Terms>),
    /// Take a step of the escrow.
    Step {
        /// The step.
        step: Step,
        /// The reason of a dispute.
        reason: Option<String>,
        /// Purple Flea's id of the escrow, if it was made.
        pf_escrow_id: Option<String>,
        /// Whether Purple Flea may still make the escrow. Its steps wait until then.
        pending: bool,
    },
    /// Read the escrow's state.
    Read {
        /// Purple Flea's id of the escrow, if it was made.
        pf_escrow_id: Option<String>,
        /// Whether the task waits until the escrow is over.
        until_over: bool,
    },
}

/// A request for a step of an escrow. In ledger mode it names the row's id, in standalone mode Purple Flea's id.
/// In ledger mode `agent_id` names the party that disputes; the sender if it is absent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StepRequest {
    escrow_id: Option<i64>,
    #[serde(skip_serializing)]
    pf_escrow_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl EscrowTask {
    /// Makes the task for a row's escrow. `receiver` is the receiver as Purple Flea knows it.
    pub fn create(row: EscrowRow, receiver: Counterparty, referral_code: Option<String>) -> Self {
        let agent_id = row.sender_id.clone();
        let terms = Terms::of(row, receiver, referral_code);
        Self { agent_id, action: EscrowAction::Create(Box::new(terms)) }
    }
}

/// Makes the task of a claimed job that makes an escrow.
pub(super) fn decode(columns: &Columns) -> Option<Task> {
    let row: EscrowRow = json::read_columns(&columns.row).ok()?;
    Some(Task::Escrow(EscrowTask::create(row, columns.counterparty.clone(), columns.referral_code.clone())))
}

/// The column of a step's job that only a dispute has.
#[derive(Deserialize)]
struct StepRow {
    reason: Option<String>,
}

/// Makes the task of a claimed job that takes a step of an escrow.
pub(super) fn decode_step(columns: &Columns, step: Step) -> Option<Task> {
    let escrow = columns.escrow.as_ref()?;
    let StepRow { reason } = json::read_columns(&columns.row).ok()?;
    let (pf_escrow_id, pending) = (escrow.id.clone(), escrow.pending);
    let action = EscrowAction::Step { step, reason, pf_escrow_id, pending };
    Some(Task::Escrow(EscrowTask { agent_id: columns.agent_id.clone(), action }))
}

/// Makes the task of a claimed job that reads an escrow's state.
pub(super) fn decode_read(columns: &Columns) -> Option<Task> {
    let pf_escrow_id = columns.escrow.as_ref()?.id.clone();
    let action = EscrowAction::Read { pf_escrow_id, until_over: true };
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
    let task = Some(Task::Escrow(EscrowTask::create(row, Counterparty::default(), None)));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

/// Reads a caller's request for a step of an escrow.
pub(super) fn read_step(body: &[u8], step: Step, with_ledger: bool) -> Result<Request, ReadError> {
    let row: StepRequest = json::arguments(body)?;
    if row.reason.is_some() && step != Step::Dispute {
        return refuse("only a dispute has a `reason`");
    }
    escrow::check_reason(row.reason.as_deref()).or_else(refuse)?;
    if with_ledger && row.agent_id.is_some() && step != Step::Dispute {
        return refuse("in ledger mode `escrow_id` alone names the escrow");
    }
    let reason = row.reason.clone();
    let subject = if step == Step::Complete { Subject::ReceiverOf } else { Subject::SenderOf };
    named(row, subject, with_ledger, |id| EscrowAction::Step {
        step,
        reason,
        pf_escrow_id: Some(id),
        pending: false,
    })
}

/// Reads a caller's request to read an escrow's state.
pub(super) fn read_state(body: &[u8], with_ledger: bool) -> Result<Request, ReadError> {
    let row: StepRequest = json::arguments(body)?;
    if row.reason.is_some() || (with_ledger && row.agent_id.is_some()) {
        return refuse("in ledger mode `escrow_id` alone names the escrow");
    }
    named(row, Subject::PartyOf, with_ledger, |id| EscrowAction::Read {
        pf_escrow_id: Some(id),
        until_over: false,
    })
}

/// Makes the request for the escrow that the row names.
fn named(
    row: StepRequest,
    subject: fn(i64) -> Subject,
    with_ledger: bool,
    action: impl FnOnce(String) -> EscrowAction,
) -> Result<Request, ReadError> {
    let details = json!(row);
    match (with_ledger, row.escrow_id, row.agent_id, row.pf_escrow_id) {
        (true, Some(_), Some(agent_id), None) => {
            let subject = Subject::Agent(check_agent_id(agent_id)?);
            Ok(Request { subject, details, task: None })
        }
        (true, Some(id), None, None) => Ok(Request { subject: subject(id), details, task: None }),
        (false, None, Some(agent_id), Some(id)) if Reference::parse(&id).is_some() => {
            let agent_id = check_agent_id(agent_id)?;
            let task = Some(Task::Escrow(EscrowTask { agent_id: agent_id.clone(), action: action(id) }));
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
        EscrowAction::Step { step: Step::Cancel, .. } if purple_flea.api == Api::Live => {
            return Outcome::skipped(agent_id, SkipReason::NoCancel);
        }
        EscrowAction::Step { step: Step::Complete | Step::Dispute, .. } | EscrowAction::Read { .. }
            if purple_flea.api == Api::Gateway =>
        {
            return Outcome::skipped(agent_id, SkipReason::NoEscrowStep);
        }
        EscrowAction::Step { step, reason, pf_escrow_id: Some(id), .. } => {
            purple_flea.take_step(*step, reason.as_deref(), id, account, idempotency_key, runtime).await
        }
        EscrowAction::Read { pf_escrow_id: Some(id), until_over } => {
            match purple_flea.read_escrow(id, account, runtime).await {
                Ok(escrow) if *until_over && !escrow.is_over() => {
                    let completed =
                        escrow.escrow_status.as_deref().is_some_and(|s| Step::Complete.matches(s));
                    let reason =
                        if completed { RetryReason::EscrowCompleted } else { RetryReason::EscrowFunded };
                    return Outcome::waiting(agent_id, reason);
                }
                read => read,
            }
        }
        EscrowAction::Step { pending: true, .. } => {
            return Outcome::waiting(agent_id, RetryReason::EscrowNotMade);
        }
        EscrowAction::Step { .. } | EscrowAction::Read { .. } => {
            return Outcome::skipped(agent_id, SkipReason::EscrowNotOpen);
        }
    };
    Outcome::of(agent_id, escrow.map(Completed::Escrow), Attempted::Other {})
}
