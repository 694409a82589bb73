//! A migration of a ledger at work: deposits go on, and never wait for long.

use super::migration::{Database, run};
use anyhow::Result;
use serde_json::json;
use stack::postgres::{Cluster, OWNER};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How long the reader holds a table that the migration needs: longer than a deposit may wait.
const READER: Duration = Duration::from_secs(7);

/// The longest that a deposit may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The number of sessions. Each makes five deposits a second.
const SESSIONS: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Makes deposits until it is told to stop, and gives the longest time that one took. None may fail.
async fn deposit(
    database: &Database<'_>,
    agent: usize,
    stop: &AtomicBool,
    made: &AtomicUsize,
) -> Result<Duration> {
    let owner = database.connect(OWNER).await?;
    owner.batch_execute("set client_min_messages = error").await?;
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let insert = format!(
            "insert into wallet_changes (agent_id, change_type, change_amount, new_balance) values ('agent-{agent}', 'deposit', 1, 10)"
        );
        owner.batch_execute(&insert).await?;
        longest = longest.max(began.elapsed());
        made.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE.saturating_sub(began.elapsed())).await;
    }
    Ok(longest)
}

/// Does a function's share of the work: claims, and the sweeper.
async fn work(database: &Database<'_>, stop: &AtomicBool) -> Result<()> {
    let owner = database.connect(OWNER).await?;
    owner.batch_execute("set client_min_messages = error").await?;
    while !stop.load(Ordering::Relaxed) {
        owner.batch_execute("select purple_flea.ring(); select count(*) from purple_flea.stuck_jobs").await?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_reader_keeps_a_migration_waiting_no_deposit_waits_for_long_and_none_fails() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    database.apply(OWNER, "0.1.0.sql").await?;
    let owner = database.connect(OWNER).await?;
    owner.batch_execute("update purple_flea.trade_policies set claim_faucet = false; insert into agents (id) select 'agent-' || n from generate_series(0, 9) as n").await?;

    let reader = database.connect(OWNER).await?;
    reader.batch_execute("begin; select from wallet_changes").await?;
    let pid: i32 = reader.query_one("select pg_backend_pid()", &[]).await?.get(0);
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    let migrate = async {
        let migrated = run(database.migrate()?.arg("--json")).await;
        stop.store(true, Ordering::Relaxed);
        migrated
    };
    let read = async {
        sleep(READER).await;
        reader.batch_execute("commit").await
    };
    let deposits = futures_util::future::try_join_all(
        (0..SESSIONS).map(|agent| deposit(&database, agent, &stop, &made)),
    );
    let (migrated, read, waits, worked) = tokio::join!(migrate, read, deposits, work(&database, &stop));
    read?;
    worked?;
    let migrated = migrated?;
    let longest = waits?.into_iter().max().unwrap_or_default();
    println!("{} deposits, the longest took {longest:?}", made.load(Ordering::Relaxed));
    assert!(longest < LONGEST_WAIT, "a deposit waited for {longest:?}");
    assert!(
        migrated.stderr.contains(&format!("process {pid} (role {OWNER}, in its transaction for ")),
        "{migrated:?}"
    );
    assert!(!migrated.stderr.contains("select from"), "{migrated:?}");
    let report = migrated.json()?;
    assert!(report["attempts"].as_u64() > Some(1), "{report}");
    // Each deposit got its job: before, during and after the migration.
    let jobs = "select count(*) from purple_flea.jobs j right join wallet_changes w on w.id = j.wallet_change_id where j.reference is null";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 0);
    assert!(made.load(Ordering::Relaxed) > 100, "too few deposits to prove anything: {made:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_gives_up_when_its_patience_is_over_and_has_changed_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    run(&mut database.migrate()?).await?;
    let reader = database.connect(OWNER).await?;
    reader.batch_execute("begin; select from purple_flea.jobs").await?;
    let gave_up = run(database.migrate()?.args(["--reapply", "--patience-s", "1"])).await?;
    assert_eq!(gave_up.code, Some(5), "{gave_up:?}");
    assert!(
        gave_up.stderr.contains("table purple_flea.jobs is in use")
            && gave_up.stderr.contains("nothing was changed"),
        "{gave_up:?}"
    );
    // A run that changes nothing needs no lock.
    let nothing = run(database.migrate()?.arg("--json")).await?.json()?;
    assert_eq!(nothing["changed"], false, "{nothing}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_migrations_run_one_after_the_other() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    let (mut one, mut other) = (database.migrate()?, database.migrate()?);
    let (one, other) = tokio::join!(run(one.arg("--json")), run(other.arg("--json")));
    let (one, other) = (one?.json()?, other?.json()?);
    let mut changed = [&one["changed"], &other["changed"]];
    changed.sort_by_key(|changed| changed.as_bool());
    assert_eq!(changed, [&json!(false), &json!(true)], "{one} {other}");
    Ok(())
}
