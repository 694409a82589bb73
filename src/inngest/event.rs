//! Events: what starts a run, what a run waits for, and what it sends.

use super::{
    op::quoted,
    stop::{StepError, Stop},
};
use crate::json::DETAIL_LIMIT_CHARS;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// The prefix of the names that Inngest itself gives: `inngest/scheduled.timer`, `inngest/function.invoked`.
pub const OWN_PREFIX: &str = "inngest/";

/// The name of a cron's event.
pub const TIMER: &str = "inngest/scheduled.timer";

/// An event, as Inngest passes it on.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// The event's id. A cron's is the fire time, in RFC 3339.
    #[serde(default)]
    pub id: Option<String>,
    /// The event's name.
    pub name: String,
    /// The event's data, as its sender wrote it.
    #[serde(default)]
    data: Option<Box<RawValue>>,
    /// The time of the event, in milliseconds since 1970.
    #[serde(default)]
    pub ts: Option<i64>,
}

impl Event {
    /// The event of a call that arrived without it.
    pub(super) fn unknown() -> Self {
        Self { id: None, name: String::new(), data: None, ts: None }
    }

    /// Returns the event's data as JSON. An event without data has `null`.
    pub fn data(&self) -> &str {
        self.data.as_deref().map_or("null", RawValue::get)
    }

    /// Reads the event's data. Data of another shape end the run with an error that names the wrong part: the same data
    /// would be refused again.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Stop> {
        serde_json::from_str(self.data()).map_err(|error| {
            let detail: String = error.to_string().chars().take(DETAIL_LIMIT_CHARS).collect();
            let name: String = self.name.chars().take(DETAIL_LIMIT_CHARS).collect();
            StepError::last("invalid_event", format!("the data of the event `{name}`: {detail}")).into()
        })
    }
}

/// An event to send.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The id. Inngest drops a second event with the same id for 24 hours. Without one, a run that sends the event gives it
    /// an id of the run, the step and its place, so that a step which is executed twice sends it once.
    pub id: Option<String>,
    /// The name.
    pub name: String,
    /// The data.
    pub data: serde_json::Value,
    /// The time of the event, in milliseconds since 1970. Without it Inngest takes the time of arrival.
    pub ts: Option<i64>,
}

impl NewEvent {
    /// Writes the event as JSON.
    pub fn text(&self) -> String {
        let (name, data) = (quoted(&self.name), &self.data);
        let id = self.id.as_ref().map(|id| format!(r#","id":{}"#, quoted(id))).unwrap_or_default();
        let ts = self.ts.map(|ts| format!(r#","ts":{ts}"#)).unwrap_or_default();
        format!(r#"{{"name":{name},"data":{data}{id}{ts}}}"#)
    }
}
