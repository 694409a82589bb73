//! The protocol of Realtime: Phoenix channels, version 1.0.0, one JSON object a message. It only reads and writes text.

use serde::Deserialize;
use serde_json::{Value, json};

/// The prefix that Realtime puts before each topic's name.
const PREFIX: &str = "realtime:";

/// The topic of heartbeats.
const PHOENIX: &str = "phoenix";

/// Longest name of a topic, in characters. The database has the same limit (`purple_flea.may_signal`).
const TOPIC_LIMIT_CHARS: usize = 255;

/// Longest reason of a refusal that is kept, in characters: it goes into the log.
const REASON_LIMIT_CHARS: usize = 200;

/// A topic that the listener joins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Topic {
    /// The name, without Realtime's prefix.
    pub(crate) name: String,
    /// Whether policies decide who may hear and send.
    pub(crate) private: bool,
    /// Whether the listener hears who is there.
    pub(crate) presence: bool,
    /// Whether the database sends there: the server says when it hears the database.
    pub(crate) from_database: bool,
}

impl Topic {
    /// Makes a topic. Gives `None` for a name with a slash or a control character, an empty and a long one.
    pub(crate) fn new(name: String, private: bool, presence: bool) -> Option<Self> {
        let fits = !name.is_empty() && name.chars().count() <= TOPIC_LIMIT_CHARS;
        let plain = !name.contains('/') && !name.contains(char::is_control);
        (fits && plain).then_some(Self { name, private, presence, from_database: false })
    }

    /// The same topic, to which the database sends.
    pub(crate) fn with_the_database(self) -> Self {
        Self { from_database: true, ..self }
    }
}

/// A message of Realtime's.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    /// The answer to a message of ours, by its reference: done, or the reason of a refusal.
    Reply { reference: String, result: Result<(), String> },
    /// A message that a client has sent to a topic.
    Broadcast { event: String, payload: Value },
    /// Everybody who is there.
    PresenceState(Value),
    /// Those who have come and gone.
    PresenceDiff(Value),
    /// The server has closed the channel.
    Closed,
    /// The server's word on the channel: fine, or what is wrong.
    System(Result<(), String>),
    /// Something that the listener has no use for.
    Other,
}

#[derive(Deserialize)]
struct Frame {
    topic: String,
    event: String,
    #[serde(default)]
    payload: Value,
    #[serde(default, rename = "ref")]
    reference: Option<Value>,
}

#[derive(Deserialize)]
struct Sent {
    event: String,
    #[serde(default)]
    payload: Value,
}

/// Reads a message, and the name of its topic. Gives `None` for a text that is none.
pub(crate) fn read(text: &str) -> Option<(String, Message)> {
    let frame: Frame = serde_json::from_str(text).ok()?;
    let name = frame.topic.strip_prefix(PREFIX).unwrap_or(&frame.topic).to_owned();
    let message = match frame.event.as_str() {
        "phx_reply" => Message::Reply {
            reference: match frame.reference? {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                _ => return None,
            },
            result: done(&frame.payload, "response"),
        },
        "broadcast" => {
            let Sent { event, payload } = serde_json::from_value(frame.payload).ok()?;
            Message::Broadcast { event, payload }
        }
        "presence_state" => Message::PresenceState(frame.payload),
        "presence_diff" => Message::PresenceDiff(frame.payload),
        "phx_close" | "phx_error" => Message::Closed,
        "system" => Message::System(done(&frame.payload, "message")),
        _ => Message::Other,
    };
    Some((name, message))
}

/// Reads a payload's status. Without `ok` gives the reason, which is at `place` or in its field `reason`.
fn done(payload: &Value, place: &str) -> Result<(), String> {
    if payload.get("status").and_then(Value::as_str) == Some("ok") {
        return Ok(());
    }
    let told = payload.get(place);
    let reason = told.and_then(|told| told.get("reason").or(Some(told))).and_then(Value::as_str);
    Err(reason.unwrap_or("no reason").chars().take(REASON_LIMIT_CHARS).collect())
}

/// Writes the request to join a topic.
pub(crate) fn join(topic: &Topic, reference: u64, token: &str) -> String {
    let config = json!({
        "broadcast": { "ack": false, "self": false, "replication_ready": topic.from_database },
        "presence": { "key": "", "enabled": topic.presence },
        "postgres_changes": [],
        "private": topic.private,
    });
    write(&topic.name, "phx_join", json!({ "config": config, "access_token": token }), reference)
}

/// Writes that the listener leaves a topic.
pub(crate) fn leave(name: &str, reference: u64) -> String {
    write(name, "phx_leave", json!({}), reference)
}

/// Writes the token that a joined topic goes on with.
pub(crate) fn access_token(name: &str, reference: u64, token: &str) -> String {
    write(name, "access_token", json!({ "access_token": token }), reference)
}

/// Writes a heartbeat.
pub(crate) fn heartbeat(reference: u64) -> String {
    json!({ "topic": PHOENIX, "event": "heartbeat", "payload": {}, "ref": reference.to_string() }).to_string()
}

