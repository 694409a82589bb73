//! Answers `POST /signals`: publishes a signal of an agent, whose followers then trade. The database function
//! `public.publish_signal` holds the rules.

use super::{
    admission::{check_owner, of_owners_call},
    problem::Problem,
    response::json,
};
use crate::{
    config::Settings,
    domain::{deposit::check_agent_id, job::Subject, reference::Reference},
    endpoint::Key,
    json::{self, ReadError, refuse},
    ledger::rpc::LedgerError,
    log::Line,
    runtime::Runtime,
};
use http::Response;
use serde::Serialize;
use serde_json::{Map, Value};

/// The first digits of Postgres' codes for values that no column holds, such as a number of a million digits.
const DATA_EXCEPTION: &str = "22";

/// The caller of a publication.
pub struct Publisher {
    /// The `webhook-id` header. It names a signal whose body names none.
    pub webhook_id: Option<String>,
    /// An owner's token, if the caller may publish for that owner's agents only.
    pub owner: Option<Key>,
}

/// The reply about a signal that counts. The numbers are those of its first publication.
#[derive(Serialize)]
struct PublishedBody<'a> {
    status: &'a str,
    signal_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    followers: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<u64>,
}

/// Reads a signal's members and its sender. The database judges the other members.
fn read(body: &[u8]) -> Result<(Map<String, Value>, String), ReadError> {
    let members: Map<String, Value> = json::arguments(body)?;
    if members.values().any(has_nul) || members.keys().any(|name| name.contains('\0')) {
        return refuse("the database holds no text with NUL");
    }
    let agent_id = match members.get("agent_id") {
        Some(Value::String(id)) => check_agent_id(id.clone())?,
        _ => return refuse("`agent_id` must be a text"),
    };
    Ok((members, agent_id))
}

/// Returns the name of a signal: its own, or else the request's.
fn name_of(members: &Map<String, Value>, webhook_id: Option<String>) -> Result<Reference, Problem> {
    let named = match members.get("id") {
        None => webhook_id.ok_or(Problem::MissingReference)?,
        Some(Value::String(id)) => id.clone(),
        Some(_) => return Err(Problem::InvalidReference),
    };
    Reference::parse(&named).ok_or(Problem::InvalidReference)
}

/// Returns whether a text within the value has a NUL. A body nests at most 64 levels.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// Publishes a signal. The database checks an owner's token before it reads the signal.
pub async fn run(
    settings: &Settings,
    Publisher { webhook_id, owner }: Publisher,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    let (mut members, agent_id) = read(body)?;
    // The same signal under two names would make its followers trade twice.
    let name = name_of(&members, webhook_id)?;
    members.insert("id".to_owned(), name.as_str().into());
    line.reference = Some(name.as_str().to_owned());
    line.agent = Some(agent_id.clone());
    let ledger = match (&settings.ledger, &owner) {
        (Some(ledger), _) => ledger,
        (None, None) => return Err(Problem::LedgerNotConfigured),
        // Without a ledger nothing can check the token.
        (None, Some(_)) => return Err(Problem::NotYours),
    };
    if let Some(token) = &owner {
        check_owner(ledger, token, &Subject::Agent(agent_id), runtime).await?;
    }
    let answer = ledger.publish_signal(owner.as_ref(), &Value::Object(members), runtime).await;
    let answer = answer.map_err(|error| match error {
        LedgerError::Failed(code) if code.starts_with(DATA_EXCEPTION) => refused("not_readable"),
        error if owner.is_some() => of_owners_call(error),
        error => error.into(),
    })?;
    if answer.state == "refused" {
        return Err(refused(answer.reason.as_deref().unwrap_or_default()));
    }
    line.decision = Some(if answer.state == "repeated" { "repeated" } else { "published" });
    Ok(json(&PublishedBody {
        status: &answer.state,
        signal_id: answer.signal_id.as_deref(),
        followers: answer.followers,
        jobs: answer.jobs,
    }))
}

/// Returns the problem of a signal that the database refuses, by its reason.
fn refused(reason: &str) -> Problem {
    match reason {
        "reference_taken" => Problem::ReferenceTaken,
        "unknown_sender" => Problem::UnknownAgent,
        reason => Problem::InvalidEvent(format!("The signal is refused: {reason}. No agent trades on it.")),
    }
}
