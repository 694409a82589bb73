//! A closed loop: so many connections that are kept, each with one request under way. Whatever the client's own CPU
//! costs is not counted; its latencies are what a caller sees.

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

/// How often the server's memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// How long a started server may take to answer: compiling a component is part of it.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a starting server is tried: a start takes milliseconds, and a timer of the event loop is as coarse as that.
const TRY_EVERY: Duration = Duration::from_micros(100);

/// How long one answer may take. Longer is no latency but a fault.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How exact latencies are kept: to three digits.
const DIGITS: u8 = 3;

/// What one load showed of a server.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Answers in a second.
    pub per_s: f64,
    /// Half of them came in less, in milliseconds.
    pub p50_ms: f64,
    /// 99 % of them came in less, in milliseconds.
    pub p99_ms: f64,
    /// The server's user and system time for each, in microseconds.
    pub cpu_us: f64,
    /// Its largest resident memory, in bytes.
    pub resident_bytes: f64,
    /// How many requests were sent in all, unmeasured ones too.
    pub sent: u64,
}

/// A load and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// What is asked.
    pub load: Load,
    /// By how many at once.
    pub connections: usize,
    /// For how long nothing is measured.
    pub warm_up: Duration,
    /// For how long it is measured.
    pub time: Duration,
}

struct Shared {
    authority: String,
    load: Load,
    measuring: Cell<bool>,
    stop: Cell<bool>,
    sent: Cell<u64>,
    /// In nanoseconds.
    latencies: RefCell<Histogram<u64>>,
}

thread_local! {
    /// The last deposit's id. Each has its own, over all loads.
    static LAST_ID: Cell<u64> = const { Cell::new(0) };
}

fn next_id() -> u64 {
    LAST_ID.set(LAST_ID.get() + 1);
    LAST_ID.get()
}

impl Run {
    /// Puts it on a server that has started. Needs a `LocalSet`.
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

/// Lets time pass and looks now and then; a connection that ends meanwhile has failed.
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
        // A server may end a connection after so many requests, between two of them.
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

/// Asks once and checks the answer.
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

/// Waits for the first answer of a server: how long it took from its start.
pub async fn first_answer(authority: &str, load: Load, server: &mut Server) -> Result<Duration> {
    let mut connection = loop {
        if let Ok(connection) = connect(authority).await {
            break connection;
        }
        server.must_live()?;
        if server.started.elapsed() > START_TIMEOUT {
            bail!("the server did not listen in time");
        }
        // Nobody else needs this thread meanwhile.
        std::thread::sleep(TRY_EVERY);
    };
    ask(&mut connection, authority, load).await?;
    Ok(server.started.elapsed())
}

async fn connect(authority: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its end, good or bad, shows at the sender.
    spawn_local(connection);
    Ok(sender)
}
