//! The log: lines of JSON on standard output, one for each request and one for each job.
//!
//! A line holds names, codes and times. Of a body or header it holds only the reference, and the agent of an
//! admitted caller. It holds an outcome in full only if no other place can record the outcome.

use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

/// The severity of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Normal operation, including a refused bet.
    Info,
    /// A caller's mistake, or a service that was not reached.
    Warn,
    /// A fault that an operator has to look at: a wrong setting, or a bet of unknown outcome.
    Error,
}

/// A log line about a request, a job or a report.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The time of the event: RFC 3339, UTC.
    pub time: String,
    /// The severity. For a request it follows from the status.
    pub level: Level,
    /// The route's name (`execute_trade`, `reconcile`, `operator`, `events`, `health`, `unknown`), or another event:
    /// `job`, `worker`, `settle`, `ledger`.
    pub event: &'static str,
    /// The job's reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The operator whose token the caller showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// The decision: `bet`, `paused`, a skip reason, or an operator's operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'static str>,
    /// `win` or `loss`, for a bet that was executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// The number of jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// The number of claims of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The reply's status, if there was a reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The code, if the reply is a problem or the event a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The detail of a failure that no reply holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The claim token of an outcome that could not be recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The state that such an outcome leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// The complete outcome, if no other place could record it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The duration in milliseconds. For a request it lasts from its arrival in the core to its reply.
    pub ms: serde_json::Number,
    /// The part of the duration that Purple Flea took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purple_flea_ms: Option<serde_json::Number>,
}

impl Line {
    /// Makes a line for an event at the time `now`.
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

    /// Sets the status, and the level that follows from it. 500 and above is an error, unless waiting alone
    /// helps.
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

    /// Returns the line as JSON, without a line break of any reader's: JSON leaves Unicode's own as they are.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        // Such a character stands in a string, where its escape means the same.
        json.replace('\u{85}', "\\u0085").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
    }
}

/// Returns a duration in milliseconds, with three digits after the point.
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

    #[test]
    fn a_line_has_no_line_break_of_any_reader() {
        let agent = "a\u{2028}b\u{2029}c\u{85}d\ne";
        let mut line = Line::new(SystemTime::UNIX_EPOCH, "job");
        line.agent = Some(agent.to_owned());
        let json = line.to_json();
        assert!(!json.contains(['\u{2028}', '\u{2029}', '\u{85}', '\n']), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["agent"], agent);
    }
}
