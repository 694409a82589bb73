//! The channels of one socket: which topics are joined, refused, or wait for their turn. It knows no socket: it gives the
//! texts to send, and takes the messages that came.

use super::{
    backoff,
    protocol::{self, Message, Topic},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Most channels of a socket: Realtime's own limit.
pub(crate) const CHANNELS_LIMIT: usize = 100;

/// Joins under way at once. A refusal takes Realtime 5 s, and the other joins of the socket wait for it.
const JOINS_LIMIT: usize = 4;

/// Longest time for the answer to a join: that of four refusals one after another, and a little more.
const JOIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Wait before a channel is joined again that the server has closed; it doubles with each time in a row.
const CLOSED_FIRST: Duration = Duration::from_millis(500);

/// The beginning of the reason of a refusal that only a change of privileges ends.
const FORBIDDEN: &str = "Unauthorized";

/// Wait before a forbidden channel, or one whose join nobody has answered, is joined again; it doubles with each time in a
/// row.
const FORBIDDEN_FIRST: Duration = Duration::from_secs(30);

/// The same wait after a refusal for another reason, such as a database that restarts: bells and signals are lost
/// meanwhile.
const REFUSED_FIRST: Duration = Duration::from_secs(2);

/// The longest of these waits.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A message that the owner of a socket hears.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// A channel is live.
    Joined { topic: String },
    /// The server says that it hears what the database sends to the channel.
    Ready { topic: String },
    /// A live channel is not live any more.
    Lost { topic: String },
    /// Somebody has sent a message.
    Broadcast { topic: String, event: String, payload: Value },
    /// Everybody who is there.
    PresenceState { topic: String, state: Value },
    /// Those who have come and gone.
    PresenceDiff { topic: String, diff: Value },
    /// The server refuses the channel.
    Refused { topic: String, reason: String },
    /// A message of no channel of this socket, or one that is none.
    Hostile,
    /// Nothing to tell.
    Nothing,
}

#[derive(Debug, PartialEq)]
enum State {
    Waiting { until: Instant },
    Joining { reference: String, since: Instant },
    Live,
}

struct Channel {
    topic: Topic,
    state: State,
    /// How often it was refused or closed in a row.
    failures: u32,
}

/// The channels of one socket, from its beginning.
#[derive(Default)]
pub(crate) struct Channels {
    channels: BTreeMap<String, Channel>,
    last_reference: u64,
}

impl Channels {
    /// Gives the next reference.
    pub(crate) fn reference(&mut self) -> u64 {
        self.last_reference = self.last_reference.saturating_add(1);
        self.last_reference
    }

    /// How many channels are live.
    pub(crate) fn live(&self) -> usize {
        self.channels.values().filter(|channel| channel.state == State::Live).count()
    }

    /// The names of live channels.
    pub(crate) fn live_names(&self) -> Vec<String> {
        let live = self.channels.iter().filter(|(_, channel)| channel.state == State::Live);
        live.map(|(name, _)| name.clone()).collect()
    }

    /// Takes the topics that are wanted from now on. Gives what to send to leave the others, and what is lost with them.
    pub(crate) fn want(&mut self, wanted: &BTreeSet<Topic>, now: Instant) -> (Vec<String>, Vec<Heard>) {
        let gone: Vec<String> = self
            .channels
            .values()
            .filter(|channel| !wanted.contains(&channel.topic))
            .map(|channel| channel.topic.name.clone())
            .collect();
        let (mut texts, mut lost) = (Vec::new(), Vec::new());
        for name in gone {
            let was = self.channels.remove(&name).map(|channel| channel.state);
            if !matches!(was, Some(State::Waiting { .. })) {
                texts.push(protocol::leave(&name, self.reference()));
            }
            if was == Some(State::Live) {
                lost.push(Heard::Lost { topic: name });
            }
        }
        for topic in wanted.iter().take(CHANNELS_LIMIT) {
            self.channels.entry(topic.name.clone()).or_insert_with(|| Channel {
                topic: topic.clone(),
                state: State::Waiting { until: now },
                failures: 0,
            });
        }
        (texts, lost)
    }

