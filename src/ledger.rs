//! The ledger: durable memory in Postgres, reached through PostgREST. A job is claimed before its bet is sent and
//! settled after; what happens in between is at most one bet, whatever gets lost or doubled on the way.
//!
//! The rules stand in the database (`sql/070_claim.sql` to `sql/090_lookups.sql`); here is only the way there.

pub mod callers;
pub mod health;
pub mod job;
pub mod object;
pub mod rpc;

use crate::{
    domain::{account::Api, job::RequestKind, reference::Reference},
    endpoint::Key,
    runtime::Runtime,
    time_budget,
};
use health::Health;
use job::{Answer, Job, Lookup, Settlement};
use object::{Object, Unreadable};
use rpc::{Connection, LedgerError};
use serde_json::{Value, json};
use std::time::Duration;

/// The version of the agreement between function and ledger that this function speaks. The ledger hands nothing out to a
/// version that it does not speak.
const PROTOCOL: u32 = 2;

/// How often a claim is asked for, all in all. It carries its own token, so that asking again gives what the first
/// one took, if its answer got lost.
const CLAIM_TRIES: u32 = 3;

/// How often a claim is given up, all in all, where the ledger does not answer. What it took is unknown otherwise, when its
/// lease ends.
const ABANDON_TRIES: u32 = 3;

/// The first wait before the ledger is asked again; it doubles, up to [`RETRY_MAX_MS`].
const RETRY_FIRST_MS: u64 = 100;

/// The longest wait before the ledger is asked again.
const RETRY_MAX_MS: u64 = 2_000;

/// Most jobs that are looked up at once: one page of Purple Flea's history serves many.
const LOOKUPS_LIMIT: u32 = 50;

/// The ledger, as the settings describe it.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Where PostgREST is, and the function's keys.
    pub connection: Connection,
    /// What we show as a bearer token when an operator calls.
    pub operator_key: Key,
    /// Most bets that are under way at once, and so the most that one claim takes: 1 to 100.
    pub bets_at_once: u32,
    /// Whether the function answers notifications at once. Its claims say so, and the database then waits less for it.
    pub answers_at_once: bool,
}

/// Who waits for the next job, of all that call the ledger: one at a time.
#[derive(Debug, Clone)]
pub struct Watcher {
    token: String,
    /// How long after the last job.
    pub linger: Duration,
}

impl Watcher {
    /// A new one.
    pub fn new(linger: Duration, runtime: &impl Runtime) -> Self {
        Self { token: uuid(runtime.random()), linger }
    }
}

/// What a claim took.
#[derive(Debug)]
pub struct Claim {
    /// What its outcomes are settled with.
    pub token: String,
    /// When its lease ends, on the monotonic clock; on the safe side of the database's own.
    pub deadline: Duration,
    /// The jobs that are now ours.
    pub jobs: Vec<Job>,
    /// Those of them that cannot be read, but for their names. They are given back.
    pub unreadable: Vec<Reference>,
    /// An answer for every reference that was asked about.
    pub answers: Vec<Answer>,
    /// Whether more jobs are due.
    pub more: bool,
    /// Whether unknown jobs wait to be looked up.
    pub lookups: bool,
    /// Whether it is the caller's to wait for the next one.
    pub watching: bool,
}

/// What became of a request by hand.
#[derive(Debug)]
pub struct Requested {
    /// The job that does it.
    pub reference: Option<String>,
    /// Why there is none.
    pub refused: Option<String>,
}

/// What became of a report.
#[derive(Debug)]
pub struct Settled {
    /// Of which job; `None` where not even that could be read.
    pub reference: Option<String>,
    /// `settled`, `settled_before`, `not_now`, or why nothing changed.
    pub did: String,
}

impl Claim {
    /// Reads what a claim took that was `asked` for at that time. A row that cannot be read keeps none of the others.
    fn read(reply: &str, asked: Duration) -> Result<Self, LedgerError> {
        let reply = Object::read(reply)?;
        if reply.flag_or_no("mismatch")? {
            return Err(LedgerError::Mismatch);
        }
        let lease = Duration::from_millis(reply.maybe_whole("lease_ms")?.unwrap_or(0));
        let all = |name| Object::read_all(reply.raw(name)?.ok_or(Unreadable)?.get());
        let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
        for row in all("jobs")? {
            match Job::read(&row) {
                Ok(job) => jobs.push(job),
                Err(Unreadable) => {
                    unreadable.extend(row.text("reference").ok().and_then(|name| Reference::parse(&name)))
                }
            }
        }
        Ok(Self {
            token: reply.text("token")?,
            // The database said what was left of the lease after it was asked: this is early, never late.
            deadline: asked.saturating_add(lease),
            jobs,
            unreadable,
            answers: all("answers")?.iter().filter_map(|row| Answer::read(row).ok()).collect(),
            more: reply.flag("more")?,
            lookups: reply.flag("lookups")?,
            watching: reply.flag("watching")?,
        })
    }
}

