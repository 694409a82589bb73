//! How outbound connections are made: a limited number at once, some of them for the ledger alone.

use crate::{Options, descriptors::LEDGER_CONNECTIONS, stream::Accompanied};
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

/// Longest wait for a TCP connection. The function itself gives up later than that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The setting that says where the ledger is.
const LEDGER_SETTING: &str = "supabase_url";

/// The places of outbound connections, those of all threads together. An idle connection has one, too.
#[derive(Clone)]
pub(crate) struct Places {
    anybodys: Arc<Semaphore>,
    ledgers: Arc<Semaphore>,
    /// Host and port of the ledger.
    ledger: Option<Arc<str>>,
}

impl Places {
    pub(crate) fn new(options: &Options) -> Self {
        let url = options.settings.get(LEDGER_SETTING).and_then(|url| url.parse::<Uri>().ok());
        let ledger = url.and_then(|url| url.authority().map(|authority| Arc::from(authority.as_str())));
        // Without a ledger there is nothing to reserve.
        let reserved = if ledger.is_some() { LEDGER_CONNECTIONS.min(options.outbound) } else { 0 };
        let anybodys = options.outbound.saturating_sub(reserved).min(Semaphore::MAX_PERMITS);
        Self {
            anybodys: Arc::new(Semaphore::new(anybodys)),
            ledgers: Arc::new(Semaphore::new(reserved)),
            ledger,
        }
    }

    /// Takes a place for a connection, as soon as there is one.
    async fn take(&self, to: &Uri) -> Result<OwnedSemaphorePermit, AcquireError> {
        let authority = to.authority().map(|authority| authority.as_str());
        if self.ledger.is_none() || authority != self.ledger.as_deref() {
            return self.anybodys.clone().acquire_owned().await;
        }
        match self.anybodys.clone().try_acquire_owned() {
            Ok(place) => Ok(place),
            Err(_) => self.ledgers.clone().acquire_owned().await,
        }
    }
}

/// Makes TCP connections.
#[derive(Clone)]
pub(crate) struct Dial {
    tcp: HttpConnector,
    places: Places,
}

impl Dial {
    pub(crate) fn new(places: Places) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Otherwise a request of two writes waits 40 ms for the server's delayed acknowledgement.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self { tcp, places }
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Accompanied<OwnedSemaphorePermit>>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        // The connector that was polled ready is the one to call; its clone serves the next call.
        let ready = self.tcp.clone();
        let mut tcp = std::mem::replace(&mut self.tcp, ready);
        let places = self.places.clone();
        Box::pin(async move {
            let companion = places.take(&to).await?;
            let stream = tcp.call(to).await?.into_inner();
            Ok(TokioIo::new(Accompanied { stream, companion }))
        })
    }
}
