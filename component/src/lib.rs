//! The shell: the only crate that uses the SDK. It passes a request, the settings and the runtime to the
//! core, and returns the reply.

#![cfg(target_family = "wasm")]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod message;

use futures::future::{Either, select};
use http::{HeaderMap, Request};
use purple_flea_edge::{
    config::{self, Checked},
    gate::Gate,
    http::router::{self, BODY_TIMEOUT_S, Memory, SMALL_BODY_LIMIT_BYTES},
    log::Line,
    runtime::{Answer, Limits, Runtime, SendError},
};
use spin_sdk::{
    time,
    wasip3::{
        clocks::monotonic_clock,
        exports::http::handler::Guest,
        http::{
            client, service,
            types::{self, ErrorCode, RequestOptions},
        },
        random::random::get_random_u64,
        spawn,
    },
};
use std::{
    cell::Cell,
    io::Write,
    pin::pin,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

/// Divisor of the whole exchange's time that gives the longest wait for a connection. A failed connection
/// proves that nothing was sent, so its time limit must pass before the exchange's.
const CONNECT_TIMEOUT_DIVISOR: u32 = 2;

/// Most bytes of an oversized body that are read and dropped before the refusal, so that a caller which is still
/// sending reads the reply. Beyond this limit the connection breaks.
const DRAIN_LIMIT_BYTES: usize = 1024 * 1024;

/// Longest wait of a request for the requests before it, in milliseconds. A host takes a body within a fraction of a
/// millisecond, so 64 requests at once pass in time. A host that is slower than this holds no other request, and gains
/// nothing from the order.
const GATE_LIMIT_MS: u64 = 20;

/// The settings. Valid settings stay for the life of the instance. Each request reads invalid ones again.
static SETTINGS: OnceLock<Checked> = OnceLock::new();

/// The state that this instance keeps between requests.
static MEMORY: Memory = Memory::empty();

struct Component;

service::export!(Component with_types_in spin_sdk::wasip3);

impl Guest for Component {
    async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
        Ok(handle(request).await)
    }
}

async fn handle(request: types::Request) -> types::Response {
    let head = message::request_head(&request);
    let invalid;
    let settings = match SETTINGS.get() {
        Some(settings) => settings,
        None => match settings().await {
            Ok(settings) => SETTINGS.get_or_init(|| Ok(settings)),
            Err(errors) => {
                invalid = Err(errors);
                &invalid
            }
        },
    };
    let runtime = Wasi::default();
    let limit_bytes = router::body_limit_bytes(settings, &head);
    let needs_room = limit_bytes > SMALL_BODY_LIMIT_BYTES;
    let room = if needs_room { MEMORY.large_bodies.room(&runtime).await } else { None };
    let body = if needs_room && room.is_none() {
        router::Body::Incomplete
    } else {
        read_body(request, head.headers(), limit_bytes).await
    };
    let (response, later) = router::respond(settings, &MEMORY, head.map(|()| body), &runtime).await;
    if let (Some(later), Some(Ok(settings))) = (later, SETTINGS.get()) {
        spawn(async move { later.run(settings, &runtime).await });
    }
    drop(room);
    let (response, writing) = message::response(response);
    spawn(writing);
    response
}

#[cfg(feature = "spin")]
async fn settings() -> Checked {
    let mut values = Vec::new();
    for setting in config::SETTINGS {
        // A variable that is undefined or unreadable counts as not set. `/health` names it if it is required.
        if let Ok(value) = spin_sdk::variables::get(setting.name).await {
            values.push((setting.name, value));
        }
    }
    config::check(|name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone()))
}

#[cfg(not(feature = "spin"))]
async fn settings() -> Checked {
    config::check(|name| std::env::var(name.to_ascii_uppercase()).ok())
}

async fn read_body(request: types::Request, headers: &HeaderMap, limit_bytes: usize) -> router::Body {
    let drain_bytes = limit_bytes.saturating_add(DRAIN_LIMIT_BYTES);
    let reading = message::read_request(request, headers, limit_bytes, drain_bytes);
    match within(Duration::from_secs(BODY_TIMEOUT_S), reading).await {
        Some(Ok(read)) if read.whole => router::Body::Whole(read.kept),
        Some(Ok(_)) => router::Body::TooLarge,
        Some(Err(_)) | None => router::Body::Incomplete,
    }
}

