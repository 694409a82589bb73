//! Memos: what Inngest keeps of a step. The operation that is replayed decides how its memo is read, because an event and the
//! result of a step both have a member `data`.

use super::{event::Event, stop::Thrown};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The memo of a step that was executed: exactly one of the two.
#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Thrown>,
}

/// Reads the memo of a step that was executed: its result, or its error. The error of this function says what is wrong.
pub fn outcome(memo: &RawValue) -> Result<Result<&RawValue, Thrown>, String> {
    let outcome: Outcome = serde_json::from_str(memo.get()).map_err(|error| error.to_string())?;
    match outcome {
        Outcome { error: Some(error), .. } => Ok(Err(error)),
        Outcome { data: Some(data), error: None } => Ok(Ok(data)),
        // `"data": null` is the result of a step without a result.
        Outcome { data: None, error: None } if has_data(memo) => Ok(Ok(RawValue::NULL)),
        Outcome { .. } => Err("it has neither `data` nor `error`".to_owned()),
    }
}

/// Reads the memo of a wait: the event, or `null` if none came in time.
pub fn event(memo: &RawValue) -> Result<Option<Event>, String> {
    serde_json::from_str(memo.get()).map_err(|error| error.to_string())
}

/// Reads the memo of a sleep, which is `null`.
pub fn nothing(memo: &RawValue) -> Result<(), String> {
    if memo.get() == "null" { Ok(()) } else { Err("it is not null".to_owned()) }
}

/// Returns whether a memo has a member `data`, even if it is `null`.
fn has_data(memo: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Present {
        #[serde(rename = "data")]
        _data: serde::de::IgnoredAny,
    }
    serde_json::from_str::<Present>(memo.get()).is_ok()
}