impl Requested {
    fn read(reply: &str) -> Result<Self, Unreadable> {
        let reply = Object::read(reply)?;
        Ok(Self { reference: reply.maybe_text("reference")?, refused: reply.maybe_text("refused")? })
    }
}

impl Settled {
    fn read_all(reply: &str) -> Result<Vec<Self>, Unreadable> {
        let read = |row: &Object| Ok(Self { reference: row.maybe_text("reference")?, did: row.text("did")? });
        Object::read_all(reply)?.iter().map(read).collect()
    }
}

impl Ledger {
    /// Claims at most `limit` due jobs, those that are asked for first. With none it only answers: bets are held back.
    pub async fn claim(
        &self,
        references: &[Reference],
        limit: u32,
        api: Api,
        watcher: Option<&Watcher>,
        runtime: &impl Runtime,
    ) -> Result<Claim, LedgerError> {
        let token = uuid(runtime.random());
        let body = json!({
            "references": references.iter().map(Reference::as_str).collect::<Vec<_>>(),
            "limit": limit,
            "claim": token,
            "api": api,
            "watcher": watcher.map(|watcher| &watcher.token),
            "linger_ms": watcher.map_or(0, |watcher| watcher.linger.as_millis()),
            "protocol": PROTOCOL,
            "patience_ms": time_budget::CLAIM_PATIENCE_MS,
            "after_reply": self.answers_at_once,
        });
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        let mut tries = 1_u32;
        let mut reached = false;
        let error = loop {
            let asked = runtime.monotonic();
            let claim = match self.call("claim_jobs", &body, runtime).await {
                Ok(reply) => rpc::text(&reply).map_err(Into::into).and_then(|text| Claim::read(text, asked)),
                Err(error) => Err(error),
            };
            match claim {
                Ok(claim) => return Ok(claim),
                Err(LedgerError::Missing) if self.has_other_version(runtime).await => {
                    return Err(LedgerError::Mismatch);
                }
                Err(error) => {
                    reached |= !matches!(
                        error,
                        LedgerError::NotReached(_)
                            | LedgerError::RefusedUs(_)
                            | LedgerError::Missing
                            | LedgerError::Mismatch
                    );
                    if !error.may_pass() || tries >= CLAIM_TRIES {
                        break error;
                    }
                }
            }
            runtime.sleep(wait).await;
            wait = longer(wait);
            tries = tries.saturating_add(1);
        };
        if reached {
            // It may have taken jobs, or may yet. Nothing is sent for it.
            self.abandon(&token, runtime).await;
        }
        Err(error)
    }

    /// Gives up all that a claim took. Nothing of it was begun, and nothing will be.
    async fn abandon(&self, token: &str, runtime: &impl Runtime) {
        let body = json!({ "claim": token });
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        for _ in 0..ABANDON_TRIES {
            match self.call("abandon_claim", &body, runtime).await {
                Err(error) if error.may_pass() => {
                    runtime.sleep(wait).await;
                    wait = longer(wait);
                }
                // (A refusal is what the claim met, too: then it took nothing.)
                _ => return,
            }
        }
    }

    /// Whether the database has a ledger, though not the functions that this version calls.
    async fn has_other_version(&self, runtime: &impl Runtime) -> bool {
        self.call("ledger_health", &json!({}), runtime).await.is_ok()
    }

    /// Waits until a job is due, for at most so long. If there is none then the watch is over.
    pub async fn wait(
        &self,
        watcher: &Watcher,
        time: Duration,
        runtime: &impl Runtime,
    ) -> Result<bool, LedgerError> {
        let body = json!({ "watcher": watcher.token, "wait_ms": time.as_millis() });
        let due = self.call("await_jobs", &body, runtime).await?;
        object::value(rpc::text(&due)?)?.as_bool().ok_or(LedgerError::Unreadable)
    }

    /// Ends the watch, and rings if somebody else is to go on with what is due.
    pub async fn leave(
        &self,
        watcher: &Watcher,
        hand_over: bool,
        runtime: &impl Runtime,
    ) -> Result<(), LedgerError> {
        let body = json!({ "watcher": watcher.token, "hand_over": hand_over });
        self.call("end_watch", &body, runtime).await.map(drop)
    }

