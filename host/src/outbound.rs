//! What the component sends: over kept connections, and only to where it may.

use crate::metrics::Metrics;
use http_body_util::BodyExt;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{error::Error as _, io, sync::Arc, time::Duration};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Longest wait for a connection, its TLS handshake not included. The function itself gives up later than that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Most connections that are kept for one host: the bets of a few claims at once.
const IDLE_LIMIT_CONNECTIONS: usize = 256;

/// A client that keeps its connections. Cheap to clone; each thread has its own.
pub(crate) type Pool = Client<HttpsConnector<HttpConnector>, WasiBody>;

/// A new client without connections, which keeps each for so long after its last request.
pub(crate) fn pool(keep: Duration) -> Pool {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // Otherwise a request of two writes waits 40 ms for the server's delayed acknowledgement.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(keep)
        .pool_max_idle_per_host(if keep.is_zero() { 0 } else { IDLE_LIMIT_CONNECTIONS })
        // Only what was certainly not written is sent again, on another connection.
        .retry_canceled_requests(true)
        .build(tls.wrap_connector(tcp))
}

/// The host's side of outbound requests.
pub(crate) struct Outbound {
    pub(crate) pool: Pool,
    pub(crate) allowed_origins: Option<Arc<[String]>>,
    pub(crate) metrics: Arc<Metrics>,
}

type Sent = wasmtime_wasi_http::Result<(
    http::Response<WasiBody>,
    Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
)>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        self.metrics.sent();
        if !self.may_send_to(request.uri()) {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        let answer = self.pool.request(request);
        let first_byte = options.and_then(|options| options.first_byte_timeout);
        let metrics = self.metrics.clone();
        Box::new(async move {
            let answer = match first_byte {
                Some(time) => match tokio::time::timeout(time, answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        metrics.failed();
                        return Err(Error::ConnectionReadTimeout);
                    }
                },
                None => answer.await,
            };
            match answer {
                Ok(answer) => {
                    let done: Box<dyn Future<Output = _> + Send> = Box::new(std::future::ready(Ok(())));
                    Ok((answer.map(|body| body.map_err(Error::from).boxed_unsync()), done))
                }
                Err(error) => {
                    metrics.failed();
                    Err(name(&error))
                }
            }
        })
    }
}

impl Outbound {
    fn may_send_to(&self, uri: &http::Uri) -> bool {
        let Some(allowed) = &self.allowed_origins else { return true };
        let (scheme, authority) = (uri.scheme_str().unwrap_or_default(), uri.authority());
        let authority = authority.map_or("", |authority| authority.as_str());
        allowed.iter().any(|origin| {
            origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) == Some(authority)
        })
    }
}

/// What to call an error. The names before the first byte of a request are proof that nothing was sent, so they are
/// given for errors of connecting alone.
fn name(error: &hyper_util::client::legacy::Error) -> Error {
    let mut cause = error.source();
    if !error.is_connect() {
        let broken = cause.and_then(|cause| cause.downcast_ref::<hyper::Error>());
        return match broken {
            Some(error) if error.is_parse() => Error::HttpProtocolError,
            _ => Error::ConnectionTerminated,
        };
    }
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            };
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => return Error::ConnectionRefused,
                io::ErrorKind::TimedOut => return Error::ConnectionTimeout,
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    return Error::DestinationIpUnroutable;
                }
                _ => {}
            }
            // An error of TLS is wrapped into one of input and output.
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return match tls {
                    rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                    _ => Error::TlsProtocolError,
                };
            }
        }
        // The connector has no other name for it.
        if error.to_string().starts_with("dns error") {
            return Error::DnsError { rcode: None, info_code: None };
        }
        cause = error.source();
    }
    // It did not come to a connection, so nothing was sent; how it failed we have no name for.
    Error::DestinationUnavailable
}
