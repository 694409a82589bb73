//! Routes a request: checks path, method, content type and size, and answers. Every request gets a JSON reply
//! and a log line.

use super::{
    admission::{self, Caller},
    dispatch::{AfterReply, Reply},
    execute_trade, feed,
    health::{self, HealthCache},
    heartbeat, operation, operator,
    problem::Problem,
    query,
    request_job::{self, Requester},
    response::json,
    route::Route,
    signals::{self, Publisher},
};
use crate::{
    config::{Checked, Settings},
    log::{Line, milliseconds},
    runtime::Runtime,
    time_budget,
    worker::reconcile,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use std::time::Duration;

/// Largest request body, in bytes. A row is under 1 KiB; pg_net and the dashboard's webhooks stay far below
/// the limit.
pub const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Longest time for a body to arrive, in seconds. A slow caller must not occupy an instance.
pub const BODY_TIMEOUT_S: u64 = 10;

/// A request's body, as far as it was read.
#[derive(Debug)]
pub enum Body {
    /// The complete body: at most [`BODY_LIMIT_BYTES`].
    Whole(Vec<u8>),
    /// The body is larger than [`BODY_LIMIT_BYTES`].
    TooLarge,
    /// The body broke off, or did not arrive within [`BODY_TIMEOUT_S`].
    Incomplete,
}

/// The state that an instance keeps between requests.
#[derive(Debug)]
pub struct Memory {
    health: HealthCache,
}

impl Memory {
    /// Makes the state of a new instance.
    pub const fn empty() -> Self {
        Self { health: HealthCache::empty() }
    }
}

/// Answers one request. Returns the reply, and the worker's run after it.
pub async fn respond(
    settings: &Checked,
    memory: &Memory,
    request: Request<Body>,
    runtime: &impl Runtime,
) -> (Response<Vec<u8>>, Option<AfterReply>) {
    let started = runtime.monotonic();
    let route = Route::of(request.uri().path());
    let mut line = Line::new(runtime.now(), route.map_or("unknown", Route::name));
    let (mut response, later) = match dispatch(settings, memory, route, request, runtime, &mut line).await {
        Ok(reply) => reply,
        Err(problem) => {
            line.code = Some(problem.code());
            line.cause = problem.cause();
            (problem.response(line.reference.as_deref()), None)
        }
    };
    if route.is_some_and(Route::is_of_the_feed) {
        // A page is one tenant's, and the same target gives another page a second later.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    line.set_status(response.status());
    line.ms = milliseconds(runtime.monotonic().saturating_sub(started));
    runtime.log(&line);
    (response, later)
}

async fn dispatch(
    settings: &Checked,
    memory: &Memory,
    route: Option<Route>,
    request: Request<Body>,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let route = route.ok_or(Problem::NotFound)?;
    let (method, allow) = route.method();
    if !route.has(request.method()) {
        return Err(Problem::MethodNotAllowed(allow));
    }
    let settings = settings.as_ref().map_err(|errors| Problem::NotConfigured(errors.clone()))?;
    let (head, body) = request.into_parts();
    if method == Method::GET {
        return Ok((get(settings, memory, route, &head, runtime, line).await?, None));
    }
    let body = match body {
        Body::Whole(body) => body,
        Body::TooLarge => return Err(Problem::BodyTooLarge),
        Body::Incomplete => return Err(Problem::IncompleteBody),
    };
    if !is_json(&head.headers) {
        return Err(Problem::UnsupportedMediaType);
    }
    post(settings, route, &head.headers, &body, runtime, line).await
}

/// Answers a request without a body.
async fn get(
    settings: &Settings,
    memory: &Memory,
    route: Route,
    head: &Parts,
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    if route == Route::Health {
        let operator = admission::operator(settings, &head.headers);
        line.operator = operator.map(str::to_owned);
        return health::check(settings, &memory.health, operator.is_some(), runtime).await;
    }
    if route.is_of_the_feed() {
        query::refuse_keys(head.uri.query())?;
    }
    match (route, admission::admit(settings, route, &head.headers, &[], runtime.now())?) {
        (Route::OperatorStatus, Caller::Operator { name }) => {
            operator::status(settings, name, runtime, line).await
        }
        (Route::Events, Caller::Tenant { key }) => feed::events(settings, &head.uri, &key, runtime).await,
        (Route::Record, Caller::Tenant { key }) => feed::record(settings, &head.uri, &key, runtime).await,
        // The matrix lets no other caller in.
        _ => Err(Problem::NotAllowed),
    }
}

/// Answers a request with a body. Checks the caller's credential and the body's operation first.
async fn post(
    settings: &Settings,
    route: Route,
    headers: &HeaderMap,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let caller = admission::admit(settings, route, headers, body, runtime.now())?;
    operation::check(route, body)?;
    match (route, caller) {
        (Route::ExecuteTrade, Caller::Trusted { webhook_id }) => {
            execute_trade::run(settings, webhook_id, headers, body, runtime, line).await
        }
        (Route::RequestJob(kind), Caller::Trusted { webhook_id }) => {
            let requester = Requester { webhook_id, owner: None };
            request_job::run(kind, requester, settings, headers, body, runtime, line).await
        }
        (Route::RequestJob(kind), Caller::Owner { webhook_id, token }) => {
            let requester = Requester { webhook_id, owner: Some(token) };
            request_job::run(kind, requester, settings, headers, body, runtime, line).await
        }
        (Route::Heartbeat, Caller::Owner { token, .. }) => {
            Ok((heartbeat::run(settings, &token, body, runtime, line).await?, None))
        }
        (Route::Signals, Caller::Trusted { webhook_id }) => {
            let publisher = Publisher { webhook_id, owner: None };
            Ok((signals::run(settings, publisher, body, runtime, line).await?, None))
        }
        (Route::Signals, Caller::Owner { webhook_id, token }) => {
            let publisher = Publisher { webhook_id, owner: Some(token) };
            Ok((signals::run(settings, publisher, body, runtime, line).await?, None))
        }
        (Route::Reconcile, Caller::Trusted { .. }) => {
            let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
            let began = runtime.monotonic();
            let until = began.saturating_add(Duration::from_secs(reconcile::TIME_S));
            let ends = time_budget::reports_end(began);
            let report =
                reconcile::run(settings, ledger, reconcile::ROUNDS_LIMIT, until, ends, runtime).await?;
            Ok((json(&report), None))
        }
        (Route::Operate, Caller::Operator { name }) => {
            Ok((operator::operate(settings, name, body, runtime, line).await?, None))
        }
        // The matrix lets no other caller in.
        _ => Err(Problem::NotAllowed),
    }
}

/// Returns whether the only `content-type` is `application/json`, with or without parameters such as a
/// charset.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = first.as_bytes().split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}
