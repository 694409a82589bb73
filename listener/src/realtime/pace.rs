//! The pace of joins, over all sockets: a project takes a hundred joins a second, and refuses the rest.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Joins of one span of time: fifty a second, so that two listeners may start at the same moment.
const JOINS: u32 = 5;
const SPAN: Duration = Duration::from_millis(100);

/// Counts joins.
pub(crate) struct Pace(Mutex<(Instant, u32)>);

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new((now, 0)))
    }

    /// Whether one more topic may be joined now.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(state.0) >= SPAN {
            *state = (now, 0);
        }
        let free = state.1 < JOINS;
        if free {
            state.1 = state.1.saturating_add(1);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_joins_a_second_are_begun_however_many_are_asked_for() {
        let mut now = Instant::now();
        let pace = Pace::new(now);
        let mut taken = 0;
        for _ in 0..1000 {
            for _ in 0..10 {
                taken += u32::from(pace.take(now));
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(taken, 50);
    }
}
