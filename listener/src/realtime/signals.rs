//! Signals that clients broadcast: the listener brings them into the database, which decides what follows from them. The
//! topic proves the sender. An id of topic, sender and payload makes a repeat harmless, so two listeners may do it.

use super::{Shared, backoff, channels::Heard, pool::Pool, protocol::Topic};
use crate::log::{Level, Line};
use purple_flea_edge::{ledger::rpc::LedgerError, runtime::Runtime};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};

/// The prefix of a private topic of signals. The rest is the sender's id.
const PREFIX: &str = "trade-signals:";

/// The public topic. Anybody with the project's public key sends there.
const PUBLIC: &str = "trade-signals";

/// The events that are signals, and their kinds. The database's own event is `signal`, and is not among them.
const EVENTS: [(&str, &str); 3] =
    [("trade_signal", "trade_signal"), ("price_alert", "price"), ("risk_alert", "risk")];

/// Most bytes of a payload.
const PAYLOAD_LIMIT_BYTES: usize = 256 * 1024;

/// Senders of one answer of the database.
const PAGE: usize = 500;

/// Most answers that are read at once. With them the pool is full.
const PAGES_LIMIT: usize = 20;

/// Calls of the database under way at once.
const CALLS_LIMIT: usize = 8;

/// Signals that wait for a call. Above it they are dropped.
const WAITING_LIMIT: usize = 1000;

/// Longest time from hearing a signal to the last attempt to forward it. The database counts a signal's life from its
/// arrival there, so it would take an old one for a new one.
const AGE_LIMIT: Duration = Duration::from_secs(60);

/// Attempts to forward a signal, and the first wait between them; each one doubles it. Together about 30 s.
const ATTEMPTS: u32 = 8;
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
struct Senders {
    senders: Vec<String>,
    more: bool,
}

#[derive(Debug, Deserialize)]
struct Taken {
    state: String,
    #[serde(default)]
    reason: Option<String>,
}

/// A signal on its way to the database.
#[derive(Debug, PartialEq)]
struct Signal {
    sender: String,
    payload: Value,
    private: bool,
}

/// Keeps the senders' topics joined.
pub(crate) async fn follow(shared: Arc<Shared>, mut pool: Pool) {
    let mut told = 0;
    loop {
        match senders(&shared).await {
            Ok(wanted) => {
                let without_place = pool.want(&wanted);
                if without_place != told {
                    let mut line = Line::new(Level::Error, "signal");
                    (line.code, line.count) = (Some("topics_without_place"), Some(without_place));
                    line.print();
                }
                told = without_place;
            }
            Err(error) => shared.tell_of_failure("signal", &error),
        }
        if shared.stops_within(shared.timing.topics).await {
            return;
        }
    }
}

