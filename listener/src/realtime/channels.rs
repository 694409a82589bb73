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

/// Wait before a refused channel is joined again; it doubles with each time in a row.
const REFUSED_FIRST: Duration = Duration::from_secs(30);

/// The longest of these waits.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What the owner of a socket hears.
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
                channel.wait(REFUSED_FIRST, now);
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
                self.wait(REFUSED_FIRST, now);
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
mod tests {
    use super::*;
    use serde_json::json;

    fn topics(names: &[&str]) -> BTreeSet<Topic> {
        names.iter().map(|name| Topic::new((*name).to_owned(), true, false).unwrap()).collect()
    }

    fn wanting(names: &[&str], now: Instant) -> Channels {
        let mut channels = Channels::default();
        assert_eq!(channels.want(&topics(names), now), (vec![], vec![]));
        channels
    }

    /// The events and topics of texts.
    fn told(texts: &[String]) -> Vec<String> {
        let told = texts.iter().map(|text| {
            let sent: Value = serde_json::from_str(text).unwrap();
            format!("{} {}", sent["event"].as_str().unwrap(), sent["topic"].as_str().unwrap())
        });
        told.collect()
    }

    fn reply(text: &str, ok: bool) -> String {
        let sent: Value = serde_json::from_str(text).unwrap();
        let (status, response) = if ok { ("ok", json!({})) } else { ("error", json!({ "reason": "no" })) };
        json!({ "event": "phx_reply", "topic": sent["topic"], "ref": sent["ref"],
            "payload": { "status": status, "response": response } })
        .to_string()
    }

    fn message(event: &str, topic: &str, payload: Value) -> String {
        json!({ "event": event, "topic": format!("realtime:{topic}"), "payload": payload }).to_string()
    }

    #[test]
    fn a_channel_is_live_once_its_join_is_answered_and_not_before() {
        let now = Instant::now();
        let mut channels = wanting(&["doorbell"], now);
        let texts = channels.due("t", now, || true);
        assert_eq!(told(&texts), ["phx_join realtime:doorbell"]);
        assert_eq!(channels.live(), 0);
        assert_eq!(channels.due("t", now, || true), [""; 0], "it is asked for once");
        let other = texts[0].replace(r#""ref":"1""#, r#""ref":"99""#);
        assert_eq!(channels.take(&reply(&other, true), now), Heard::Nothing, "another one's answer");
        assert_eq!(channels.live(), 0);
        assert_eq!(
            channels.take(&reply(&texts[0], true), now),
            Heard::Joined { topic: "doorbell".to_owned() }
        );
        assert_eq!(channels.live(), 1);
    }

    #[test]
    fn a_refused_channel_waits_longer_and_longer_and_the_others_are_joined() {
        let mut now = Instant::now();
        let mut channels = wanting(&["a", "b"], now);
        let texts = channels.due("t", now, || true);
        let refused = Heard::Refused { topic: "a".to_owned(), reason: "no".to_owned() };
        assert_eq!(channels.take(&reply(&texts[0], false), now), refused);
        assert!(matches!(channels.take(&reply(&texts[1], true), now), Heard::Joined { .. }));
        let mut waits = Vec::new();
        for _ in 0..7 {
            let since = now;
            let texts = loop {
                let texts = channels.due("t", now, || true);
                if !texts.is_empty() {
                    break texts;
                }
                now += Duration::from_secs(1);
            };
            assert_eq!(told(&texts), ["phx_join realtime:a"]);
            waits.push((now - since).as_secs());
            channels.take(&reply(&texts[0], false), now);
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600]);
        assert_eq!(channels.live_names(), ["b"]);
    }

    #[test]
    fn few_joins_are_under_way_at_once_and_one_without_an_answer_is_left() {
        let mut now = Instant::now();
        let names: Vec<String> = (0..150).map(|n| format!("topic-{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut channels = wanting(&names, now);
        assert_eq!(channels.due("t", now, || true).len(), JOINS_LIMIT);
        now += JOIN_TIMEOUT;
        let texts = told(&channels.due("t", now, || true));
        assert_eq!(texts.iter().filter(|text| text.starts_with("phx_leave")).count(), JOINS_LIMIT);
        assert_eq!(texts.iter().filter(|text| text.starts_with("phx_join")).count(), JOINS_LIMIT);
        let mut joined = 0;
        for _ in 0..200 {
            let texts = channels.due("t", now, || true);
            for text in texts.iter().filter(|text| text.contains("phx_join")) {
                channels.take(&reply(text, true), now);
                joined += 1;
            }
            now += Duration::from_secs(1);
        }
        assert!(joined <= CHANNELS_LIMIT && channels.live() <= CHANNELS_LIMIT, "{joined}");
    }

    #[test]
    fn a_join_that_may_not_begin_yet_waits_for_its_turn() {
        let now = Instant::now();
        let mut channels = wanting(&["a", "b"], now);
        let mut left = 1;
        let mut pace = || {
            left -= 1;
            left >= 0
        };
        assert_eq!(told(&channels.due("t", now, &mut pace)), ["phx_join realtime:a"]);
        assert_eq!(channels.due("t", now, &mut pace), [""; 0]);
        assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:b"]);
    }

    #[test]
    fn a_channel_that_the_server_closes_is_joined_again() {
        let mut now = Instant::now();
        let mut channels = wanting(&["a"], now);
        let texts = channels.due("t", now, || true);
        channels.take(&reply(&texts[0], true), now);
        let closed = message("phx_close", "a", json!({}));
        assert_eq!(channels.take(&closed, now), Heard::Lost { topic: "a".to_owned() });
        assert_eq!(channels.take(&closed, now), Heard::Nothing, "told once");
        assert_eq!(channels.due("t", now, || true), [""; 0]);
        now += CLOSED_FIRST;
        assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:a"]);
    }

    #[test]
    fn a_topic_that_is_not_wanted_any_more_is_left_and_lost() {
        let now = Instant::now();
        let mut channels = wanting(&["a", "b"], now);
        for text in channels.due("t", now, || true) {
            channels.take(&reply(&text, true), now);
        }
        let (texts, lost) = channels.want(&topics(&["b", "c"]), now);
        assert_eq!(told(&texts), ["phx_leave realtime:a"]);
        assert_eq!(lost, [Heard::Lost { topic: "a".to_owned() }]);
        assert_eq!(told(&channels.due("t", now, || true)), ["phx_join realtime:c"]);
        let late = message("broadcast", "a", json!({ "event": "x", "payload": {} }));
        assert_eq!(channels.take(&late, now), Heard::Hostile);
    }

    #[test]
    fn a_new_token_goes_to_each_live_channel() {
        let now = Instant::now();
        let mut channels = wanting(&["a", "b"], now);
        let texts = channels.due("t", now, || true);
        channels.take(&reply(&texts[0], true), now);
        let renewed = channels.renew("another");
        assert_eq!(told(&renewed), ["access_token realtime:a"]);
        assert!(renewed[0].contains("another"));
    }

    #[test]
    fn hostile_messages_are_told_apart_and_change_nothing() {
        let now = Instant::now();
        let mut channels = wanting(&["a"], now);
        for text in channels.due("t", now, || true) {
            channels.take(&reply(&text, true), now);
        }
        for text in ["", "[]", "{", "{\"topic\":\"realtime:a\",\"event\":\"broadcast\",\"payload\":7}"] {
            assert_eq!(channels.take(text, now), Heard::Hostile, "{text}");
        }
        assert_eq!(channels.live(), 1);
    }
}
