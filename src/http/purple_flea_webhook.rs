//! Answers `POST /webhooks/purple-flea`: one of Purple Flea's own webhooks says that an escrow's counterparty has delivered.
//! The event goes to Inngest under the workflow's own name of the escrow, and resumes the run that waits for it.

use super::{problem::Problem, response::json};
use crate::{
    config::Settings,
    inngest::{Inngest, event::NewEvent},
    ledger::{Ledger, workflows::WorkflowEscrow},
    log::Line,
    runtime::Runtime,
    webhook::purple_flea::{self, Confirmation, Message},
    workflows,
};
use http::Response;
use serde_json::json;

/// Answers an admitted webhook. A repeat of it is sent on with the same id, which Inngest drops.
pub async fn run(
    settings: &Settings,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    let confirmation = match purple_flea::read(body)? {
        Message::Confirmed(confirmation) => confirmation,
        Message::Other => {
            line.decision = Some("ignored");
            return Ok(json(&json!({ "status": "ignored", "reason": "other_event" })));
        }
    };
    // The settings demand both beside the secret.
    let (Some(ledger), Some(inngest)) = (&settings.ledger, &settings.inngest) else {
        return Err(Problem::LedgerNotConfigured);
    };
    let escrow = confirmed(ledger, &confirmation, runtime).await?;
    line.reference = Some(escrow.escrow_id.clone());
    forward(inngest, &confirmation, &escrow, runtime).await?;
    line.decision = Some("forwarded");
    Ok(json(&json!({ "status": "forwarded", "escrow_id": escrow.escrow_id })))
}

/// Finds the workflow's escrow, and checks that the message names its counterparty and nobody else.
async fn confirmed(
    ledger: &Ledger,
    confirmation: &Confirmation,
    runtime: &impl Runtime,
) -> Result<WorkflowEscrow, Problem> {
    let escrow = ledger.workflow_escrow(&confirmation.pf_escrow_id, runtime).await?;
    let escrow = escrow.ok_or(Problem::UnknownEscrow)?;
    if !confirmation.counterparty.iter().all(|name| escrow.names.contains(name)) {
        let detail = "the message names another counterparty than the escrow's: nothing is confirmed";
        return Err(Problem::InvalidEvent(detail.to_owned()));
    }
    Ok(escrow)
}

async fn forward(
    inngest: &Inngest,
    confirmation: &Confirmation,
    escrow: &WorkflowEscrow,
    runtime: &impl Runtime,
) -> Result<(), Problem> {
    let event = NewEvent {
        id: Some(format!("purple-flea-{}", confirmation.id)),
        name: workflows::CONFIRMED.to_owned(),
        data: json!({ "escrow_id": escrow.escrow_id, "confirmed_by": escrow.counterparty }),
        ts: None,
    };
    inngest.send_events(vec![event], runtime).await.map(drop).map_err(|_| Problem::NotForwarded)
}
