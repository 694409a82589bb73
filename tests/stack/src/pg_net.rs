//! Runs pg_net: the extension if the server has it, otherwise a stand-in. The stand-in has the same SQL interface, and
//! its worker behaves as the real one was measured to, weaknesses included:
//!
//! - the queue and the responses are unlogged, and every role may read them
//! - batches of 200; requests of a batch run in parallel, and no response is visible before the slowest is in
//! - a second of sleep after each batch, even if requests wait
//! - no retry, for any status; a redirect is followed, by 301 to 303 as a GET without a body
//! - connections are kept; when a reused one dies without an answer, the same request is sent a second time
//!
//! The stand-in has no TLS: a request to an `https` URL fails instead of leaving unencrypted.

use crate::{
    http1,
    postgres::{Cluster, SUPERUSER},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{future::join_all, stream, stream::StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// The most requests of one batch (`pg_net.batch_size`).
const BATCH_SIZE: i64 = 200;

/// How long the worker sleeps after each batch.
const SLEEP_AFTER_BATCH: Duration = Duration::from_secs(1);

/// The most redirects that are followed, as in libcurl.
const REDIRECT_LIMIT: usize = 30;

const STAND_IN: &str = include_str!("pg_net.sql");

/// A running pg_net. The stand-in ends when it is dropped.
pub struct PgNet {
    real: bool,
    _worker: JoinSet<()>,
}

impl PgNet {
    /// Starts pg_net in a cluster: the extension, if the server has it.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let client = cluster.connect(SUPERUSER).await?;
        let available = "select 1 from pg_available_extensions where name = 'pg_net'";
        let mut worker = JoinSet::new();
        let real = !client.query(available, &[]).await?.is_empty();
        if real {
            client.batch_execute("create extension if not exists pg_net").await?;
        } else {
            client.batch_execute(STAND_IN).await?;
            let url = cluster.url(SUPERUSER);
            let first = Worker::start(&url).await?;
            worker.spawn(work(url, Some(first)));
        }
        Ok(Self { real, _worker: worker })
    }

    /// Tells in words which of the two runs.
    pub fn name(&self) -> &'static str {
        if self.real { "pg_net" } else { "a stand-in for pg_net" }
    }
}

/// How often the worker tries to reconnect to a lost database.
const RECONNECT_EVERY: Duration = Duration::from_millis(100);

struct Worker {
    client: Client,
    woken: Arc<Notify>,
    connections: Arc<Connections>,
    _connection: JoinSet<()>,
}

/// Postgres starts its background workers again after every failure, so the stand-in's worker never gives up.
async fn work(url: String, mut first: Option<Worker>) {
    // The real worker keeps its connections to servers in a process of Postgres, which ends with the database.
    loop {
        let worker = match first.take() {
            Some(worker) => Ok(worker),
            None => Worker::start(&url).await,
        };
        if let Ok(worker) = worker {
            worker.run().await;
        }
        sleep(RECONNECT_EVERY).await;
    }
}

