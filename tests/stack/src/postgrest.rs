//! A stand-in for PostgREST behind Supabase's gateway: `POST /rest/v1/rpc/<function>` with named arguments, a
//! transaction as the role that the token names, PostgREST's error bodies, a pool of ten connections that outlives the
//! database's restarts. It can lose a reply before and after the call, as a network does.
//!
//! Where a `postgrest` is on the PATH, that one answers, and only the gateway's part is ours.

mod call;

use crate::{
    http1,
    postgres::{Cluster, SUPERUSER},
    process::{self, Process},
};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use call::{Caller, Database};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use std::{
    future::pending,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// What tokens are signed with. It guards play money.
pub const JWT_SECRET: &str = "local stack, play money only: a secret of 32 characters or more";

/// How long a token is good for: longer than any stack.
const TOKEN_YEARS: u64 = 10;

/// How long a real PostgREST may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often that is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Makes PostgREST look at the database again whenever that has changed, as hosted projects have it: the functions
/// come after it has started.
const RELOAD: &str = "\
    create or replace function extensions.pgrst_ddl_watch() returns event_trigger language plpgsql \
    as $$ begin notify pgrst, 'reload schema'; end $$; \
    drop event trigger if exists pgrst_ddl_watch; \
    create event trigger pgrst_ddl_watch on ddl_command_end execute function extensions.pgrst_ddl_watch()";

/// The token of a role.
pub fn key(role: &str) -> Result<String> {
    let expires = crate::webhook::unix_s() + TOKEN_YEARS * 365 * 24 * 3_600;
    let claims = json!({ "role": role, "iss": "stack", "exp": expires });
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(JWT_SECRET.as_bytes()))?)
}

/// A token with any claims.
pub fn token(claims: &Value) -> Result<String> {
    Ok(encode(&Header::default(), claims, &EncodingKey::from_secret(JWT_SECRET.as_bytes()))?)
}

/// The token of a signed-in user.
pub fn users_token(user_id: &str) -> Result<String> {
    let expires = crate::webhook::unix_s() + TOKEN_YEARS * 365 * 24 * 3_600;
    token(
        &json!({ "role": "authenticated", "sub": user_id, "aud": "authenticated", "iss": "stack", "exp": expires }),
    )
}

/// A way to lose a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The connection breaks before anything was done.
    BeforeTheCall,
    /// The connection breaks when everything was done.
    AfterTheCall,
    /// Everything is done, and no answer ever comes.
    Hang,
}

/// A running PostgREST. Ends when it is dropped.
pub struct PostgRest {
    /// The gateway's URL, without a slash at the end.
    pub url: String,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
    _real: Option<Process>,
}

struct Shared {
    database: Database,
    state: Mutex<State>,
    /// Where a real one listens.
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
        let database = Database::new(cluster.url("authenticator"));
        let shared = Arc::new(Shared { database, state: Mutex::default(), real });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { url, shared, _server: tasks, _real: process })
    }

    /// Which of the two answers, in words.
    pub fn name(&self) -> &'static str {
        if self.shared.real.is_some() { "PostgREST" } else { "a stand-in for PostgREST" }
    }

    /// Loses the next call, after whatever was asked for before.
    pub fn misbehave_once(&self, trouble: Trouble) {
        self.shared.state().next.insert(0, trouble);
    }

    /// Loses so many of a thousand calls, by chance from a seed; or none any more.
    pub fn misbehave_at_random(&self, chance: Option<(u64, u32)>) {
        self.shared.state().chance =
            chance.map(|(seed, per_mille)| (fastrand::Rng::with_seed(seed), per_mille));
    }

    /// The names of the functions that were called, in order.
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

async fn serve(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let trouble = shared.trouble();
    if trouble == Some(Trouble::BeforeTheCall) {
        return Err(anyhow!("lost before the call"));
    }
    let task = {
        let shared = shared.clone();
        // A caller who goes away does not stop what the database does.
        tokio::spawn(async move { answer(&shared, &head.method, head.uri.path(), &head.headers, body).await })
    };
    let response = task.await?;
    match trouble {
        Some(Trouble::AfterTheCall) => Err(anyhow!("lost after the call")),
        Some(Trouble::Hang) => pending().await,
        _ => response,
    }
}

async fn answer(
    shared: &Shared,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Full<Bytes>>> {
    if !headers.contains_key("apikey") {
        return reply(StatusCode::UNAUTHORIZED, &json!({ "message": "No API key found in request" }));
    }
    let Some(function) = path.strip_prefix("/rest/v1/rpc/").filter(|_| method == Method::POST) else {
        return reply(StatusCode::NOT_FOUND, &json!({ "message": "no Route matched with those values" }));
    };
    shared.state().calls.push(function.to_owned());
    if let Some(real) = &shared.real {
        return forward(real, function, headers, body).await;
    }
    let caller = match caller(headers) {
        Ok(caller) => caller,
        Err(why) => {
            return reply(
                StatusCode::UNAUTHORIZED,
                &json!({ "code": "PGRST301", "message": why, "details": null, "hint": null }),
            );
        }
    };
    let Ok(arguments) = serde_json::from_slice::<Map<String, Value>>(&body) else {
        let message = "Empty or invalid json";
        return reply(
            StatusCode::BAD_REQUEST,
            &json!({ "code": "PGRST102", "message": message, "details": null, "hint": null }),
        );
    };
    let names: Vec<&str> = arguments.keys().map(String::as_str).collect();
    let text = String::from_utf8_lossy(&body);
    match shared.database.call(&caller, function, &names, &text).await {
        Ok(Some(json)) => Ok(Response::builder()
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(Full::from(json))?),
        Ok(None) => Ok(Response::builder().status(StatusCode::NO_CONTENT).body(Full::default())?),
        Err(error) => reply(error.status, &error.body),
    }
}

fn reply(status: StatusCode, body: &Value) -> Result<Response<Full<Bytes>>> {
    Ok(Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
        .body(Full::from(body.to_string()))?)
}

/// Who calls, by the token; without one it is `anon`.
fn caller(headers: &HeaderMap) -> Result<Caller, String> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return Ok(Caller { role: "anon".to_owned(), claims: json!({ "role": "anon" }) });
    };
    let token = authorization.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    let key = DecodingKey::from_secret(JWT_SECRET.as_bytes());
    // A token without an end or for some audience is as good.
    let mut validation = Validation::default();
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    let claims = decode::<Value>(token.unwrap_or_default(), &key, &validation)
        .map_err(|error| format!("JWT: {error}"))?
        .claims;
    let role = claims["role"].as_str().unwrap_or("anon").to_owned();
    Ok(Caller { role, claims })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

async fn start_real(cluster: &Cluster, program: &std::path::Path) -> Result<(Process, String)> {
    cluster.connect(SUPERUSER).await?.batch_execute(RELOAD).await?;
    let port = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port();
    let mut command = process::command(program, None, "TERM");
    for (name, value) in [
        ("PGRST_DB_URI", cluster.url("authenticator")),
        ("PGRST_DB_SCHEMAS", "public".to_owned()),
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

/// The gateway's part: takes its prefix off.
async fn forward(
    real: &str,
    function: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Full<Bytes>>> {
    let mut request = Request::post(format!("{real}/rpc/{function}")).body(body.to_vec())?;
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    Ok(http1::send(request).await?.map(Full::new))
}
