//! Realtime: the doorbell, signals and presence. Everything that the listener forwards from here has an id or is a
//! heartbeat, so that a repeat is harmless, and everything that comes from outside is bounded.
//!
//! ```text
//! realtime ─ doorbell · signals · presence (tracked)
//!              └── pool ── session ── channels ── protocol
//!                            └── socket, token
//! ```

mod backoff;
mod channels;
mod claims;
mod doorbell;
pub(crate) mod metrics;
mod pace;
mod pool;
mod presence;
mod protocol;
mod session;
pub(crate) mod settings;
mod signals;
mod socket;
mod token;
mod tracked;

use crate::{
    cli::RealtimeFlags,
    ledger::Ledger,
    log::{Level, Line},
    runtime::Native,
};
use doorbell::Caller;
use metrics::RealtimeMetrics;
use pace::Pace;
use pool::Pool;
use protocol::Topic;
use purple_flea_edge::ledger::rpc::LedgerError;
use settings::{Endpoint, Settings};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use token::Token;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;

/// The parts that the program gives to Realtime's tasks.
pub(crate) struct Parts {
    pub(crate) ledger: Ledger,
    pub(crate) metrics: Arc<RealtimeMetrics>,
    pub(crate) tls: TlsConnector,
    /// Becomes true when the listener ends.
    pub(crate) stop: watch::Receiver<bool>,
}

/// The parts that Realtime's tasks share.
struct Shared {
    ledger: Ledger,
    runtime: Arc<Native>,
    metrics: Arc<RealtimeMetrics>,
    endpoint: Endpoint,
    tls: TlsConnector,
    tokens: watch::Receiver<Option<Token>>,
    timing: Timing,
    pace: Pace,
    public_signals: bool,
    stop: watch::Receiver<bool>,
}

/// The times that an operator may set.
#[derive(Clone, Copy)]
struct Timing {
    heartbeat: Duration,
    silence: Duration,
    topics: Duration,
    presence: Duration,
}

impl Shared {
    /// Counts and tells a failure of the ledger.
    fn tell_of_failure(&self, event: &'static str, error: &LedgerError) {
        self.metrics.ledger_failed();
        let level = if error.may_pass() { Level::Warn } else { Level::Error };
        let mut line = Line::new(level, event);
        (line.code, line.cause) = (Some(error.code()), Some(error.cause()));
        line.print();
    }

    /// Waits, and says whether the listener ends meanwhile.
    async fn stops_within(&self, time: Duration) -> bool {
        timeout(time, self.stop.clone().wait_for(|stop| *stop)).await.is_ok()
    }
}

/// Waits until the listener ends.
async fn ended(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Runs until the listener ends.
pub(crate) async fn run(settings: Settings, parts: Parts, flags: RealtimeFlags) {
    let (provided, tokens) = watch::channel(None);
    let Parts { ledger, metrics, tls, stop } = parts;
    let shared = Arc::new(Shared {
        runtime: ledger.runtime(),
        ledger,
        metrics,
        endpoint: settings.endpoint,
        tls,
        tokens,
        timing: Timing {
            heartbeat: Duration::from_millis(flags.heartbeat_ms),
            silence: Duration::from_millis(flags.silence_ms),
            topics: Duration::from_millis(flags.topics_ms),
            presence: Duration::from_millis(flags.presence_ms),
        },
        pace: Pace::new(Instant::now()),
        public_signals: flags.accept_public_signals,
        stop: stop.clone(),
    });
    if flags.accept_public_signals {
        let mut line = Line::new(Level::Warn, "signal");
        line.code = Some("public_signals_accepted");
        line.print();
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(token::provide(settings.identity, shared.runtime.clone(), provided));
    if let Some(function) = settings.function {
        let (mut pool, heard) = Pool::new(shared.clone());
        tasks.spawn(Caller::new(shared.clone(), function).listen(heard));
        let doorbell = Topic::new(doorbell::TOPIC.to_owned(), true, false).map(Topic::with_the_database);
        tasks.spawn({
            let shared = shared.clone();
            async move {
                pool.want(&BTreeSet::from_iter(doorbell));
                ended(&mut shared.stop.clone()).await;
            }
        });
    }
    // Topics that owners could make Realtime refuse have sockets of their own: a refusal holds up its whole socket.
    let (pool, heard) = Pool::new(shared.clone());
    tasks.spawn(signals::follow(shared.clone(), pool));
    tasks.spawn(signals::forward(shared.clone(), heard));
    let (pool, heard) = Pool::new(shared.clone());
    tasks.spawn(presence::follow(shared.clone(), pool));
    tasks.spawn(presence::report(shared.clone(), heard));
    let mut stop = stop;
    ended(&mut stop).await;
    drop(shared);
    // The sessions say good-bye, and then nobody has anything more to hear.
    let _ = timeout(END_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
}

/// Longest time for the sessions to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);
