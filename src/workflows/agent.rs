//! The agent whose money the workflows move, and the steps that only read its account. A worker may repeat each of
//! those, so they are no jobs of the ledger: Inngest keeps what they read.

use super::Host;
use crate::{
    domain::{account::Account, failure::Failure},
    inngest::run::StepError,
    ledger::{Ledger, rpc::LedgerError},
    runtime::Runtime,
};
use std::time::Duration;

/// Returns the ledger. A workflow that needs it is registered only where there is one.
pub(super) fn ledger<'a>(host: &Host<'a, impl Runtime>) -> Result<&'a Ledger, StepError> {
    host.settings
        .ledger
        .as_ref()
        .ok_or_else(|| StepError::last("ledger_not_configured", "the settings name no ledger"))
}

/// Returns the agent's id.
pub(super) fn id<'a>(host: &Host<'a, impl Runtime>) -> Result<&'a str, StepError> {
    let id = host.settings.workflows.agent.id.as_deref();
    id.ok_or_else(|| StepError::last("no_agent", "`inngest_agent_id` is not set"))
}

/// Returns the agent's account at Purple Flea.
pub(super) async fn account(host: &Host<'_, impl Runtime>) -> Result<Account, StepError> {
    let id = id(host)?;
    let account = ledger(host)?.workflow_account(id, host.runtime).await.map_err(of_ledger)?;
    account.ok_or_else(unknown)
}

/// Returns the error for an agent that the database does not have.
pub(super) fn unknown() -> StepError {
    StepError::last("unknown_agent", "`inngest_agent_id` names no row of `agents`")
}

/// Returns the error of a ledger that gave no usable answer. Nothing was sent to Purple Flea.
pub(super) fn of_ledger(error: LedgerError) -> StepError {
    StepError::retry(error.code(), "the ledger gave no usable answer, and nothing was sent to Purple Flea")
}

/// Returns the error of a call to Purple Flea that only reads.
pub(super) fn of_reading(failure: Failure) -> StepError {
    match failure {
        Failure::Rejected(refusal) => {
            let code = refusal.code.unwrap_or_else(|| "rejected".to_owned());
            StepError::last(code, "Purple Flea refused to answer for good")
        }
        Failure::RateLimited { retry_after_s, .. } => StepError::retry_after(
            "rate_limited",
            "Purple Flea limits our rate",
            Duration::from_secs(retry_after_s),
        ),
        failure => StepError::retry(failure.code(), "Purple Flea gave no usable answer"),
    }
}
