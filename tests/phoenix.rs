//! A client of Realtime's websocket, as small as the tests of the listener need it.

use crate::front_door::soon;
use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use stack::postgrest::key;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// A socket with one private channel.
pub struct Channel {
    socket: WebSocketStream<TcpStream>,
    topic: String,
    reference: u32,
}

impl Channel {
    /// Joins a topic with a user's token. Fails with the server's answer.
    pub async fn join(url: &str, topic: &str, token: &str, private: bool) -> Result<Self> {
        let address =
            url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).context("no address")?;
        let stream = TcpStream::connect(address).await?;
        let url = format!("{url}?apikey={}&vsn=1.0.0", key("anon")?);
        let (socket, _) = client_async(url, stream).await?;
        let mut channel = Self { socket, topic: format!("realtime:{topic}"), reference: 0 };
        let config = json!({
            "broadcast": { "ack": true, "self": false },
            "presence": { "key": "", "enabled": topic.starts_with("agent-fleet:") },
            "postgres_changes": [],
            "private": private,
        });
        let answer = channel.ask("phx_join", json!({ "config": config, "access_token": token })).await?;
        ensure!(answer["status"] == "ok", "{topic}: {answer}");
        Ok(channel)
    }

    /// Broadcasts, and waits until Realtime has it.
    pub async fn broadcast(&mut self, event: &str, payload: Value) -> Result<()> {
        let sent = json!({ "type": "broadcast", "event": event, "payload": payload });
        let answer = self.ask("broadcast", sent).await?;
        ensure!(answer["status"] == "ok", "{event}: {answer}");
        Ok(())
    }

    /// Tracks a state, and waits until Realtime has it.
    pub async fn track(&mut self, state: Value) -> Result<()> {
        let sent = json!({ "type": "presence", "event": "track", "payload": state });
        let answer = self.ask("presence", sent).await?;
        ensure!(answer["status"] == "ok", "track: {answer}");
        Ok(())
    }

    /// Ends the connection.
    pub async fn leave(mut self) -> Result<()> {
        Ok(self.socket.close(None).await?)
    }

    async fn ask(&mut self, event: &str, payload: Value) -> Result<Value> {
        self.reference += 1;
        let reference = self.reference.to_string();
        let sent = json!({ "topic": self.topic, "event": event, "payload": payload, "ref": reference, "join_ref": "1" });
        self.socket.send(Message::text(sent.to_string())).await?;
        soon(async {
            loop {
                let text = self.socket.next().await.context("the socket ended")??.into_text()?;
                let message: Value = serde_json::from_str(&text)?;
                if message["event"] == "phx_reply" && message["ref"] == reference.as_str() {
                    return Ok(message["payload"].clone());
                }
            }
        })
        .await?
    }
}
