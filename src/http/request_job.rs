//! The paths by hand: a caller requests a job of a kind. With a ledger the request becomes a job there, and a worker
//! executes it like any other. Without one the function executes it at once and does not remember it.

use super::{
    admission::check_owner,
    dispatch::{Reply, run_standalone, run_via_ledger},
    operation::arguments,
    problem::Problem,
};
use crate::{
    config::Settings,
    domain::{
        amount::Amount,
        deposit::check_agent_id,
        escrow::{End, EscrowRow},
        job::{AgentAction, AgentRow, AgentTask, EscrowAction, EscrowTask, OrderTask, RequestKind, Task},
        order::{Form, OrderRow},
        reference::Reference,
    },
    endpoint::Key,
    json::{ReadError, refuse},
    ledger::{Ledger, callers::Subject, rpc::LedgerError},
    log::Line,
    runtime::Runtime,
};
use http::HeaderMap;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The caller of a request.
pub struct Requester {
    /// The `webhook-id` header.
    pub webhook_id: Option<String>,
    /// A user's token, if the caller may act for that user's agents only.
    pub owner: Option<Key>,
}

/// A request, once its body is read.
struct Request {
    /// The agent that the request is about, or the escrow whose sender it is.
    subject: Subject,
    /// The request as the ledger keeps it.
    details: Value,
    /// The task, if the function can execute the request without a ledger.
    task: Option<Task>,
}

/// An escrow that is to end: with a ledger by its row's id, without one by Purple Flea's.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EscrowToEnd {
    escrow_id: Option<u64>,
    #[serde(skip_serializing)]
    pf_escrow_id: Option<String>,
    #[serde(skip_serializing)]
    agent_id: Option<String>,
}

/// Answers one request. The database checks an owner's token before anything is requested.
pub async fn run(
    kind: RequestKind,
    Requester { webhook_id, owner }: Requester,
    settings: &Settings,
    headers: &HeaderMap,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let named = webhook_id.map(|id| Reference::parse(&id).ok_or(Problem::InvalidReference)).transpose()?;
    let request = read(kind, body, settings.ledger.is_some())?;
    let reference = match named {
        Some(reference) => reference,
        None if kind.needs_a_name() => return Err(Problem::MissingReference),
        None => {
            let text = format!("by-hand-{:016x}", runtime.random() & u128::from(u64::MAX));
            Reference::parse(&text).ok_or(Problem::InvalidReference)?
        }
    };
    match (&owner, &settings.ledger) {
        (None, _) => {}
        (Some(token), Some(ledger)) => check_owner(ledger, token, &request.subject, runtime).await?,
        // Without a ledger nothing can check the token.
        (Some(_), None) => return Err(Problem::NotYours),
    }
    if let Subject::Agent(agent_id) = &request.subject {
        line.agent = Some(agent_id.clone());
    }
    if let Some(ledger) = &settings.ledger {
        let reference = insert(kind, ledger, &reference, &request.details, runtime).await?;
        return run_via_ledger(settings, ledger, Some(reference), headers, runtime, line).await;
    }
    match (&request.task, &request.subject) {
        (Some(task), Subject::Agent(agent_id)) => {
            run_standalone(settings, task, agent_id, &reference, runtime, line).await
        }
        _ => Err(Problem::LedgerNotConfigured),
    }
}

/// Puts a request into the ledger, and gives the reference of the job that executes it.
async fn insert(
    kind: RequestKind,
    ledger: &Ledger,
    reference: &Reference,
    details: &Value,
    runtime: &impl Runtime,
) -> Result<Reference, Problem> {
    let requested = ledger.request(kind, reference, details, runtime).await?;
    match (requested.reference, requested.refused.as_deref()) {
        (Some(reference), None) => {
            Reference::parse(&reference).ok_or(Problem::Ledger(LedgerError::Unreadable))
        }
        (_, Some(refused)) => {
            Err(Problem::of_request(refused).unwrap_or(Problem::Ledger(LedgerError::Unreadable)))
        }
        (None, None) => Err(Problem::Ledger(LedgerError::Unreadable)),
    }
}

