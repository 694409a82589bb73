//! What every kind of job needs to be executed.

use crate::{
    domain::{account::Account, outcome::Outcome, reason::RetryReason},
    purple_flea::PurpleFlea,
    runtime::Runtime,
    time_budget,
};
use std::time::Duration;

/// What every kind of job needs to be executed.
pub struct Context<'a, R> {
    /// Purple Flea's services.
    pub purple_flea: &'a PurpleFlea,
    /// The account that the job is executed on.
    pub account: &'a Account,
    /// The name of the job at Purple Flea, the same on every attempt.
    pub idempotency_key: &'a str,
    /// When every exchange must be over, on the monotonic clock; `None` without a lease.
    pub deadline: Option<Duration>,
    /// The host.
    pub runtime: &'a R,
}

impl<R: Runtime> Context<'_, R> {
    /// Refuses to begin an exchange that could outlive the lease: the job waits.
    pub(super) fn check_time(&self, agent_id: &str) -> Result<(), Outcome> {
        let longest =
            self.purple_flea.timeout.saturating_add(Duration::from_millis(time_budget::LEASE_MARGIN_MS));
        let ends = self.runtime.monotonic().saturating_add(longest);
        if self.deadline.is_none_or(|deadline| ends <= deadline) {
            Ok(())
        } else {
            Err(Outcome::waiting(agent_id, RetryReason::OutOfTime))
        }
    }
}
