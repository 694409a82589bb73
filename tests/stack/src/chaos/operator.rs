//! The operator's work after the faults: keys, restored jobs, unknown bets and escrows. Purple Flea's books decide.

use super::neighbours;
use anyhow::Result;
use stack::{
    local::{AGENT, Local},
    purple_flea::{Bet, Escrow},
};
use std::collections::HashMap;
use tokio_postgres::{Client, Row};

/// Jobs that a restore made unknown and that no look-up has found.
const RESTORED: &str = "select reference, idempotency_key, kind from purple_flea.jobs \
                        where state = 'unknown' and changed_by = 'restore'";

/// Unknown jobs that block other jobs. Bets of the agent with a daily limit may have used the limit up, and no history
/// contains escrows.
const WAITED_FOR: &str = "select reference, idempotency_key, kind from purple_flea.jobs \
                          where state = 'unknown' and (agent_id = $1 or kind = 'escrow')";

/// Purple Flea's books, by the idempotency keys.
struct Books {
    bets: HashMap<String, Bet>,
    escrows: Vec<Escrow>,
}

impl Books {
    fn of(stack: &Local) -> Self {
        let named = |bet: Bet| Some((bet.key()?.to_owned(), bet));
        Self {
            bets: stack.purple_flea.bets().into_iter().filter_map(named).collect(),
            escrows: stack.purple_flea.escrows(),
        }
    }

    /// Gives the statement that records a job's bet or escrow, if Purple Flea's books have one.
    fn record(&self, kind: &str, reference: &str, key: &str) -> Option<String> {
        if kind == "escrow" {
            let escrow = self.escrows.iter().find(|escrow| escrow.idempotency_key.as_deref() == Some(key))?;
            return Some(format!("select purple_flea.record_escrow('{reference}', '{}')", escrow.escrow_id));
        }
        let bet = self.bets.get(key)?;
        Some(format!(
            "select purple_flea.record_bet('{reference}', '{}', {}, {}, {})",
            bet.bet_id, bet.wager, bet.won, bet.payout
        ))
    }
}

/// Repairs the key that could not be decrypted.
pub(super) async fn mend_key(stack: &Local, owner: &Client) -> Result<()> {
    let waited = "select count(*) from purple_flea.jobs where agent_id = $1 and state = 'pending'";
    let waited: i64 = owner.query_one(waited, &[&neighbours::UNREADABLE]).await?.get(0);
    neighbours::give_key(stack, owner, neighbours::UNREADABLE).await?;
    eprintln!("==> By hand: a new key for {}, for which {waited} jobs waited", neighbours::UNREADABLE);
    Ok(())
}

/// Follows docs/restore.md: records the bets and escrows of Purple Flea's books, and releases the other jobs in bulk.
pub(super) async fn settle_restored(stack: &Local, owner: &Client) -> Result<()> {
    let jobs = owner.query(RESTORED, &[]).await?;
    // The books are read after the jobs: by then no bet of these jobs can be under way.
    let books = Books::of(stack);
    let mut recorded = 0;
    for job in &jobs {
        let [reference, key, kind]: [&str; 3] = [job.get(0), job.get(1), job.get(2)];
        if let Some(record) = books.record(kind, reference, key) {
            owner.batch_execute(&record).await?;
            recorded += 1;
        }
    }
    let release = "select purple_flea.release_restored('not in the books', '{not_found,no_history}')";
    let released: i32 = owner.query_one(release, &[]).await?.get(0);
    eprintln!(
        "==> By hand: {} restored jobs that no look-up found; {recorded} recorded, {released} released in bulk",
        jobs.len()
    );
    Ok(())
}

/// Records or closes the unknown jobs that block other jobs.
pub(super) async fn settle_unknown(stack: &Local, owner: &Client) -> Result<()> {
    let jobs = owner.query(WAITED_FOR, &[&AGENT]).await?;
    let books = Books::of(stack);
    for job in &jobs {
        let [reference, key, kind]: [&str; 3] = [job.get(0), job.get(1), job.get(2)];
        let close = || format!("select purple_flea.close_job('{reference}', 'not at Purple Flea')");
        owner.batch_execute(&books.record(kind, reference, key).unwrap_or_else(close)).await?;
    }
    eprintln!("==> By hand: {} unknown jobs, bets of {AGENT} and escrows, recorded or closed", jobs.len());
    Ok(())
}

/// Makes deposits due that waited for unknown bets of the agent with a daily limit.
pub(super) async fn retry_limited(owner: &Client) -> Result<()> {
    let waiting = "select reference from purple_flea.jobs where agent_id = $1 and state = 'pending'";
    let waiting = retry_jobs(owner, &owner.query(waiting, &[&AGENT]).await?).await;
    eprintln!("==> By hand: {waiting} deposits of {AGENT} retried");
    Ok(())
}

/// Makes pending jobs due at once, and gives their number. A job that is claimed meanwhile needs no operator.
pub(super) async fn retry_jobs(owner: &Client, jobs: &[Row]) -> usize {
    for job in jobs {
        let retry = format!("select purple_flea.retry_job('{}')", job.get::<_, &str>(0));
        let _ = owner.batch_execute(&retry).await;
    }
    jobs.len()
}
