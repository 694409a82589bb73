//! Where connections come in: a listener, and a limited number of places.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

/// How long the host waits after an error of accepting. Without a descriptor the error comes at once, again and again.
const PAUSE: Duration = Duration::from_millis(100);

/// Most places that a semaphore can count.
const PLACES_LIMIT: usize = Semaphore::MAX_PERMITS;

/// The places of a listener's connections.
#[derive(Clone)]
pub struct Places {
    free: Arc<Semaphore>,
    all: usize,
    crowded: Arc<watch::Sender<bool>>,
}

impl Places {
    /// So many places.
    pub fn new(all: usize) -> Self {
        let all = all.min(PLACES_LIMIT);
        Self { free: Arc::new(Semaphore::new(all)), all, crowded: Arc::new(watch::channel(false).0) }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.all.saturating_sub(self.free.available_permits())
    }

    /// Takes a place, as soon as there is one. While it waits, connections that idle have less time.
    async fn take(&self) -> Place {
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
        Place { crowded: self.crowded.subscribe(), _permit: permit }
    }
}

/// The place of one connection. It is free again when this is dropped.
pub struct Place {
    /// Whether a newcomer waits for a place.
    pub(crate) crowded: watch::Receiver<bool>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A listener with places.
pub struct Gate {
    listener: TcpListener,
    places: Places,
}

impl Gate {
    /// Puts a listener before places.
    pub fn new(listener: TcpListener, places: Places) -> Self {
        Self { listener, places }
    }

    /// Listens at an address.
    pub async fn listen(address: SocketAddr, places: Places) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(address).await?, places))
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, and its place. An error of accepting is said, and ends nothing: the connection may be gone
    /// already, or there may be no descriptor for now.
    pub async fn next(&self) -> (TcpStream, Place) {
        let stream = loop {
            match self.listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    eprintln!("purple-flea-host: a connection was not accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        (stream, self.places.take().await)
    }
}
