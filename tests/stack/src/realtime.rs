//! A stand-in for Supabase Realtime's server, v2.129.8. It serves Phoenix channels on a websocket, in the two versions
//! that supabase-js and realtime-py speak, and broadcasts by POST. It follows the real source, and behaves as the real
//! server was measured to, weaknesses included:
//!
//! - nothing is replayed after an absence, of the client, of Realtime or of Postgres
//! - a refusal takes five seconds, in which the whole socket waits
//! - above the tenant's rate, messages vanish without a sign
//! - policies are asked at the join, and then not before the token is refreshed; a token that expires ends its channels
//! - a socket that was cut in silence is present for a minute
//! - `SUBSCRIBED` comes before changes of tables do, and those come by polling, with half a second of sleep
//!
//! It follows the database by logical decoding, as the real one does, and makes a publication for that. It does not
//! serve binary payloads of the database, longpolling, or the limits of joins and of users.

mod api;
mod changes;
mod channel;
mod delays;
mod hub;
mod pgoutput;
mod policies;
mod presence;
mod rate;
mod replication;
mod socket;
mod subscription;
mod table;
mod token;
mod wire;

pub use delays::Delays;

use crate::{
    http1,
    postgres::{Cluster, SUPERUSER},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use changes::Changes;
use http::{Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hub::{Hub, Topic};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use pgoutput::Logged;
use policies::Policies;
use rate::Rate;
use serde_json::json;
use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wire::Version;

/// The largest payload of a message, in bytes: 3,000 KB and what Realtime adds to that.
const MESSAGE_LIMIT_BYTES: usize = 3_000_500;

/// Where its websocket is.
const WEBSOCKET: &str = "/realtime/v1/websocket";

/// The publications that it follows. It makes the first.
const PUBLICATIONS: [&str; 2] = ["supabase_realtime_messages_publication", "supabase_realtime"];

/// How long the first connection to the database may take.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it tries to reconnect to a lost database.
const RECONNECT_EVERY: Duration = Duration::from_millis(200);

/// The tables and functions of Realtime, where the database does not have them.
const SQL: &str = include_str!("realtime.sql");

/// How a project is set up. The defaults are those of a hosted project and of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most events a second of the tenant, on average over a minute.
    pub events_per_s: f64,
    /// How often the average is taken.
    pub rate_tick: Duration,
    /// Whether public channels are refused.
    pub private_only: bool,
    /// How long a refusal takes.
    pub refusal_delay: Duration,
    /// How long a socket may be silent before the server gives it up, and with it who was present.
    pub idle_timeout: Duration,
    /// How long after its first subscriber a project sees changes of tables.
    pub cold_start: Duration,
    /// How often the list of published tables is read.
    pub publication_refresh: Duration,
    /// What is added to the stand-in's own delays.
    pub delays: Delays,
    /// The URL of PostgREST. Its paths are then served here too, as Supabase's gateway does.
    pub rest: Option<String>,
    /// The port; 0 is a free one.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            events_per_s: 100.0,
            rate_tick: Duration::from_secs(5),
            private_only: false,
            refusal_delay: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            cold_start: Duration::from_secs(1),
            publication_refresh: Duration::from_secs(60),
            delays: Delays::default(),
            rest: None,
            port: 0,
        }
    }
}

/// A running Realtime. Ends when it is dropped.
pub struct Realtime {
    /// The URL of its listener, without a path: what a client takes for its project's URL.
    project: String,
    database: String,
    options: Options,
    server: Option<Arc<Server>>,
}

/// What its parts share.
struct Server {
    options: Options,
    hub: Hub,
    policies: Policies,
    changes: Changes,
    cut: watch::Sender<u64>,
    tasks: Mutex<JoinSet<()>>,
}

