//! Restores and fail-overs, and the operator's work after them (docs/restore.md).

use super::{ask, monkey::Monkey, retry};
use anyhow::{Context, Result, bail};
use stack::{local::Local, postgres::OWNER};
use std::time::Duration;
use tokio::time::sleep;

/// The schemas of a dump. Vault and pg_net's queue stay as they are.
const SCHEMAS: [&str; 2] = ["public", "purple_flea"];

/// How often a restore is tried: it may lose a deadlock with the function or the sweeper.
const RESTORE_TRIES: usize = 5;

/// How long a bet of an earlier claim may take to reach Purple Flea. All bets of a claim leave at once, and an exchange
/// takes 1 s here.
const UNDER_WAY: Duration = Duration::from_secs(2);

/// How long the database waits for its operator: longer than the sweeper's second, so that notifications are sent.
const UNCONFIRMED: Duration = Duration::from_millis(1_500);

/// The number of deposits in that time.
const MEANWHILE: u32 = 3;

/// The most deposits that a restore or a fail-over makes: before it, and while it waits for its operator.
pub(super) const DISASTER_DEPOSITS: u32 = 2 * MEANWHILE;

impl Monkey {
    pub(super) async fn back_up(&mut self, stack: &Local) -> Result<()> {
        // A crash of the round before may not be over.
        ask(stack, OWNER, "select 1").await?;
        self.dump = Some(stack.cluster.dump("dump", &SCHEMAS).await?);
        Ok(())
    }

    /// Restores the last dump in place. The host is stopped meanwhile in some runs, at random.
    pub(super) async fn restore(&mut self, stack: &mut Local) -> Result<()> {
        let dump = self.dump.take().context("nothing was dumped")?;
        let stopped = self.chance.bool();
        if stopped {
            stack.host.kill().await?;
        }
        self.remember(stack).await?;
        // A function that goes on must see either the whole restore or nothing of it.
        let options: &[&str] = if stopped { &[] } else { &["--single-transaction"] };
        let mut tries = 1;
        while let Err(error) = stack.cluster.restore(&dump, &SCHEMAS, options).await {
            if tries == RESTORE_TRIES {
                return Err(error);
            }
            tries += 1;
        }
        if stopped {
            stack.start_host().await?;
        }
        self.confirm(stack, "restored from the last dump").await
    }

    /// Copies the primary, waits for a moment that the copy lacks, and promotes the copy.
    pub(super) async fn fail_over(&mut self, stack: &mut Local, moment: Duration) -> Result<()> {
        ask(stack, OWNER, "select 1").await?;
        self.copies += 1;
        let copy = stack.cluster.copy(&format!("copy-{}", self.copies)).await?;
        self.insert(stack, MEANWHILE).await?;
        sleep(moment).await;
        self.remember(stack).await?;
        stack.cluster.fail_over(copy).await?;
        self.confirm(stack, "failed over to a standby that was behind").await
    }

    /// Records the keys of all bets. A bet on a deposit that gets lost has no job any more.
    async fn remember(&mut self, stack: &Local) -> Result<()> {
        let rows = ask(stack, OWNER, "select j.idempotency_key from purple_flea.all_jobs j").await?;
        self.report.seen.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        Ok(())
    }

    /// Checks that the database stakes nothing by itself, and confirms the restore.
    async fn confirm(&mut self, stack: &Local, why: &str) -> Result<()> {
        let noticed = ask(stack, OWNER, "select purple_flea.current_generation() is null").await?;
        if !noticed.first().is_some_and(|row| row.get(0)) {
            self.report.violations.push(format!("{why}: the database did not notice it"));
            return Ok(());
        }
        sleep(UNDER_WAY).await;
        let before = stakes(stack);
        self.insert(stack, MEANWHILE).await?;
        retry(stack, OWNER, "select purple_flea.sweep()").await?;
        self.double(stack);
        sleep(UNCONFIRMED).await;
        let staked = stakes(stack) - before;
        if staked > 0 {
            self.report.violations.push(format!("{why}: {staked} stakes before it was confirmed"));
        }
        let confirmed = ask(
            stack,
            OWNER,
            &format!(
                "select c ->> 'unknown', c ->> 'kept' from purple_flea.confirm_restore(why => '{why}') as c"
            ),
        )
        .await?;
        let Some(row) = confirmed.first() else { bail!("no word on the restore") };
        let [unknown, kept]: [&str; 2] = [row.get(0), row.get(1)];
        eprintln!("        {why}: confirmed; {unknown} unknown, {kept} kept");
        Ok(())
    }
}

/// Counts the stakes that have reached Purple Flea.
fn stakes(stack: &Local) -> usize {
    stack.purple_flea.bets().len() + stack.purple_flea.escrows().len()
}
