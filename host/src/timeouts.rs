//! Limits how long the host waits for its callers.

use crate::stream::Tracker;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Longest times that the host waits for a caller.
#[derive(Debug, Clone, Copy)]
pub struct CallerTimeouts {
    /// For a whole request head: from the start of a connection, or from the first byte of a later request. It also limits
    /// how long a connection idles while a new connection waits for a slot.
    pub head: Duration,
    /// For the next request on an idle connection, and for the caller to read a reply, while no new connection waits.
    pub idle: Duration,
}

impl Default for CallerTimeouts {
    fn default() -> Self {
        Self {
            // A head takes one packet or two. It arrives within 5 s even if two packets are lost.
            head: Duration::from_secs(5),
            // Proxies keep idle connections for 60 s. The proxy should be the first to close: a request that meets a closing
            // connection is lost, and its caller cannot know whether the function executed it.
            idle: Duration::from_secs(75),
        }
    }
}

/// The phase that a connection is in.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The caller must send a request head. Holds since when.
    Head(Instant),
    /// The function works on a request.
    Function,
    /// The caller must read the reply and send the next request. Holds since when.
    Idle(Instant),
}

/// The phase of one connection, shared by all that watch it.
#[derive(Clone)]
pub(crate) struct PhaseTracker(Arc<Mutex<Phase>>);

impl Tracker for PhaseTracker {
    /// Starts the phase of a head if the connection was idle.
    fn received(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }
}

impl PhaseTracker {
    /// Makes the tracker of a connection that was just accepted.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Head(Instant::now()))))
    }

    /// Records that a request's head is complete.
    pub(crate) fn requested(&self) {
        *self.phase() = Phase::Function;
    }

    /// Records that the function has given the reply's head.
    pub(crate) fn replied(&self) {
        *self.phase() = Phase::Idle(Instant::now());
    }

    /// Waits until the caller has exceeded one of the limits.
    pub(crate) async fn timed_out(&self, timeouts: CallerTimeouts, mut crowded: watch::Receiver<bool>) {
        loop {
            let now = Instant::now();
            // Every phase lasts `head` at least, so no phase can begin and end before this time.
            let mut wake = now + timeouts.head;
            let phase = *self.phase();
            let over = match phase {
                Phase::Function => None,
                Phase::Head(since) => Some(since + timeouts.head),
                Phase::Idle(since) if *crowded.borrow_and_update() => Some(since + timeouts.head),
                Phase::Idle(since) => Some(since + timeouts.idle.max(timeouts.head)),
            };
            if let Some(over) = over {
                if over <= now {
                    return;
                }
                wake = wake.min(over);
            }
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                // Without a sender no connection waits any more.
                Ok(()) = crowded.changed() => {}
            }
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
