//! Waits that grow with each failure in a row, and differ between listeners.

use std::time::Duration;

/// Doubles a wait for each failure so far, up to `most`.
pub(crate) fn doubled(first: Duration, failures: u32, most: Duration) -> Duration {
    // No wait is doubled more than 31 times: then it is `most` in any case.
    first.saturating_mul(1_u32 << failures.min(31)).min(most)
}

/// Takes away up to half of a wait, by chance. After a restart of Realtime all listeners come back at different times.
pub(crate) fn jittered(wait: Duration, random: u128) -> Duration {
    let share = u32::try_from(random % 1000).unwrap_or(0).saturating_add(1000);
    wait.saturating_mul(share).checked_div(2000).unwrap_or(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_lose_at_most_half() {
        let (first, most) = (Duration::from_millis(250), Duration::from_secs(30));
        let waits: Vec<u128> = [0, 1, 2, 7, 40].map(|n| doubled(first, n, most).as_millis()).into();
        assert_eq!(waits, [250, 500, 1000, 30_000, 30_000]);
        for random in [0, 1, 499, 999, u128::MAX] {
            let wait = jittered(most, random);
            assert!(wait >= most / 2 && wait <= most, "{random}: {wait:?}");
        }
    }
}
