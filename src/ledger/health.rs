//! The health that the ledger reports.

use super::object::{Object, Unreadable};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

/// The ledger's health. Fields that a database of another release does not report stay empty.
#[derive(Debug, Clone)]
pub struct Health {
    /// The state, for every caller.
    pub state: State,
    /// The counts, for operators alone.
    pub counts: Counts,
    /// Whether deposits wait because Purple Flea refuses our key or does not know our URL.
    pub refused_by_purple_flea: bool,
    /// The protocol versions that the ledger supports. Release 0.1.0 reports none.
    pub protocols: Vec<u32>,
}

/// The state of the ledger, in codes.
#[derive(Debug, Clone)]
pub struct State {
    /// `ok`, or `degraded` while something is not executed.
    pub status: String,
    /// `ok`, or `missing` if no sweep has run for minutes.
    pub sweeper: String,
    /// The reasons for `degraded`, such as `no_sweeper`.
    pub why: Vec<String>,
}

/// The ledger's counts.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// Jobs that are due, counted to 10,000.
    pub due: u64,
    /// The time for which the oldest of them has been due, in seconds.
    pub oldest_due_s: Option<u64>,
    /// Jobs of unknown outcome, counted to 10,000.
    pub unknown: u64,
    /// Conflicts, and outcomes that could not be recorded, in the last day.
    pub alarms: u64,
    /// The jobs that workers do not execute: their number, their age and the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_executed: Option<Box<RawValue>>,
    /// The event feed: its lag, the events that wait, and the transaction that holds them back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<Box<RawValue>>,
    /// The webhook subscriptions: how many there are, what is pending, and whether a listener delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhooks: Option<Box<RawValue>>,
}

impl Health {
    pub(super) fn read(row: &Object) -> Result<Self, Unreadable> {
        let strings =
            |field: &RawValue| serde_json::from_str::<Vec<Value>>(field.get()).map_err(|_| Unreadable);
        let why = row.not_null("why")?.map(strings).transpose()?.unwrap_or_default();
        let state = State {
            status: row.maybe_text("status")?.unwrap_or_else(|| "ok".to_owned()),
            sweeper: row.text("sweeper")?,
            why: why.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        };
        let counts = Counts {
            due: row.integer("due")?,
            oldest_due_s: row.maybe_integer("oldest_due_s")?,
            unknown: row.integer("unknown")?,
            alarms: row.integer("alarms")?,
            not_executed: row.not_null("not_executed")?.map(ToOwned::to_owned),
            feed: row.not_null("feed")?.map(ToOwned::to_owned),
            webhooks: row.not_null("webhooks")?.map(ToOwned::to_owned),
        };
        let numbers =
            |field: &RawValue| serde_json::from_str::<Vec<u32>>(field.get()).map_err(|_| Unreadable);
        let protocols = row.not_null("protocols")?.map(numbers).transpose()?.unwrap_or_default();
        let refused_by_purple_flea = row.flag_or_false("refused_by_purple_flea")?;
        Ok(Self { state, counts, refused_by_purple_flea, protocols })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Health, Unreadable> {
        Health::read(&Object::read(text)?)
    }

    #[test]
    fn missing_fields_of_an_older_ledger_stay_empty_and_unknown_fields_are_ignored() {
        let old = r#"{"sweeper":"ok","due":3,"oldest_due_s":null,"unknown":1,"alarms":0,"refused_by_purple_flea":false,"new":[]}"#;
        let Health { state, counts, .. } = read(old).unwrap();
        assert_eq!((state.status.as_str(), state.why.len()), ("ok", 0));
        assert_eq!(json!(counts), json!({"due": 3, "oldest_due_s": null, "unknown": 1, "alarms": 0}));
        let new = r#"{"status":"degraded","why":["no_sweeper",7],"not_executed":[{"reason":"agent_without_key","jobs":2,"oldest_s":9}],
            "sweeper":"missing","due":3,"unknown":1,"alarms":0,"feed":{"lag_s":61,"held_by":{"database":"x"}},"webhooks":{"pending":4}}"#;
        let Health { state, counts, .. } = read(new).unwrap();
        assert_eq!((state.status.as_str(), state.why), ("degraded", vec!["no_sweeper".to_owned()]));
        let not_executed = json!(counts)["not_executed"].clone();
        assert_eq!(json!(counts)["webhooks"], json!({"pending": 4}));
        assert_eq!(json!(counts)["feed"], json!({"lag_s": 61, "held_by": {"database": "x"}}));
        assert_eq!(not_executed, json!([{"reason": "agent_without_key", "jobs": 2, "oldest_s": 9}]));
        for wrong in ["{}", "[]", r#"{"sweeper":"ok","due":-1,"unknown":1,"alarms":0}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
