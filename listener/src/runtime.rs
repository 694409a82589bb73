//! The runtime of the function's client of PostgREST: hyper, the machine's clocks, and standard output.

use crate::log;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use purple_flea_edge::{
    log::Line,
    runtime::{Answer, Limits, Runtime, SendError},
};
use rustls::crypto::ring;
use std::{
    error::Error,
    time::{Duration, Instant, SystemTime},
};

/// Longest wait for a TCP connection to PostgREST.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection to PostgREST is kept after its last call.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Reaches PostgREST over kept connections.
pub(crate) struct Native {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    start: Instant,
}

impl Native {
    /// Makes a runtime.
    pub(crate) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls =
            hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP_ALIVE)
            .build(tls.wrap_connector(tcp));
        Self { client, start: Instant::now() }
    }

    async fn exchange(&self, request: http::Request<Vec<u8>>, limit: usize) -> Result<Answer, SendError> {
        let request = request.map(|body| Full::new(Bytes::from(body)));
        let response = self.client.request(request).await.map_err(|error| {
            if error.is_connect() {
                SendError::NotSent("connection_failed")
            } else {
                SendError::Broken("broken")
            }
        })?;
        let (head, body) = response.into_parts();
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(Answer { head, body: body.to_bytes().into(), whole: true }),
            Err(error) if is_too_long(error.as_ref()) => Ok(Answer { head, body: Vec::new(), whole: false }),
            Err(_) => Err(SendError::Broken("answer_broken")),
        }
    }
}

fn is_too_long(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>()
}

impl Runtime for Native {
    async fn send(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
        let exchange = self.exchange(request, limits.reply_bytes);
        tokio::time::timeout(limits.timeout, exchange).await.map_err(|_| SendError::TimedOut)?
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        tokio::time::sleep(time)
    }

    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        // Without random bytes no connection could be encrypted either.
        let _ = ring::default_provider().secure_random.fill(&mut bytes);
        u128::from_ne_bytes(bytes)
    }

    fn log(&self, line: &Line) {
        log::print(&line.to_json());
    }
}
