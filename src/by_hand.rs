//! What a caller asks for by hand rather than by a row: a path a kind. In ledger mode it becomes a row and a job there,
//! done as everything else is; without a ledger it is done here and now, and not remembered.

use crate::{
    admission::check_owner,
    config::Settings,
    execute_trade::{Reply, by_the_ledger, here_and_now},
    ledger::{Ledger, callers::Subject, rpc::LedgerError},
    log::Line,
    money::Amount,
    outside::Outside,
    problem::Problem,
    purple_flea::{escrow::End, trading::Form},
    upstream::Key,
    webhook::{
        body::{ReadError, read_as},
        event::an_agents_id,
        reference::Reference,
    },
    work::{
        Kind, Work,
        agent::{AgentRow, Errand},
        escrow::{EscrowRow, Step, What},
        order::{OrderRow, is_whole_cents},
    },
};
use http::HeaderMap;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Value, json};
use std::collections::HashMap;

/// An escrow that is to end: with a ledger by its row's id, without one by Purple Flea's.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EndingEscrow {
    escrow_id: Option<u64>,
    #[serde(skip_serializing)]
    pf_escrow_id: Option<String>,
    #[serde(skip_serializing)]
    agent_id: Option<String>,
}

/// What was asked for: for the ledger, and for doing it here.
struct Asked {
    agent_id: String,
    /// The escrow that is to end, by its row: its sender is the agent.
    escrow_id: Option<u64>,
    details: Value,
    work: Work,
}

/// The caller that asks.
pub struct Asker {
    /// The `webhook-id` that was sent.
    pub webhook_id: Option<String>,
    /// A user's token, if the caller may act for that user's agents only.
    pub owner: Option<Key>,
}

impl Asked {
    /// On whose behalf it is asked for.
    fn subject(&self) -> Subject {
        self.escrow_id.map_or_else(|| Subject::Agent(self.agent_id.clone()), Subject::SenderOf)
    }
}

/// Answers one request for a kind of job. An owner's token is checked before anything is asked for.
pub async fn run(
    kind: Kind,
    Asker { webhook_id, owner }: Asker,
    settings: &Settings,
    headers: &HeaderMap,
    body: &[u8],
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let named = webhook_id.map(|id| Reference::parse(&id).ok_or(Problem::InvalidReference)).transpose()?;
    let asked = read(kind, body, settings.ledger.is_some())?;
    let reference = match named {
        Some(reference) => reference,
        // What does no harm twice needs no name of the caller's.
        None if !matches!(kind, Kind::Deposit | Kind::Trade | Kind::Order | Kind::Escrow) => {
            let text = format!("by-hand-{:016x}", outside.random() & u128::from(u64::MAX));
            Reference::parse(&text).ok_or(Problem::InvalidReference)?
        }
        None => return Err(Problem::MissingReference),
    };
    match (&owner, &settings.ledger) {
        (None, _) => {}
        (Some(token), Some(ledger)) => check_owner(ledger, token, &asked.subject(), outside).await?,
        // Nothing could check the token.
        (Some(_), None) => return Err(Problem::NotYours),
    }
    line.agent = Some(asked.agent_id.clone()).filter(|agent| !agent.is_empty());
    let Some(ledger) = &settings.ledger else {
        if kind == Kind::Registration {
            // Nothing here could keep the key.
            return Err(Problem::LedgerNotConfigured);
        }
        return here_and_now(settings, &asked.work, &asked.agent_id, &reference, outside, line).await;
    };
    let reference = request(kind, ledger, &reference, &asked.details, outside).await?;
    by_the_ledger(settings, ledger, Some(reference), headers, outside, line).await
}

