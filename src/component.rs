//! The shell: the only file that knows the SDK. It hands the core a request, the settings and the world, and
//! passes on what comes out.

use crate::{
    config,
    log::Line,
    outside::{Answer, Limits, Outside, SendError},
    router::{self, BODY_LIMIT_BYTES, BODY_TIMEOUT_S},
};
use bytes::Bytes;
use futures::future::{Either, select};
use http::{Request, Response};
use http_body_util::BodyExt;
use spin_sdk::{
    http::{FullBody, IntoRequest},
    http_service, time,
    wasip3::{
        clocks::monotonic_clock,
        http::{
            client,
            types::{ErrorCode, RequestOptions},
        },
        http_compat::{IncomingBody, IncomingMessage, RequestOptionsExtension, http_from_wasi_response},
        random::random::get_random_u64,
        spawn,
    },
};
use std::{
    io::Write,
    pin::pin,
    time::{Duration, SystemTime},
};

/// Longest wait for a connection, as a part of the time for the whole exchange. A connection that does not come
/// about proves that nothing was sent, so it must be given up on before the whole exchange is.
const CONNECT_TIMEOUT_DIVISOR: u32 = 2;

/// Most of an oversized body that is read and dropped before it is refused, so that a caller who is still sending
/// gets to read why. Beyond it the connection breaks.
const DRAIN_LIMIT_BYTES: usize = 1024 * 1024;

#[http_service]
async fn handle(request: spin_sdk::http::Request) -> Response<FullBody<Bytes>> {
    let (head, body) = request.into_parts();
    let body = read_request(body).await;
    let settings = settings().await;
    let (response, later) = router::respond(&settings, Request::from_parts(head, body), &Wasi).await;
    if let (Some(later), Ok(settings)) = (later, settings) {
        spawn(async move { later.run(&settings, &Wasi).await });
    }
    response.map(|body| FullBody::new(Bytes::from(body)))
}

#[cfg(feature = "spin")]
async fn settings() -> config::Checked {
    let mut values = Vec::new();
    for setting in config::SETTINGS {
        // Undefined and unreadable are the same to us: not set. A required one is then named by /health.
        if let Ok(value) = spin_sdk::variables::get(setting.name).await {
            values.push((setting.name, value));
        }
    }
    config::check(|name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()))
}

#[cfg(not(feature = "spin"))]
async fn settings() -> config::Checked {
    config::check(|name| std::env::var(name.to_ascii_uppercase()).ok())
}

/// WASI, as the core sees it.
struct Wasi;

impl Outside for Wasi {
    async fn send(&self, request: Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
        within(limits.timeout, exchange(request, limits)).await.unwrap_or(Err(SendError::TimedOut))
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(monotonic_clock::now())
    }

    async fn sleep(&self, time: Duration) {
        time::sleep(time).await;
    }

    fn random(&self) -> u128 {
        u128::from(get_random_u64()) << 64 | u128::from(get_random_u64())
    }

    fn log(&self, line: &Line) {
        // `println!` would panic where the host has closed our output.
        let _ = writeln!(std::io::stdout().lock(), "{}", line.to_json());
    }
}

async fn exchange(request: Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
    let mut request = request.map(|body| FullBody::new(Bytes::from(body)));
    request.extensions_mut().insert(RequestOptionsExtension(options(limits.timeout)));
    let request = request.into_request().map_err(|_| SendError::NotSent("request_not_built"))?;
    let response = client::send(request).await.map_err(|error| fate(&error))?;
    let response = http_from_wasi_response(response).map_err(|_| SendError::Broken("unreadable_reply"))?;
    let (head, body) = response.into_parts();
    match read(body, limits.reply_bytes, limits.reply_bytes).await {
        Ok(read) => Ok(Answer { head, body: read.kept, whole: read.whole }),
        Err(error) => Err(match fate(&error) {
            // A head has come back: the request was sent, whatever the host calls the rest.
            SendError::NotSent(how) => SendError::Broken(how),
            fate => fate,
        }),
    }
}

fn options(timeout: Duration) -> RequestOptions {
    let nanoseconds = |time: Duration| Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let connect = timeout.checked_div(CONNECT_TIMEOUT_DIVISOR).unwrap_or(timeout);
    let options = RequestOptions::new();
    // A host that does not know an option is held to the whole exchange's time all the same.
    let _ = options.set_connect_timeout(nanoseconds(connect));
    let _ = options.set_first_byte_timeout(nanoseconds(timeout));
    let _ = options.set_between_bytes_timeout(nanoseconds(timeout));
    options
}

/// What an error of the host proves. Only what comes before the first byte of a request proves that nothing was
/// sent. A broken TLS handshake is not among it: hosts give it the same name as a break later on.
fn fate(error: &ErrorCode) -> SendError {
    match error {
        ErrorCode::ConnectionRefused => SendError::NotSent("connection_refused"),
        ErrorCode::ConnectionTimeout => SendError::NotSent("connect_timeout"),
        ErrorCode::DnsTimeout | ErrorCode::DnsError(_) => SendError::NotSent("name_not_resolved"),
        ErrorCode::DestinationNotFound | ErrorCode::DestinationIpUnroutable => {
            SendError::NotSent("no_such_destination")
        }
        ErrorCode::DestinationIpProhibited | ErrorCode::HttpRequestDenied => {
            SendError::NotSent("destination_not_allowed")
        }
        ErrorCode::TlsCertificateError => SendError::NotSent("bad_certificate"),
        ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => SendError::TimedOut,
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => SendError::Broken("tls_broken"),
        ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete => {
            SendError::Broken("connection_broken")
        }
        ErrorCode::HttpProtocolError => SendError::Broken("http_broken"),
        _ => SendError::Broken("transport_failed"),
    }
}

async fn read_request<T: IncomingMessage>(body: IncomingBody<T>) -> router::Body {
    let reading = read(body, BODY_LIMIT_BYTES, DRAIN_LIMIT_BYTES);
    match within(Duration::from_secs(BODY_TIMEOUT_S), reading).await {
        Some(Ok(read)) if read.whole => router::Body::Whole(read.kept),
        Some(Ok(_)) => router::Body::TooLarge,
        Some(Err(_)) | None => router::Body::Incomplete,
    }
}

/// A body, as far as it was read.
struct Read {
    kept: Vec<u8>,
    whole: bool,
}

/// Reads a body to its end, or to `drain` bytes, and keeps the first `limit` of them.
async fn read<T: IncomingMessage>(
    mut body: IncomingBody<T>,
    limit: usize,
    drain: usize,
) -> Result<Read, ErrorCode> {
    let mut kept = Vec::new();
    let mut whole = true;
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let room = limit.saturating_sub(kept.len());
        kept.extend(data.iter().take(room));
        whole &= data.len() <= room;
        seen = seen.saturating_add(data.len());
        if !whole && seen >= drain {
            break;
        }
    }
    Ok(Read { kept, whole })
}

/// The result of `future`, or `None` if it is not there in time. What is not there is dropped.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(time::sleep(limit))).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}
