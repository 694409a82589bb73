//! Whether the function could do its work: `GET /health`.

use crate::{
    config::Settings,
    ledger::job,
    outside::Outside,
    problem::{Problem, json},
};
use http::{Response, StatusCode};
use serde::Serialize;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    mode: &'static str,
    paused: bool,
    #[serde(flatten)]
    ledger: Option<job::Health>,
}

/// 200 when the settings are complete and the ledger, where there is one, answers. (When settings are missing or wrong
/// the router's 503 names them.) 503, too, while deposits wait because Purple Flea refuses our key or URL.
pub async fn check(settings: &Settings, outside: &impl Outside) -> Result<Response<Vec<u8>>, Problem> {
    let ledger = match &settings.ledger {
        Some(ledger) => Some(ledger.health(outside).await?),
        None => None,
    };
    if ledger.as_ref().is_some_and(|ledger| ledger.refused_by_purple_flea) {
        return Err(Problem::PurpleFleaRefusedUs(None));
    }
    let health = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        mode: if ledger.is_some() { "ledger" } else { "standalone" },
        paused: settings.policy.paused,
        ledger,
    };
    Ok(json(StatusCode::OK, "application/json", &health))
}
