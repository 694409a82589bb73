//! Long polling: a worker that keeps running after its reply watches for the next deposit. A steady stream of deposits
//! needs no notifications. A watcher that fails never loses a deposit.

use crate::{
    front_door::soon,
    whole_stack::{LOOK_EVERY, count, deposit, job, job_in, sql, start, start_silent},
};
use anyhow::Result;
use stack::{
    host::{Host, Kind},
    local::Local,
    postgres::OWNER,
    sweeper::Sweeper,
};
use std::time::Duration;

/// Counts the notifications that have reached the function.
fn notifications(stack: &Local) -> usize {
    stack.host.log.lines().iter().filter(|line| line.contains("execute_trade")).count()
}

/// Waits until no worker holds the watch.
async fn wait_for_end_of_watch(stack: &Local) -> Result<()> {
    let watched = "select count(*) from purple_flea.watch where until > clock_timestamp()";
    soon(async {
        while count(stack, watched).await? > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    })
    .await?
}

/// Gives the watch to a watcher that does not exist. Transactions that insert deposits rely on it.
const WATCH: &str = "select public.claim_jobs(watcher => md5('nobody')::uuid, linger_ms => 3000)";

#[tokio::test(flavor = "multi_thread")]
async fn deposits_send_no_notification_while_a_worker_watches() -> Result<()> {
    let stack = start(&[("linger_ms", "3000")]).await?;
    for _ in 0..10 {
        let id = deposit(&stack, "100").await?;
        job_in(&stack, id, "executed").await?;
    }
    assert_eq!(notifications(&stack), 1);
    assert_eq!(stack.purple_flea.bets().len(), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_ends_after_linger_ms_and_the_next_deposit_notifies() -> Result<()> {
    let stack = start(&[("linger_ms", "200")]).await?;
    for count in 1..=2 {
        let id = deposit(&stack, "100").await?;
        job_in(&stack, id, "executed").await?;
        wait_for_end_of_watch(&stack).await?;
        assert_eq!(notifications(&stack), count);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_deposit_notifies_if_linger_ms_is_zero() -> Result<()> {
    let stack = start(&[("linger_ms", "0")]).await?;
    for count in 1..=2 {
        let id = deposit(&stack, "100").await?;
        job_in(&stack, id, "executed").await?;
        assert_eq!(notifications(&stack), count);
    }
    let calls = stack.postgrest.calls();
    assert!(!calls.iter().any(|call| call == "await_jobs"), "a worker watched: {calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_watch_waits_for_a_deposit_that_relied_on_it() -> Result<()> {
    let stack = start_silent(&[]).await?;
    sql(&stack, "alter table public.wallet_changes enable trigger purple_flea_notify").await?;
    sql(&stack, WATCH).await?;
    let depositor = stack.cluster.connect(OWNER).await?;
    // The deposit is not committed, so the watcher cannot see it. The trigger relied on the watch and did not notify.
    depositor.batch_execute("begin; insert into public.wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)").await?;
    let watcher = stack.cluster.connect(OWNER).await?;
    let waiting = watcher.query_one("select public.await_jobs(md5('nobody')::uuid, 10)", &[]);
    let committing = async {
        let blocked = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        while count(&stack, blocked).await? == 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(depositor.batch_execute("commit").await?)
    };
    let (due, committed) = soon(async { tokio::join!(waiting, committing) }).await?;
    committed?;
    assert!(due?.get::<_, bool>(0), "the watch ended without the deposit that relied on it");
    assert_eq!(notifications(&stack), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_finds_a_deposit_that_relied_on_a_dead_watcher() -> Result<()> {
    let mut stack = start(&[]).await?;
    sql(&stack, WATCH).await?;
    let id = deposit(&stack, "100").await?;
    assert_eq!(job(&stack, id).await?["state"], "pending");
    stack.sweeper = Some(Sweeper::start(&stack.cluster, Duration::from_millis(500)));
    assert_eq!(job_in(&stack, id, "executed").await?["attempts"], 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cuts_off_work_after_a_reply_loses_no_deposit() -> Result<()> {
    let mut stack = start(&[("linger_ms", "3000")]).await?;
    // The host cuts the worker off during its watch, and later deposits still rely on the watch.
    stack.options.after_reply = Duration::from_millis(700);
    stack.options.listen = None;
    stack.host = Host::start(Kind::Embedded, &stack.options).await?;
    let here = format!("select purple_flea.set_secret('purple_flea_function_url', '{}/')", stack.host.url);
    sql(&stack, &here).await?;
    stack.sweeper = Some(Sweeper::start(&stack.cluster, Duration::from_millis(500)));
    for _ in 0..3 {
        let watched = deposit(&stack, "100").await?;
        job_in(&stack, watched, "executed").await?;
        soon(async {
            while stack.host.instances() > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await?;
        let unwatched = deposit(&stack, "100").await?;
        for id in [watched, unwatched] {
            assert_eq!(job_in(&stack, id, "executed").await?["attempts"], 1);
        }
    }
    assert_eq!(stack.purple_flea.bets().len(), 6);
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_asks_for_work_before_the_reply_after_a_notification_failed() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let id = deposit(&stack, "100").await?;
    // The deposit was due before the last sweep and is still due. So work after a reply may have been cut off, and the
    // sweeper asks the function to work before it replies.
    sql(&stack, "update purple_flea.ledger set swept_at = clock_timestamp()").await?;
    sql(&stack, "select purple_flea.sweep()").await?;
    let preference =
        "select count(*) from net.http_request_queue where headers ->> 'Prefer' = 'respond-async'";
    assert_eq!(count(&stack, preference).await?, 0);
    job_in(&stack, id, "executed").await?;
    let line = soon(stack.host.log.find(|line| line.contains("execute_trade"))).await?;
    assert!(line.contains("\"status\":200"), "the function replied before it was done: {line}");
    Ok(())
}
