//! Puts a closed loop of requests on a server: a fixed number of kept connections, each with one request under way. The
//! client's own CPU time is not counted. Its latencies are those that a caller sees.

use crate::{requests::Load, server::Server};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    task::{JoinSet, spawn_local},
    time::{sleep, timeout},
};

/// How often the bench reads the server's memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// How long a started server may take to answer. Compiling a component is part of that.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the bench tries a starting server. A start takes milliseconds, and the event loop's timer is no finer than
/// that.
const TRY_EVERY: Duration = Duration::from_micros(100);

/// How long one answer may take. A longer one is a fault, not a latency.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Significant digits of the kept latencies.
const DIGITS: u8 = 3;

/// The measurement of one load.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Answers a second.
    pub per_s: f64,
    /// The median latency, in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile of the latency, in milliseconds.
    pub p99_ms: f64,
    /// The server's user and system time for each answer, in microseconds.
    pub cpu_us: f64,
    /// The server's largest resident memory, in bytes.
    pub resident_bytes: f64,
    /// The number of all requests, with the unmeasured ones.
    pub sent: u64,
}

/// A load, and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The kind of request.
    pub load: Load,
    /// The number of connections.
    pub connections: usize,
    /// How long the load runs before the measurement.
    pub warm_up: Duration,
    /// How long the measurement takes.
    pub time: Duration,
}

struct Shared {
    authority: String,
    load: Load,
    measuring: Cell<bool>,
    stop: Cell<bool>,
    sent: Cell<u64>,
    /// Latencies in nanoseconds.
    latencies: RefCell<Histogram<u64>>,
}

thread_local! {
    /// The last deposit's id. Each deposit of all loads has its own id.
    static LAST_ID: Cell<u64> = const { Cell::new(0) };
}

fn next_id() -> u64 {
    LAST_ID.set(LAST_ID.get() + 1);
    LAST_ID.get()
}

impl Run {
    /// Puts the load on a server that has started. Needs a `LocalSet`.
    pub async fn on(self, authority: &str, server: &mut Server) -> Result<Sample> {
        let shared = Rc::new(Shared {
            authority: authority.to_owned(),
            load: self.load,
            measuring: Cell::new(false),
            stop: Cell::new(false),
            sent: Cell::new(0),
            latencies: RefCell::new(Histogram::new(DIGITS)?),
        });
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            connections.spawn_local(keep_asking(shared.clone()));
        }
        wait(self.warm_up, &mut connections, || server.must_live()).await?;
        let (before, from) = (server.cpu()?, Instant::now());
        shared.measuring.set(true);
        let mut resident_bytes = 0;
        wait(self.time, &mut connections, || {
            resident_bytes = resident_bytes.max(server.resident_bytes());
            server.must_live()
        })
        .await?;
        shared.measuring.set(false);
        let (time, cpu) = (from.elapsed(), server.cpu()?.saturating_sub(before));
        shared.stop.set(true);
        while let Some(ended) = connections.join_next().await {
            ended??;
        }
        let latencies = shared.latencies.borrow();
        if latencies.is_empty() {
            bail!("no answer to {} in {time:?}", self.load.name());
        }
        let answers = latencies.len() as f64;
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Sample {
            per_s: answers / time.as_secs_f64(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            cpu_us: cpu.as_secs_f64() * 1e6 / answers,
            resident_bytes: resident_bytes as f64,
            sent: shared.sent.get(),
        })
    }
}

/// Waits for a time, and calls `look` now and then. Fails if a connection ends meanwhile.
async fn wait(
    time: Duration,
    connections: &mut JoinSet<Result<()>>,
    mut look: impl FnMut() -> Result<()>,
) -> Result<()> {
    let from = Instant::now();
    while from.elapsed() < time {
        sleep(SAMPLE_EVERY.min(time.saturating_sub(from.elapsed()))).await;
        look()?;
        if let Some(ended) = connections.try_join_next() {
            return ended?.and_then(|()| bail!("a connection ended by itself"));
        }
    }
    Ok(())
}

async fn keep_asking(shared: Rc<Shared>) -> Result<()> {
    let mut connection = connect(&shared.authority).await?;
    while !shared.stop.get() {
        // A server may close a connection between two requests, after some number of requests.
        if connection.ready().await.is_err() {
            connection = connect(&shared.authority).await?;
        }
        shared.sent.set(shared.sent.get() + 1);
        let latency = ask(&mut connection, &shared.authority, shared.load).await?;
        if shared.measuring.get() {
            shared.latencies.borrow_mut().record(u64::try_from(latency.as_nanos())?)?;
        }
    }
    Ok(())
}

/// Sends one request and checks the answer.
async fn ask(connection: &mut SendRequest<Full<Bytes>>, authority: &str, load: Load) -> Result<Duration> {
    let request = load.request(authority, next_id())?;
    let asked = Instant::now();
    let answer = timeout(ANSWER_TIMEOUT, async {
        let (head, body) = connection.send_request(request).await?.into_parts();
        Ok::<_, hyper::Error>((head, body.collect().await?.to_bytes()))
    });
    let (head, body) = answer.await.context("no answer in time")?.context("the connection broke")?;
    let latency = asked.elapsed();
    load.check(head.status, &head.headers, &body)?;
    Ok(latency)
}

/// Waits for a server's first answer. Gives the time from the server's start.
pub async fn first_answer(authority: &str, load: Load, server: &mut Server) -> Result<Duration> {
    let mut connection = loop {
        if let Ok(connection) = connect(authority).await {
            break connection;
        }
        server.must_live()?;
        if server.started.elapsed() > START_TIMEOUT {
            bail!("the server did not listen in time");
        }
        // No other task needs this thread meanwhile.
        std::thread::sleep(TRY_EVERY);
    };
    ask(&mut connection, authority, load).await?;
    Ok(server.started.elapsed())
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // The request's sender sees an error of the connection.
    spawn_local(connection);
    Ok(sender)
}
