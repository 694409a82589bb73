//! A follower that reads by cursor ends with exactly the committed events: each once, and in order for each subject. It
//! does so while transactions of all lengths commit in any order, and through a crash of the database.

use super::{SCOPES, api_key, get, tenant};
use crate::{
    front_door::soon,
    whole_stack::{LOOK_EVERY, sql, start_silent},
};
use anyhow::{Context, Result};
use stack::{
    local::Local,
    postgres::{Cluster, OWNER, SUPERUSER},
};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};
use tokio_postgres::{Client, NoTls};

/// The transactions at the same time, each with a subject of its own.
const WRITERS: usize = 50;

/// The subjects that all writers share.
const SHARED: usize = 20;

/// The longest transaction, in milliseconds.
const LONGEST_MS: u64 = 5_000;

/// The events before the crash, and at least as many after it.
const EVENTS: usize = 300;

/// The subjects, each with the number of its committed changes. A trigger fires an event for each change.
const SUBJECTS: &str = "
    create schema test;
    create table test.subjects (id integer primary key, tenant_id uuid not null, changes integer not null default 0);
    create function test.tell() returns trigger language plpgsql as $$
    begin
      perform purple_flea.emit(
        'trade.executed',
        new.tenant_id,
        'trade:' || new.id,
        jsonb_build_object(
          'agent_id', 'agent-001', 'reference', new.id || ':' || new.changes, 'status', 'executed'
        )
      );
      return null;
    end;
    $$;
    create trigger tell after update on test.subjects for each row execute function test.tell();";

/// The ways in which the followers read.
const QUERIES: [&str; 3] = [
    "types=trade.executed&limit=1000",
    "types=trade.executed&limit=7&wait_s=2",
    "types=trade.executed,trade.skipped&limit=50",
];

/// Each subject's changes, in the order in which a follower saw them.
type Changes = BTreeMap<usize, Vec<usize>>;

/// What the writers and the test tell each other.
#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    open: AtomicUsize,
    all_readable: AtomicBool,
    seen: [AtomicUsize; QUERIES.len()],
}

