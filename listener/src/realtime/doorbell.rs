//! The doorbell: for each bell one signed call of the function's notification endpoint, and a look after it for what
//! other transactions have made that rely on the bell (`sql/functions/101_doorbell.sql`).

use super::{Shared, backoff, channels::Heard, settings::Function};
use crate::log::{Level, Line, milliseconds};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use purple_flea_edge::{
    runtime::{Limits, Runtime},
    webhook::signature::{ID, SIGNATURE, TIMESTAMP},
};
use serde::Deserialize;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{sleep, sleep_until},
};

/// The topic.
pub(crate) const TOPIC: &str = "doorbell";

/// The one event of the topic.
const DUE: &str = "due";

/// The body of a notification: the function looks for whatever is due.
const BODY: &str = r#"{"ledger": true}"#;

/// Longest time of a call. It is longer than the function takes to execute the due jobs.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Most bytes of an answer.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;

/// Calls under way at once. More bells wait for one of them, and are one call then.
const CALLS_LIMIT: usize = 4;

/// The first look after a bell. It is later than any transaction relies on the bell (100 ms).
const LOOK_FIRST: Duration = Duration::from_millis(150);

/// The longest wait between looks; each one doubles it.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// The looks end so long after the last bell. The sweeper has come by then.
const LOOKS_END: Duration = Duration::from_secs(12);

/// How long after a join the listener looks once more.
const SETTLE: Duration = Duration::from_secs(3);

/// Calls the function.
pub(crate) struct Caller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) function: Function,
    places: Semaphore,
    /// Whether a bell waits for a free place.
    waiting: AtomicBool,
    wake: Notify,
}

/// The answer to a look.
#[derive(Debug, Deserialize)]
struct Look {
    due: bool,
    open: bool,
}

impl Caller {
    pub(crate) fn new(shared: Arc<Shared>, function: Function) -> Arc<Self> {
        let places = Semaphore::new(CALLS_LIMIT);
        Arc::new(Self { shared, function, places, waiting: AtomicBool::new(false), wake: Notify::new() })
    }

    /// Listens for bells until the session ends.
    pub(crate) async fn listen(self: Arc<Self>, mut heard: mpsc::Receiver<Heard>) {
        let looks = tokio::spawn(self.clone().look_after_bells());
        while let Some(heard) = heard.recv().await {
            match heard {
                // A bell before a join was not heard, and a server that has just begun may not hear the database yet.
                Heard::Joined { .. } => {
                    self.ring();
                    self.look_later();
                }
                Heard::Ready { .. } => self.ring(),
                Heard::Broadcast { event, .. } if event == DUE => self.ring(),
                Heard::Broadcast { .. } => self.shared.metrics.dropped("unknown_event"),
                _ => {}
            }
        }
        looks.abort();
    }

    fn ring(self: &Arc<Self>) {
        self.call_soon();
        self.wake.notify_one();
    }

    fn look_later(self: &Arc<Self>) {
        let caller = self.clone();
        tokio::spawn(async move {
            sleep(SETTLE).await;
            caller.wake.notify_one();
        });
    }

    /// Begins a call, or leaves it to the calls under way to make one more.
    fn call_soon(self: &Arc<Self>) {
        self.waiting.store(true, Ordering::SeqCst);
        let caller = self.clone();
        tokio::spawn(async move {
            while caller.waiting.load(Ordering::SeqCst) {
                // Those that have the places look again after they have given them back: no bell is lost.
                let Ok(place) = caller.places.try_acquire() else { return };
                while caller.waiting.swap(false, Ordering::SeqCst) {
                    caller.call().await;
                }
                drop(place);
            }
        });
    }

    async fn call(&self) {
        let began = Instant::now();
        let result = self.post().await;
        let (code, status) = match result {
            Ok(status) if status.is_success() => (None, Some(status.as_u16())),
            Ok(status) => (Some("refused"), Some(status.as_u16())),
            Err(code) => (Some(code), None),
        };
        self.shared.metrics.rang(code.is_none());
        if code.is_some() {
            let mut line = Line::new(Level::Warn, "doorbell");
            (line.code, line.status, line.ms) = (code, status, Some(milliseconds(began.elapsed())));
            line.print();
        }
    }

    async fn post(&self) -> Result<StatusCode, &'static str> {
        let runtime = &self.shared.runtime;
        let id = format!("listener-{:032x}", runtime.random());
        let signed_s = super::token::now_s();
        let signature = self.function.secret.signature(&id, signed_s, BODY.as_bytes()).ok_or("not_signed")?;
        let request = Request::post(&self.function.url)
            .header(CONTENT_TYPE, "application/json")
            .header("prefer", "respond-async")
            .header(ID, id)
            .header(TIMESTAMP, signed_s)
            .header(SIGNATURE, signature)
            .body(BODY.as_bytes().to_vec())
            .map_err(|_| "request_not_built")?;
        let limits = Limits { timeout: CALL_TIMEOUT, hold: Duration::ZERO, reply_bytes: ANSWER_LIMIT_BYTES };
        let answer = runtime.send(request, limits).await.map_err(|_| "not_reached")?;
        Ok(answer.head.status)
    }

    /// Looks after each bell, again and again while a transaction is open or a job is due.
    async fn look_after_bells(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            let mut rung = Instant::now();
            let mut looks = 0_u32;
            while rung.elapsed() < LOOKS_END {
                let wait = backoff::doubled(LOOK_FIRST, looks, LOOK_MAX);
                let at = tokio::time::Instant::now().checked_add(wait);
                tokio::select! {
                    () = self.wake.notified() => {
                        (rung, looks) = (Instant::now(), 0);
                        continue;
                    }
                    () = async { match at { Some(at) => sleep_until(at).await, None => sleep(wait).await } } => {}
                }
                looks = looks.saturating_add(1);
                match self.look().await {
                    Some(Look { due: false, open: false }) => break,
                    Some(Look { due: true, .. }) => self.call_soon(),
                    // The ledger is not reached. The next look comes later.
                    Some(Look { due: false, open: true }) | None => {}
                }
            }
        }
    }

    async fn look(&self) -> Option<Look> {
        match self.shared.ledger.call("look_after_bell", &json!({})).await {
            Ok(reply) => serde_json::from_slice(&reply).ok(),
            Err(error) => {
                self.shared.tell_of_failure("doorbell", &error);
                None
            }
        }
    }
}
