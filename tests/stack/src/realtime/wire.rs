//! The two wire formats of Phoenix channels that Realtime's clients use: 1.0.0 has objects (realtime-py), and 2.0.0 has
//! arrays, with a binary frame for broadcasts (supabase-js).

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// The kinds of binary frames: a broadcast that a client sends, and one that it gets.
const PUSHED: u8 = 3;
const BROADCAST: u8 = 4;

/// The format that a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// A message of a client.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) join_ref: Option<String>,
    pub(super) reference: Option<String>,
    pub(super) topic: String,
    pub(super) event: String,
    pub(super) payload: Payload,
}

/// What a message carries.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// JSON, sent on as it came.
    Json(Value),
    /// A broadcast, whose own payload nobody parses.
    Broadcast { event: String, is_json: bool, body: Bytes, id: Option<String> },
}

impl Payload {
    /// Gives its size, by which Realtime limits it.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Json(value) => value.to_string().len(),
            Self::Broadcast { body, .. } => body.len(),
        }
    }

    /// Gives the members of a JSON payload. A broadcast has none.
    pub(super) fn json(&self) -> &Value {
        match self {
            Self::Json(value) => value,
            Self::Broadcast { .. } => &Value::Null,
        }
    }
}

impl Version {
    /// Reads a frame. Gives nothing for one that carries no message.
    pub(super) fn decode(self, frame: &Message) -> Result<Option<Incoming>> {
        match frame {
            Message::Text(text) => self.decode_text(text).map(Some),
            Message::Binary(bytes) if self == Self::Two => decode_binary(bytes).map(Some),
            Message::Binary(_) => bail!("version 1 has no binary frames"),
            _ => Ok(None),
        }
    }

    fn decode_text(self, text: &str) -> Result<Incoming> {
        let value: Value = serde_json::from_str(text)?;
        let (join_ref, reference, topic, event, payload) = match self {
            Self::One => {
                (&value["join_ref"], &value["ref"], &value["topic"], &value["event"], &value["payload"])
            }
            Self::Two => (&value[0], &value[1], &value[2], &value[3], &value[4]),
        };
        Ok(Incoming {
            join_ref: text_of(join_ref),
            reference: text_of(reference),
            topic: text_of(topic).context("a message without a topic")?,
            event: text_of(event).context("a message without an event")?,
            payload: Payload::Json(payload.clone()),
        })
    }

    /// Writes the answer to a message.
    pub(super) fn reply(self, to: &Incoming, status: &str, response: &Value) -> Message {
        let payload = json!({ "status": status, "response": response });
        self.write(to.join_ref.as_deref(), to.reference.as_deref(), &to.topic, "phx_reply", &payload)
    }

    /// Writes a message that answers nothing.
    pub(super) fn push(
        self,
        join_ref: Option<&str>,
        reference: Option<&str>,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> Message {
        self.write(join_ref, reference, topic, event, payload)
    }

    fn write(
        self,
        join_ref: Option<&str>,
        reference: Option<&str>,
        topic: &str,
        event: &str,
        payload: &Value,
    ) -> Message {
        let text = match self {
            Self::One => {
                json!({ "topic": topic, "event": event, "payload": payload, "ref": reference }).to_string()
            }
            Self::Two => json!([join_ref, reference, topic, event, payload]).to_string(),
        };
        Message::text(text)
    }

    /// Writes a broadcast. Version 1 cannot represent bytes, so such a client gets nothing.
    pub(super) fn broadcast(self, topic: &str, payload: &Payload) -> Result<Option<Message>> {
        match payload {
            Payload::Json(value) => Ok(Some(self.write(None, None, topic, "broadcast", value))),
            Payload::Broadcast { event, is_json, body, id } => match self {
                Self::One if !is_json => Ok(None),
                Self::One => {
                    let body: Value = serde_json::from_slice(body)?;
                    let mut payload = json!({ "event": event, "payload": body, "type": "broadcast" });
                    if let Some(id) = id {
                        payload["meta"] = json!({ "id": id });
                    }
                    Ok(Some(self.write(None, None, topic, "broadcast", &payload)))
                }
                Self::Two => binary(topic, event, *is_json, body, id.as_deref()).map(Some),
            },
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn binary(topic: &str, event: &str, is_json: bool, body: &[u8], id: Option<&str>) -> Result<Message> {
    let metadata = id.map(|id| json!({ "id": id }).to_string()).unwrap_or_default();
    let mut frame = BytesMut::new();
    frame.put_u8(BROADCAST);
    for part in [topic, event, &metadata] {
        frame.put_u8(u8::try_from(part.len()).context("longer than 255 bytes")?);
    }
    frame.put_u8(u8::from(is_json));
    for part in [topic, event, &metadata] {
        frame.put_slice(part.as_bytes());
    }
    frame.put_slice(body);
    Ok(Message::binary(frame.freeze()))
}

/// Reads a client's broadcast: the kind, five lengths, the encoding, and the five texts before the body.
fn decode_binary(bytes: &Bytes) -> Result<Incoming> {
    let header = bytes.get(..7).context("a frame that ends early")?;
    if header[0] != PUSHED {
        bail!("a frame of an unknown kind");
    }
    let mut rest = bytes.slice(7..);
    let mut texts = Vec::new();
    for length in &header[1..6] {
        let length = usize::from(*length);
        if rest.len() < length {
            bail!("a frame that ends early");
        }
        texts.push(std::str::from_utf8(&rest.split_to(length))?.to_owned());
    }
    let [join_ref, reference, topic, event, _metadata]: [String; 5] =
        texts.try_into().ok().context("five texts")?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let payload = Payload::Broadcast { event, is_json: header[6] != 0, body: rest, id: None };
    let event = "broadcast".to_owned();
    Ok(Incoming { join_ref: some(join_ref), reference: some(reference), topic, event, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_binary_broadcast_is_read_and_reaches_both_versions() -> Result<()> {
        let mut frame = vec![PUSHED, 1, 1, 5, 6, 0, 1];
        frame.extend_from_slice(b"12topicsignal{\"a\": 1.50}");
        let incoming = Version::Two.decode(&Message::binary(frame))?.context("no message")?;
        assert_eq!((incoming.topic.as_str(), incoming.event.as_str()), ("topic", "broadcast"));
        let old = Version::One.broadcast("topic", &incoming.payload)?.context("nothing")?;
        let old: Value = serde_json::from_str(old.to_text()?)?;
        assert_eq!(old["payload"]["payload"].to_string(), r#"{"a":1.50}"#);
        let new = Version::Two.broadcast("topic", &incoming.payload)?.context("nothing")?;
        assert_eq!(new.into_data().as_ref(), b"\x04\x05\x06\x00\x01topicsignal{\"a\": 1.50}");
        Ok(())
    }

    #[test]
    fn frames_that_are_no_messages_are_refused() {
        for frame in [Message::binary(vec![3, 200, 0, 0, 0, 0, 1]), Message::binary(vec![9; 20])] {
            assert!(Version::Two.decode(&frame).is_err(), "{frame:?}");
        }
        for text in ["", "{}", "[1, 2]", "[null, null, null, null, null]"] {
            assert!(Version::Two.decode(&Message::text(text)).is_err(), "{text}");
        }
    }
}