    /// Reports outcomes once. What is given back is the database's word on each.
    pub async fn settle(
        &self,
        settlements: &[Settlement],
        runtime: &impl Runtime,
    ) -> Result<Vec<Settled>, LedgerError> {
        let body = json!({ "outcomes": settlements, "protocol": PROTOCOL });
        let reply = self.call("settle_jobs", &body, runtime).await?;
        Ok(Settled::read_all(rpc::text(&reply)?)?)
    }

    /// Asks for a job by hand: the reference of the one that does it, or why there is none. Asked twice it is one.
    pub async fn request(
        &self,
        kind: RequestKind,
        reference: &Reference,
        details: &Value,
        runtime: &impl Runtime,
    ) -> Result<Requested, LedgerError> {
        let body = json!({ "kind": kind.name(), "reference": reference.as_str(), "details": details });
        let reply = self.call("request_job", &body, runtime).await?;
        Ok(Requested::read(rpc::text(&reply)?)?)
    }

    /// Takes unknown jobs that are to be looked up.
    pub async fn lookups(&self, runtime: &impl Runtime) -> Result<Vec<Lookup>, LedgerError> {
        let body = json!({ "limit": LOOKUPS_LIMIT, "protocol": PROTOCOL });
        let reply = self.call("claim_lookups", &body, runtime).await?;
        let rows = Object::read_all(rpc::text(&reply)?)?;
        // One that cannot be read keeps none of the others: it comes up again.
        Ok(rows.iter().filter_map(|row| Lookup::read(row).ok()).collect())
    }

    /// How the ledger is; an error where it does not speak our version, because then it hands nothing out.
    pub async fn health(&self, runtime: &impl Runtime) -> Result<Health, LedgerError> {
        let reply = self.call("ledger_health", &json!({}), runtime).await?;
        let health = Health::read(&Object::read(rpc::text(&reply)?)?)?;
        if health.protocols.contains(&PROTOCOL) { Ok(health) } else { Err(LedgerError::Mismatch) }
    }

    async fn call(
        &self,
        function: &str,
        arguments: &Value,
        runtime: &impl Runtime,
    ) -> Result<Vec<u8>, LedgerError> {
        self.connection.call(function, arguments, runtime).await
    }
}

fn longer(wait: Duration) -> Duration {
    wait.saturating_mul(2).min(Duration::from_millis(RETRY_MAX_MS))
}

/// Makes a UUID of version 4 from 128 random bits.
fn uuid(random: u128) -> String {
    uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_uuid_of_version_4_whatever_chance_gives() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    /// A claim's answer with these jobs.
    fn answer(jobs: &str) -> String {
        format!(
            r#"{{"token": "t", "lease_ms": 30000, "jobs": [{jobs}], "answers": [], "more": false, "lookups": false, "watching": false}}"#
        )
    }

    #[test]
    fn a_job_that_cannot_be_read_keeps_no_other_from_being_done() {
        let good = r#"{"reference": "a-1", "idempotency_key": "a-1-k", "attempt": 1, "kind": "balance", "row": {"agent_id": "a"}, "policy": null}"#;
        for bad in [
            r#"{"reference": "a-2", "idempotency_key": "", "attempt": 1, "kind": "balance", "row": {}, "policy": null}"#,
            r#"{"reference": "a-2", "idempotency_key": "a-2-k", "attempt": -1, "kind": "balance", "row": {}, "policy": null}"#,
            r#"{"reference": "a-2", "idempotency_key": "a-2-k", "attempt": 1, "kind": "of_tomorrow", "row": {}, "policy": null}"#,
            r#"{"reference": "a-2", "idempotency_key": "a-2-k", "attempt": 1, "kind": "balance", "account": 7, "row": {}, "policy": null}"#,
        ] {
            let claim = Claim::read(&answer(&format!("{bad}, {good}")), Duration::ZERO).unwrap();
            assert_eq!((claim.jobs.len(), claim.unreadable.len()), (1, 1), "{bad}");
            assert_eq!(claim.unreadable.first().map(Reference::as_str), Some("a-2"));
        }
        let nameless =
            Claim::read(&answer(&format!(r#"{{"reference": 7}}, {good}"#)), Duration::ZERO).unwrap();
        assert_eq!((nameless.jobs.len(), nameless.unreadable.len()), (1, 0));
    }

    #[test]
    fn a_ledger_that_does_not_speak_our_version_is_known() {
        assert_eq!(Claim::read(r#"{"mismatch": true}"#, Duration::ZERO).err(), Some(LedgerError::Mismatch));
    }
}