impl Realtime {
    /// Starts it for a cluster, and waits until it follows the database. The SQL of Realtime is made where it is missing,
    /// so that `scripts/migrate` finds it.
    pub async fn start(cluster: &Cluster, options: Options) -> Result<Self> {
        let superuser = cluster.connect(SUPERUSER).await?;
        let missing = "select to_regclass('realtime.messages') is null";
        if superuser.query_one(missing, &[]).await?.get(0) {
            superuser.batch_execute(SQL).await?;
        }
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let address = listener.local_addr()?;
        let project = format!("http://{address}");
        let options = Options { port: address.port(), ..options };
        let mut realtime = Self { project, database: cluster.url(SUPERUSER), options, server: None };
        realtime.run(listener).await?;
        Ok(realtime)
    }

    /// Gives the URL of its websocket.
    pub fn url(&self) -> String {
        format!("{}{WEBSOCKET}", self.project.replacen("http", "ws", 1))
    }

    /// Gives the URL that a client takes for its project's.
    pub fn project_url(&self) -> &str {
        &self.project
    }

    /// Cuts every socket without a sign to either side: nothing more is read or written, and the connection stays.
    /// New sockets work.
    pub fn cut_silently(&self) {
        if let Some(server) = &self.server {
            server.cut.send_modify(|cuts| *cuts += 1);
        }
    }

    /// Ends it as `kill -9` does: every connection breaks.
    pub async fn kill(&mut self) {
        let Some(server) = self.server.take() else { return };
        let mut tasks = std::mem::take(&mut *server.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    /// Starts it again, at the same address.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await;
        let listening = async {
            loop {
                match TcpListener::bind(("127.0.0.1", self.options.port)).await {
                    Ok(listener) => return listener,
                    Err(_) => sleep(RECONNECT_EVERY).await,
                }
            }
        };
        let listener = timeout(START_TIMEOUT, listening).await.context("its port is taken")?;
        self.run(listener).await
    }

    async fn run(&mut self, listener: TcpListener) -> Result<()> {
        let now = Instant::now();
        let rate = || Rate::new(self.options.events_per_s, self.options.rate_tick, now);
        let server = Arc::new(Server {
            options: self.options.clone(),
            hub: Hub::new(rate(), rate()),
            policies: Policies::new(self.database.clone()),
            changes: Changes::new(self.database.clone(), &self.options),
            cut: watch::Sender::new(0),
            tasks: Mutex::default(),
        });
        let (ready, mut is_ready) = watch::channel(false);
        server.spawn(follow(server.clone(), self.database.clone(), ready));
        server.spawn(changes::poll(server.clone()));
        timeout(START_TIMEOUT, is_ready.wait_for(|ready| *ready))
            .await
            .context("Realtime does not follow the database")??;
        server.spawn(accept(listener, server.clone()));
        self.server = Some(server);
        Ok(())
    }
}

impl Server {
    /// Starts a task that ends with the server.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl Drop for Realtime {
    fn drop(&mut self) {
        // The tasks hold the server, so it does not end by itself.
        if let Some(server) = self.server.take() {
            server.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        }
    }
}

/// Follows the database, also after its absence. A commit meanwhile is lost.
async fn follow(server: Arc<Server>, url: String, ready: watch::Sender<bool>) {
    loop {
        if let Ok(mut stream) = stream(&url).await {
            ready.send_replace(true);
            let mut messages = Vec::new();
            while let Ok(logged) = stream.next().await {
                match logged {
                    Logged::Change(change) if change.relation.schema == "realtime" => messages.push(change),
                    Logged::Change(change) => server.changes.log(change),
                    Logged::Commit { at_us, .. } => {
                        server.changes.commit(at_us);
                        if !messages.is_empty() {
                            server.options.delays.wait_after_commit(at_us).await;
                        }
                        messages.drain(..).for_each(|change| tell(&server, &change));
                    }
                }
            }
            server.changes.roll_back();
        }
        sleep(RECONNECT_EVERY).await;
    }
}

async fn stream(url: &str) -> Result<replication::Stream> {
    let client = policies::connect(url).await?;
    let published = "select from pg_publication where pubname = $1";
    if client.query(published, &[&PUBLICATIONS[0]]).await?.is_empty() {
        let publish = format!("create publication {} for table realtime.messages", PUBLICATIONS[0]);
        client.batch_execute(&publish).await?;
    }
    let mut names = vec![PUBLICATIONS[0]];
    if !client.query(published, &[&PUBLICATIONS[1]]).await?.is_empty() {
        names.push(PUBLICATIONS[1]);
    }
    let slot = format!("supabase_realtime_stand_in_{:08x}", fastrand::u32(..));
    replication::Stream::start(url, &slot, &names).await
}

/// Broadcasts a row of `realtime.messages`, unless it is too large or the rate is exceeded: nobody is told of either.
fn tell(server: &Server, change: &pgoutput::Change) {
    let (Some(topic), Some(event), Some(payload)) =
        (change.text("topic"), change.text("event"), change.text("payload"))
    else {
        return;
    };
    let private = change.text("private");
    if private.is_none() || payload.len() > MESSAGE_LIMIT_BYTES {
        return;
    }
    let topic = Topic { name: topic.to_owned(), private: private == Some("t") };
    let id = change.text("id").map(str::to_owned);
    let payload = channel::sent(event, payload.as_bytes().to_vec(), true, id);
    server.hub.broadcast_of_database(&topic, payload);
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = server.clone();
        server.spawn(async move {
            let service = service_fn(|request| answer(&shared, request));
            let connection = server::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        });
    }
}

