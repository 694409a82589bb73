//! The calls of the ledger: claim deliveries, settle them (the rules are in `sql/functions/19*.sql`), and what Realtime's
//! tasks ask.

use crate::runtime::Native;
use purple_flea_edge::{
    endpoint::{BaseUrl, Key},
    ledger::rpc::{Connection, LedgerError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a claim lasts. It is longer than all phases of a delivery together ([`crate::deliver`]), and an outcome's
/// way to the ledger.
pub(crate) const LEASE: Duration = Duration::from_secs(90);

/// Most deliveries of one claim: small, so that the database works on none for long. A reply has less than the 1 MiB
/// that is read.
pub(crate) const CLAIM_LIMIT: usize = 100;

/// One claimed delivery.
#[derive(Deserialize)]
pub(crate) struct Delivery {
    /// The subscription's id.
    pub(crate) subscription: String,
    /// The event's id in the database.
    pub(crate) event: i64,
    /// The claim's token. Only a report that carries it counts.
    pub(crate) token: String,
    /// The number of this attempt, from one.
    pub(crate) attempt: u32,
    /// The same for each attempt.
    pub(crate) webhook_id: String,
    /// The receiver's URL.
    pub(crate) url: String,
    /// The format that the receiver reads. A database of an earlier release names none.
    #[serde(default)]
    pub(crate) format: Format,
    /// The subscription's secret: `whsec_…`, or an event key of Inngest. `None` if the database cannot read it.
    pub(crate) secret: Option<String>,
    /// The request's body.
    pub(crate) body: String,
}

/// The format that a receiver reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// A signed Standard Webhook.
    #[default]
    Standard,
    /// An event, for the event API of Inngest.
    Inngest,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({} of {})", self.webhook_id, self.subscription)
    }
}

/// The reply to a claim.
#[derive(Debug, Deserialize)]
pub(crate) struct Claim {
    /// `ok`, or the reason why the ledger hands out nothing.
    pub(crate) state: String,
    /// The claimed deliveries.
    pub(crate) deliveries: Vec<Delivery>,
    /// Whether another claim would find more at once.
    pub(crate) more: bool,
    /// The end of the lease.
    #[serde(skip, default = "Instant::now")]
    pub(crate) ends: Instant,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Did {
    /// The receiver answered 2xx.
    Delivered,
    /// The receiver answered otherwise, or was not reached.
    Failed,
    /// The listener did not begin. It counts as no attempt.
    NotSent,
}

/// The report of a delivery.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) subscription: String,
    pub(crate) event: i64,
    pub(crate) token: String,
    pub(crate) did: Did,
    /// The status of the answer, if one came.
    pub(crate) status: Option<u16>,
    /// The code of a failure.
    pub(crate) error: Option<&'static str>,
    /// The time that the receiver asks the listener to wait for.
    pub(crate) retry_after_s: Option<u64>,
    /// The duration of the attempt.
    pub(crate) ms: u64,
}

/// The reply to a settlement.
#[derive(Debug, Deserialize)]
pub(crate) struct Settled {
    /// How many reports came too late: another claim has, or had, the delivery.
    pub(crate) stale: usize,
    /// Whether deliveries are due now: the next of a subject.
    pub(crate) due: bool,
}

/// The ledger.
#[derive(Clone)]
pub(crate) struct Ledger {
    connection: Arc<Connection>,
    runtime: Arc<Native>,
}

impl Ledger {
    /// Reads the settings of the database from the environment. Fails with the names of all that are missing or wrong,
    /// and never with a value.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| {
            variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let (url, key, apikey) = (set("SUPABASE_URL"), set("SUPABASE_KEY"), set("SUPABASE_APIKEY"));
        let mut wrong = Vec::new();
        let url = url.as_deref().and_then(BaseUrl::parse);
        if url.is_none() {
            wrong.push("SUPABASE_URL is https://host[:port][/prefix], or http:// to a loopback host");
        }
        let key = key.as_deref().and_then(Key::parse);
        if key.is_none() {
            wrong.push("SUPABASE_KEY is set, to visible ASCII characters only");
        }
        let apikey = match apikey {
            Some(text) => Key::parse(&text),
            None => key.clone(),
        };
        if apikey.is_none() && key.is_some() {
            wrong.push("SUPABASE_APIKEY is empty, or visible ASCII characters only");
        }
        let (Some(url), Some(key), Some(apikey)) = (url, key, apikey) else {
            return Err(format!("the environment does not name the database: {}", wrong.join("; ")));
        };
        let connection = Arc::new(Connection { url, key, apikey });
        Ok(Self { connection, runtime: Arc::new(Native::new()) })
    }

    /// The settings of the database.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The runtime of its calls.
    pub(crate) fn runtime(&self) -> Arc<Native> {
        self.runtime.clone()
    }

    /// Calls a function of the database.
    pub(crate) async fn call(&self, function: &str, arguments: &Value) -> Result<Vec<u8>, LedgerError> {
        self.connection.call(function, arguments, &*self.runtime).await
    }

    /// Claims at most `most` deliveries that are due. If the reply gets lost, they come again after the lease.
    pub(crate) async fn claim(&self, most: usize) -> Result<Claim, LedgerError> {
        let began = Instant::now();
        let arguments = json!({ "most": most, "lease_s": LEASE.as_secs() });
        let reply = self.connection.call("claim_deliveries", &arguments, &*self.runtime).await?;
        let claim: Claim = serde_json::from_slice(&reply).map_err(|_| LedgerError::Unreadable)?;
        // The lease began after the call did, so this time is never too late.
        Ok(Claim { ends: began.checked_add(LEASE).unwrap_or(began), ..claim })
    }

    /// Reports outcomes. A repeated report changes nothing.
    pub(crate) async fn settle(&self, outcomes: &[Outcome]) -> Result<Settled, LedgerError> {
        let arguments = json!({ "outcomes": outcomes });
        let reply = self.connection.call("settle_deliveries", &arguments, &*self.runtime).await?;
        serde_json::from_slice(&reply).map_err(|_| LedgerError::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_that_are_wrong_are_named_and_no_value() {
        let wrong = |url: &'static str, key: &'static str, apikey: &'static str| {
            let read = move |name: &str| {
                Some(
                    match name {
                        "SUPABASE_URL" => url,
                        "SUPABASE_KEY" => key,
                        _ => apikey,
                    }
                    .to_owned(),
                )
            };
            Ledger::from_environment(read).err().unwrap_or_default()
        };
        assert_eq!(wrong("https://a.supabase.co", "a-key", ""), "");
        assert_eq!(wrong("http://127.0.0.1:54321", "a-key", "another"), "");
        let all = wrong("http://a.supabase.co", "geheim é", "");
        assert!(all.contains("SUPABASE_URL") && all.contains("SUPABASE_KEY"), "{all}");
        assert!(!all.contains("geheim") && !all.contains("a.supabase.co"), "{all}");
        assert!(wrong("https://a.supabase.co", "a-key", "é").contains("SUPABASE_APIKEY"));
    }

    #[test]
    fn a_deliverys_debug_text_has_neither_its_url_nor_its_secret() {
        let text = r#"{"subscription": "s", "event": 7, "token": "t", "attempt": 1, "webhook_id": "evt_1",
            "url": "https://hooks.example.com/path", "secret": "whsec_abc", "body": "{}"}"#;
        let delivery: Delivery = serde_json::from_str(text).unwrap();
        assert_eq!(format!("{delivery:?}"), "Delivery(evt_1 of s)");
    }
}