    /// Gives what to send now: joins whose turn it is, as far as each may begin now, and leaves of those that nobody has
    /// answered.
    pub(crate) fn due(
        &mut self,
        token: &str,
        now: Instant,
        mut may_join: impl FnMut() -> bool,
    ) -> Vec<String> {
        let mut texts = Vec::new();
        let mut reference = self.last_reference;
        let mut next = || {
            reference = reference.saturating_add(1);
            reference
        };
        for channel in self.channels.values_mut() {
            if let State::Joining { since, .. } = &channel.state
                && now.saturating_duration_since(*since) >= JOIN_TIMEOUT
            {
                texts.push(protocol::leave(&channel.topic.name, next()));
                channel.wait(FORBIDDEN_FIRST, now);
            }
        }
        let is_joining = |channel: &&Channel| matches!(channel.state, State::Joining { .. });
        let under_way = self.channels.values().filter(is_joining).count();
        let mut room = JOINS_LIMIT.saturating_sub(under_way);
        for channel in self.channels.values_mut() {
            if room == 0 {
                break;
            }
            if matches!(channel.state, State::Waiting { until } if until <= now) {
                if !may_join() {
                    break;
                }
                let reference = next();
                texts.push(protocol::join(&channel.topic, reference, token));
                channel.state = State::Joining { reference: reference.to_string(), since: now };
                room = room.saturating_sub(1);
            }
        }
        self.last_reference = reference;
        texts
    }

    /// Gives what to send so that the channels go on with another token.
    pub(crate) fn renew(&mut self, token: &str) -> Vec<String> {
        let names = self.live_names();
        names.iter().map(|name| protocol::access_token(name, self.reference(), token)).collect()
    }

    /// Takes a message, and gives what its owner hears.
    pub(crate) fn take(&mut self, text: &str, now: Instant) -> Heard {
        let Some((topic, message)) = protocol::read(text) else { return Heard::Hostile };
        let Some(channel) = self.channels.get_mut(&topic) else {
            // Answers to heartbeats and leaves, and what a topic has sent before it heard of the leave.
            return match message {
                Message::Broadcast { .. } => Heard::Hostile,
                _ => Heard::Nothing,
            };
        };
        match message {
            Message::Reply { reference, result } => channel.answered(&reference, result, now),
            Message::Closed => channel.closed(now),
            Message::Broadcast { event, payload } => Heard::Broadcast { topic, event, payload },
            Message::PresenceState(state) => Heard::PresenceState { topic, state },
            Message::PresenceDiff(diff) => Heard::PresenceDiff { topic, diff },
            Message::System(Err(reason)) => Heard::Refused { topic, reason },
            Message::System(Ok(())) => Heard::Ready { topic },
            Message::Other => Heard::Nothing,
        }
    }
}

impl Channel {
    fn wait(&mut self, first: Duration, now: Instant) {
        let wait = backoff::doubled(first, self.failures, WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting { until: now.checked_add(wait).unwrap_or(now) };
    }

    fn answered(&mut self, to: &str, result: Result<(), String>, now: Instant) -> Heard {
        if !matches!(&self.state, State::Joining { reference, .. } if reference == to) {
            return Heard::Nothing;
        }
        let topic = self.topic.name.clone();
        match result {
            Ok(()) => {
                (self.state, self.failures) = (State::Live, 0);
                Heard::Joined { topic }
            }
            Err(reason) => {
                let is_forbidden = reason.starts_with(FORBIDDEN);
                self.wait(if is_forbidden { FORBIDDEN_FIRST } else { REFUSED_FIRST }, now);
                Heard::Refused { topic, reason }
            }
        }
    }

    fn closed(&mut self, now: Instant) -> Heard {
        match self.state {
            State::Live => {
                self.wait(CLOSED_FIRST, now);
                Heard::Lost { topic: self.topic.name.clone() }
            }
            State::Joining { .. } => {
                self.wait(CLOSED_FIRST, now);
                Heard::Nothing
            }
            State::Waiting { .. } => Heard::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
