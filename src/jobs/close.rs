//! Close tasks: Purple Flea closes a position at most once.

use super::{Context, Request, Task};
use crate::{
    domain::{
        account::Api,
        completed::{Attempted, Completed},
        job::Subject,
        outcome::Outcome,
        position::CloseRow,
        reason::SkipReason,
    },
    json::{self, ReadError},
    ledger::job::Columns,
    runtime::Runtime,
};
use serde::Deserialize;
use serde_json::json;

/// A caller's request to close a position. A row may have other columns; an unknown field in a request is a
/// caller's mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CloseRequest {
    agent_id: String,
    position_id: String,
}

/// Makes the task of a claimed job that closes a position.
pub(super) fn decode(columns: &Columns) -> Option<Task> {
    let row: CloseRow = json::read_columns(&columns.row).ok()?;
    Some(Task::Close(row.checked().ok()?))
}

/// Reads a caller's request to close a position.
pub(super) fn read(body: &[u8]) -> Result<Request, ReadError> {
    let CloseRequest { agent_id, position_id } = json::arguments(body)?;
    let row = CloseRow { agent_id, position_id }.checked()?;
    let (agent_id, details) = (row.agent_id.clone(), json!(row));
    Ok(Request { subject: Subject::Agent(agent_id), details, task: Some(Task::Close(row)) })
}

/// Closes the position.
pub(super) async fn execute(row: &CloseRow, context: &Context<'_, impl Runtime>) -> Outcome {
    let CloseRow { agent_id, position_id } = row;
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    if purple_flea.api == Api::Gateway {
        return Outcome::skipped(agent_id, SkipReason::NoClose);
    }
    if let Some(outcome) = context.out_of_time(agent_id) {
        return outcome;
    }
    let closed = purple_flea.close_position(position_id, account, idempotency_key, runtime).await;
    Outcome::of(agent_id, closed.map(Completed::Close), Attempted::Other {})
}
