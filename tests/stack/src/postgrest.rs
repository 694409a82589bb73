//! A stand-in for PostgREST 12.2 behind Supabase's gateway. It follows the real source and is compared with the real
//! program. It serves calls of functions by POST and GET, and reading tables. A transaction runs as the token's role,
//! with that role's settings. Statuses, error bodies and the pool of ten connections are PostgREST's. It can lose a
//! reply before or after the call.
//!
//! It does not serve changes of tables, tables within tables, CSV, `Prefer`, or the hints about other names.
//!
//! If a `postgrest` is on the PATH, that one answers, and only the gateway's part is ours.

mod error;
mod listener;
mod pool;
mod request;
mod routine;
mod sql;
mod table;
mod token;

pub use token::{JWT_SECRET, expired_user_key, forged_user_key, key, key_with, user_key};

use crate::{
    http1,
    postgres::Cluster,
    process::{self, Process},
};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use error::Error;
use http::{Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use listener::Listener;
use pool::{Database, Lease, Schema, Work};
use request::{Action, Arguments, Request};
use routine::Routine;
use rustix::process::Signal;
use serde_json::json;
use std::{
    future::pending,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use token::Caller;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a real PostgREST may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the stack checks that.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// How long PostgREST waits before it looks a second time for a lost database. The waits double, so it finds a database
/// that was away for 8 s after 15 s.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The path of PostgREST at the gateway.
const PREFIX: &str = "/rest/v1";

/// A way to lose a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection breaks before the call.
    BeforeTheCall,
    /// The connection breaks after the call.
    AfterTheCall,
    /// The call is executed, and no answer ever comes.
    Hang,
}

/// A running PostgREST. Ends when it is dropped.
pub struct PostgRest {
    /// The gateway's URL, without a slash at the end.
    pub url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    _real: Option<Process>,
}

struct Shared {
    database: Database,
    state: Mutex<State>,
    /// The real one's address.
    real: Option<String>,
}

#[derive(Default)]
struct State {
    next: Vec<Trouble>,
    chance: Option<(fastrand::Rng, u32)>,
    calls: Vec<String>,
}

impl PostgRest {
    /// Starts it for a cluster that has Supabase's roles.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let (listener, url) = http1::listen().await?;
        let (process, real) = match find("postgrest") {
            Some(program) => {
                let (process, real) = start_real(cluster, &program).await?;
                (Some(process), Some(real))
            }
            None => (None, None),
        };
        let database = Database::new(cluster.url("authenticator"), FIRST_RETRY);
        let shared = Arc::new(Shared { database, state: Mutex::default(), real });
        let mut tasks = JoinSet::new();
        if shared.real.is_none() {
            keep_schema(&mut tasks, cluster.url("authenticator"), &shared).await?;
        }
        tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { url, shared, _tasks: tasks, _real: process })
    }

    /// Changes how long the stand-in waits before it looks a second time for a lost database. Most tests need not wait
    /// as long as the real one.
    pub fn retry_after(&self, first: Duration) {
        self.shared.database.set_first_retry(first);
    }

    /// Tells in words which of the two answers.
    pub fn name(&self) -> &'static str {
        if self.shared.real.is_some() { "PostgREST" } else { "a stand-in for PostgREST" }
    }

    /// Plans the loss of one call. Losses that were planned earlier come first.
    pub fn misbehave_once(&self, trouble: Trouble) {
        self.shared.state().next.insert(0, trouble);
    }

    /// Loses `n` of a thousand calls at random from a seed; `None` ends that.
    pub fn misbehave_at_random(&self, chance: Option<(u64, u32)>) {
        self.shared.state().chance =
            chance.map(|(seed, per_mille)| (fastrand::Rng::with_seed(seed), per_mille));
    }

    /// Lists the names of the called functions, in order.
    pub fn calls(&self) -> Vec<String> {
        self.shared.state().calls.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> Option<Trouble> {
        let mut state = self.state();
        if let Some(trouble) = state.next.pop() {
            return Some(trouble);
        }
        let (rng, per_mille) = state.chance.as_mut()?;
        (rng.u32(0..1_000) < *per_mille)
            .then(|| if rng.bool() { Trouble::AfterTheCall } else { Trouble::BeforeTheCall })
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| serve(&shared, request));
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(shared: &Arc<Shared>, request: http::Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let trouble = shared.trouble();
    if trouble == Some(Trouble::BeforeTheCall) {
        return Err(anyhow!("lost before the call"));
    }
    // Hyper drops this future, and this value with it, when the caller hangs up.
    let waiting = Arc::new(());
    let task = {
        let (shared, waiting) = (shared.clone(), Arc::downgrade(&waiting));
        // A caller that hangs up does not stop the statement.
        tokio::spawn(async move { answer(&shared, &head, &body, &waiting).await })
    };
    let response = task.await?;
    match trouble {
        Some(Trouble::AfterTheCall) => Err(anyhow!("lost after the call")),
        Some(Trouble::Hang) => pending().await,
        _ => response,
    }
}

/// Does the gateway's part, and passes the request on.
async fn answer(
    shared: &Shared,
    head: &Parts,
    body: &Bytes,
    waiting: &Weak<()>,
) -> Result<Response<Full<Bytes>>> {
    if !head.headers.contains_key("apikey") {
        return gateway(StatusCode::UNAUTHORIZED, "No API key found in request");
    }
    let (path, query) = request::parts(&head.uri);
    let Some(path) = path.strip_prefix(PREFIX).filter(|path| path.is_empty() || path.starts_with('/')) else {
        return gateway(StatusCode::NOT_FOUND, "no Route matched with those values");
    };
    if let Some(function) = path.strip_prefix("/rpc/") {
        shared.state().calls.push(function.to_owned());
    }
    if let Some(real) = &shared.real {
        return forward(real, head, body).await;
    }
    let request = Request { method: &head.method, path, query, headers: &head.headers, body };
    Ok(match perform(&shared.database, &request, waiting).await {
        Ok(response) => response,
        Err(error) => {
            if error.is_unavailable() {
                shared.database.look_again();
            }
            error.response(shared.database.retry())
        }
    })
}

fn gateway(status: StatusCode, message: &str) -> Result<Response<Full<Bytes>>> {
    Ok(Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .body(Full::from(json!({ "message": message }).to_string()))?)
}

/// Does PostgREST's part.
async fn perform(
    database: &Database,
    request: &Request<'_>,
    waiting: &Weak<()>,
) -> Result<Response<Full<Bytes>>, Error> {
    let caller = token::caller(request.headers)?;
    let schema = database.schema()?;
    match request.action()? {
        Action::Call { function, arguments } => {
            let lease = database.lease().await?;
            let routine = find_routine(&schema, &lease, &function, &arguments).await;
            let accepted =
                routine.and_then(|routine| request.accepts(&["application/json"]).map(|()| routine));
            let routine = match accepted {
                Ok(routine) => routine,
                Err(error) => {
                    if !error.is_unavailable() {
                        database.give_back(lease);
                    }
                    return Err(error);
                }
            };
            let work = Work {
                settings: &routine.settings,
                read_only: arguments.read_only || !routine.volatile,
                text: &routine.text,
                argument: routine.has_arguments.then_some(arguments.text.as_str()),
                ..reading(&caller, request)
            };
            let row = database.work(lease, &work, waiting).await?;
            if routine.void {
                return Ok(bare(StatusCode::NO_CONTENT));
            }
            Ok(json_response("application/json; charset=utf-8", row.get(0)))
        }
        Action::Read { table, query } => {
            request.accepts(&["application/json"])?;
            let text = table::read(&table, &query)?;
            let work = Work { text: &text, ..reading(&caller, request) };
            let row = database.work(database.lease().await?, &work, waiting).await?;
            let mut response = json_response("application/json; charset=utf-8", row.get(0));
            let range = match row.get::<_, i64>(1) {
                0 => "*/*".to_owned(),
                rows => format!("0-{}/*", rows - 1),
            };
            response.headers_mut().extend(range.parse().map(|range| (header::CONTENT_RANGE, range)));
            Ok(response)
        }
        Action::Describe => {
            request.accepts(&["application/openapi+json", "application/json"])?;
            let work = Work { text: table::DESCRIPTION, ..reading(&caller, request) };
            let row = database.work(database.lease().await?, &work, waiting).await?;
            Ok(json_response("application/openapi+json; charset=utf-8", row.get(0)))
        }
    }
}

/// Makes work that changes nothing and has no text.
fn reading<'a>(caller: &'a Caller, request: &Request<'_>) -> Work<'a> {
    let path = if request.path.is_empty() { "/" } else { request.path };
    Work {
        caller,
        request: [
            ("request.method", request.method.to_string()),
            ("request.path", path.to_owned()),
            ("request.headers", request.headers_json()),
        ],
        settings: &[],
        read_only: true,
        text: "",
        argument: None,
    }
}

/// Finds the way to call a function with these arguments. A result is kept for later calls.
async fn find_routine(
    schema: &Schema,
    lease: &Lease<'_>,
    function: &str,
    arguments: &Arguments,
) -> Result<Arc<Routine>, Error> {
    let asked = (function.to_owned(), arguments.names.clone(), arguments.is_array(), arguments.single);
    if let Some(routine) = schema.known(&asked) {
        return Ok(routine);
    }
    let routine = Arc::new(Routine::find(lease.client(), function, arguments).await?);
    schema.learn(asked, routine.clone());
    Ok(routine)
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn json_response(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Starts the task that keeps the schema up to date.
async fn keep_schema(tasks: &mut JoinSet<()>, url: String, shared: &Arc<Shared>) -> Result<()> {
    let listener = Listener::start(&url).await?;
    shared.database.read().await.map_err(|error| anyhow!("the schema could not be read: {error:?}"))?;
    let reader = shared.clone();
    tasks.spawn(async move { reader.database.keep_reading().await });
    let shared = shared.clone();
    tasks.spawn(async move { listener.run(&url, &shared.database).await });
    Ok(())
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

async fn start_real(cluster: &Cluster, program: &std::path::Path) -> Result<(Process, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port();
    let mut command = process::command(program, None, "TERM");
    for (name, value) in [
        ("PGRST_DB_URI", cluster.url("authenticator")),
        ("PGRST_DB_SCHEMAS", "public".to_owned()),
        ("PGRST_DB_EXTRA_SEARCH_PATH", "public,extensions".to_owned()),
        ("PGRST_DB_ANON_ROLE", "anon".to_owned()),
        ("PGRST_JWT_SECRET", JWT_SECRET.to_owned()),
        ("PGRST_SERVER_HOST", "127.0.0.1".to_owned()),
        ("PGRST_SERVER_PORT", port.to_string()),
    ] {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::spawn(&mut command, Signal::TERM)?;
    let address = format!("127.0.0.1:{port}");
    let listening = async {
        while TcpStream::connect(&address).await.is_err() {
            sleep(TRY_EVERY).await;
        }
    };
    timeout(START_TIMEOUT, listening).await.context("postgrest did not listen in time")?;
    Ok((process, format!("http://{address}")))
}

/// Does the gateway's part: removes its prefix.
async fn forward(real: &str, head: &Parts, body: &Bytes) -> Result<Response<Full<Bytes>>> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    let mut request = http::Request::builder()
        .method(&head.method)
        .uri(format!("{real}/{}", path.trim_start_matches('/')))
        .body(body.to_vec())?;
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = head.headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    Ok(http1::send(request).await?.map(Full::new))
}
