//! Who hears what: the subscribers of each topic, what is tracked there, and the tenant's rate.

use super::{presence::Presences, rate::Rate, wire::Payload};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::mpsc::UnboundedSender;

/// A topic. A public and a private channel of one name are two.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) private: bool,
}

/// Something for one channel of a socket.
pub(super) struct Delivery {
    pub(super) channel: u64,
    pub(super) what: What,
}

/// What a channel gets.
#[derive(Clone)]
pub(super) enum What {
    Broadcast(Arc<Payload>),
    Push(&'static str, Arc<Value>),
    /// The tenant's rate is exceeded: the channel is closed.
    TooMuch,
}

/// A channel that has joined.
pub(super) struct Subscriber {
    pub(super) channel: u64,
    pub(super) sender: UnboundedSender<Delivery>,
    /// Whether it hears broadcasts.
    pub(super) hears: bool,
    /// Whether it sees who is present.
    pub(super) sees: bool,
}

impl Subscriber {
    fn give(&self, what: What) {
        // A socket that has ended gets nothing.
        let _ = self.sender.send(Delivery { channel: self.channel, what });
    }
}

/// The subscribers of all topics.
pub(super) struct Hub {
    state: Mutex<State>,
}

struct State {
    subscribers: HashMap<Topic, Vec<Subscriber>>,
    present: HashMap<Topic, Presences>,
    events: Rate,
    changes: Rate,
    last: u64,
}

impl Hub {
    pub(super) fn new(events: Rate, changes: Rate) -> Self {
        let (subscribers, present) = (HashMap::new(), HashMap::new());
        Self { state: Mutex::new(State { subscribers, present, events, changes, last: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a number that no channel and no subscription has.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Adds a channel, or replaces it.
    pub(super) fn subscribe(&self, topic: &Topic, subscriber: Subscriber) {
        let mut state = self.state();
        let subscribers = state.subscribers.entry(topic.clone()).or_default();
        subscribers.retain(|other| other.channel != subscriber.channel);
        subscribers.push(subscriber);
    }

    /// Removes a channel, and with it what it tracks.
    pub(super) fn unsubscribe(&self, topic: &Topic, channel: u64) {
        {
            let mut state = self.state();
            if let Some(subscribers) = state.subscribers.get_mut(topic) {
                subscribers.retain(|subscriber| subscriber.channel != channel);
                if subscribers.is_empty() {
                    state.subscribers.remove(topic);
                }
            }
        }
        self.untrack(topic, channel);
    }

    /// Counts one event.
    pub(super) fn count(&self) {
        self.state().events.count(1, Instant::now());
    }

    /// Tells whether so many more events would exceed the rate, as the HTTP API asks.
    pub(super) fn has_no_room(&self, events: usize, limit: f64) -> bool {
        self.state().events.mean(Instant::now()) + events as f64 > limit
    }

    /// Counts changes of tables, and tells whether their rate is exceeded.
    pub(super) fn count_changes(&self, events: u64) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let exceeded = state.changes.is_exceeded(now);
        state.changes.count(if exceeded { 0 } else { events }, now);
        exceeded
    }

    /// Gives a client's broadcast to everybody who hears its topic, and counts it and each delivery. Above the rate a
    /// channel that gets something is closed.
    pub(super) fn broadcast(&self, topic: &Topic, payload: Payload, except: Option<u64>) {
        self.state().broadcast(topic, payload, except);
    }

    /// Does the same with a broadcast of the database. Above the rate it is lost, and nobody is told.
    pub(super) fn broadcast_of_database(&self, topic: &Topic, payload: Payload) {
        let mut state = self.state();
        if !state.events.is_exceeded(Instant::now()) {
            state.broadcast(topic, payload, None);
        }
    }

    /// Gives a channel the state of its topic.
    pub(super) fn presence_state(&self, topic: &Topic) -> Value {
        self.state().present.get(topic).map_or_else(|| json!({}), Presences::state)
    }

    /// Tracks what a channel says of itself, and tells everybody who sees it.
    pub(super) fn track(&self, topic: &Topic, channel: u64, key: &str, meta: &Value) {
        let mut state = self.state();
        let diff = state.present.entry(topic.clone()).or_default().track(channel, key, meta);
        tell(&state, topic, diff);
    }

    /// Forgets what a channel has said of itself.
    pub(super) fn untrack(&self, topic: &Topic, channel: u64) {
        let mut state = self.state();
        let Some(present) = state.present.get_mut(topic) else { return };
        let diff = present.untrack(channel);
        if present.is_empty() {
            state.present.remove(topic);
        }
        if let Some(diff) = diff {
            tell(&state, topic, diff);
        }
    }
}

impl State {
    fn broadcast(&mut self, topic: &Topic, payload: Payload, except: Option<u64>) {
        let (payload, now) = (Arc::new(payload), Instant::now());
        let closes = self.events.is_exceeded(now);
        self.events.count(1, now);
        let heard = self.subscribers.get(topic).into_iter().flatten();
        for subscriber in heard.filter(|one| one.hears && Some(one.channel) != except) {
            subscriber.give(What::Broadcast(payload.clone()));
            self.events.count(1, now);
            if closes {
                subscriber.give(What::TooMuch);
            }
        }
    }
}

fn tell(state: &State, topic: &Topic, diff: Value) {
    let diff = Arc::new(diff);
    for subscriber in state.subscribers.get(topic).into_iter().flatten().filter(|one| one.sees) {
        subscriber.give(What::Push("presence_diff", diff.clone()));
    }
}
