//! The delays of the real server, for measurements: the stand-in alone is faster.

use super::replication::POSTGRES_EPOCH_S;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// What is added to the stand-in's own delays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delays {
    /// Nothing.
    #[default]
    None,
    /// The figures that were measured of the real server: a broadcast of the database comes 1.9 ms (p50) and 6.2 ms
    /// (p99) after the commit, a change of a table 264 and 569 ms.
    Measured,
}

/// A delay's middle, and its 99th part of a hundred, in milliseconds.
const BROADCAST_MS: (f64, f64) = (1.9, 6.2);

/// The same for what a poll of changes takes beyond the sleep before it.
const POLL_MS: (f64, f64) = (14.0, 60.0);

/// The distance of the 99th part of a hundred from the middle, in standard deviations.
const P99: f64 = 2.326;

impl Delays {
    /// Waits until a broadcast of a transaction would have left the real server.
    pub(super) async fn wait_after_commit(self, at_us: u64) {
        let Self::Measured = self else { return };
        let since_epoch = Duration::from_micros(at_us) + Duration::from_secs(POSTGRES_EPOCH_S);
        let committed = UNIX_EPOCH + since_epoch;
        let gone = SystemTime::now().duration_since(committed).unwrap_or_default();
        precise_sleep(draw(BROADCAST_MS).saturating_sub(gone)).await;
    }

    /// Waits for as long as the real server works on a poll.
    pub(super) async fn wait_for_poll(self) {
        if self == Self::Measured {
            sleep(draw(POLL_MS)).await;
        }
    }
}

/// Draws from a log-normal distribution.
fn draw((middle_ms, high_ms): (f64, f64)) -> Duration {
    // Box and Muller's way to a normal distribution.
    let (a, b) = (fastrand::f64().max(f64::MIN_POSITIVE), fastrand::f64());
    let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    let ms = middle_ms * (normal * (high_ms / middle_ms).ln() / P99).exp();
    Duration::from_secs_f64(ms / 1_000.0)
}

/// Sleeps for less than the timer's millisecond, too.
async fn precise_sleep(wait: Duration) {
    let end = std::time::Instant::now() + wait;
    if let Some(long) = wait.checked_sub(Duration::from_millis(2)) {
        sleep(long).await;
    }
    while std::time::Instant::now() < end {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawn_delays_have_the_measured_middle_and_high_end() {
        fastrand::seed(7);
        let mut drawn: Vec<Duration> = (0..20_000).map(|_| draw(BROADCAST_MS)).collect();
        drawn.sort();
        let ms = |place: usize| drawn[place].as_secs_f64() * 1_000.0;
        assert!((1.8..2.0).contains(&ms(10_000)), "{}", ms(10_000));
        assert!((5.6..6.8).contains(&ms(19_800)), "{}", ms(19_800));
    }
}
