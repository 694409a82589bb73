//! What a socket's channels are asked: to join, to leave, to take a new token, to broadcast and to track. A channel that
//! ends says why in a `system` message, and closes.

use super::{
    Server,
    changes::Wanted,
    hub::{Subscriber, Topic, What},
    policies::{unauthorized, uuid},
    token::{self, Claims, Refusal},
    wire::{Incoming, Payload, Version},
};
use crate::webhook::unix_s;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc::UnboundedSender, time::sleep};
use tokio_tungstenite::tungstenite::Message;

/// The most channels of a socket.
const CHANNELS: usize = 100;

/// The most calls about presence of a channel in [`PRESENCE_WINDOW`].
const PRESENCE_CALLS: u32 = 5;
const PRESENCE_WINDOW: Duration = Duration::from_secs(30);

/// The most messages that a channel may ask to have replayed.
const REPLAY_LIMIT: i64 = 25;

/// One socket's channels.
pub(super) struct Session {
    pub(super) server: Arc<Server>,
    pub(super) version: Version,
    /// The token of the connection: the API key.
    pub(super) key: String,
    pub(super) sender: UnboundedSender<super::hub::Delivery>,
    pub(super) channels: HashMap<String, Channel>,
}

/// A channel that has joined.
pub(super) struct Channel {
    id: u64,
    join_ref: Option<String>,
    topic: Topic,
    token: String,
    claims: Claims,
    hears: bool,
    sees: Option<bool>,
    may_broadcast: Option<bool>,
    may_track: Option<bool>,
    acknowledges: bool,
    hears_itself: bool,
    presence_key: String,
    tracked: Option<Value>,
    presence_calls: (u32, Instant),
    changes: Vec<u64>,
}

type Messages = Vec<Message>;

impl Session {
    /// Answers a client's message.
    pub(super) async fn answer(&mut self, incoming: &Incoming) -> Messages {
        if incoming.topic == "phoenix" && incoming.event == "heartbeat" {
            return vec![self.version.reply(incoming, "ok", &json!({}))];
        }
        match incoming.event.as_str() {
            "phx_join" => self.join(incoming).await,
            _ if !self.channels.contains_key(&incoming.topic) => {
                vec![self.version.reply(incoming, "error", &json!({ "reason": "unmatched topic" }))]
            }
            "phx_leave" => {
                let mut messages = vec![self.version.reply(incoming, "ok", &json!({}))];
                messages.extend(self.close(&incoming.topic));
                messages
            }
            "access_token" => self.refresh(incoming).await,
            "broadcast" => self.broadcast(incoming).await,
            "presence" => self.presence(incoming).await,
            _ => vec![],
        }
    }

    async fn join(&mut self, incoming: &Incoming) -> Messages {
        // A second join of a topic replaces the first.
        let mut messages = self.close(&incoming.topic);
        match self.admit(incoming).await {
            Ok((channel, after)) => {
                let config = &incoming.payload.json()["config"];
                let response = json!({ "postgres_changes": after.bindings });
                messages.push(self.version.reply(incoming, "ok", &response));
                if config["broadcast"]["replication_ready"] == true {
                    messages.push(system(
                        self.version,
                        &channel,
                        &incoming.topic,
                        ("system", "ok", "Replication connection established"),
                    ));
                }
                for message in after.replayed {
                    messages.push(self.push(&channel, &incoming.topic, "broadcast", &message));
                }
                if channel.sees == Some(true) {
                    let state = self.server.hub.presence_state(&channel.topic);
                    messages.push(self.push(&channel, &incoming.topic, "presence_state", &state));
                }
                self.channels.insert(incoming.topic.clone(), channel);
            }
            Err((name, words)) => {
                // Everything else of the socket waits meanwhile.
                sleep(self.server.options.refusal_delay).await;
                let reason = json!({ "reason": format!("{name}: {words}") });
                messages.push(self.version.reply(incoming, "error", &reason));
            }
        }
        messages
    }

