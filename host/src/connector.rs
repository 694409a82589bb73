//! Makes outbound connections: a limited number at once, some of them for the ledger alone.

use crate::{Options, descriptors::LEDGER_CONNECTIONS, stream::TrackedStream};
use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

/// Longest wait for a TCP connection: shorter than the function's own limits, so that the host names the error.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The setting that holds the ledger's URL.
const LEDGER_SETTING: &str = "supabase_url";

/// Limits the outbound connections of all threads together. An idle connection has a slot, too.
#[derive(Clone)]
pub(crate) struct OutboundSlots {
    shared: Arc<Semaphore>,
    ledger_only: Arc<Semaphore>,
    /// The ledger's host and port.
    ledger: Option<Arc<str>>,
}

impl OutboundSlots {
    pub(crate) fn new(options: &Options) -> Self {
        let url = options.settings.get(LEDGER_SETTING).and_then(|url| url.parse::<Uri>().ok());
        let ledger = url.and_then(|url| url.authority().map(|authority| Arc::from(authority.as_str())));
        // Without a ledger the host reserves nothing.
        let reserved =
            if ledger.is_some() { LEDGER_CONNECTIONS.min(options.outbound_connections) } else { 0 };
        let shared = options.outbound_connections.saturating_sub(reserved).min(Semaphore::MAX_PERMITS);
        Self {
            shared: Arc::new(Semaphore::new(shared)),
            ledger_only: Arc::new(Semaphore::new(reserved)),
            ledger,
        }
    }

    /// Takes a slot for a connection, as soon as one is free.
    async fn take(&self, to: &Uri) -> Result<OwnedSemaphorePermit, AcquireError> {
        let authority = to.authority().map(|authority| authority.as_str());
        if self.ledger.is_none() || authority != self.ledger.as_deref() {
            return self.shared.clone().acquire_owned().await;
        }
        match self.shared.clone().try_acquire_owned() {
            Ok(slot) => Ok(slot),
            Err(_) => self.ledger_only.clone().acquire_owned().await,
        }
    }
}

/// Makes TCP connections, each with a slot.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    slots: OutboundSlots,
}

impl Connector {
    pub(crate) fn new(slots: OutboundSlots, no_delay: bool) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Otherwise a request of two writes waits 40 ms for the server's delayed acknowledgement.
        tcp.set_nodelay(no_delay);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { tcp, slots }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TrackedStream<OwnedSemaphorePermit>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        // The connector that was polled ready is the one to call; its clone serves the next call.
        let ready = self.tcp.clone();
        let mut tcp = std::mem::replace(&mut self.tcp, ready);
        let slots = self.slots.clone();
        Box::pin(async move {
            let tracker = slots.take(&to).await?;
            let stream = tcp.call(to).await?.into_inner();
            Ok(TokioIo::new(TrackedStream { stream, tracker }))
        })
    }
}
