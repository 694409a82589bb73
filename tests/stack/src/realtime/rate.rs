//! The tenant's rate, counted as Realtime counts: a bucket each five seconds, at most twelve, and their mean. Above the
//! limit nothing is said to anybody.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The most buckets: with one each five seconds, the last minute.
const BUCKETS: usize = 12;

/// Counts events.
pub(super) struct Rate {
    limit: f64,
    every: Duration,
    buckets: VecDeque<u64>,
    current: u64,
    next: Instant,
    exceeded: bool,
}

impl Rate {
    /// Begins with one empty bucket.
    pub(super) fn new(limit: f64, every: Duration, now: Instant) -> Self {
        Self { limit, every, buckets: VecDeque::from([0]), current: 0, next: now + every, exceeded: false }
    }

    /// Counts events.
    pub(super) fn count(&mut self, events: u64, now: Instant) {
        self.advance(now);
        self.current += events;
    }

    /// Tells whether the mean has reached the limit.
    pub(super) fn is_exceeded(&mut self, now: Instant) -> bool {
        self.advance(now);
        self.exceeded
    }

    /// Gives the mean of the closed buckets, in events a second.
    pub(super) fn mean(&mut self, now: Instant) -> f64 {
        self.advance(now);
        let sum: u64 = self.buckets.iter().sum();
        sum as f64 / self.buckets.len() as f64 / self.every.as_secs_f64()
    }

    fn advance(&mut self, now: Instant) {
        while now >= self.next {
            self.buckets.push_front(std::mem::take(&mut self.current));
            self.buckets.truncate(BUCKETS);
            self.next += self.every;
            let sum: u64 = self.buckets.iter().sum();
            let mean = sum as f64 / self.buckets.len() as f64 / self.every.as_secs_f64();
            self.exceeded = mean >= self.limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_silences_the_minute_after_it() {
        let (start, tick) = (Instant::now(), Duration::from_secs(5));
        let mut rate = Rate::new(100.0, tick, start);
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(!rate.is_exceeded(at(55)));
        rate.count(10_000, at(56));
        assert!(!rate.is_exceeded(at(59)), "it is seen at the next tick");
        assert!(rate.is_exceeded(at(60)));
        assert!(rate.is_exceeded(at(119)));
        assert!(!rate.is_exceeded(at(120)));
        assert!(rate.mean(at(120)) < 1.0);
    }
}
