//! Answers the paths through which a caller requests a job. In ledger mode the request becomes a job, and a
//! worker executes it like any other. In standalone mode the function executes the request at once and keeps
//! no record.

use super::{
    admission::check_owner,
    dispatch::{Reply, run_standalone, run_via_ledger},
    problem::Problem,
};
use crate::{
    config::Settings,
    domain::{
        job::{RequestKind, Subject},
        reference::Reference,
    },
    endpoint::Key,
    jobs,
    ledger::{Ledger, rpc::LedgerError},
    log::Line,
    runtime::Runtime,
};
use http::HeaderMap;
use serde_json::Value;

/// The caller of a request.
pub struct Requester {
    /// The `webhook-id` header.
    pub webhook_id: Option<String>,
    /// An owner's token, if the caller may act for that owner's agents only.
    pub owner: Option<Key>,
}

/// Answers one request. The database checks an owner's token before the request becomes a job.
pub async fn run(
    kind: RequestKind,
    Requester { webhook_id, owner }: Requester,
    settings: &Settings,
    headers: &HeaderMap,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let named = webhook_id.as_deref().map(Reference::parse);
    if kind.requires_reference() && named == Some(None) {
        return Err(Problem::InvalidReference);
    }
    let standalone = settings.ledger.is_none().then_some(&settings.policy);
    let request = jobs::read(kind, body, &settings.default_agent, standalone)?;
    let reference = match named.flatten() {
        Some(reference) => reference,
        None if kind.requires_reference() => return Err(Problem::MissingReference),
        // Without a name, or with one of another form, a repeated request does no harm.
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

/// Inserts a request into the ledger, and returns the reference of its job.
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
