//! Sends the component's requests: over kept connections, and only to allowed origins.

use crate::{
    connector::{Connector, OutboundSlots},
    metrics::Metrics,
};
use http_body_util::BodyExt;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use std::{
    error::Error as _,
    io,
    pin::pin,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Longest wait for a connection where the function sets no limit: for a slot, the name, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a reply's head where the function sets no limit. Other WASI hosts wait as long.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);

/// Most idle connections that are kept for one server: the bets of a few claims at once.
const IDLE_LIMIT_CONNECTIONS: usize = 256;

/// An HTTP client that keeps its connections. Each thread has its own; clones share it.
pub(crate) type Pool = Client<HttpsConnector<Connector>, WasiBody>;

/// Makes a client. Its connections close `keep_alive` after their last request.
pub(crate) fn pool(keep_alive: Duration, no_delay: bool, slots: OutboundSlots) -> Pool {
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(keep_alive)
        .pool_max_idle_per_host(if keep_alive.is_zero() { 0 } else { IDLE_LIMIT_CONNECTIONS })
        // The client sends a request again, on another connection, only if it wrote no byte of it.
        .retry_canceled_requests(true)
        .build(tls.wrap_connector(Connector::new(slots, no_delay)))
}

/// Sends the requests of one instance.
pub(crate) struct Outbound {
    pub(crate) pool: Pool,
    pub(crate) allowed_origins: Option<Arc<[String]>>,
    pub(crate) metrics: Arc<Metrics>,
    /// Number of this instance's requests without a reply yet.
    pub(crate) unanswered: Arc<AtomicUsize>,
}

type Sent = wasmtime_wasi_http::Result<(
    http::Response<WasiBody>,
    Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
)>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        self.metrics.sent();
        if !self.may_send_to(request.uri()) {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        let options = options.unwrap_or_default();
        let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE_TIMEOUT);
        let connect = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT).min(first_byte);
        let connection = capture_connection(&mut request);
        let answer = self.pool.request(request);
        let metrics = self.metrics.clone();
        let unanswered = self.metrics.unanswered(&self.unanswered);
        Box::new(async move {
            let _unanswered = unanswered;
            let mut answer = pin!(answer);
            let answer = match tokio::time::timeout(connect, answer.as_mut()).await {
                Ok(answer) => answer.map_err(|error| code(&error)),
                // A request gets its connection before its first byte is written, so nothing was sent.
                Err(_) if connection.connection_metadata().is_none() => Err(Error::ConnectionTimeout),
                Err(_) => match tokio::time::timeout(first_byte.saturating_sub(connect), answer).await {
                    Ok(answer) => answer.map_err(|error| code(&error)),
                    Err(_) => Err(Error::ConnectionReadTimeout),
                },
            };
            match answer {
                Ok(answer) => {
                    let done: Box<dyn Future<Output = _> + Send> = Box::new(std::future::ready(Ok(())));
                    Ok((answer.map(|body| body.map_err(Error::from).boxed_unsync()), done))
                }
                Err(error) => {
                    metrics.send_failed();
                    Err(error)
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

/// Maps an error to a WASI error code. An error while connecting proves that nothing was sent. Only such an error gets a
/// code that the function takes as that proof. (TLS errors have codes of their own: other hosts use them after sending, too.)
fn code(error: &hyper_util::client::legacy::Error) -> Error {
    let mut cause = error.source();
    if !error.is_connect() {
        let broken = cause.and_then(|cause| cause.downcast_ref::<hyper::Error>());
        return match broken {
            Some(error) if error.is_parse() => Error::HttpProtocolError,
            _ => Error::ConnectionTerminated,
        };
    }
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return tls_code(error);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // rustls wraps a TLS error into an I/O error.
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return tls_code(tls);
            }
            if let Some(code) = io_code(error) {
                return code;
            }
        }
        // The connector gives DNS errors no type of their own.
        if error.to_string().starts_with("dns error") {
            return Error::DnsError { rcode: None, info_code: None };
        }
        cause = error.source();
    }
    // Wasmtime, too, reports every other error of connecting as this one.
    Error::ConnectionRefused
}

fn tls_code(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
        _ => Error::TlsProtocolError,
    }
}

fn io_code(error: &io::Error) -> Option<Error> {
    use rustix::io::Errno;
    // `ErrorKind` does not tell these apart: the machine has no descriptor, port or memory left for a connection.
    let exhausted =
        [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::AGAIN, Errno::NOBUFS, Errno::NOMEM];
    if error.raw_os_error().is_some_and(|code| exhausted.contains(&Errno::from_raw_os_error(code))) {
        return Some(Error::ConnectionLimitReached);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(Error::ConnectionRefused),
        io::ErrorKind::TimedOut => Some(Error::ConnectionTimeout),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(Error::DestinationIpUnroutable)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_resource_of_the_machine_is_a_connection_limit() {
        for code in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::ADDRNOTAVAIL] {
            let error = io::Error::from_raw_os_error(code.raw_os_error());
            assert!(matches!(io_code(&error), Some(Error::ConnectionLimitReached)), "{error}");
        }
        let reset = io::Error::from_raw_os_error(rustix::io::Errno::CONNRESET.raw_os_error());
        assert!(io_code(&reset).is_none());
    }
}
