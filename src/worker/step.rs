//! Executes the job of a workflow's step, and no other job.

use super::{execute_one, log_job, report};
use crate::{
    config::Settings,
    domain::{outcome::Outcome, reason::RetryReason, reference::Reference},
    ledger::{
        Ledger,
        job::{Answer, Settlement},
        rpc::LedgerError,
        workflows::WorkflowStep,
    },
    runtime::Runtime,
    time_budget,
};
use std::time::Duration;

/// The fate of the job.
#[derive(Debug)]
pub enum Ended {
    /// This attempt executed the job.
    Executed {
        /// The job.
        reference: Reference,
        /// The outcome.
        outcome: Box<Outcome>,
    },
    /// The ledger tells about the job. This attempt executed nothing.
    Told(Answer),
    /// The ledger refuses the step, with this code. There is no job.
    Refused(String),
}

/// Asks for the job of a step, executes it unless it is held back, and settles it.
///
/// # Errors
///
/// Fails if the claim fails. Then nothing was executed.
pub async fn run(
    settings: &Settings,
    ledger: &Ledger,
    step: &WorkflowStep<'_>,
    runtime: &impl Runtime,
) -> Result<Ended, LedgerError> {
    let sent_at = runtime.monotonic();
    let reports_end = time_budget::reports_end(sent_at);
    let claim = ledger.claim_step(step, settings.purple_flea.api, settings.policy.paused, runtime).await?;
    if let Some(code) = claim.refused {
        return Ok(Ended::Refused(code));
    }
    let (reference, outcome) = match (claim.jobs.into_iter().next(), claim.unreadable.into_iter().next()) {
        (Some(job), _) => {
            let outcome = execute_one(settings, &job, sent_at, claim.deadline, runtime).await;
            (job.reference, outcome)
        }
        (None, Some(reference)) => {
            let outcome = Outcome::Waiting { agent_id: None, reason: RetryReason::Unreadable };
            log_job(&reference, None, Duration::ZERO, &outcome, runtime);
            (reference, outcome)
        }
        (None, None) => {
            return claim.answers.into_iter().next().map(Ended::Told).ok_or(LedgerError::Unreadable);
        }
    };
    let settlement = Settlement {
        reference: reference.as_str().to_owned(),
        token: claim.token,
        state: outcome.state(),
        result: outcome.body(&reference),
        secret: None,
    };
    let locked = report::run(ledger, vec![settlement], reports_end, runtime).await;
    report::run_locked(ledger, locked, reports_end, runtime).await;
    Ok(Ended::Executed { reference, outcome: Box::new(outcome) })
}
