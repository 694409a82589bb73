//! The way in: which route, with which method, and a body that may be looked at. Infallible: whatever comes in,
//! a JSON reply goes out, and a line of log is written.

use super::{
    admission::{self, Caller},
    dispatch::{AfterReply, Reply},
    execute_trade,
    health::{self, Looks},
    operation, operator,
    problem::Problem,
    request_job::{self, Requester},
    response::json,
    route::Route,
};
use crate::{
    config::{Checked, Settings},
    log::{Line, milliseconds},
    runtime::Runtime,
    time_budget,
    worker::reconcile,
};
use http::{HeaderMap, Method, Request, Response, header::CONTENT_TYPE, request::Parts};
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

/// What an instance remembers from one request to the next.
#[derive(Debug)]
pub struct Memory {
    looks: Looks,
}

impl Memory {
    /// Nothing so far.
    pub const fn empty() -> Self {
        Self { looks: Looks::none() }
    }
}

/// Answers one request. What comes beside the reply is to go on after it.
pub async fn respond(
    settings: &Checked,
    memory: &Memory,
    request: Request<Body>,
    runtime: &impl Runtime,
) -> (Response<Vec<u8>>, Option<AfterReply>) {
    let started = runtime.monotonic();
    let route = Route::of(request.uri().path());
    let mut line = Line::new(runtime.now(), route.map_or("unknown", Route::name));
    let (response, later) = match dispatch(settings, memory, route, request, runtime, &mut line).await {
        Ok(reply) => reply,
        Err(problem) => {
            line.code = Some(problem.code());
            line.cause = problem.cause();
            (problem.response(line.reference.as_deref()), None)
        }
    };
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
    if request.method() != method {
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

/// Answers what is asked for without a body.
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
        return health::check(settings, &memory.looks, operator.is_some(), runtime).await;
    }
    match admission::admit(settings, route, &head.headers, &[], runtime.now())? {
        Caller::Operator { name } => operator::status(settings, name, runtime, line).await,
        // The matrix lets no other caller in.
        Caller::Trusted { .. } | Caller::Owner { .. } => Err(Problem::NotAllowed),
    }
}

/// Answers a body: of a caller that the route is open to, and with the route's own operation.
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

/// `application/json`, with or without parameters such as a charset, and no second opinion.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = first.as_bytes().split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}
