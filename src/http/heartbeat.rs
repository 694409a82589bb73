//! Answers `POST /heartbeat`: an owner says that its agent is there. The database function `public.heartbeat` holds the
//! rules.

use super::{
    admission::{check_owner, of_owners_call},
    problem::Problem,
    response::json,
};
use crate::{
    config::Settings,
    domain::{deposit::check_agent_id, job::Subject},
    endpoint::Key,
    json::{self, ReadError, refuse},
    log::Line,
    runtime::Runtime,
};
use http::Response;
use serde::Deserialize;

/// Longest task, in characters.
const TASK_LIMIT_CHARS: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heartbeat {
    agent_id: String,
    task: Option<String>,
}

impl Heartbeat {
    fn read(body: &[u8]) -> Result<Self, ReadError> {
        let Self { agent_id, task } = json::arguments(body)?;
        let is_task = |text: &str| text.chars().count() <= TASK_LIMIT_CHARS && !text.contains('\0');
        if task.as_deref().is_some_and(|text| !is_task(text)) {
            return refuse("`task` must be at most 200 characters, without NUL");
        }
        Ok(Self { agent_id: check_agent_id(agent_id)?, task })
    }
}

/// Answers a heartbeat. The database records it under the owner's token. It would let a token of the service act for
/// every agent, so [`check_owner`] refuses such a token first, as on every route for owners.
pub async fn run(
    settings: &Settings,
    token: &Key,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    let Heartbeat { agent_id, task } = Heartbeat::read(body)?;
    // Without a ledger nothing can check the token.
    let ledger = settings.ledger.as_ref().ok_or(Problem::NotYours)?;
    check_owner(ledger, token, &Subject::Agent(agent_id.clone()), runtime).await?;
    let answer = ledger.heartbeat(token, &agent_id, task.as_deref(), runtime).await;
    let answer = answer.map_err(of_owners_call)?;
    line.agent = Some(agent_id);
    Ok(json(&answer))
}
