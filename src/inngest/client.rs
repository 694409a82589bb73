//! The function's own calls of Inngest: it registers, sends events, and gets the state of a run that a call's body is too
//! small for.

use super::{
    APP, ENV, FRAMEWORK, Inngest, SDK, SDK_HEADER,
    call::Call,
    event::{Event, NewEvent},
    op::quoted,
    stop::StepError,
};
use crate::runtime::{Answer, Limits, Runtime, SendError};
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

/// Longest exchange with Inngest, in seconds.
const TIMEOUT_S: u64 = 10;

/// Longest reply to a registration or to events, in bytes.
const REPLY_LIMIT_BYTES: usize = 64 * 1024;

/// Longest state of a run that is read, in bytes: as much as a call's body may have.
pub const STATE_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// Largest event, in bytes: Inngest's limit.
const EVENT_LIMIT_BYTES: usize = 512 * 1024;

/// Most events of one request.
const EVENTS_LIMIT: usize = 100;

/// Time before the next attempt, in seconds, if a person has to change a key first.
const CONFIGURATION_RETRY_S: u64 = 60;

/// The key that a development server takes, as it takes any.
const DEV_EVENT_KEY: &str = "dev";

/// The header with the kind of server that the function expects to register with.
const EXPECTED_KIND: HeaderName = HeaderName::from_static("x-inngest-expected-server-kind");

/// The reason why a registration failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// There was no reply.
    NotReached(SendError),
    /// Inngest does not accept the signing key.
    KeyRefused,
    /// Inngest refused for another reason, with this status.
    Refused(u16),
    /// The reply has another form.
    Unreadable,
}

#[derive(Deserialize)]
struct Registered {
    ok: bool,
    #[serde(default)]
    modified: bool,
}

#[derive(Deserialize)]
struct Sent {
    ids: Vec<String>,
}

impl Inngest {
    /// Registers the functions. `kind` is the kind of server that asked for it. Returns whether this changed anything there.
    pub async fn register(
        &self,
        serve_url: &str,
        functions: Vec<String>,
        deploy_id: Option<&str>,
        kind: Option<HeaderValue>,
        runtime: &impl Runtime,
    ) -> Result<bool, RegisterError> {
        let (url, functions) = (quoted(serve_url), functions.join(","));
        let body = format!(
            r#"{{"url":{url},"deployType":"ping","appName":"{APP}","sdk":"{SDK}","v":"0.1","framework":"{FRAMEWORK}","functions":[{functions}]}}"#
        );
        let route = match deploy_id {
            Some(id) => {
                let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
                format!("/fn/register?deployId={id}")
            }
            None => "/fn/register".to_owned(),
        };
        let mut request = self.request(Method::POST, self.api.join(&route), Some(body));
        if let (Some(request), Some(kind)) = (&mut request, kind) {
            request.headers_mut().insert(EXPECTED_KIND, kind);
        }
        let answer = self.signed_exchange(request, REPLY_LIMIT_BYTES, runtime).await;
        let answer = answer.map_err(RegisterError::NotReached)?;
        match answer.head.status.as_u16() {
            200..=299 => match read::<Registered>(&answer) {
                Some(Registered { ok: true, modified }) => Ok(modified),
                _ => Err(RegisterError::Unreadable),
            },
            401 | 403 => Err(RegisterError::KeyRefused),
            status => Err(RegisterError::Refused(status)),
        }
    }

