//! The ledger: a client for the database functions that claim and settle jobs, reached through PostgREST.
//!
//! A worker claims a job before it sends the bet, and settles the job after. The database holds the rules, in
//! `claim_jobs`, `settle_jobs`, `claim_lookups` and the functions that they call.

pub mod callers;
pub mod feed;
pub mod health;
pub mod job;
pub mod object;
pub mod rpc;
pub mod workflows;

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

/// The protocol version of this function. The ledger hands out no job to a version that it does not support.
const PROTOCOL: u32 = 2;

/// Most attempts of one claim. The claim carries its token, so a repeated claim returns the jobs that the
/// first one took.
const CLAIM_ATTEMPTS: u32 = 3;

/// Most attempts to abandon a claim while the ledger does not answer. A claim that is not abandoned leaves
/// its jobs unknown when the lease ends.
const ABANDON_ATTEMPTS: u32 = 3;

/// The first wait before another attempt, in milliseconds. Each wait doubles it, up to [`RETRY_MAX_MS`].
const RETRY_FIRST_MS: u64 = 100;

/// The longest wait before another attempt, in milliseconds.
const RETRY_MAX_MS: u64 = 2_000;

/// Most jobs of one look-up. One page of Purple Flea's history serves many jobs.
const LOOKUPS_LIMIT: u32 = 50;

/// The ledger, as the settings describe it.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The URL of PostgREST, and the function's keys.
    pub connection: Connection,
    /// The bearer token of operators' calls.
    pub operator_key: Key,
    /// Most jobs that are under way at once, and the most jobs of one claim: 1 to 100.
    pub bets_at_once: u32,
    /// Whether the function answers notifications at once. Its claims report this, so the trigger waits less
    /// for a reply.
    pub answers_at_once: bool,
}

/// A worker that requests the watch. The ledger grants the watch to one worker at a time.
#[derive(Debug, Clone)]
pub struct Watcher {
    token: String,
    /// The time for which the worker long-polls after its last job.
    pub linger: Duration,
}

impl Watcher {
    /// Makes a watcher with a new token.
    pub fn new(linger: Duration, runtime: &impl Runtime) -> Self {
        Self { token: uuid(runtime.random()), linger }
    }
}

/// The result of a claim.
#[derive(Debug)]
pub struct Claim {
    /// The claim's token, for its settlements.
    pub token: String,
    /// The time when the claim was sent, on the monotonic clock. The ledger received it later.
    pub sent_at: Duration,
    /// The end of the lease, on the monotonic clock. It is never later than by the database's clock.
    pub deadline: Duration,
    /// The claimed jobs.
    pub jobs: Vec<Job>,
    /// The claimed jobs of which the function can read only the reference. The worker settles them as
    /// pending.
    pub unreadable: Vec<Reference>,
    /// An answer for every requested reference.
    pub answers: Vec<Answer>,
    /// Whether more jobs are due.
    pub more: bool,
    /// Whether unknown jobs are due for a look-up.
    pub lookups: bool,
    /// Whether the worker has the watch.
    pub watching: bool,
    /// The code with which the ledger refuses a workflow's step.
    pub refused: Option<String>,
}

/// The ledger's answer to a request for a job.
#[derive(Debug)]
pub struct RequestReply {
    /// The reference of the job that executes the request.
    pub reference: Option<String>,
    /// The code of the refusal, if there is no job.
    pub refused: Option<String>,
}

/// The ledger's answer to one settlement.
#[derive(Debug)]
pub struct SettlementReply {
    /// The job; `None` if the ledger could not read its reference.
    pub reference: Option<String>,
    /// The result: `settled`, `settled_before`, `not_now`, or the reason why nothing changed.
    pub result: String,
}

impl Claim {
    /// Reads the reply to a claim that was sent at `sent_at`. An unreadable row does not affect the other
    /// rows.
    fn read(reply: &str, sent_at: Duration) -> Result<Self, LedgerError> {
        let reply = Object::read(reply)?;
        if reply.flag_or_false("mismatch")? {
            return Err(LedgerError::Mismatch);
        }
        let lease = Duration::from_millis(reply.maybe_integer("lease_ms")?.unwrap_or(0));
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
            sent_at,
            // The lease began after the claim was sent, so this time is never too late.
            deadline: sent_at.saturating_add(lease),
            jobs,
            unreadable,
            answers: all("answers")?.iter().filter_map(|row| Answer::read(row).ok()).collect(),
            more: reply.flag("more")?,
            lookups: reply.flag("lookups")?,
            watching: reply.flag("watching")?,
            refused: reply.maybe_text("refused")?,
        })
    }
}

impl RequestReply {
    fn read(reply: &str) -> Result<Self, Unreadable> {
        let reply = Object::read(reply)?;
        Ok(Self { reference: reply.maybe_text("reference")?, refused: reply.maybe_text("refused")? })
    }
}

impl SettlementReply {
    fn read_all(reply: &str) -> Result<Vec<Self>, Unreadable> {
        let read =
            |row: &Object| Ok(Self { reference: row.maybe_text("reference")?, result: row.text("did")? });
        Object::read_all(reply)?.iter().map(read).collect()
    }
}