    /// Decides about a join.
    async fn admit(&self, incoming: &Incoming) -> Result<(Channel, Admitted), Refusal> {
        let (payload, server) = (incoming.payload.json(), &self.server);
        let name = incoming.topic.strip_prefix("realtime:").unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(("TopicNameRequired", "You must provide a topic name".to_owned()));
        }
        let config = &payload["config"];
        let topic = Topic { name, private: config["private"] == true };
        if server.options.private_only && !topic.private {
            return Err(("PrivateOnly", "This project only allows private channels".to_owned()));
        }
        if self.channels.len() >= CHANNELS {
            return Err(("ChannelRateLimitReached", "Too many channels".to_owned()));
        }
        let token = [&payload["user_token"], &payload["access_token"]].into_iter().find_map(Value::as_str);
        let token = token.filter(|token| !token.starts_with("sb_")).unwrap_or(&self.key).to_owned();
        let claims = token::check(&token)?;
        let presence = config["presence"]["enabled"] == true;
        let (hears, sees) = if topic.private {
            let reads = server.policies.reads(&topic.name, &claims, presence).await?;
            if !reads.broadcast && reads.presence != Some(true) {
                return Err(unauthorized(&topic.name));
            }
            (reads.broadcast, reads.presence)
        } else {
            (true, presence.then_some(true))
        };
        let replayed = self.replay(&config["broadcast"]["replay"], &topic, hears).await?;
        let id = server.hub.number();
        let sender = self.sender.clone();
        let subscriber =
            Subscriber { channel: id, sender, hears, sees: !topic.private || sees == Some(true) };
        server.hub.subscribe(&topic, subscriber);
        let (bindings, changes) = self.bind(config, id, &topic, &claims);
        let key = config["presence"]["key"].as_str().filter(|key| !key.is_empty());
        let channel = Channel {
            id,
            join_ref: incoming.join_ref.clone().or_else(|| incoming.reference.clone()),
            topic,
            token,
            claims,
            hears,
            sees,
            may_broadcast: None,
            may_track: None,
            acknowledges: config["broadcast"]["ack"] == true,
            hears_itself: config["broadcast"]["self"] == true,
            presence_key: key.map_or_else(uuid, str::to_owned),
            tracked: None,
            presence_calls: (0, Instant::now()),
            changes,
        };
        Ok((channel, Admitted { bindings, replayed }))
    }

    /// Asks for the changes of tables. The answer comes at once, and the changes later, perhaps.
    fn bind(&self, config: &Value, channel: u64, topic: &Topic, claims: &Claims) -> (Value, Vec<u64>) {
        let (mut bindings, mut numbers) = (Vec::new(), Vec::new());
        let asked = config["postgres_changes"].as_array().into_iter().flatten();
        for binding in asked.filter(|binding| binding.is_object()) {
            let number = self.server.hub.number();
            let mut answer = binding.clone();
            answer["id"] = number.into();
            bindings.push(answer);
            numbers.push(number);
            let (sender, claims) = (self.sender.clone(), claims.clone());
            let wanted = Wanted {
                number,
                channel,
                topic: topic.name.clone(),
                binding: binding.clone(),
                claims,
                sender,
            };
            self.server.changes.want(wanted);
        }
        (bindings.into(), numbers)
    }

    async fn replay(&self, asked: &Value, topic: &Topic, hears: bool) -> Result<Vec<Value>, Refusal> {
        if asked.is_null() {
            return Ok(vec![]);
        }
        let invalid = |words: &str| ("UnableToReplayMessages", words.to_owned());
        if !topic.private {
            return Err(invalid("Replay is not allowed for public channels"));
        }
        if !hears {
            return Err(unauthorized(&topic.name));
        }
        let since = asked["since"].as_i64().ok_or_else(|| invalid("Replay params are not valid"))?;
        let limit = asked["limit"].as_i64().unwrap_or(REPLAY_LIMIT).clamp(1, REPLAY_LIMIT);
        let messages = self.server.policies.replay(&topic.name, since, limit).await?;
        let replayed = messages.into_iter().map(|(id, event, payload)| {
            let meta = json!({ "replayed": true, "id": id });
            json!({ "event": event, "payload": payload, "type": "broadcast", "meta": meta })
        });
        Ok(replayed.collect())
    }

    /// Takes a new token: the policies are asked again, and what they refuse now ends the channel.
    async fn refresh(&mut self, incoming: &Incoming) -> Messages {
        let Some(channel) = self.channels.get_mut(&incoming.topic) else { return vec![] };
        let token = incoming.payload.json()["access_token"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() || token.starts_with("sb_") || token == channel.token {
            return vec![];
        }
        let claims = match token::check(&token) {
            Ok(claims) => claims,
            Err((_, words)) => return self.shut_down(&incoming.topic, &words),
        };
        if channel.topic.private {
            let asked = channel.sees.is_some();
            match self.server.policies.reads(&channel.topic.name, &claims, asked).await {
                Ok(reads) if reads.broadcast || reads.presence == Some(true) => {
                    if (channel.hears && !reads.broadcast)
                        || (channel.sees == Some(true) && reads.presence != Some(true))
                    {
                        let words = format!(
                            "You no longer have permission to read from this Channel topic: {}",
                            channel.topic.name
                        );
                        return self.shut_down(&incoming.topic, &words);
                    }
                    (channel.hears, channel.sees) = (reads.broadcast, reads.presence);
                }
                Ok(_) => {
                    let (_, words) = unauthorized(&channel.topic.name);
                    return self.shut_down(&incoming.topic, &words);
                }
                Err((_, words)) => return self.shut_down(&incoming.topic, &words),
            }
            let sees = channel.sees == Some(true);
            let (sender, hears) = (self.sender.clone(), channel.hears);
            self.server
                .hub
                .subscribe(&channel.topic, Subscriber { channel: channel.id, sender, hears, sees });
        }
        self.server.changes.refresh(channel.id, &claims);
        (channel.may_broadcast, channel.may_track) = (None, None);
        (channel.token, channel.claims) = (token, claims);
        vec![]
    }

    async fn broadcast(&mut self, incoming: &Incoming) -> Messages {
        let Some(channel) = self.channels.get_mut(&incoming.topic) else { return vec![] };
        if channel.topic.private && channel.may_broadcast.is_none() {
            let policies = &self.server.policies;
            match policies.writes(&channel.topic.name, &channel.claims, "broadcast").await {
                Ok(may) => channel.may_broadcast = Some(may),
                // Nobody is told. The next broadcast asks again.
                Err(_) => return vec![],
            }
        }
        if channel.may_broadcast == Some(false) {
            return vec![];
        }
        let fits = incoming.payload.size() <= super::MESSAGE_LIMIT_BYTES;
        if fits {
            let except = (!channel.hears_itself).then_some(channel.id);
            self.server.hub.broadcast(&channel.topic, incoming.payload.clone(), except);
        } else {
            self.server.hub.count();
        }
        match (channel.acknowledges, fits) {
            (false, _) => vec![],
            (true, true) => vec![self.version.reply(incoming, "ok", &json!({}))],
            (true, false) => {
                vec![self.version.reply(incoming, "error", &json!({ "reason": "payload_size_exceeded" }))]
            }
        }
    }

    async fn presence(&mut self, incoming: &Incoming) -> Messages {
        let (topic, payload) = (&incoming.topic, incoming.payload.json());
        let Some(channel) = self.channels.get_mut(topic) else { return vec![] };
        let (calls, since) = &mut channel.presence_calls;
        if since.elapsed() > PRESENCE_WINDOW || *calls == 0 {
            (*calls, *since) = (0, Instant::now());
        }
        *calls += 1;
        if *calls > PRESENCE_CALLS {
            return self.shut_down(topic, "Client presence rate limit exceeded");
        }
        let event = payload["event"].as_str().unwrap_or_default().to_ascii_lowercase();
        let result = match event.as_str() {
            "track" => self.track(topic, &payload["payload"]).await,
            "untrack" => {
                channel.tracked = None;
                self.server.hub.untrack(&channel.topic, channel.id);
                Ok(())
            }
            _ => Err(json!({})),
        };
        match result {
            Ok(()) => vec![self.version.reply(incoming, "ok", &json!({}))],
            Err(reason) => vec![self.version.reply(incoming, "error", &reason)],
        }
    }

    async fn track(&mut self, topic: &str, payload: &Value) -> Result<(), Value> {
        let server = self.server.clone();
        let Some(channel) = self.channels.get_mut(topic) else { return Err(json!({})) };
        if channel.topic.private && channel.may_track.is_none() {
            let (name, claims) = (&channel.topic.name, &channel.claims);
            let refused = |_| json!({});
            if channel.sees.is_none() {
                let reads = server.policies.reads(name, claims, true).await.map_err(refused)?;
                channel.sees = reads.presence;
                let sees = reads.presence == Some(true);
                let subscriber = Subscriber {
                    channel: channel.id,
                    sender: self.sender.clone(),
                    hears: channel.hears,
                    sees,
                };
                server.hub.subscribe(&channel.topic, subscriber);
            }
            let may = server.policies.writes(name, claims, "presence").await.map_err(refused)?;
            channel.may_track = Some(may);
        }
        if channel.topic.private && !(channel.may_track == Some(true) && channel.sees == Some(true)) {
            return Err(json!({}));
        }
        let meta = if payload.is_null() { json!({}) } else { payload.clone() };
        if !meta.is_object() {
            return Err(json!({ "reason": "Presence track payload must be a map" }));
        }
        // The same presence is not told again.
        if channel.tracked.as_ref() != Some(&meta) {
            server.hub.track(&channel.topic, channel.id, &channel.presence_key, &meta);
            channel.tracked = Some(meta);
        }
        Ok(())
    }

    /// Writes what the hub has for a channel.
    pub(super) fn deliver(&mut self, channel: u64, what: &What) -> Messages {
        let Some((topic, channel)) = self.channels.iter().find(|(_, one)| one.id == channel) else {
            return vec![];
        };
        match what {
            What::Broadcast(payload) => {
                self.version.broadcast(topic, payload).ok().flatten().into_iter().collect()
            }
            What::Push(event, payload) => vec![self.push(channel, topic, event, payload)],
            What::TooMuch => {
                let topic = topic.clone();
                self.shut_down(&topic, "Too many messages per second")
            }
        }
    }

    /// Tells when the next token of a channel expires.
    pub(super) fn expiry(&self) -> Option<Duration> {
        let first = self.channels.values().map(|channel| channel.claims.expires_s).min()?;
        Some(Duration::from_secs(first.saturating_sub(unix_s())))
    }

    /// Closes the channels whose token has expired.
    pub(super) fn expire(&mut self) -> Messages {
        let now = unix_s();
        let expired: Vec<(String, u64)> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.claims.expires_s <= now)
            .map(|(topic, channel)| (topic.clone(), channel.claims.expires_s))
            .collect();
        expired.iter().flat_map(|(topic, at)| self.shut_down(topic, &token::expired(*at))).collect()
    }

    /// Says why, and closes a channel.
    fn shut_down(&mut self, topic: &str, words: &str) -> Messages {
        let Some(channel) = self.channels.get(topic) else { return vec![] };
        let mut messages = vec![system(self.version, channel, topic, ("system", "error", words))];
        messages.extend(self.close(topic));
        messages
    }

    fn close(&mut self, topic: &str) -> Messages {
        let Some(channel) = self.channels.remove(topic) else { return vec![] };
        self.leave(&channel);
        let reference = channel.join_ref.as_deref();
        vec![self.version.push(reference, reference, topic, "phx_close", &json!({}))]
    }

    /// Leaves all channels, when the socket ends.
    pub(super) fn leave_all(&mut self) {
        for (_, channel) in std::mem::take(&mut self.channels) {
            self.leave(&channel);
        }
    }

    fn leave(&self, channel: &Channel) {
        self.server.hub.unsubscribe(&channel.topic, channel.id);
        self.server.changes.forget(&channel.changes);
    }

    fn push(&self, channel: &Channel, topic: &str, event: &str, payload: &Value) -> Message {
        self.version.push(channel.join_ref.as_deref(), None, topic, event, payload)
    }
}

/// What a join brings with it.
struct Admitted {
    bindings: Value,
    replayed: Vec<Value>,
}

fn system(
    version: Version,
    channel: &Channel,
    topic: &str,
    (extension, status, words): (&str, &str, &str),
) -> Message {
    let payload = json!({
        "extension": extension, "status": status, "message": words, "channel": channel.topic.name,
    });
    version.push(channel.join_ref.as_deref(), None, topic, "system", &payload)
}

/// Wraps a payload of the database or of the HTTP API.
pub(super) fn sent(event: &str, body: Vec<u8>, is_json: bool, id: Option<String>) -> Payload {
    Payload::Broadcast { event: event.to_owned(), is_json, body: body.into(), id }
}
