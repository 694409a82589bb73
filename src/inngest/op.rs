//! The report of a run to Inngest: one operation, or its end. The names and shapes are Inngest's.

use super::stop::Thrown;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use sha1::{Digest, Sha1};

/// Returns the id under which Inngest keeps the memo of a step: the lowercase hexadecimal SHA-1 of its name. The second step
/// of a name is hashed as `name:1`, the third as `name:2`.
pub fn step_id(name: &str, earlier: u32) -> String {
    let mut hash = Sha1::new();
    hash.update(name.as_bytes());
    if earlier > 0 {
        hash.update(format!(":{earlier}").as_bytes());
    }
    hex(&hash.finalize())
}

/// Writes bytes as lowercase hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Writes a text as a JSON string.
///
/// Messages of a fixed form are written with this and `format!`: each use of `json!` adds its own code to the component.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// An operation that a run reports.
#[derive(Debug, Clone, Serialize)]
pub struct Op {
    /// The step's id.
    pub id: String,
    /// The kind: the run has done it, or Inngest is to do it.
    #[serde(rename = "op")]
    pub code: OpCode,
    /// The step's name.
    #[serde(rename = "displayName")]
    pub name: String,
    /// The result of a step that ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// The error of a step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Thrown>,
    /// The arguments of a wait or a sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opts: Option<Opts>,
}

/// The code of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum OpCode {
    /// The step ran.
    StepRun,
    /// The step failed, and may be tried again.
    StepError,
    /// The step failed for good.
    StepFailed,
    /// The step is known but was not run, because Inngest wants to run it with a call of its own.
    StepPlanned,
    /// The run waits for an event.
    WaitForEvent,
    /// The run sleeps.
    Sleep,
}

/// The arguments of a wait or a sleep.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Opts {
    /// The name of the event to wait for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The longest wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// The expression that the event has to fulfil.
    #[serde(rename = "if", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The time to sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_steps_are_the_documented_ones() {
        for (name, id) in [
            ("check-balance", "2ab335dca707fc7fc5d11a8fe2599ee848a638d9"),
            ("place-order", "b40bc8a41fc16354ff226204f3d110850ce170c6"),
            ("log-trade", "ddf59f986823fcc0212464f116791246d6207022"),
            ("claim-faucet", "9b3821d165ee0a9fe7196a79d10d0b6ce4898cec"),
            ("create-escrow", "4d7ef572760531298faa6e58bba945996123b488"),
            ("wait-for-counterparty", "ecd2ebfdff0ea25941fb9ec3831b8b469bf3539b"),
            ("cancel-escrow", "89fe1f0f7c1a0591438fe022f20aa964974ca4d4"),
            ("release-escrow", "4419498414c4ae63437eb0db6b6b87f66a88c19c"),
            ("my-step-id", "e7d8a2f140845095749d60246ff1110c9d01d76a"),
        ] {
            assert_eq!(step_id(name, 0), id, "{name}");
        }
        assert_eq!(step_id("loop", 1), "a0cb75f0a464ed6731caadd18aa9932daf00bb50");
        assert_eq!(step_id("loop", 1), step_id("loop:1", 0));
    }
}
