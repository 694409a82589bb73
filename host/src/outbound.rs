//! What the component sends: over kept connections, and only to where it may.

use crate::{
    dial::{Dial, Places},
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

/// Longest wait for a connection where the function asks for none: for its place, its name, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a reply's head where the function asks for none, as WASI's other hosts have it.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(600);

/// Most connections that are kept for one host: the bets of a few claims at once.
const IDLE_LIMIT_CONNECTIONS: usize = 256;

/// A client that keeps its connections. Cheap to clone; each thread has its own.
pub(crate) type Pool = Client<HttpsConnector<Dial>, WasiBody>;

/// A new client without connections, which keeps each for so long after its last request.
pub(crate) fn pool(keep: Duration, places: Places) -> Pool {
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1();
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(keep)
        .pool_max_idle_per_host(if keep.is_zero() { 0 } else { IDLE_LIMIT_CONNECTIONS })
        // Only what was certainly not written is sent again, on another connection.
        .retry_canceled_requests(true)
        .build(tls.wrap_connector(Dial::new(places)))
}

/// The host's side of outbound requests.
pub(crate) struct Outbound {
    pub(crate) pool: Pool,
    pub(crate) allowed_origins: Option<Arc<[String]>>,
    pub(crate) metrics: Arc<Metrics>,
    /// How many requests of this instance have no reply yet.
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
                Ok(answer) => answer.map_err(|error| name(&error)),
                // The request gets a connection before its first byte is written. It will get none any more.
                Err(_) if connection.connection_metadata().is_none() => Err(Error::ConnectionTimeout),
                Err(_) => match tokio::time::timeout(first_byte.saturating_sub(connect), answer).await {
                    Ok(answer) => answer.map_err(|error| name(&error)),
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

/// Names an error. An error of connecting proves that nothing was sent, and only such an error gets a name that the
/// function takes for that proof. (Broken TLS handshakes have their own names, which other hosts use later on, too.)
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
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return name_of_tls(error);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            // An error of TLS is wrapped into one of input and output.
            if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return name_of_tls(tls);
            }
            if let Some(name) = name_of_io(error) {
                return name;
            }
        }
        // The connector has no other name for it.
        if error.to_string().starts_with("dns error") {
            return Error::DnsError { rcode: None, info_code: None };
        }
        cause = error.source();
    }
    // What Wasmtime calls every error of connecting that has no name of its own.
    Error::ConnectionRefused
}

fn name_of_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
        _ => Error::TlsProtocolError,
    }
}

fn name_of_io(error: &io::Error) -> Option<Error> {
    use rustix::io::Errno;
    // These have no kind of their own: this machine has no descriptor, no port or no memory left for a connection.
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
    fn what_this_machine_has_no_more_of_is_named_so() {
        for code in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::ADDRNOTAVAIL] {
            let error = io::Error::from_raw_os_error(code.raw_os_error());
            assert!(matches!(name_of_io(&error), Some(Error::ConnectionLimitReached)), "{error}");
        }
        let reset = io::Error::from_raw_os_error(rustix::io::Errno::CONNRESET.raw_os_error());
        assert!(name_of_io(&reset).is_none());
    }
}