    /// Sends events, and returns their ids at Inngest. An event with an id may be sent again: Inngest drops the second one.
    pub async fn send_events(
        &self,
        events: Vec<NewEvent>,
        runtime: &impl Runtime,
    ) -> Result<Vec<String>, StepError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let events: Vec<String> = events.iter().map(NewEvent::text).collect();
        if events.len() > EVENTS_LIMIT || events.iter().any(|event| event.len() > EVENT_LIMIT_BYTES) {
            let message = "at most 100 events of at most 512 KiB can be sent at once";
            return Err(StepError::last("events_too_large", message));
        }
        let key = match &self.event_key {
            Some(key) => key.expose(),
            None if self.is_dev => DEV_EVENT_KEY,
            None => {
                return Err(StepError::last(
                    "no_event_key",
                    "events cannot be sent without `inngest_event_key`",
                ));
            }
        };
        let url = self.events.join(&format!("/e/{key}"));
        let body = format!("[{}]", events.join(","));
        let answer = exchange(self.request(Method::POST, url, Some(body)), REPLY_LIMIT_BYTES, runtime).await;
        let answer = answer.map_err(|error| not_reached(&error))?;
        match answer.head.status.as_u16() {
            200..=299 => read::<Sent>(&answer).map(|sent| sent.ids).ok_or_else(|| {
                StepError::retry("events_unconfirmed", "Inngest's reply to the events has another form")
            }),
            401 | 403 => {
                let wait = Duration::from_secs(CONFIGURATION_RETRY_S);
                Err(StepError::retry_after("event_key_refused", "Inngest refuses `inngest_event_key`", wait))
            }
            status @ 400..=499 if status != 408 && status != 429 => Err(StepError::last(
                "events_refused",
                format!("Inngest refuses the events with status {status}"),
            )),
            status => {
                Err(StepError::retry("events_unconfirmed", format!("Inngest answers with status {status}")))
            }
        }
    }

    /// Gets the events and the memos of a run whose call came without them.
    pub async fn complete(&self, call: &mut Call, runtime: &impl Runtime) -> Result<(), StepError> {
        let events: Vec<Event> = self.state(&call.run_id, "batch", runtime).await?;
        let memos: BTreeMap<String, Box<RawValue>> = self.state(&call.run_id, "actions", runtime).await?;
        call.event = events
            .into_iter()
            .next()
            .ok_or_else(|| StepError::retry("state_unreadable", "Inngest has no event for this run"))?;
        call.memos = memos;
        Ok(())
    }

    async fn state<T: DeserializeOwned>(
        &self,
        run_id: &str,
        what: &str,
        runtime: &impl Runtime,
    ) -> Result<T, StepError> {
        let url = self.api.join(&format!("/v0/runs/{run_id}/{what}"));
        let request = self.request(Method::GET, url, None);
        let answer = self.signed_exchange(request, STATE_LIMIT_BYTES, runtime).await;
        let answer = answer.map_err(|error| not_reached(&error))?;
        match answer.head.status.as_u16() {
            200..=299 if !answer.whole => {
                Err(StepError::last("state_too_large", "the state of this run is larger than 4 MiB"))
            }
            200..=299 => read(&answer).ok_or_else(|| {
                StepError::retry("state_unreadable", format!("Inngest's {what} of this run has another form"))
            }),
            404 => Err(StepError::last("unknown_run", "Inngest does not know this run")),
            status => {
                Err(StepError::retry("state_unreadable", format!("Inngest answers with status {status}")))
            }
        }
    }

    fn request(
        &self,
        method: Method,
        url: Option<String>,
        body: Option<String>,
    ) -> Option<http::Request<Vec<u8>>> {
        let body = body.map(String::into_bytes).unwrap_or_default();
        let mut request = http::Request::builder()
            .method(&method)
            .uri(url?)
            .header(ACCEPT, "application/json")
            .header(SDK_HEADER, SDK);
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
        }
        if let Some(env) = &self.env {
            request = request.header(ENV, env);
        }
        request.body(body).ok()
    }

    /// Sends a request with a key. During a rotation Inngest may know the fallback key alone.
    async fn signed_exchange(
        &self,
        request: Option<http::Request<Vec<u8>>>,
        reply_bytes: usize,
        runtime: &impl Runtime,
    ) -> Result<Answer, SendError> {
        let mut answer = None;
        for key in &self.keys {
            let signed = request.clone().and_then(|mut request| {
                request.headers_mut().insert(AUTHORIZATION, key.bearer()?);
                Some(request)
            });
            let this = exchange(signed, reply_bytes, runtime).await?;
            if this.head.status != StatusCode::UNAUTHORIZED {
                return Ok(this);
            }
            answer = Some(this);
        }
        match answer {
            Some(refused) => Ok(refused),
            None => exchange(request, reply_bytes, runtime).await,
        }
    }
}

async fn exchange(
    request: Option<http::Request<Vec<u8>>>,
    reply_bytes: usize,
    runtime: &impl Runtime,
) -> Result<Answer, SendError> {
    let request = request.ok_or(SendError::NotSent("request_not_built"))?;
    let limits = Limits { timeout: Duration::from_secs(TIMEOUT_S), hold: Duration::ZERO, reply_bytes };
    runtime.send(request, limits).await
}

/// Reads a reply, whatever its content type: Inngest sends JSON as text.
fn read<T: DeserializeOwned>(answer: &Answer) -> Option<T> {
    serde_json::from_slice(&answer.body).ok()
}

fn not_reached(error: &SendError) -> StepError {
    StepError::retry("inngest_not_reached", format!("Inngest was not reached: {}", error.cause()))
}