/// Connects to a database that may be recovering.
async fn connect(url: &str) -> Client {
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(connection);
            // Whatever the writers do, the feed's commits are synchronous.
            if client.batch_execute("set synchronous_commit = off").await.is_ok() {
                return client;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Writes a transaction of a random length. It gets its number with the change of the writer's own subject. The shared
/// subject comes last, when other transactions with higher numbers may have changed it.
fn transaction(writer: usize, random: &mut fastrand::Rng) -> String {
    let change =
        |subject: usize| format!("update test.subjects set changes = changes + 1 where id = {subject};");
    let (own, shared) = (change(writer), change(WRITERS + random.usize(..SHARED)));
    let undone =
        if random.u8(..4) == 0 { format!("savepoint s; {own} rollback to s;") } else { String::new() };
    let sleep = Duration::from_millis(random.u64(..=LONGEST_MS)).as_secs_f64();
    let last = Duration::from_millis(random.u64(..50)).as_secs_f64();
    let end = if random.u8(..8) == 0 { "rollback" } else { "commit" };
    format!("begin; {own} {undone} select pg_sleep({sleep}); {shared} select pg_sleep({last}); {end}")
}

async fn write(url: &str, writer: usize, progress: &Progress) {
    let mut random = fastrand::Rng::with_seed(writer as u64);
    let mut client = connect(url).await;
    while !progress.stop.load(SeqCst) {
        progress.open.fetch_add(1, SeqCst);
        let written = client.batch_execute(&transaction(writer, &mut random)).await;
        progress.open.fetch_sub(1, SeqCst);
        if written.is_err() {
            client = connect(url).await;
        }
    }
}

/// Follows the feed to its end, when all committed events can be read.
async fn follow(stack: &Local, key: &str, number: usize, progress: &Progress) -> Result<Changes> {
    let (mut changes, mut after) = (Changes::new(), String::new());
    loop {
        let all_readable = progress.all_readable.load(SeqCst);
        let reply = get(stack, &format!("/events?{}{after}", QUERIES[number]), key).await?;
        if reply.status == 503 {
            // The database recovers. The cursor stays.
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        anyhow::ensure!(reply.status == 200, "{}", reply.body);
        for event in reply.body["events"].as_array().context("no events")? {
            let change = event["event"]["reference"].as_str().and_then(|text| text.split_once(':'));
            let (subject, change) = change.with_context(|| event.to_string())?;
            changes.entry(subject.parse()?).or_default().push(change.parse()?);
            progress.seen[number].fetch_add(1, SeqCst);
        }
        after = format!("&after={}", super::next(&reply.body)?);
        if reply.body["more"] == false {
            if all_readable {
                return Ok(changes);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Waits until each follower has seen so many events.
async fn all_have_seen(progress: &Progress, events: usize) -> Result<()> {
    soon(async {
        while progress.seen.iter().any(|seen| seen.load(SeqCst) < events) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await
}

/// Crashes the database in the midst of the writing, lets the writers go on for as long, and stops them. Gives the
/// committed changes of each subject.
async fn direct(cluster: &Cluster, progress: &Progress) -> Result<Vec<(usize, usize)>> {
    all_have_seen(progress, EVENTS).await?;
    assert!(progress.open.load(SeqCst) > WRITERS / 2, "too few transactions are open to be lost");
    cluster.crash().await?;
    let before = progress.seen.iter().map(|seen| seen.load(SeqCst)).max().unwrap_or_default();
    all_have_seen(progress, before + EVENTS).await?;
    progress.stop.store(true, SeqCst);
    soon(async {
        while progress.open.load(SeqCst) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?;
    let owner = connect(&cluster.url(OWNER)).await;
    super::all_readable(&owner).await?;
    let rows =
        owner.query("select id, changes from test.subjects where changes > 0 order by id", &[]).await?;
    rows.iter().map(|row| Ok((row.get::<_, i32>(0).try_into()?, row.get::<_, i32>(1).try_into()?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_ends_with_exactly_the_committed_events_through_a_crash_of_the_database() -> Result<()> {
    let stack = start_silent(&[]).await?;
    stack.postgrest.retry_after(Duration::from_millis(50));
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    let subjects = format!(
        "insert into test.subjects (id, tenant_id) select n, '{tenant}' from generate_series(0, {}) n",
        WRITERS + SHARED - 1
    );
    sql(&stack, &format!("{SUBJECTS} {subjects}")).await?;

    let (progress, url) = (Progress::default(), stack.cluster.url(OWNER));
    let writers = futures_util::future::join_all((0..WRITERS).map(|writer| write(&url, writer, &progress)));
    let followers = futures_util::future::join_all(
        (0..QUERIES.len()).map(|number| follow(&stack, &key, number, &progress)),
    );
    let directed = async {
        let committed = direct(&stack.cluster, &progress).await;
        // On a failure, everything ends.
        progress.stop.store(true, SeqCst);
        progress.all_readable.store(true, SeqCst);
        committed
    };
    let (committed, followed) = soon(async {
        let (_, committed, followed) = tokio::join!(writers, directed, followers);
        (committed, followed)
    })
    .await?;
    let committed: Changes =
        committed?.into_iter().map(|(subject, changes)| (subject, (1..=changes).collect())).collect();
    for (number, followed) in followed.into_iter().enumerate() {
        assert_eq!(followed?, committed, "the follower {}", QUERIES[number]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_follower_has_read_survives_a_crash_even_if_its_writer_does_not_wait() -> Result<()> {
    let stack = start_silent(&[]).await?;
    stack.postgrest.retry_after(Duration::from_millis(50));
    // A commit that waits for nothing is lost by a crash within this time.
    let superuser = stack.cluster.connect(SUPERUSER).await?;
    superuser.batch_execute("alter system set wal_writer_delay = '10s'").await?;
    superuser.batch_execute("select pg_reload_conf()").await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    let first = super::page(&stack, "?types=trade.executed", &key).await?;
    sql(&stack, "set synchronous_commit = off").await?;
    super::emit(&stack.owner, &tenant, "trade:a", "1").await?;
    let read = super::page(&stack, "?types=trade.executed", &key).await?;
    stack.cluster.crash().await?;
    assert_eq!(super::references(&read), ["1"]);
    let target = format!("/events?types=trade.executed&after={}", super::next(&first)?);
    let again = soon(async {
        loop {
            let reply = get(&stack, &target, &key).await?;
            if reply.status != 503 {
                return anyhow::Ok(reply.body);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await??;
    assert_eq!(super::references(&again), ["1"], "{again}");
    Ok(())
}

/// A page is not followed by an event that belongs into it, also where the writers' order is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_an_open_transaction_and_goes_on_after_its_end() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    let only = "?types=trade.executed";
    let slow = stack.cluster.connect(OWNER).await?;
    slow.batch_execute(&format!("begin; {}", super::emitting(&tenant, "trade:slow", "slow"))).await?;
    sql(&stack, &super::emitting(&tenant, "trade:fast", "fast")).await?;
    let held = super::page(&stack, only, &key).await?;
    assert_eq!(super::references(&held), Vec::<&str>::new(), "the open transaction's event comes before");
    slow.batch_execute("commit").await?;
    super::all_readable(&stack.owner).await?;
    let after = format!("{only}&after={}", super::next(&held)?);
    assert_eq!(super::references(&super::page(&stack, &after, &key).await?), ["slow", "fast"]);
    Ok(())
}