fn write(name: &str, event: &str, payload: Value, reference: u64) -> String {
    let reference = reference.to_string();
    json!({
        "topic": format!("{PREFIX}{name}"),
        "event": event,
        "payload": payload,
        "ref": reference,
        "join_ref": reference,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_asks_for_a_private_topic_with_the_token_and_for_presence_where_it_is_wanted() {
        let topic = Topic::new("agent-fleet:1".to_owned(), true, true).unwrap();
        let sent: Value = serde_json::from_str(&join(&topic, 7, "a.b.c")).unwrap();
        assert_eq!((&sent["topic"], &sent["event"]), (&json!("realtime:agent-fleet:1"), &json!("phx_join")));
        assert_eq!((&sent["ref"], &sent["join_ref"]), (&json!("7"), &json!("7")));
        assert_eq!(sent["payload"]["access_token"], "a.b.c");
        assert_eq!(sent["payload"]["config"]["private"], true);
        assert_eq!(sent["payload"]["config"]["presence"]["enabled"], true);
        let public = Topic::new("trade-signals".to_owned(), false, false).unwrap();
        let sent: Value = serde_json::from_str(&join(&public, 8, "a.b.c")).unwrap();
        assert_eq!(sent["payload"]["config"]["private"], false);
        assert_eq!(sent["payload"]["config"]["presence"]["enabled"], false);
        assert_eq!(sent["payload"]["config"]["broadcast"]["replication_ready"], false);
        let doorbell: Value = serde_json::from_str(&join(&public.with_the_database(), 9, "a.b.c")).unwrap();
        assert_eq!(doorbell["payload"]["config"]["broadcast"]["replication_ready"], true);
    }

    #[test]
    fn the_servers_messages_are_read() {
        let read = |text: &str| super::read(text).map(|(_, message)| message);
        let reply = |result: Result<(), &str>| {
            let result = result.map_err(str::to_owned);
            Some(Message::Reply { reference: "1".to_owned(), result })
        };
        assert_eq!(
            read(
                r#"{"event":"phx_reply","payload":{"response":{"postgres_changes":[]},"status":"ok"},"ref":"1","topic":"realtime:a"}"#
            ),
            reply(Ok(()))
        );
        assert_eq!(
            read(
                r#"{"event":"phx_reply","payload":{"response":{"reason":"Unauthorized"},"status":"error"},"ref":1,"topic":"realtime:a"}"#
            ),
            reply(Err("Unauthorized"))
        );
        assert_eq!(
            read(
                r#"{"event":"broadcast","payload":{"event":"due","payload":{"ledger":true},"type":"broadcast"},"ref":null,"topic":"realtime:doorbell"}"#
            ),
            Some(Message::Broadcast { event: "due".to_owned(), payload: json!({ "ledger": true }) })
        );
        assert_eq!(
            read(
                r#"{"event":"system","payload":{"message":"Token has expired","status":"error"},"ref":null,"topic":"realtime:a"}"#
            ),
            Some(Message::System(Err("Token has expired".to_owned())))
        );
        assert_eq!(
            super::read(
                r#"{"event":"presence_diff","payload":{"joins":{}},"topic":"realtime:agent-fleet:1"}"#
            ),
            Some(("agent-fleet:1".to_owned(), Message::PresenceDiff(json!({ "joins": {} }))))
        );
        assert_eq!(
            read(r#"{"event":"phx_close","payload":{},"ref":null,"topic":"realtime:a"}"#),
            Some(Message::Closed)
        );
        assert_eq!(read(r#"{"event":"news","payload":{},"topic":"realtime:a"}"#), Some(Message::Other));
    }

    #[test]
    fn a_text_that_is_no_message_is_none() {
        let deep = format!(
            r#"{{"topic":"realtime:a","event":"broadcast","payload":{}1{}}}"#,
            "[".repeat(5000),
            "]".repeat(5000)
        );
        for text in [
            "",
            "null",
            "[]",
            "[1,2,\"realtime:a\",\"broadcast\",{}]",
            "{}",
            r#"{"topic":1,"event":"broadcast"}"#,
            r#"{"topic":"realtime:a","event":"broadcast"}"#,
            r#"{"topic":"realtime:a","event":"broadcast","payload":[]}"#,
            r#"{"topic":"realtime:a","event":"broadcast","payload":{"event":{}}}"#,
            r#"{"topic":"realtime:a","event":"phx_reply","payload":{}}"#,
            r#"{"topic":"realtime:a","event":"phx_reply","ref":[],"payload":{}}"#,
            deep.as_str(),
        ] {
            assert_eq!(read(text), None, "{}", text.chars().take(100).collect::<String>());
        }
    }

    #[test]
    fn a_reason_is_cut_off_and_a_missing_one_is_said() {
        let long = json!({ "status": "error", "message": "x".repeat(5000) });
        assert_eq!(done(&long, "message").unwrap_err().len(), REASON_LIMIT_CHARS);
        assert_eq!(done(&json!([]), "message").unwrap_err(), "no reason");
    }

    #[test]
    fn a_name_with_a_slash_and_one_that_is_too_long_are_no_topics() {
        let topic = |name: &str| Topic::new(name.to_owned(), true, false).is_some();
        assert!(topic("trade-signals:agent-1") && topic(&"é".repeat(255)));
        for name in ["", "trade-signals:a/b", "trade-signals:a\nb", &"é".repeat(256)] {
            assert!(!topic(name), "{name}");
        }
    }
}
