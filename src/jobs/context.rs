//! The context of a task.

use crate::{
    domain::{
        account::Account,
        outcome::Outcome,
        reason::{RetryReason, SkipReason},
    },
    purple_flea::PurpleFlea,
    runtime::Runtime,
    time_budget,
};
use std::time::Duration;

/// The context that every kind of job needs.
pub struct Context<'a, R> {
    /// Purple Flea's services.
    pub purple_flea: &'a PurpleFlea,
    /// The account that the job is executed on.
    pub account: &'a Account,
    /// The idempotency key of the job, the same on every attempt.
    pub idempotency_key: &'a str,
    /// The time when every exchange must be over, on the monotonic clock; `None` without a lease.
    pub deadline: Option<Duration>,
    /// The time from which the job must not be executed, on the monotonic clock: the end of its signal.
    pub good_until: Option<Duration>,
    /// The host.
    pub runtime: &'a R,
}

impl<R: Runtime> Context<'_, R> {
    /// Returns an outcome if no exchange may start now: a skipped one after the end of the job's signal, and a
    /// waiting one if an exchange could end after the lease.
    pub(super) fn out_of_time(&self, agent_id: &str) -> Option<Outcome> {
        if self.good_until.is_some_and(|end| self.runtime.monotonic() >= end) {
            return Some(Outcome::skipped(agent_id, SkipReason::SignalExpired));
        }
        let longest =
            self.purple_flea.timeout.saturating_add(Duration::from_millis(time_budget::LEASE_MARGIN_MS));
        let ends = self.runtime.monotonic().saturating_add(longest);
        let in_time = self.deadline.is_none_or(|deadline| ends <= deadline);
        (!in_time).then(|| Outcome::waiting(agent_id, RetryReason::OutOfTime))
    }
}