fn read(kind: RequestKind, body: &[u8], with_ledger: bool) -> Result<Request, ReadError> {
    let agent = |action: AgentAction| {
        let row: AgentRow = arguments(body)?;
        let (agent_id, details) = (check_agent_id(row.agent_id.clone())?, json!(row));
        let task = Task::Agent(AgentTask { agent_id: agent_id.clone(), action });
        Ok(Request { subject: Subject::Agent(agent_id), details, task: Some(task) })
    };
    match kind {
        RequestKind::Trade => read_order(body, Form::Trade),
        RequestKind::Order => read_order(body, Form::Order),
        RequestKind::Escrow => read_escrow(body),
        RequestKind::EscrowRelease => read_end(body, End::Release, with_ledger),
        RequestKind::EscrowCancel => read_end(body, End::Cancel, with_ledger),
        RequestKind::Registration => {
            // Without a ledger the function has no place to keep the new key.
            let request = agent(AgentAction::Register { referral_code: None })?;
            Ok(Request { task: None, ..request })
        }
        RequestKind::Faucet => agent(AgentAction::ClaimFaucet { referral_code: None, fresh: false }),
        RequestKind::DailyClaim => agent(AgentAction::ClaimDaily),
        RequestKind::Balance => agent(AgentAction::ReadBalance),
    }
}

fn read_order(body: &[u8], form: Form) -> Result<Request, ReadError> {
    let row: OrderRow = arguments(body)?;
    if row.size <= Amount::ZERO || !row.size.is_whole_cents() {
        return refuse("`size` must be whole cents, 0.01 or more");
    }
    let (agent_id, details) = (check_agent_id(row.agent_id.clone())?, json!(row));
    let order = row.order(form);
    let task = OrderTask { agent_id: agent_id.clone(), order, policy: None, spent: None };
    let task = Some(Task::Order(Box::new(task)));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

fn read_escrow(body: &[u8]) -> Result<Request, ReadError> {
    // A row has other columns, too; but a field that a person writes and the function ignores is a mistake.
    let fields: HashMap<String, IgnoredAny> = arguments(body)?;
    let known = ["sender_id", "receiver_id", "amount", "description", "timeout_hours"];
    if !fields.keys().all(|field| known.contains(&field.as_str())) {
        return refuse("the fields are sender_id, receiver_id, amount, description and timeout_hours");
    }
    let row: EscrowRow = arguments(body)?;
    row.check().or_else(refuse)?;
    check_agent_id(row.receiver_id.clone())?;
    let (agent_id, details) = (check_agent_id(row.sender_id.clone())?, json!(row));
    let task = Some(Task::Escrow(EscrowTask::create(row, None, None)));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

fn read_end(body: &[u8], end: End, with_ledger: bool) -> Result<Request, ReadError> {
    let row: EscrowToEnd = arguments(body)?;
    let details = json!(row);
    if row.escrow_id.is_some_and(|id| i64::try_from(id).is_err()) {
        return refuse("`escrow_id` must be the id of a row");
    }
    match (with_ledger, row.escrow_id, row.agent_id, row.pf_escrow_id) {
        (true, Some(id), None, None) => Ok(Request { subject: Subject::SenderOf(id), details, task: None }),
        (false, None, Some(agent_id), Some(id)) if Reference::parse(&id).is_some() => {
            let agent_id = check_agent_id(agent_id)?;
            let action = EscrowAction::End { end, pf_escrow_id: Some(id), pending: false };
            let task = Some(Task::Escrow(EscrowTask { agent_id: agent_id.clone(), action }));
            Ok(Request { subject: Subject::Agent(agent_id), details, task })
        }
        (true, ..) => refuse("with a ledger an escrow is named by `escrow_id` alone"),
        (false, ..) => refuse("without a ledger an escrow is named by `pf_escrow_id` and `agent_id`"),
    }
}
