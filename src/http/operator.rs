//! What an operator does through the API: looks at the ledger, and settles, retries, releases or closes jobs by hand.
//! The rules are the database's (`public.operate`); here is the way there.

use super::{
    operation::{self, OPERATOR_OPERATIONS},
    problem::Problem,
    response::json,
};
use crate::{
    config::Settings,
    domain::{amount::Amount, reference::Reference},
    json::{self, ReadError},
    ledger::{callers::Operated, rpc::LedgerError},
    log::Line,
    runtime::Runtime,
};
use http::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The operation of `GET /operator/status`.
const STATUS: &str = "status";

/// Longest id of Purple Flea's, in characters; its own have about 20.
const ID_LIMIT_CHARS: usize = 128;

/// Longest reason, in characters: a few sentences, which are kept in the history.
const WHY_LIMIT_CHARS: usize = 500;

/// The arguments of all operations. The database says which belong to which.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Details {
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bet_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pf_escrow_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wager: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payout: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_price: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    won: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nothing_lost: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_too: Option<bool>,
}

impl Details {
    fn check(&self) -> Result<(), &'static str> {
        let ids = [&self.bet_id, &self.order_id, &self.position_id, &self.pf_escrow_id];
        let is_text = |text: &str, limit: usize| {
            let chars = text.chars().count();
            (1..=limit).contains(&chars) && !text.contains(char::is_control)
        };
        if self.reference.as_ref().is_some_and(|text| Reference::parse(text).is_none()) {
            Err("`reference` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")
        } else if self.why.as_ref().is_some_and(|text| !is_text(text, WHY_LIMIT_CHARS)) {
            Err("`why` must be 1 to 500 characters without control characters")
        } else if ids.into_iter().flatten().any(|text| !is_text(text, ID_LIMIT_CHARS)) {
            Err("an id must be 1 to 128 characters without control characters")
        } else {
            Ok(())
        }
    }
}

/// Answers `GET /operator/status`: how the ledger is, and the jobs that an operator should look at.
pub async fn status(
    settings: &Settings,
    operator: &str,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    ask(settings, STATUS, &json!({}), operator, runtime, line).await
}

/// Answers `POST /operator`.
pub async fn operate(
    settings: &Settings,
    operator: &str,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    let details: Details = json::arguments(body)?;
    details.check().map_err(|why| ReadError::NotAnEvent(why.to_owned()))?;
    line.reference = details.reference.clone();
    let operation = operation::of(body)?.unwrap_or_default();
    ask(settings, &operation, &json!(details), operator, runtime, line).await
}

async fn ask(
    settings: &Settings,
    operation: &str,
    details: &Value,
    operator: &str,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    line.operator = Some(operator.to_owned());
    line.decision = OPERATOR_OPERATIONS.into_iter().find(|known| *known == operation);
    let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
    match ledger.operate(operation, details, operator, runtime).await {
        Ok(Operated::Done(answer)) => Ok(json(&answer)),
        Ok(Operated::Refused { code, detail }) => {
            Err(Problem::of_operation(&code, detail).unwrap_or(Problem::Ledger(LedgerError::Unreadable)))
        }
        Err(LedgerError::RefusedUs(status)) => Err(Problem::OperatorKeyRefused(status)),
        Err(error) => Err(error.into()),
    }
}
