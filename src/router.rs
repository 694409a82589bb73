//! The way in: which route, with which method, and a body that may be looked at. Infallible: whatever comes in,
//! a JSON reply goes out, and a line of log is written.

use crate::{
    by_hand,
    config::Checked,
    execute_trade::{self, Later, Reply},
    health,
    log::{Line, milliseconds},
    outside::Outside,
    problem::{Problem, json},
    reconcile, time_budget,
    work::Kind,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use std::time::Duration;

/// Largest body that is read. A row is under 1 KiB; pg_net and the dashboard's webhooks stay far below.
pub const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Longest that a body may take to arrive, in seconds. A caller that drips must not hold an instance's slot.
pub const BODY_TIMEOUT_S: u64 = 10;

/// A request's body, as far as it was read.
#[derive(Debug)]
pub enum Body {
    /// All of it: at most [`BODY_LIMIT_BYTES`].
    Whole(Vec<u8>),
    /// It is larger than [`BODY_LIMIT_BYTES`].
    TooLarge,
    /// It broke off, or was not there within [`BODY_TIMEOUT_S`].
    Incomplete,
}

/// The routes, a line each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    ExecuteTrade,
    ByHand(Kind),
    Reconcile,
    Health,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/" | "/execute-trade" | "/functions/v1/execute-trade" => Some(Self::ExecuteTrade),
            "/register" => Some(Self::ByHand(Kind::Registration)),
            "/faucet" => Some(Self::ByHand(Kind::Faucet)),
            "/faucet/daily" => Some(Self::ByHand(Kind::DailyClaim)),
            "/balance" => Some(Self::ByHand(Kind::Balance)),
            "/trade" => Some(Self::ByHand(Kind::Trade)),
            "/order" => Some(Self::ByHand(Kind::Order)),
            "/escrow" => Some(Self::ByHand(Kind::Escrow)),
            "/escrow/release" => Some(Self::ByHand(Kind::EscrowRelease)),
            "/escrow/cancel" => Some(Self::ByHand(Kind::EscrowCancel)),
            "/reconcile" => Some(Self::Reconcile),
            "/health" => Some(Self::Health),
            _ => None,
        }
    }

    fn method(self) -> (Method, &'static str) {
        match self {
            Self::ExecuteTrade | Self::ByHand(_) | Self::Reconcile => (Method::POST, "POST"),
            Self::Health => (Method::GET, "GET"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ExecuteTrade => "execute_trade",
            Self::ByHand(kind) => kind.name(),
            Self::Reconcile => "reconcile",
            Self::Health => "health",
        }
    }
}

/// Answers one request. What comes beside the reply is to go on after it.
pub async fn respond(
    settings: &Checked,
    request: Request<Body>,
    outside: &impl Outside,
) -> (Response<Vec<u8>>, Option<Later>) {
    let started = outside.monotonic();
    let route = Route::of(request.uri().path());
    let mut line = Line::new(outside.now(), route.map_or("unknown", Route::name));
    let (response, later) = match dispatch(settings, route, request, outside, &mut line).await {
        Ok(reply) => reply,
        Err(problem) => {
            line.code = Some(problem.code());
            line.cause = problem.cause();
            (problem.response(line.reference.as_deref()), None)
        }
    };
    line.set_status(response.status());
    line.ms = milliseconds(outside.monotonic().saturating_sub(started));
    outside.log(&line);
    (response, later)
}

async fn dispatch(
    settings: &Checked,
    route: Option<Route>,
    request: Request<Body>,
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let route = route.ok_or(Problem::NotFound)?;
    let (method, allow) = route.method();
    if request.method() != method {
        return Err(Problem::MethodNotAllowed(allow));
    }
    let settings = settings.as_ref().map_err(|errors| Problem::NotConfigured(errors.clone()))?;
    if route == Route::Health {
        return Ok((health::check(settings, outside).await?, None));
    }
    let (head, body) = request.into_parts();
    let body = match body {
        Body::Whole(body) => body,
        Body::TooLarge => return Err(Problem::BodyTooLarge),
        Body::Incomplete => return Err(Problem::IncompleteBody),
    };
    if !is_json(&head.headers) {
        return Err(Problem::UnsupportedMediaType);
    }
    match route {
        Route::ExecuteTrade => {
            return execute_trade::run(settings, &head.headers, &body, outside, line).await;
        }
        Route::ByHand(kind) => {
            return by_hand::run(kind, settings, &head.headers, &body, outside, line).await;
        }
        Route::Reconcile | Route::Health => {}
    }
    execute_trade::admit(settings, &head.headers, &body, outside.now())?;
    let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
    let began = outside.monotonic();
    let until = began.saturating_add(Duration::from_secs(reconcile::TIME_S));
    let ends = time_budget::reports_end(began);
    let report = reconcile::run(settings, ledger, reconcile::ROUNDS_LIMIT, until, ends, outside).await?;
    Ok((json(StatusCode::OK, "application/json", &report), None))
}

/// `application/json`, with or without parameters such as a charset, and no second opinion.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = first.as_bytes().split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}