impl Worker {
    async fn start(url: &str) -> Result<Self> {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
        let woken = Arc::new(Notify::new());
        let wake = woken.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(_) = message {
                    wake.notify_one();
                }
            }
            // The worker sees the end of the connection when it wakes.
            wake.notify_one();
        });
        client.batch_execute("listen pg_net_stand_in").await?;
        Ok(Self { client, woken, connections: Arc::default(), _connection: tasks })
    }

    /// Works until the database is gone.
    async fn run(self) {
        loop {
            match self.batch().await {
                Ok(0) => self.woken.notified().await,
                Ok(_) => sleep(SLEEP_AFTER_BATCH).await,
                Err(_) => return,
            }
        }
    }

    /// Sends the waiting requests, at most a batch, and stores the responses once all are in.
    async fn batch(&self) -> Result<usize> {
        let take = "delete from net.http_request_queue where id in \
                    (select id from net.http_request_queue order by id limit $1) \
                    returning id, url, headers, body, timeout_milliseconds";
        let rows = self.client.query(take, &[&BATCH_SIZE]).await?;
        let exchanges = rows.iter().map(|row| async {
            let timeout_ms: i32 = row.get(4);
            let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
            let exchange = self.exchange(row.get(1), row.get(2), row.get(3));
            (row.get::<_, i64>(0), tokio::time::timeout(timeout, exchange).await)
        });
        let results = join_all(exchanges).await;
        // No client sees one response of a batch before the others.
        self.client.batch_execute("begin").await?;
        for (id, result) in results {
            self.store(id, result).await?;
        }
        self.client.batch_execute("commit").await?;
        Ok(rows.len())
    }

    async fn store(
        &self,
        id: i64,
        result: Result<Result<Response<Bytes>>, tokio::time::error::Elapsed>,
    ) -> Result<()> {
        let answered = "insert into net._http_response (id, status_code, content_type, headers, content, timed_out) \
                        values ($1, $2, $3, $4, $5, false)";
        let failed = "insert into net._http_response (id, timed_out, error_msg) values ($1, $2, $3)";
        match result {
            Ok(Ok(response)) => {
                let headers: serde_json::Map<String, serde_json::Value> = response
                    .headers()
                    .iter()
                    .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
                    .collect();
                let content_type = headers.get("content-type").and_then(|value| value.as_str());
                let status = i32::from(response.status().as_u16());
                let content = String::from_utf8_lossy(response.body());
                let headers = serde_json::Value::from(headers.clone());
                self.client.execute(answered, &[&id, &status, &content_type, &headers, &content]).await?;
            }
            Ok(Err(error)) => {
                self.client.execute(failed, &[&id, &false, &format!("{error:#}")]).await?;
            }
            Err(_) => {
                self.client.execute(failed, &[&id, &true, &"Timeout was reached"]).await?;
            }
        }
        Ok(())
    }

    async fn exchange(
        &self,
        url: &str,
        headers: Option<serde_json::Value>,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Bytes>> {
        let mut message = Message {
            method: Method::POST,
            uri: url.parse().context("URL using bad/illegal format")?,
            headers: headers.map(serde_json::from_value).transpose()?.unwrap_or_default(),
            body: body.unwrap_or_default().into(),
        };
        for _ in 0..REDIRECT_LIMIT {
            let response = self.connections.send(&message).await?;
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return Ok(response);
            };
            message.uri = resolve(&message.uri, location)?;
            if matches!(response.status().as_u16(), 301..=303) {
                message.method = Method::GET;
                message.body = Bytes::new();
            }
        }
        anyhow::bail!("Number of redirects hit maximum amount")
    }
}

fn resolve(base: &Uri, location: &str) -> Result<Uri> {
    if location.starts_with('/') {
        let authority = base.authority().context("the URL has no host")?;
        return Ok(format!("{}://{authority}{location}", base.scheme_str().unwrap_or("http")).parse()?);
    }
    Ok(location.parse()?)
}

struct Message {
    method: Method,
    uri: Uri,
    headers: HashMap<String, String>,
    body: Bytes,
}

impl Message {
    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.uri.clone())
            .header(header::USER_AGENT, "pg_net/stand-in")
            .body(Full::new(self.body.clone()))?;
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse()?;
            request.headers_mut().insert(name, HeaderValue::from_str(value)?);
        }
        http1::in_origin_form(request)
    }
}

/// Kept connections by host and port.
#[derive(Default)]
struct Connections(Mutex<HashMap<String, Vec<SendRequest<Full<Bytes>>>>>);

impl Connections {
    async fn send(&self, message: &Message) -> Result<Response<Bytes>> {
        anyhow::ensure!(message.uri.scheme_str() == Some("http"), "the stand-in for pg_net does not do TLS");
        let place = message.uri.authority().context("URL using bad/illegal format")?.to_string();
        let answered = match self.take(&place) {
            // When a kept connection dies without an answer, libcurl sends the request again without notice. So a
            // request may be executed twice.
            Some(mut kept) => head(&mut kept, message).await.ok().map(|answer| (kept, answer)),
            None => None,
        };
        let (connection, answer) = match answered {
            Some(answered) => answered,
            None => {
                let mut fresh =
                    http1::connect(&message.uri).await.ok().context("Couldn't connect to server")?;
                let answer = head(&mut fresh, message)
                    .await
                    .context("Server returned nothing (no headers, no data)")?;
                (fresh, answer)
            }
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("Transferred a partial file")?.to_bytes();
        self.keep(place, connection);
        Ok(Response::from_parts(head, body))
    }

    fn take(&self, place: &str) -> Option<SendRequest<Full<Bytes>>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_mut(place)?.pop()
    }

    fn keep(&self, place: String, connection: SendRequest<Full<Bytes>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(place).or_default().push(connection);
    }
}

async fn head(connection: &mut SendRequest<Full<Bytes>>, message: &Message) -> Result<Response<Incoming>> {
    connection.ready().await?;
    Ok(connection.send_request(message.request()?).await?)
}
