//! A stand-in for PostgREST 12.2 behind Supabase's gateway. It follows the real source and is compared with the real
//! program. It serves calls of functions by POST and GET, and reading, inserting and updating the rows of tables. A
//! transaction runs as the token's role, with that role's settings. Statuses, error bodies and the pool of ten
//! connections are PostgREST's. It can lose a reply before or after the call.
//!
//! It does not serve deletions, upserts, counts, tables within tables, CSV, or the hints about other names. It answers
//! 501 to most of these, and says that it is a stand-in.
//!
//! If a `postgrest` is on the PATH, that one answers, and only the gateway's part is ours.

mod error;
mod listener;
mod pool;
mod real;
mod request;
mod routine;
mod service;
pub(crate) mod sql;
mod table;
mod token;

pub use token::{JWT_SECRET, expired_user_key, forged_user_key, key, key_with, user_key};

use crate::{http1, postgres::Cluster, process::Process};
use anyhow::{Result, anyhow};
use bytes::Bytes;
use http::{Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use listener::Listener;
use pool::Database;
use request::Request;
use serde_json::json;
use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinSet};

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
        let (process, real) = match real::find() {
            Some(program) => {
                let (process, real) = real::start(cluster, &program).await?;
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
    let shared = shared.clone();
    // A caller that hangs up does not stop the statement.
    let response = tokio::spawn(async move { answer(&shared, &head, &body).await }).await?;
    match trouble {
        Some(Trouble::AfterTheCall) => Err(anyhow!("lost after the call")),
        Some(Trouble::Hang) => pending().await,
        _ => response,
    }
}

/// Does the gateway's part, and passes the request on.
async fn answer(shared: &Shared, head: &Parts, body: &Bytes) -> Result<Response<Full<Bytes>>> {
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
        return real::forward(real, head, body).await;
    }
    let request = Request { method: &head.method, path, query, headers: &head.headers, body };
    Ok(match service::perform(&shared.database, &request).await {
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
