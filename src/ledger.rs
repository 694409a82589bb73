//! The ledger: durable memory in Postgres, reached through PostgREST. A job is claimed before its bet is sent and
//! settled after; what happens in between is at most one bet, whatever gets lost or doubled on the way.
//!
//! The rules stand in the database (`sql/070_claim.sql` to `sql/090_lookups.sql`); here is only the way there.

pub mod callers;
pub mod health;
pub mod job;
pub mod rpc;

use crate::{
    object::{self, Object, Unreadable},
    outside::Outside,
    purple_flea::Api,
    upstream::{BaseUrl, Key},
    webhook::reference::Reference,
    work::Kind,
};
use health::Health;
use job::{Answer, Job, Lookup, Settlement};
use rpc::LedgerError;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a claim is asked for, all in all. It carries its own token, so that asking again gives what the first
/// one took, if its answer got lost.
const CLAIM_TRIES: u32 = 3;

/// For how long settling is tried. An outcome that is not recorded makes its job unknown, and somebody has to look
/// it up by hand: a restart of the database must fit in.
const SETTLE_TIME_S: u64 = 25;

/// The first wait before the ledger is asked again; it doubles, up to [`RETRY_MAX_MS`].
const RETRY_FIRST_MS: u64 = 100;

/// The longest wait before the ledger is asked again.
const RETRY_MAX_MS: u64 = 2_000;

/// Most jobs that are looked up at once: one page of Purple Flea's history serves many.
const LOOKUPS_LIMIT: u32 = 50;

/// The ledger, as the settings describe it.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Supabase's URL.
    pub url: BaseUrl,
    /// What we show as a bearer token: who we are in the database.
    pub key: Key,
    /// What we show as `apikey`: that the gateway lets us through.
    pub apikey: Key,
    /// What we show as a bearer token when an operator calls.
    pub operator_key: Key,
    /// Most bets that are under way at once, and so the most that one claim takes: 1 to 100.
    pub bets_at_once: u32,
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
    pub fn new(linger: Duration, outside: &impl Outside) -> Self {
        Self { token: uuid(outside.random()), linger }
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
    /// Of which job.
    pub reference: String,
    /// `settled`, `settled_before`, or why nothing changed.
    pub did: String,
}

impl Claim {
    /// Reads what a claim took that was `asked` for at that time.
    fn read(reply: &str, asked: Duration) -> Result<Self, Unreadable> {
        let reply = Object::read(reply)?;
        let lease = Duration::from_millis(reply.maybe_whole("lease_ms")?.unwrap_or(0));
        let all = |name| Object::read_all(reply.raw(name)?.ok_or(Unreadable)?.get());
        Ok(Self {
            token: reply.text("token")?,
            // The database said what was left of the lease after it was asked: this is early, never late.
            deadline: asked.saturating_add(lease),
            jobs: all("jobs")?.iter().map(Job::read).collect::<Result<_, _>>()?,
            answers: all("answers")?.iter().map(Answer::read).collect::<Result<_, _>>()?,
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
        let read = |row: &Object| Ok(Self { reference: row.text("reference")?, did: row.text("did")? });
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
        outside: &impl Outside,
    ) -> Result<Claim, LedgerError> {
        let body = json!({
            "references": references.iter().map(Reference::as_str).collect::<Vec<_>>(),
            "limit": limit,
            "claim": uuid(outside.random()),
            "api": api,
            "watcher": watcher.map(|watcher| &watcher.token),
            "linger_ms": watcher.map_or(0, |watcher| watcher.linger.as_millis()),
        });
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        let mut tries = 1_u32;
        let (asked, reply) = loop {
            let asked = outside.monotonic();
            match self.call("claim_jobs", &body, outside).await {
                Err(error) if error.may_pass() && tries < CLAIM_TRIES => {
                    outside.sleep(wait).await;
                    wait = longer(wait);
                    tries = tries.saturating_add(1);
                }
                result => break (asked, result?),
            }
        };
        Ok(Claim::read(rpc::text(&reply)?, asked)?)
    }

    /// Waits until a job is due, for at most so long. If there is none then the watch is over.
    pub async fn wait(
        &self,
        watcher: &Watcher,
        time: Duration,
        outside: &impl Outside,
    ) -> Result<bool, LedgerError> {
        let body = json!({ "watcher": watcher.token, "wait_ms": time.as_millis() });
        let due = self.call("await_jobs", &body, outside).await?;
        object::value(rpc::text(&due)?)?.as_bool().ok_or(LedgerError::Unreadable)
    }

    /// Ends the watch, and rings if somebody else is to go on with what is due.
    pub async fn leave(
        &self,
        watcher: &Watcher,
        hand_over: bool,
        outside: &impl Outside,
    ) -> Result<(), LedgerError> {
        let body = json!({ "watcher": watcher.token, "hand_over": hand_over });
        self.call("end_watch", &body, outside).await.map(drop)
    }

    /// Reports outcomes, again and again if need be. What is given back is the database's word on each.
    pub async fn settle(
        &self,
        settlements: &[Settlement],
        outside: &impl Outside,
    ) -> Result<Vec<Settled>, LedgerError> {
        let body = json!({ "outcomes": settlements });
        let until = outside.monotonic().saturating_add(Duration::from_secs(SETTLE_TIME_S));
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        loop {
            match self.call("settle_jobs", &body, outside).await {
                // Whatever it was: to ask again costs nothing, and nobody else knows these outcomes.
                Err(_) if outside.monotonic().saturating_add(wait) < until => {
                    outside.sleep(wait).await;
                    wait = longer(wait);
                }
                result => return Ok(Settled::read_all(rpc::text(&result?)?)?),
            }
        }
    }

    /// Asks for a job by hand: the reference of the one that does it, or why there is none. Asked twice it is one.
    pub async fn request(
        &self,
        kind: Kind,
        reference: &Reference,
        details: &Value,
        outside: &impl Outside,
    ) -> Result<Requested, LedgerError> {
        let body = json!({ "kind": kind, "reference": reference.as_str(), "details": details });
        let reply = self.call("request_job", &body, outside).await?;
        Ok(Requested::read(rpc::text(&reply)?)?)
    }

    /// Takes unknown jobs that are to be looked up.
    pub async fn lookups(&self, outside: &impl Outside) -> Result<Vec<Lookup>, LedgerError> {
        let reply = self.call("claim_lookups", &json!({ "limit": LOOKUPS_LIMIT }), outside).await?;
        Object::read_all(rpc::text(&reply)?)?.iter().map(|row| Ok(Lookup::read(row)?)).collect()
    }

    /// How the ledger is.
    pub async fn health(&self, outside: &impl Outside) -> Result<Health, LedgerError> {
        let reply = self.call("ledger_health", &json!({}), outside).await?;
        Ok(Health::read(&Object::read(rpc::text(&reply)?)?)?)
    }

    async fn call(
        &self,
        function: &str,
        arguments: &Value,
        outside: &impl Outside,
    ) -> Result<Vec<u8>, LedgerError> {
        rpc::call(self, function, arguments, outside).await
    }
}

fn longer(wait: Duration) -> Duration {
    wait.saturating_mul(2).min(Duration::from_millis(RETRY_MAX_MS))
}

/// A version 4 UUID from 128 random bits.
fn uuid(random: u128) -> String {
    let bits = (random & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_uuid_of_version_4_whatever_chance_gives() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
