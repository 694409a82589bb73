//! The data of events: what a workflow reads of them, and what it refuses.

use crate::{
    domain::amount,
    inngest::run::{Run, StepError, Stop},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, de, de::DeserializeOwned};
use serde_json::{Map, Number, Value};

/// Fields that would choose whose money it is. The settings do that.
const OF_THE_AGENT: [&str; 6] =
    ["agent", "agent_id", "agent_wallet", "api_key", "sender_id", "wallet_address"];

/// Reads the data of the event that started the run. Refuses data that name an agent.
pub(super) fn read<T: DeserializeOwned>(run: &Run<'_>) -> Result<T, Stop> {
    let fields: Map<String, Value> = run.event().read()?;
    if let Some(field) = OF_THE_AGENT.into_iter().find(|field| fields.contains_key(*field)) {
        let message = format!("the event names `{field}`: the settings choose whose money it is");
        return Err(StepError::last("agent_in_event", message).into());
    }
    run.event().read()
}

/// Returns the error for data that a workflow does not accept.
pub(super) fn refuse<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(StepError::last("invalid_event", message).into())
}

/// A text of an event that names something: 1 to 128 bytes, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    /// Longest name, in bytes: as the id of an agent.
    const LIMIT_BYTES: usize = 128;

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.len() > Self::LIMIT_BYTES || text.contains(char::is_control) {
            return Err(de::Error::custom("a name must be 1 to 128 bytes without control characters"));
        }
        Ok(Self(text))
    }
}

/// A price: a number above 0, as its sender wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Price(Number);

impl Price {
    pub(super) fn number(&self) -> Number {
        self.0.clone()
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(deserializer)?;
        let is_positive = amount::decimal(number.as_str()).is_ok_and(|price| price > Decimal::ZERO);
        if is_positive { Ok(Self(number)) } else { Err(de::Error::custom("`price` must be above 0")) }
    }
}

/// Makes an object of the fields that are there.
pub(super) fn object<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Value {
    let there = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(there.map(|(name, value)| (name.to_owned(), value)).collect())
}
