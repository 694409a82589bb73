//! Answers operators' requests: the ledger's status, and operations that settle, retry, release or close
//! jobs. The database function `public.operate` holds the rules.

use super::{
    operation::{self, OPERATOR_OPERATIONS},
    problem::Problem,
    response::json,
};
use crate::{
    config::Settings,
    domain::{amount::Amount, reference::Reference},
    json::{self, ReadError},
    ledger::{callers::OperatorReply, rpc::LedgerError},
    log::Line,
    runtime::Runtime,
};
use http::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The operation of `GET /operator/status`.
const STATUS: &str = "status";

/// Longest id of Purple Flea's, in characters. Its ids have about 20.
const ID_LIMIT_CHARS: usize = 128;

/// Longest explanation, in characters: a few sentences, which the job's history keeps.
const WHY_LIMIT_CHARS: usize = 500;

/// The arguments of all operations. The database decides which arguments an operation takes.
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

/// Answers `GET /operator/status`: the ledger's state, and the jobs that an operator should look at.
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
    details.check().map_err(|detail| ReadError::NotAnEvent(detail.to_owned()))?;
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
        Ok(OperatorReply::Completed(answer)) => Ok(json(&answer)),
        Ok(OperatorReply::Refused { code, detail }) => {
            Err(Problem::of_operation(&code, detail).unwrap_or(Problem::Ledger(LedgerError::Unreadable)))
        }
        Err(LedgerError::RefusedUs(status)) => Err(Problem::OperatorKeyRefused(status)),
        Err(LedgerError::TokenRefused(_)) => Err(Problem::OperatorKeyRefused(401)),
        Err(error) => Err(error.into()),
    }
}
