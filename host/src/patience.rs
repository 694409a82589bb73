//! How long the host waits for its callers.

use crate::stream::Companion;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long the host waits for a caller.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a whole request head: from the accepting of a new connection, or from the first byte of a later request. Also
    /// for the next request on an idle connection while a newcomer waits for its place.
    pub head: Duration,
    /// For the next request on an idle connection, and for the taking of a reply, while no newcomer waits.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // A head is one packet or two. Even with two packets lost on the way it is there within 5 s.
            head: Duration::from_secs(5),
            // Proxies keep idle connections for 60 s. The side that sends requests should be the one that closes: a request
            // on a connection that is closed at that moment is lost, and its caller cannot know what became of it.
            idle: Duration::from_secs(75),
        }
    }
}

/// What a connection is at.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Its caller has to send a request head, since then.
    Head(Instant),
    /// The function has its request.
    Function,
    /// Its caller has to take the reply and to send the next request, since then.
    Idle(Instant),
}

/// What a connection is at, as its parts see it.
#[derive(Clone)]
pub(crate) struct Pace(Arc<Mutex<Phase>>);

impl Companion for Pace {
    /// Bytes that come in while the connection idles begin the next head.
    fn came_in(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Idle(_)) {
            *phase = Phase::Head(Instant::now());
        }
    }
}

impl Pace {
    /// That of a connection that was just accepted.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::Head(Instant::now()))))
    }

    /// The head is complete.
    pub(crate) fn requested(&self) {
        *self.phase() = Phase::Function;
    }

    /// The reply's head is there.
    pub(crate) fn replied(&self) {
        *self.phase() = Phase::Idle(Instant::now());
    }

    /// Waits until the host's patience is over.
    pub(crate) async fn exhausted(&self, patience: Patience, mut crowded: watch::Receiver<bool>) {
        loop {
            let now = Instant::now();
            // No phase that begins after this look ends before the next one: each has the time of a head at least.
            let mut look = now + patience.head;
            let phase = *self.phase();
            let over = match phase {
                Phase::Function => None,
                Phase::Head(since) => Some(since + patience.head),
                Phase::Idle(since) if *crowded.borrow_and_update() => Some(since + patience.head),
                Phase::Idle(since) => Some(since + patience.idle.max(patience.head)),
            };
            if let Some(over) = over {
                if over <= now {
                    return;
                }
                look = look.min(over);
            }
            tokio::select! {
                () = tokio::time::sleep_until(look) => {}
                // Without a sender nobody is crowded any more, and the limits of a quiet time hold.
                Ok(()) = crowded.changed() => {}
            }
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
