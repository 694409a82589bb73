//! Lines of JSON on standard output, one for each request and one for each job. It holds names, codes and times, and nothing of a body
//! or a header beyond the reference and the agent of a caller who was let in.
//! (And an outcome, in full, if it can be recorded nowhere else.)

use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

/// How much somebody should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Business as usual, a refused bet included.
    Info,
    /// A caller did something wrong, or Purple Flea was not there.
    Warn,
    /// Somebody has to look: our settings, or a bet whose fate nobody knows.
    Error,
}

/// What is logged about one request.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When the request came in: RFC 3339, UTC.
    pub time: String,
    /// How much somebody should care; follows from the status.
    pub level: Level,
    /// The route's name (`execute_trade`, `reconcile`, `operator`, `health`, `unknown`), or what else happened: `job`, `drain`,
    /// `settle`.
    pub event: &'static str,
    /// The deposit's reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The agent whose deposit it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The operator whose token the caller showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// `bet`, `paused`, the reason of a skip, or what an operator asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'static str>,
    /// `win` or `loss`, for a bet that was executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// How many jobs it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// How many times the job was claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The reply's status, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The problem's code, where the reply is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// What the caller is not told about the problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The claim that an outcome belongs to, where it could not be recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The state that such an outcome leads its job to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// An outcome that could not be recorded anywhere else, in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// How long it took, in milliseconds; for a request from its arrival in the core to its reply.
    pub ms: serde_json::Number,
    /// The part of it spent waiting for Purple Flea.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purple_flea_ms: Option<serde_json::Number>,
}

impl Line {
    /// A line for a request that came in at `now`.
    pub fn new(now: SystemTime, event: &'static str) -> Self {
        Self {
            time: humantime::format_rfc3339_millis(now).to_string(),
            level: Level::Info,
            event,
            reference: None,
            agent: None,
            operator: None,
            decision: None,
            outcome: None,
            jobs: None,
            attempt: None,
            status: None,
            code: None,
            cause: None,
            token: None,
            state: None,
            result: None,
            ms: 0.into(),
            purple_flea_ms: None,
        }
    }

    /// Sets the status, and the level with it: 502 to 504 are for somebody to look at unless it is only a matter
    /// of waiting.
    pub fn set_status(&mut self, status: http::StatusCode) {
        self.status = Some(status.as_u16());
        self.level = match (status.as_u16(), self.code) {
            (_, Some("rate_limited" | "not_reached")) => Level::Warn,
            (500.., _) => Level::Error,
            (_, Some("rejected")) => Level::Info,
            (400.., _) => Level::Warn,
            _ => Level::Info,
        };
    }

    /// The line as JSON, without a line end.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A time in milliseconds, with three digits after the point.
pub fn milliseconds(time: Duration) -> serde_json::Number {
    let text = format!("{}.{:03}", time.as_millis(), time.subsec_micros().checked_rem(1_000).unwrap_or(0));
    serde_json::Number::from_str(&text).unwrap_or_else(|_| 0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_milliseconds_to_the_microsecond() {
        for (time, text) in [
            (Duration::from_micros(1), "0.001"),
            (Duration::from_micros(12_345_678), "12345.678"),
            (Duration::ZERO, "0.000"),
        ] {
            assert_eq!(milliseconds(time).to_string(), text);
        }
    }
}
