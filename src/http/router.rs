//! Routes a request: checks path, method, content type and size, and answers. Every request gets a JSON reply
//! and a log line.

use super::{
    admission::{self, Caller},
    dispatch::{AfterReply, Reply},
    execute_trade, feed,
    health::{self, HealthCache},
    heartbeat, inngest,
    large_bodies::LargeBodies,
    media_type::is_json,
    operation, operator,
    problem::Problem,
    purple_flea_webhook, query,
    request_job::{self, Requester},
    response::json,
    route::{self, Route},
    signals::{self, Publisher},
};
use crate::{
    config::{Checked, Settings},
    inngest::{Inngest, signing},
    log::{Line, milliseconds},
    runtime::Runtime,
    time_budget,
    worker::reconcile,
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH},
    request::Parts,
};
use std::time::Duration;

/// Most bytes of a body for which no room is needed.
pub const SMALL_BODY_LIMIT_BYTES: usize = route::BODY_LIMIT_BYTES;

/// Longest time for a body to arrive, in seconds. A slow caller must not occupy an instance.
pub const BODY_TIMEOUT_S: u64 = 10;

/// A request's body, as far as it was read.
#[derive(Debug)]
pub enum Body {
    /// The complete body: at most [`body_limit_bytes`].
    Whole(Vec<u8>),
    /// The body is larger than [`body_limit_bytes`].
    TooLarge,
    /// The body broke off, or did not arrive within [`BODY_TIMEOUT_S`].
    Incomplete,
}

/// The state that an instance keeps between requests.
#[derive(Debug)]
pub struct Memory {
    health: HealthCache,
    /// The room for large bodies.
    pub large_bodies: LargeBodies,
}

impl Memory {
    /// Makes the state of a new instance.
    pub const fn empty() -> Self {
        Self { health: HealthCache::empty(), large_bodies: LargeBodies::none() }
    }
}

/// Returns the size of the largest body of a request, in bytes. A body of more than [`SMALL_BODY_LIMIT_BYTES`] needs room.
///
/// Only a call that Inngest may make, and that announces its length, is read further than that.
pub fn body_limit_bytes(settings: &Checked, head: &Request<()>) -> usize {
    match (Route::of(head.uri().path()), settings) {
        (Some(route), Ok(settings)) => limit_of(settings, route, head.method(), head.headers()),
        _ => SMALL_BODY_LIMIT_BYTES,
    }
}

/// A signature covers the body, so admission checks it later. Outside dev mode a call without one is refused in any case.
fn limit_of(settings: &Settings, route: Route, method: &Method, headers: &HeaderMap) -> usize {
    let announced: Option<usize> =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let is_large = announced.is_some_and(|bytes| bytes > SMALL_BODY_LIMIT_BYTES);
    let may_call = |inngest: &Inngest| {
        inngest.may_call() && (inngest.is_dev || headers.contains_key(signing::SIGNATURE))
    };
    let is_call = *method == Method::POST && settings.inngest.as_ref().is_some_and(may_call);
    if is_large && is_call { route.body_limit_bytes() } else { SMALL_BODY_LIMIT_BYTES }
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
            let response = match route {
                Some(Route::Inngest) => inngest::refuse(&problem),
                _ => problem.response(line.reference.as_deref()),
            };
            (response, None)
        }
    };
    if route.is_some_and(Route::is_of_the_feed) {
        // A page is one tenant's, and the same target gives another page a second later.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if route == Some(Route::Inngest) {
        inngest::sign_off(&mut response);
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
    if !route.has(request.method()) {
        return Err(Problem::MethodNotAllowed(route.allow()));
    }
    let settings = settings.as_ref().map_err(|errors| Problem::NotConfigured(errors.clone()))?;
    let (head, body) = request.into_parts();
    if matches!(head.method, Method::GET | Method::HEAD) && route != Route::Inngest {
        return Ok((get(settings, memory, route, &head, runtime, line).await?, None));
    }
    let body = match body {
        Body::Whole(body) => body,
        Body::TooLarge => {
            let limit_bytes = limit_of(settings, route, &head.method, &head.headers);
            return Err(Problem::BodyTooLarge(limit_bytes));
        }
        Body::Incomplete => return Err(Problem::IncompleteBody),
    };
    #[cfg(not(feature = "workflows"))]
    if route == Route::Inngest {
        return Err(Problem::NotFound);
    }
    #[cfg(feature = "workflows")]
    if route == Route::Inngest {
        let (inngest, is_signed) = admission::inngest(settings, &head, &body, runtime.now())?;
        let response = inngest::answer(
            settings,
            inngest,
            inngest::Admitted { is_signed, head: &head, body: &body },
            &memory.large_bodies,
            runtime,
            line,
        )
        .await?;
        return Ok((response, None));
    }
    if !is_json(&head.headers) {
        return Err(Problem::UnsupportedMediaType);
    }
    if route == Route::PurpleFleaWebhook {
        admission::purple_flea(settings, &head.headers, &body, runtime.now())?;
        return Ok((purple_flea_webhook::run(settings, &body, runtime, line).await?, None));
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
