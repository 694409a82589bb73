//! Realtime's HTTP API: broadcasts by POST. The answer 202 says that the message was taken, and not that it was sent.

use super::{
    Server,
    channel::sent,
    hub::Topic,
    token::{self, Claims},
};
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use serde_json::{Value, json};

/// Where it takes several messages.
pub(super) const BATCH: &str = "/realtime/v1/api/broadcast";

/// A message of the body.
struct Sent {
    topic: Topic,
    event: String,
    payload: Value,
}

/// Answers a request.
pub(super) async fn answer(server: &Server, head: &Parts, body: &Bytes) -> Result<Response<Full<Bytes>>> {
    let claims = match bearer(&head.headers).map(token::check) {
        Some(Ok(claims)) => claims,
        Some(Err((_, words))) => return reply(StatusCode::UNAUTHORIZED, &json!({ "message": words })),
        None => return reply(StatusCode::UNAUTHORIZED, &json!({ "message": "Unauthorized" })),
    };
    let batch = head.uri.path() == BATCH;
    let Some(messages) = (if batch { several(body) } else { one(head, body) }) else {
        let words = json!({ "errors": { "messages": ["is invalid"] } });
        return reply(StatusCode::UNPROCESSABLE_ENTITY, &words);
    };
    let fits = |sent: &Sent| sent.payload.to_string().len() <= super::MESSAGE_LIMIT_BYTES;
    if !messages.iter().all(fits) {
        let words = json!({ "errors": { "payload": ["Payload size exceeds tenant limit"] } });
        return reply(StatusCode::UNPROCESSABLE_ENTITY, &words);
    }
    if server.hub.has_no_room(messages.len(), server.options.events_per_s) {
        let words = json!({ "message": "You have exceeded your rate limit" });
        return reply(StatusCode::TOO_MANY_REQUESTS, &words);
    }
    for message in messages {
        let may = may_send(server, &message.topic, &claims).await;
        if may {
            let body = message.payload.to_string().into_bytes();
            server.hub.broadcast(&message.topic, sent(&message.event, body, true, None), None);
        } else if !batch {
            return reply(StatusCode::FORBIDDEN, &json!({ "message": "Unauthorized" }));
        }
    }
    reply(StatusCode::ACCEPTED, &Value::Null)
}

async fn may_send(server: &Server, topic: &Topic, claims: &Claims) -> bool {
    !topic.private || server.policies.writes(&topic.name, claims, "broadcast").await == Ok(true)
}

/// Gives the token: the bearer's, or the API key.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    bearer.or_else(|| text(header::HeaderName::from_static("apikey")))
}

fn several(body: &Bytes) -> Option<Vec<Sent>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let message = |message: &Value| {
        let name = message["topic"].as_str()?.to_owned();
        let topic = Topic { name, private: message["private"] == true };
        let payload = message["payload"].is_object().then(|| message["payload"].clone())?;
        Some(Sent { topic, event: message["event"].as_str()?.to_owned(), payload })
    };
    body["messages"].as_array()?.iter().map(message).collect()
}

fn one(head: &Parts, body: &Bytes) -> Option<Vec<Sent>> {
    let rest = head.uri.path().strip_prefix(BATCH)?.strip_prefix('/')?;
    let (topic, event) = rest.split_once("/events/")?;
    let plain = |text: &str| {
        let pair = format!("x={}", text.replace('+', "%2B"));
        form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let private = head.uri.query().is_some_and(|query| query.contains("private=true"));
    let topic = Topic { name: plain(topic)?, private };
    Some(vec![Sent { topic, event: plain(event)?, payload: serde_json::from_slice(body).ok()? }])
}

fn reply(status: StatusCode, body: &Value) -> Result<Response<Full<Bytes>>> {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let response = Response::builder().status(status);
    Ok(response.header(header::CONTENT_TYPE, "application/json").body(Full::from(text))?)
}
