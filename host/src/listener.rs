//! Accepts connections, at most as many at once as there are slots.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

/// Pause after an error of accepting. Without a free descriptor every attempt fails at once.
const PAUSE: Duration = Duration::from_millis(100);

/// Most slots that a semaphore can count.
const SLOTS_LIMIT: usize = Semaphore::MAX_PERMITS;

/// Limits a listener's connections.
#[derive(Clone)]
pub struct Slots {
    free: Arc<Semaphore>,
    all: usize,
    crowded: Arc<watch::Sender<bool>>,
}

impl Slots {
    /// Makes a number of free slots.
    pub fn new(all: usize) -> Self {
        let all = all.min(SLOTS_LIMIT);
        Self { free: Arc::new(Semaphore::new(all)), all, crowded: Arc::new(watch::channel(false).0) }
    }

    /// Counts the taken slots.
    pub fn taken(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// Takes a slot, as soon as one is free. Until then `crowded` is true, and idle connections get less time.
    async fn take(&self) -> Slot {
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.crowded.send_replace(true);
                let permit = self.free.clone().acquire_owned().await;
                self.crowded.send_replace(false);
                // The semaphore is never closed.
                permit.ok()
            }
        };
        Slot { crowded: self.crowded.subscribe(), _permit: permit }
    }
}

/// The slot of one connection. Dropping it frees the slot.
pub struct Slot {
    /// Whether a new connection waits for a slot.
    pub(crate) crowded: watch::Receiver<bool>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A listener whose connections each take a slot.
pub struct Listener {
    listener: TcpListener,
    slots: Slots,
}

impl Listener {
    /// Combines a TCP listener with slots.
    pub fn new(listener: TcpListener, slots: Slots) -> Self {
        Self { listener, slots }
    }

    /// Listens on an address.
    pub async fn listen(address: SocketAddr, slots: Slots) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(address).await?, slots))
    }

    /// Gives the address that it listens on.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the next connection and its slot. An error of accepting is logged and does not end the listener: the caller
    /// may have gone already, or the process may have no free descriptor for now.
    pub async fn next(&self) -> (TcpStream, Slot) {
        let stream = loop {
            match self.listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    eprintln!("purple-flea-host: a connection was not accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        (stream, self.slots.take().await)
    }
}