/// Puts a request down in the ledger; the reference of the job that does it.
async fn request(
    kind: Kind,
    ledger: &Ledger,
    reference: &Reference,
    details: &Value,
    outside: &impl Outside,
) -> Result<Reference, Problem> {
    let requested = ledger.request(kind, reference, details, outside).await?;
    match (requested.reference, requested.refused.as_deref()) {
        (Some(reference), None) => {
            Reference::parse(&reference).ok_or(Problem::Ledger(LedgerError::Unreadable))
        }
        (_, Some("unknown_agent")) => Err(Problem::NoSuch("unknown_agent")),
        (_, Some("unknown_escrow")) => Err(Problem::NoSuch("unknown_escrow")),
        (_, Some("already_registered")) => Err(Problem::AtOdds("already_registered")),
        (_, Some("escrow_not_open")) => Err(Problem::AtOdds("escrow_not_open")),
        (_, Some("reference_taken")) => Err(Problem::AtOdds("reference_taken")),
        (_, Some("invalid_reference")) => Err(Problem::InvalidReference),
        _ => Err(Problem::Ledger(LedgerError::Unreadable)),
    }
}

fn read(kind: Kind, body: &[u8], with_ledger: bool) -> Result<Asked, ReadError> {
    let wrong = |why: &str| ReadError::NotAnEvent(why.to_owned());
    match kind {
        Kind::Trade | Kind::Order => {
            let row: OrderRow = read_as(body)?;
            if row.size <= Amount::ZERO || !is_whole_cents(row.size) {
                return Err(wrong("`size` must be whole cents, 0.01 or more"));
            }
            let (agent_id, details) = (an_agents_id(row.agent_id.clone())?, json!(row));
            let form = if kind == Kind::Trade { Form::Trade } else { Form::Order };
            Ok(Asked {
                agent_id,
                escrow_id: None,
                details,
                work: Work::Order(Box::new(row.case(form, None, None))),
            })
        }
        Kind::Escrow => {
            // A row has other columns; what somebody writes by hand and nobody reads is a mistake.
            let fields: HashMap<String, IgnoredAny> = read_as(body)?;
            let known = ["sender_id", "receiver_id", "amount", "description", "timeout_hours"];
            if !fields.keys().all(|field| known.contains(&field.as_str())) {
                return Err(wrong(
                    "the fields are sender_id, receiver_id, amount, description and timeout_hours",
                ));
            }
            let row: EscrowRow = read_as(body)?;
            row.check().map_err(wrong)?;
            an_agents_id(row.receiver_id.clone())?;
            let (agent_id, details) = (an_agents_id(row.sender_id.clone())?, json!(row));
            Ok(Asked {
                agent_id,
                escrow_id: None,
                details,
                work: Work::Escrow(Step::create(row, None, None)),
            })
        }
        Kind::EscrowRelease | Kind::EscrowCancel => {
            let row: EndingEscrow = read_as(body)?;
            let details = json!(row);
            let end = if kind == Kind::EscrowRelease { End::Release } else { End::Cancel };
            if row.escrow_id.is_some_and(|id| i64::try_from(id).is_err()) {
                return Err(wrong("`escrow_id` must be the id of a row"));
            }
            let agent_id = match (with_ledger, row.escrow_id, row.agent_id, &row.pf_escrow_id) {
                (true, Some(_), None, None) => String::new(),
                (false, None, Some(agent_id), Some(id)) if Reference::parse(id).is_some() => {
                    an_agents_id(agent_id)?
                }
                (true, ..) => return Err(wrong("with a ledger an escrow is named by `escrow_id` alone")),
                (false, ..) => {
                    return Err(wrong(
                        "without a ledger an escrow is named by `pf_escrow_id` and `agent_id`",
                    ));
                }
            };
            let what = What::End { end, pf_escrow_id: row.pf_escrow_id, pending: false };
            let work = Work::Escrow(Step { agent_id: agent_id.clone(), what });
            Ok(Asked { agent_id, escrow_id: row.escrow_id, details, work })
        }
        Kind::Deposit | Kind::Registration | Kind::Faucet | Kind::DailyClaim | Kind::Balance => {
            let row: AgentRow = read_as(body)?;
            let (agent_id, details) = (an_agents_id(row.agent_id.clone())?, json!(row));
            let errand = Errand { agent_id: agent_id.clone(), kind, referral_code: None, fresh: false };
            Ok(Asked { agent_id, escrow_id: None, details, work: Work::Agent(errand) })
        }
    }
}
