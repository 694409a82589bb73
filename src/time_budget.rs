//! Every time limit that depends on another one, added up in one place, for every host.
//!
//! ```text
//!  a notification's work, from its begin to the host's end (HOST_LIFE_S)
//!  ├─ claims are begun ──────────────┤
//!                   the last claim's jobs ───────┤    at most the lease: two exchanges and their margin
//!                                                 ├─ their outcomes are reported ─┤ SETTLE_RESERVE_S at least
//! ```
//!
//! The lease (30 s) and the first look-up (73 s after it) stand in `purple_flea.timing()`; a test compares them with these.

use std::time::Duration;

/// How long hosts let work go on, in seconds, after a reply or instead of one: what `purple-flea-host` and the clouds give.
/// A host that gives more costs nothing; one that gives less leaves outcomes to the log.
pub const HOST_LIFE_S: u64 = 60;

/// How long before the host's end the last report is given up, in seconds: outcomes that are not recorded go to the log
/// then, and a line takes no time.
const LAST_WORDS_S: u64 = 1;

/// How much of the host's time is kept free for reports, in seconds: a call of the ledger, and a restart of the database.
const SETTLE_RESERVE_S: u64 = 10;

/// Longest exchange with Purple Flea that the settings allow, in milliseconds: what the trigger waits
/// ([`NOTIFICATION_PATIENCE_S`]), less two seconds for the way there and back.
pub const EXCHANGE_MAX_MS: u64 = 13_000;

/// How long the trigger waits for our reply, in seconds, where the function does not answer at once.
pub const NOTIFICATION_PATIENCE_S: u64 = 15;

/// How long one call of the ledger may take, in seconds. Calls take milliseconds, a restart of the database some seconds.
pub const LEDGER_CALL_S: u64 = 5;

/// How late a claim may be, in milliseconds, by the database's clock: less than its caller waits ([`LEDGER_CALL_S`]), so that a
/// claim whose caller has given up takes nothing.
pub const CLAIM_PATIENCE_MS: u64 = 4_000;

/// How long a claim holds, in milliseconds: the database's `timing().lease`.
pub const LEASE_MS: u64 = 30_000;

/// What is left of a lease when the last byte of an exchange may come in, in milliseconds: room to settle, and for clocks
/// that tick differently.
pub const LEASE_MARGIN_MS: u64 = 1_000;

const _: () = {
    // A job makes two exchanges at most: it asks for the balance, then bets.
    assert!(2 * EXCHANGE_MAX_MS + LEASE_MARGIN_MS < LEASE_MS);
    assert!(EXCHANGE_MAX_MS + 2_000 <= NOTIFICATION_PATIENCE_S * 1_000);
    assert!(CLAIM_PATIENCE_MS < LEDGER_CALL_S * 1_000);
    // Claims have some time even with the longest exchanges.
    assert!(LEASE_MS / 1_000 + SETTLE_RESERVE_S + LAST_WORDS_S + 10 < HOST_LIFE_S);
};

/// Until when work that began at `began` may report outcomes.
pub fn reports_end(began: Duration) -> Duration {
    began.saturating_add(Duration::from_secs(HOST_LIFE_S.saturating_sub(LAST_WORDS_S)))
}

/// Until when work that goes on after its reply may begin claims, with exchanges of at most `exchange`.
pub fn claims_end_after_reply(began: Duration, exchange: Duration) -> Duration {
    let jobs = exchange
        .saturating_mul(2)
        .saturating_add(Duration::from_millis(LEASE_MARGIN_MS))
        .min(Duration::from_millis(LEASE_MS));
    reports_end(began).saturating_sub(jobs).saturating_sub(Duration::from_secs(SETTLE_RESERVE_S))
}

/// Until when work that is answered when it is over may begin claims. Half of what the trigger's patience leaves: the claim
/// and the report take time, too.
pub fn claims_end_before_reply(began: Duration, exchange: Duration) -> Duration {
    let left = Duration::from_secs(NOTIFICATION_PATIENCE_S).saturating_sub(exchange);
    began.saturating_add(left.checked_div(2).unwrap_or(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_jobs_outcome_has_time_to_be_reported_whatever_the_exchange_takes() {
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
    fn the_trigger_hears_of_the_last_bet_while_it_listens() {
        let longest = Duration::from_millis(EXCHANGE_MAX_MS);
        let end = claims_end_before_reply(Duration::ZERO, longest);
        assert!(end + longest <= Duration::from_secs(NOTIFICATION_PATIENCE_S));
    }
}