impl Ledger {
    /// Claims at most `limit` due jobs, the requested ones first. With a limit of zero the ledger only
    /// answers.
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
        self.claim_by("claim_jobs", &body, &token, runtime).await
    }

    /// Claims by a function of the database that takes the claim's token, and repeats the call while it may pass. A
    /// claim that fails for good, and may have taken jobs, is abandoned.
    async fn claim_by(
        &self,
        function: &str,
        body: &Value,
        token: &str,
        runtime: &impl Runtime,
    ) -> Result<Claim, LedgerError> {
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        let mut attempts = 1_u32;
        let mut may_have_claimed = false;
        let error = loop {
            let sent_at = runtime.monotonic();
            let claim = match self.call(function, body, runtime).await {
                Ok(reply) => {
                    rpc::text(&reply).map_err(Into::into).and_then(|text| Claim::read(text, sent_at))
                }
                Err(error) => Err(error),
            };
            match claim {
                Ok(claim) => return Ok(claim),
                Err(LedgerError::Missing) if self.is_of_another_version(runtime).await => {
                    return Err(LedgerError::Mismatch);
                }
                Err(error) => {
                    may_have_claimed |= !matches!(
                        error,
                        LedgerError::NotReached(_)
                            | LedgerError::RefusedUs(_)
                            | LedgerError::TokenRefused(_)
                            | LedgerError::Missing
                            | LedgerError::Mismatch
                    );
                    if !error.may_pass() || attempts >= CLAIM_ATTEMPTS {
                        break error;
                    }
                }
            }
            runtime.sleep(wait).await;
            wait = next_wait(wait);
            attempts = attempts.saturating_add(1);
        };
        if may_have_claimed {
            // The claim may have taken jobs, or may still take some. The worker does not execute them.
            self.abandon(token, runtime).await;
        }
        Err(error)
    }

    /// Abandons the jobs of a claim. The worker has started none of them.
    async fn abandon(&self, token: &str, runtime: &impl Runtime) {
        let body = json!({ "claim": token });
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        for _ in 0..ABANDON_ATTEMPTS {
            match self.call("abandon_claim", &body, runtime).await {
                Err(error) if error.may_pass() => {
                    runtime.sleep(wait).await;
                    wait = next_wait(wait);
                }
                // The ledger refuses the claim for the same reason, so the claim took no job.
                _ => return,
            }
        }
    }

    /// Returns whether the database has a ledger of another version.
    async fn is_of_another_version(&self, runtime: &impl Runtime) -> bool {
        self.call("ledger_health", &json!({}), runtime).await.is_ok()
    }

    /// Long-polls until a job is due, for at most `time`. Without a due job the watch ends.
    pub async fn await_jobs(
        &self,
        watcher: &Watcher,
        time: Duration,
        runtime: &impl Runtime,
    ) -> Result<bool, LedgerError> {
        let body = json!({ "watcher": watcher.token, "wait_ms": time.as_millis() });
        let due = self.call("await_jobs", &body, runtime).await?;
        object::value(rpc::text(&due)?)?.as_bool().ok_or(LedgerError::Unreadable)
    }

    /// Ends the watch. With `hand_over` the ledger notifies another worker of due jobs.
    pub async fn end_watch(
        &self,
        watcher: &Watcher,
        hand_over: bool,
        runtime: &impl Runtime,
    ) -> Result<(), LedgerError> {
        let body = json!({ "watcher": watcher.token, "hand_over": hand_over });
        self.call("end_watch", &body, runtime).await.map(drop)
    }

    /// Reports outcomes once. Returns the ledger's answer for each.
    pub async fn settle(
        &self,
        settlements: &[Settlement],
        runtime: &impl Runtime,
    ) -> Result<Vec<SettlementReply>, LedgerError> {
        let body = json!({ "outcomes": settlements, "protocol": PROTOCOL });
        let reply = self.call("settle_jobs", &body, runtime).await?;
        Ok(SettlementReply::read_all(rpc::text(&reply)?)?)
    }

    /// Requests a job. Returns its reference, or the reason of a refusal. A repeated request makes no second
    /// job.
    pub async fn request(
        &self,
        kind: RequestKind,
        reference: &Reference,
        details: &Value,
        runtime: &impl Runtime,
    ) -> Result<RequestReply, LedgerError> {
        let body = json!({ "kind": kind.name(), "reference": reference.as_str(), "details": details });
        let reply = self.call("request_job", &body, runtime).await?;
        Ok(RequestReply::read(rpc::text(&reply)?)?)
    }

    /// Claims unknown jobs that are due for a look-up.
    pub async fn claim_lookups(&self, runtime: &impl Runtime) -> Result<Vec<Lookup>, LedgerError> {
        let body = json!({ "limit": LOOKUPS_LIMIT, "protocol": PROTOCOL });
        let reply = self.call("claim_lookups", &body, runtime).await?;
        let rows = Object::read_all(rpc::text(&reply)?)?;
        // An unreadable row does not affect the others. A later look-up takes it again.
        Ok(rows.iter().filter_map(|row| Lookup::read(row).ok()).collect())
    }

    /// Returns the ledger's health. Fails if the ledger does not support this protocol version, because it
    /// then hands out no job.
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

fn next_wait(wait: Duration) -> Duration {
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
    fn a_token_is_a_uuid_of_version_4_for_any_random_number() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    /// Returns the reply to a claim with these jobs.
    fn answer(jobs: &str) -> String {
        format!(
            r#"{{"token": "t", "lease_ms": 30000, "jobs": [{jobs}], "answers": [], "more": false, "lookups": false, "watching": false}}"#
        )
    }

    #[test]
    fn an_unreadable_job_does_not_affect_the_others_of_a_claim() {
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
    fn a_ledger_of_another_protocol_version_is_recognised() {
        assert_eq!(Claim::read(r#"{"mismatch": true}"#, Duration::ZERO).err(), Some(LedgerError::Mismatch));
    }
}
