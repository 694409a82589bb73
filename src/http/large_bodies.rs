//! Room for large bodies. An instance serves many requests at once in little memory, and all of them end if that is used up.
//! So an instance holds only a few large bodies at a time.

use crate::runtime::Runtime;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// Most large bodies that an instance holds at once. One of 4 MiB takes about 16 MiB while it is read, and hosts give an
/// instance 64 MiB.
const LARGE_BODIES_LIMIT: usize = 2;

/// Longest wait for room, in milliseconds.
const WAIT_LIMIT_MS: u64 = 5_000;

/// Time between two looks for room, in milliseconds.
const LOOK_INTERVAL_MS: u64 = 10;

/// The large bodies that an instance holds.
#[derive(Debug)]
pub struct LargeBodies(AtomicUsize);

/// Room for one large body, until it is dropped.
#[derive(Debug)]
pub struct Room<'a>(&'a LargeBodies);

impl LargeBodies {
    /// Makes the state of a new instance.
    pub const fn none() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Waits for room. Returns `None` if there is none in time.
    pub async fn room(&self, runtime: &impl Runtime) -> Option<Room<'_>> {
        let began = runtime.monotonic();
        loop {
            let more = |held: usize| (held < LARGE_BODIES_LIMIT).then(|| held.saturating_add(1));
            if self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
                return Some(Room(self));
            }
            // The SDK traps where one request wakes another, so each looks for itself.
            if runtime.monotonic().saturating_sub(began) >= Duration::from_millis(WAIT_LIMIT_MS) {
                return None;
            }
            runtime.sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let fewer = |held: usize| Some(held.saturating_sub(1));
        let _ = self.0.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
    }
}