async fn senders(shared: &Shared) -> Result<BTreeSet<Topic>, LedgerError> {
    let mut topics = BTreeSet::new();
    if shared.public_signals {
        topics.extend(Topic::new(PUBLIC.to_owned(), false, false));
    }
    let mut after: Option<String> = None;
    for _ in 0..PAGES_LIMIT {
        let reply = shared.ledger.call("signal_senders", &json!({ "after": after, "most": PAGE })).await?;
        let page: Senders = serde_json::from_slice(&reply).map_err(|_| LedgerError::Unreadable)?;
        after = page.senders.last().cloned();
        for sender in page.senders {
            match Topic::new(format!("{PREFIX}{sender}"), true, false) {
                Some(topic) => {
                    topics.insert(topic);
                }
                None => shared.metrics.dropped("no_topic"),
            }
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    Ok(topics)
}

/// Forwards what the senders broadcast.
pub(crate) async fn forward(shared: Arc<Shared>, mut heard: mpsc::Receiver<Heard>) {
    let (calls, waiting) = (Arc::new(Semaphore::new(CALLS_LIMIT)), Arc::new(Semaphore::new(WAITING_LIMIT)));
    while let Some(heard) = heard.recv().await {
        let Heard::Broadcast { topic, event, payload } = heard else { continue };
        let signal = match read(&topic, &event, payload) {
            Ok(signal) => signal,
            Err(why) => {
                shared.metrics.dropped(why);
                continue;
            }
        };
        let Ok(place) = waiting.clone().try_acquire_owned() else {
            shared.metrics.dropped("queue_full");
            continue;
        };
        let (shared, calls, since) = (shared.clone(), calls.clone(), Instant::now());
        tokio::spawn(async move {
            if let Ok(_call) = calls.acquire().await {
                bring(&shared, &signal, since).await;
            }
            drop(place);
        });
    }
}

/// Reads a broadcast. Fails with the reason why it is no signal.
fn read(topic: &str, event: &str, mut payload: Value) -> Result<Signal, &'static str> {
    let (_, kind) = EVENTS.iter().find(|(known, _)| *known == event).ok_or("unknown_event")?;
    let members = payload.as_object_mut().ok_or("no_object")?;
    // The database takes a signal without a kind for one that makes followers trade. An alert is none.
    if members.entry("kind").or_insert(json!(kind)) != kind {
        return Err("other_kind");
    }
    if payload.to_string().len() > PAYLOAD_LIMIT_BYTES {
        return Err("too_large");
    }
    match topic.strip_prefix(PREFIX) {
        Some(sender) => Ok(Signal { sender: sender.to_owned(), payload, private: true }),
        // On the public topic the sender is the payload's own word.
        None if topic == PUBLIC => {
            let named = ["agent_id", "sender"].into_iter().find_map(|name| payload.get(name)?.as_str());
            let sender = named.ok_or("no_sender")?.to_owned();
            Ok(Signal { sender, payload, private: false })
        }
        None => Err("unknown_topic"),
    }
}

/// Brings a signal that was heard at `since` into the database. A repeat changes nothing there.
async fn bring(shared: &Shared, signal: &Signal, since: Instant) {
    let arguments = json!({ "sender": signal.sender, "payload": signal.payload, "private": signal.private });
    for attempt in 0..ATTEMPTS {
        if since.elapsed() >= AGE_LIMIT {
            break;
        }
        let error = match shared.ledger.call("take_broadcast_signal", &arguments).await {
            Ok(reply) => return tell(shared, signal, serde_json::from_slice(&reply).ok()),
            Err(error) => error,
        };
        shared.tell_of_failure("signal", &error);
        // The database will never read a payload that it cannot read now.
        if matches!(error, LedgerError::Failed(_)) {
            return shared.metrics.signal("refused");
        }
        let wait = backoff::doubled(RETRY_FIRST, attempt, RETRY_MAX);
        if shared.stops_within(backoff::jittered(wait, shared.runtime.random())).await {
            break;
        }
    }
    shared.metrics.signal("lost");
    let mut line = Line::new(Level::Error, "signal");
    (line.code, line.topic) = (Some("signal_lost"), Some(signal.sender.as_str()));
    line.print();
}

fn tell(shared: &Shared, signal: &Signal, taken: Option<Taken>) {
    let Some(taken) = taken else { return shared.metrics.signal("refused") };
    shared.metrics.signal(match taken.state.as_str() {
        "published" => "published",
        "repeated" => "repeated",
        _ => "refused",
    });
    let level = if taken.state == "refused" { Level::Warn } else { Level::Info };
    let mut line = Line::new(level, "signal");
    line.code = Some(&taken.state);
    line.topic = Some(&signal.sender);
    line.cause = taken.reason;
    line.print();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_topic_names_the_sender_whatever_the_payload_says() {
        let payload = json!({ "agent_id": "somebody-else", "kind": "trade_signal", "ts": 1 });
        let signal = read("trade-signals:agent-1", "trade_signal", payload.clone()).unwrap();
        assert_eq!(signal, Signal { sender: "agent-1".to_owned(), payload, private: true });
    }

    #[test]
    fn a_public_topics_signal_has_the_senders_own_word_and_says_that_it_is_public() {
        let read = |payload: Value| read("trade-signals", "trade_signal", payload);
        let signal = read(json!({ "sender": "agent-1" })).unwrap();
        assert_eq!((signal.sender.as_str(), signal.private), ("agent-1", false));
        assert_eq!(read(json!({ "agent_id": 7 })), Err("no_sender"));
    }

    #[test]
    fn an_alert_is_of_its_own_kind_and_never_a_signal_to_trade() {
        let read = |event: &str, payload: Value| read("trade-signals:a", event, payload);
        for (event, kind) in
            [("trade_signal", "trade_signal"), ("price_alert", "price"), ("risk_alert", "risk")]
        {
            assert_eq!(read(event, json!({ "ts": 1 })).unwrap().payload["kind"], kind);
            assert_eq!(read(event, json!({ "ts": 1, "kind": kind })).unwrap().payload["kind"], kind);
        }
        for kind in [json!("trade_signal"), json!(null), json!(7)] {
            assert_eq!(read("price_alert", json!({ "kind": kind })), Err("other_kind"));
        }
    }

    #[test]
    fn what_is_no_signal_is_dropped_with_its_reason() {
        let read = |event: &str, payload: Value| read("trade-signals:a", event, payload).unwrap_err();
        assert_eq!(read("signal", json!({ "signal_id": 1 })), "unknown_event");
        assert_eq!(read("due", json!({})), "unknown_event");
        for payload in [json!([1]), json!(7), json!("text"), json!(null)] {
            assert_eq!(read("trade_signal", payload), "no_object");
        }
        assert_eq!(read("risk_alert", json!({ "x": "x".repeat(PAYLOAD_LIMIT_BYTES) })), "too_large");
        assert_eq!(super::read("elsewhere", "price_alert", json!({})), Err("unknown_topic"));
    }
}