async fn answer(server: &Arc<Server>, mut request: http::Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_owned();
    if path == WEBSOCKET {
        let upgrade = hyper::upgrade::on(&mut request);
        return Ok(match open(request.headers(), request.uri().query().unwrap_or_default()) {
            Ok((version, key, accept)) => {
                let socket = socket::serve(server.clone(), upgrade, version, key);
                server.spawn(socket);
                Response::builder()
                    .status(StatusCode::SWITCHING_PROTOCOLS)
                    .header(header::CONNECTION, "Upgrade")
                    .header(header::UPGRADE, "websocket")
                    .header(header::SEC_WEBSOCKET_ACCEPT, accept)
                    .body(Full::default())?
            }
            Err((status, words)) => refusal(status, &json!({ "error": words }).to_string())?,
        });
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if path.starts_with(api::BATCH) && head.method == http::Method::POST {
        return api::answer(server, &head, &body).await;
    }
    match &server.options.rest {
        Some(rest) if !path.starts_with("/realtime/") => forward(rest, head, &body).await,
        _ => refusal(StatusCode::NOT_FOUND, r#"{"message":"no Route matched with those values"}"#),
    }
}

/// Checks the request for a websocket. Gives its version, its API key and the answer's key.
fn open(headers: &http::HeaderMap, query: &str) -> Result<(Version, String, String), (StatusCode, String)> {
    let parameter = |name: &str| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.into_owned())
    };
    let missing = || (StatusCode::UNAUTHORIZED, "API key is missing".to_owned());
    let header = headers.get("x-api-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let key = header.or_else(|| parameter("apikey")).ok_or_else(missing)?;
    token::check(&key).map_err(|(_, words)| (StatusCode::UNAUTHORIZED, words))?;
    let version = match parameter("vsn").as_deref() {
        None | Some("1.0.0") => Version::One,
        Some("2.0.0") => Version::Two,
        Some(_) => return Err((StatusCode::BAD_REQUEST, "unknown version".to_owned())),
    };
    let bad = || (StatusCode::BAD_REQUEST, "no websocket".to_owned());
    let accept = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(bad)?;
    Ok((version, key, derive_accept_key(accept.as_bytes())))
}

async fn forward(rest: &str, mut head: Parts, body: &Bytes) -> Result<Response<Full<Bytes>>> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    head.uri = format!("{rest}{path}").parse()?;
    Ok(http1::send(http::Request::from_parts(head, body.to_vec())).await?.map(Full::new))
}

fn refusal(status: StatusCode, body: &str) -> Result<Response<Full<Bytes>>> {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(Full::from(body.to_owned()))?)
}
