//! What the ledger says about itself.

use super::object::{Object, Unreadable};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

/// How the ledger is. What an older or a newer database does not say is left out.
#[derive(Debug, Clone)]
pub struct Health {
    /// What everybody may know.
    pub state: State,
    /// What only an operator may know.
    pub counts: Counts,
    /// Whether deposits wait because Purple Flea refuses our key or does not know our URL.
    pub refused_by_purple_flea: bool,
    /// The versions of the protocol that the ledger speaks. Release 0.1.0 said none.
    pub protocols: Vec<u32>,
}

/// The ledger in words.
#[derive(Debug, Clone)]
pub struct State {
    /// `ok`, or `degraded` while something is not executed.
    pub status: String,
    /// `ok`, or `missing` when nothing has swept for minutes.
    pub sweeper: String,
    /// Why it is degraded, in words such as `no_sweeper`.
    pub why: Vec<String>,
}

/// The ledger in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Counts {
    /// Jobs that are due, counted to 10,000.
    pub due: u64,
    /// For how long the oldest of them has been.
    pub oldest_due_s: Option<u64>,
    /// Jobs of unknown outcome, counted to 10,000.
    pub unknown: u64,
    /// Conflicts and outcomes that could not be recorded, of the last day.
    pub alarms: u64,
    /// What is not executed: how many jobs for which reason, and for how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_executed: Option<Box<RawValue>>,
}

impl Health {
    pub(super) fn read(row: &Object) -> Result<Self, Unreadable> {
        let words =
            |field: &RawValue| serde_json::from_str::<Vec<Value>>(field.get()).map_err(|_| Unreadable);
        let why = row.not_null("why")?.map(words).transpose()?.unwrap_or_default();
        let state = State {
            status: row.maybe_text("status")?.unwrap_or_else(|| "ok".to_owned()),
            sweeper: row.text("sweeper")?,
            why: why.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        };
        let counts = Counts {
            due: row.whole("due")?,
            oldest_due_s: row.maybe_whole("oldest_due_s")?,
            unknown: row.whole("unknown")?,
            alarms: row.whole("alarms")?,
            not_executed: row.not_null("not_executed")?.map(ToOwned::to_owned),
        };
        let numbers =
            |field: &RawValue| serde_json::from_str::<Vec<u32>>(field.get()).map_err(|_| Unreadable);
        let protocols = row.not_null("protocols")?.map(numbers).transpose()?.unwrap_or_default();
        let refused_by_purple_flea = row.flag_or_no("refused_by_purple_flea")?;
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
    fn what_a_ledger_does_not_say_yet_is_left_out_and_what_is_new_is_passed_over() {
        let old = r#"{"sweeper":"ok","due":3,"oldest_due_s":null,"unknown":1,"alarms":0,"refused_by_purple_flea":false,"new":[]}"#;
        let Health { state, counts, .. } = read(old).unwrap();
        assert_eq!((state.status.as_str(), state.why.len()), ("ok", 0));
        assert_eq!(json!(counts), json!({"due": 3, "oldest_due_s": null, "unknown": 1, "alarms": 0}));
        let new = r#"{"status":"degraded","why":["no_sweeper",7],"not_executed":[{"reason":"agent_without_key","jobs":2,"oldest_s":9}],
            "sweeper":"missing","due":3,"unknown":1,"alarms":0}"#;
        let Health { state, counts, .. } = read(new).unwrap();
        assert_eq!((state.status.as_str(), state.why), ("degraded", vec!["no_sweeper".to_owned()]));
        let not_executed = json!(counts)["not_executed"].clone();
        assert_eq!(not_executed, json!([{"reason": "agent_without_key", "jobs": 2, "oldest_s": 9}]));
        for wrong in ["{}", "[]", r#"{"sweeper":"ok","due":-1,"unknown":1,"alarms":0}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
