//! The log: lines of JSON on standard output, in the form of the function's. A line names a subscription by its id. It
//! holds no URL, because a path may hold a secret.

use serde::Serialize;
use std::time::{Duration, SystemTime};

/// The severity of a line.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Normal operation.
    Info,
    /// A receiver or the ledger failed; the listener tries again.
    Warn,
    /// An operator has to look at it.
    Error,
}

/// A line.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    time: String,
    pub(crate) level: Level,
    /// `delivery`, `claim`, `settle`, `realtime`, `doorbell`, `signal`, `presence`, `start` or `end`.
    pub(crate) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscription: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) webhook_id: Option<&'a str>,
    /// The name of a topic of Realtime, or of the agent or the owner that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<u32>,
    /// The status of the receiver's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// How many deliveries the line is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deliveries: Option<usize>,
    /// How many topics or agents the line is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<u64>,
}

impl Line<'_> {
    /// Makes a line about an event of now.
    pub(crate) fn new(level: Level, event: &'static str) -> Self {
        Self {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            level,
            event,
            subscription: None,
            webhook_id: None,
            topic: None,
            attempt: None,
            status: None,
            code: None,
            cause: None,
            deliveries: None,
            count: None,
            ms: None,
        }
    }

    /// Prints the line.
    pub(crate) fn print(&self) {
        print(&serde_json::to_string(self).unwrap_or_default());
    }
}

/// Prints a line that is JSON already. A closed output is no error: nothing reads the lines.
pub(crate) fn print(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Gives a time in whole milliseconds.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