/// The runtime of the core, made with WASI, for one inbound request and the work after its reply.
#[derive(Default)]
struct Wasi {
    /// Lets one outbound request begin at a time, until the host has taken its body. Otherwise a host that begins several
    /// at once sends their heads before it has their bodies. On a connection without `TCP_NODELAY` such a body waits up
    /// to 40 ms for the server's delayed acknowledgement of the head.
    ///
    /// Each inbound request has a gate of its own: the outbound requests of different ones never begin in one turn, and
    /// the SDK traps where one inbound request wakes another.
    gate: Gate,
}

impl Runtime for Wasi {
    async fn send(&self, request: Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
        within(limits.timeout, exchange(request, limits, &self.gate))
            .await
            .unwrap_or(Err(SendError::TimedOut))
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
        // `println!` would panic if the host has closed the output.
        let _ = writeln!(std::io::stdout().lock(), "{}", line.to_json());
    }
}

async fn exchange(request: Request<Vec<u8>>, limits: Limits, gate: &Gate) -> Result<Answer, SendError> {
    // A body that is held back leaves by itself, so its head needs no turn. After the limit a request begins without one.
    let turn = if limits.hold.is_zero() {
        within(Duration::from_millis(GATE_LIMIT_MS), gate.turn()).await
    } else {
        None
    };
    let (request, body) = message::request(request, options(limits.timeout), turn)
        .ok_or(SendError::NotSent("request_not_built"))?;
    let held = Cell::new(!limits.hold.is_zero());
    let writing = async {
        if held.get() {
            time::sleep(limits.hold).await;
            held.set(false);
        }
        body.await;
    };
    let answered = async {
        let response = client::send(request).await.map_err(|error| match classify_send_error(&error) {
            SendError::Broken(_) if held.get() => SendError::NotSent("broken_before_the_body"),
            error => error,
        })?;
        let head = message::response_head(&response).ok_or(SendError::Broken("unreadable_reply"))?;
        match message::read_response(response, &head.headers, limits.reply_bytes).await {
            Ok(read) => Ok(Answer { head, body: read.kept, whole: read.whole }),
            Err(error) => Err(match classify_send_error(&error) {
                // The headers have arrived, so the request was sent, even if the host's error suggests
                // otherwise.
                SendError::NotSent(how) => SendError::Broken(how),
                error => error,
            }),
        }
    };
    // The body is written first, so a host finds it when it gets the headers, and sends both in one packet. A
    // server may answer before it has read the whole request, or without reading it.
    match select(pin!(writing), pin!(answered)).await {
        Either::Left(((), answered)) => answered.await,
        Either::Right((answer, _)) => answer,
    }
}

fn options(timeout: Duration) -> RequestOptions {
    let nanoseconds = |time: Duration| Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let connect = timeout.checked_div(CONNECT_TIMEOUT_DIVISOR).unwrap_or(timeout);
    let options = RequestOptions::new();
    // A host may not support an option. The time of the whole exchange limits it anyway.
    let _ = options.set_connect_timeout(nanoseconds(connect));
    let _ = options.set_first_byte_timeout(nanoseconds(timeout));
    let _ = options.set_between_bytes_timeout(nanoseconds(timeout));
    options
}

/// Classifies an error of the host. Only an error before the first byte of a request proves that nothing was
/// sent. A broken TLS handshake does not prove it, because hosts give a later break the same name.
fn classify_send_error(error: &ErrorCode) -> SendError {
    match error {
        ErrorCode::ConnectionRefused => SendError::NotSent("connection_refused"),
        ErrorCode::ConnectionTimeout => SendError::NotSent("connect_timeout"),
        // The host has no descriptor or port left for a connection.
        ErrorCode::ConnectionLimitReached => SendError::NotSent("connection_limit"),
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

/// Returns the result of `future`, or `None` after `limit`. Then `future` is dropped.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(time::sleep(limit))).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}
