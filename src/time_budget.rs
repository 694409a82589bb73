//! The time limits that depend on each other, for every host.
//!
//! ```text
//!  a worker's run, from its start to the host's end (HOST_LIFE_S)
//!  ├─ the worker starts claims ──────┤
//!                   the last claim's jobs ───────┤    at most the lease: two exchanges and their margin
//!                                                 ├─ it reports the outcomes ─────┤ SETTLE_RESERVE_S at least
//! ```
//!
//! The database function `timing` holds the lease (30 s) and the first look-up (73 s after it). A test compares them with
//! these limits.

use std::time::Duration;

/// The time for which hosts let the function run, in seconds, after a reply or instead of one.
/// `purple-flea-host` and the clouds give this time. A host that gives less leaves outcomes to the log.
pub const HOST_LIFE_S: u64 = 60;

/// The time before the host's end at which the last report ends, in seconds. The function then logs outcomes
/// that are not recorded, which takes no time.
const FINAL_LOG_S: u64 = 1;

/// The part of the host's time that is kept for reports, in seconds: a call of the ledger, and a restart of
/// the database.
const SETTLE_RESERVE_S: u64 = 10;

/// Longest exchange with Purple Flea that the settings allow, in milliseconds. It is the trigger's wait
/// ([`NOTIFICATION_PATIENCE_S`]), less two seconds for the network.
pub const EXCHANGE_MAX_MS: u64 = 13_000;

/// The time for which the trigger waits for a reply, in seconds, if the function does not answer at once.
pub const NOTIFICATION_PATIENCE_S: u64 = 15;

/// Longest call of the ledger, in seconds. Calls take milliseconds, a restart of the database some seconds.
pub const LEDGER_CALL_S: u64 = 5;

/// Latest arrival of a claim, in milliseconds by the database's clock. It is less than the caller waits
/// ([`LEDGER_CALL_S`]), so a claim whose caller has given up takes no job.
pub const CLAIM_PATIENCE_MS: u64 = 4_000;

/// The lease of a claim, in milliseconds: the database's `timing().lease`.
pub const LEASE_MS: u64 = 30_000;

/// The part of a lease that remains after the last byte of an exchange, in milliseconds. It is room to
/// settle, and for clocks that tick differently.
pub const LEASE_MARGIN_MS: u64 = 1_000;

/// Longest wait of a caller for an event, in seconds. Clients and proxies commonly give up after 30 s.
pub const FEED_WAIT_MAX_S: u64 = 20;

/// Time between two looks for an event, in milliseconds.
pub const FEED_LOOK_INTERVAL_MS: u64 = 1_000;

const _: () = {
    // A job makes at most two exchanges: it reads the balance, then bets.
    assert!(2 * EXCHANGE_MAX_MS + LEASE_MARGIN_MS < LEASE_MS);
    assert!(EXCHANGE_MAX_MS + 2_000 <= NOTIFICATION_PATIENCE_S * 1_000);
    assert!(CLAIM_PATIENCE_MS < LEDGER_CALL_S * 1_000);
    // A wait begins after two calls, and ends with two.
    assert!(FEED_WAIT_MAX_S + 4 * LEDGER_CALL_S < HOST_LIFE_S);
    // Some time for claims remains even with the longest exchanges.
    assert!(LEASE_MS / 1_000 + SETTLE_RESERVE_S + FINAL_LOG_S + 10 < HOST_LIFE_S);
};

/// Returns the time until which a run that began at `began` may report outcomes.
pub fn reports_end(began: Duration) -> Duration {
    began.saturating_add(Duration::from_secs(HOST_LIFE_S.saturating_sub(FINAL_LOG_S)))
}

/// Returns the time until which a run after the reply may start claims, if an exchange takes at most
/// `exchange`.
pub fn claims_end_after_reply(began: Duration, exchange: Duration) -> Duration {
    let jobs = exchange
        .saturating_mul(2)
        .saturating_add(Duration::from_millis(LEASE_MARGIN_MS))
        .min(Duration::from_millis(LEASE_MS));
    reports_end(began).saturating_sub(jobs).saturating_sub(Duration::from_secs(SETTLE_RESERVE_S))
}

/// Returns the time until which a run before the reply may start claims. It is half of the time that the
/// trigger's wait leaves, because the claim and the report take time, too.
pub fn claims_end_before_reply(began: Duration, exchange: Duration) -> Duration {
    let left = Duration::from_secs(NOTIFICATION_PATIENCE_S).saturating_sub(exchange);
    began.saturating_add(left.checked_div(2).unwrap_or(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_jobs_outcome_can_be_reported_for_every_allowed_exchange_time() {
        let began = Duration::from_secs(7);
        for exchange_ms in [100, 8_000, EXCHANGE_MAX_MS] {
            let exchange = Duration::from_millis(exchange_ms);
            let claims_end = claims_end_after_reply(began, exchange);
            assert!(claims_end >= began + Duration::from_secs(15), "{claims_end:?}");
            let outcome = claims_end + 2 * exchange + Duration::from_millis(LEASE_MARGIN_MS);
            assert!(outcome + Duration::from_secs(SETTLE_RESERVE_S) <= reports_end(began));
        }
        assert!(reports_end(began) < began + Duration::from_secs(HOST_LIFE_S));
    }

    #[test]
    fn the_last_bet_before_the_reply_ends_within_the_triggers_wait() {
        let longest = Duration::from_millis(EXCHANGE_MAX_MS);
        let end = claims_end_before_reply(Duration::ZERO, longest);
        assert!(end + longest <= Duration::from_secs(NOTIFICATION_PATIENCE_S));
    }
}
