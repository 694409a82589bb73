//! The event feed under concurrency: no event is skipped, the events of a subject are in order, and a follower that
//! reads by cursor ends with exactly the committed events. tests/sql/18*.sql have what one transaction can show.

use crate::{front_door::soon, whole_stack::LOOK_EVERY};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stack::postgres::{Cluster, OWNER, SUPERUSER};
use std::{collections::BTreeMap, time::Duration};
use tokio_postgres::{Client, error::SqlState};

/// Rows whose updates fire events: `test.changed`, about `test:<id>`, with the row's count as its status.
const SUBJECTS: &str = "insert into purple_flea.event_types (type, description) \
      values ('test.changed', 'A test''s own.'); \
    create table public.subjects (id integer primary key, count integer not null default 0); \
    insert into public.subjects (id) select n from generate_series(1, 100) as n; \
    create function public.tell() returns trigger language plpgsql security definer as $$ begin \
      perform purple_flea.emit('test.changed', null, 'test:' || new.id, \
        jsonb_build_object('reference', new.id, 'status', new.count)); \
      return null; end $$; \
    create trigger tell after update on public.subjects for each row execute function public.tell();";

/// Changes a subject, and so fires an event.
fn change(subject: usize) -> String {
    format!("update public.subjects set count = count + 1 where id = {subject}")
}

/// A migrated database with subjects, and a key of the operator's tenant.
struct Feed {
    cluster: Cluster,
    owner: Client,
    key_hash: String,
}

impl Feed {
    async fn open() -> Result<Self> {
        let cluster = Cluster::start().await?;
        cluster.migrate(OWNER).await?;
        let owner = cluster.connect(OWNER).await?;
        owner.batch_execute(SUBJECTS).await?;
        // The key has told of its use for the next hour, so the feed has the tests' own events alone.
        let key = "with made as ( \
                     select public.create_api_key(purple_flea.operator_tenant(), 'test', '{events:read}') as key \
                   ) \
                   select encode(sha256(convert_to(key ->> 'key', 'UTF8')), 'hex') from made";
        let key_hash = owner.query_one(key, &[]).await?.get(0);
        owner.batch_execute("update public.api_keys set use_told_at = clock_timestamp() where true").await?;
        Ok(Self { cluster, owner, key_hash })
    }

    async fn connect(&self) -> Result<Client> {
        self.cluster.connect(OWNER).await
    }

    /// Reads a page after a cursor. Gives the events as `subject=count`, and the next cursor.
    async fn read(&self, reader: &Client, after: Option<&str>) -> Result<(Vec<(i64, String)>, String)> {
        let read = "select public.read_events($1, $2, null, 7)::text";
        let page: String = reader.query_one(read, &[&self.key_hash, &after]).await?.get(0);
        let page: Value = serde_json::from_str(&page)?;
        ensure!(page["state"] == "ok", "{page}");
        let events = page["events"].as_array().context("no events")?;
        let events = events.iter().map(|event| {
            let said = &event["event"];
            (event["id"].as_i64().unwrap_or_default(), format!("{}={}", said["reference"], said["status"]))
        });
        Ok((events.collect(), page["next"].as_str().context("no cursor")?.to_owned()))
    }

    /// Reads all events after a cursor, and moves it.
    async fn read_all(&self, cursor: &mut Option<String>) -> Result<Vec<String>> {
        let mut all = Vec::new();
        loop {
            let (events, next) = self.read(&self.owner, cursor.as_deref()).await?;
            *cursor = Some(next);
            if events.is_empty() {
                return Ok(all);
            }
            all.extend(events.into_iter().map(|(_, event)| event));
        }
    }

    async fn health(&self) -> Result<Value> {
        let health = "select (public.ledger_health() -> 'feed')::text";
        Ok(serde_json::from_str(self.owner.query_one(health, &[]).await?.get(0))?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_transaction_that_commits_late_is_never_skipped() -> Result<()> {
    let feed = Feed::open().await?;
    let (slow, lazy, fast) = (feed.connect().await?, feed.connect().await?, feed.connect().await?);
    let mut cursor = None;
    fast.batch_execute(&change(1)).await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["1=1"]);
    slow.batch_execute(&format!("begin; {}", change(2))).await?;
    // This one has a number, and fires its event at the end.
    lazy.batch_execute("begin; select pg_current_xact_id()").await?;
    for subject in [3, 4] {
        fast.batch_execute(&change(subject)).await?;
        assert!(feed.read_all(&mut cursor).await?.is_empty(), "an event was read before an earlier one");
    }
    slow.batch_execute("commit").await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["2=1"]);
    lazy.batch_execute(&format!("{}; commit", change(5))).await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["5=1", "3=1", "4=1"]);
    // A transaction that is rolled back leaves nothing, and holds nothing back afterwards.
    slow.batch_execute(&format!("begin; {}", change(6))).await?;
    fast.batch_execute(&change(7)).await?;
    assert!(feed.read_all(&mut cursor).await?.is_empty());
    slow.batch_execute("rollback").await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["7=1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_subject_are_in_order_although_the_later_transaction_has_the_lower_number() -> Result<()>
{
    let feed = Feed::open().await?;
    let (first, second) = (feed.connect().await?, feed.connect().await?);
    let mut cursor = None;
    first.batch_execute("begin; select pg_current_xact_id()").await?;
    second.batch_execute(&change(1)).await?;
    first.batch_execute(&change(1)).await?;
    assert!(feed.read_all(&mut cursor).await?.is_empty(), "the first transaction is still open");
    first.batch_execute("commit").await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["1=1", "1=2"]);
    // The same with a transaction that has to wait for the subject's row.
    first.batch_execute("begin; select pg_current_xact_id()").await?;
    second.batch_execute(&format!("begin; {}", change(1))).await?;
    let change_it = change(1);
    let (waited, ended) = tokio::join!(first.batch_execute(&change_it), async {
        wait_until_one_waits(&feed.owner).await?;
        anyhow::Ok(second.batch_execute("commit").await?)
    });
    waited?;
    ended?;
    first.batch_execute("commit").await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["1=3", "1=4"]);
    Ok(())
}

/// Waits until a session waits for a lock of another one.
async fn wait_until_one_waits(owner: &Client) -> Result<()> {
    soon(async {
        let waiting = "select exists (select from pg_locks l where not l.granted)";
        while !owner.query_one(waiting, &[]).await?.get::<_, bool>(0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    })
    .await?
}

/// Asserts that a statement fails because the transaction sees an older state than the present one.
async fn assert_serialization_failure(client: &Client, statement: &str) {
    let failed = client.batch_execute(statement).await;
    let code = failed.as_ref().err().and_then(|error| error.code().cloned());
    assert_eq!(code, Some(SqlState::T_R_SERIALIZATION_FAILURE), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeatable_read_transaction_fires_its_events_in_order_or_fails() -> Result<()> {
    let feed = Feed::open().await?;
    let (old, new) = (feed.connect().await?, feed.connect().await?);
    let mut cursor = None;
    let begin = "begin isolation level repeatable read; select pg_current_xact_id()";
    old.batch_execute(begin).await?;
    new.batch_execute(&change(1)).await?;
    assert_serialization_failure(&old, &change(1)).await;
    old.batch_execute("rollback").await?;
    old.batch_execute(begin).await?;
    new.batch_execute(&change(1)).await?;
    old.batch_execute(&format!("{}; commit", change(2))).await?;
    let read = feed.read_all(&mut cursor).await?;
    assert_eq!(read, ["1=1", "2=1", "1=2"], "by the transactions' numbers");
    // One that began before a restore was confirmed writes no event of the epoch before.
    old.batch_execute(begin).await?;
    new.batch_execute(
        "select purple_flea.declare_restore('tested'); select purple_flea.confirm_restore(true)",
    )
    .await?;
    assert_serialization_failure(&old, &change(3)).await;
    old.batch_execute("rollback").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_of_a_restore_waits_for_events_of_the_epoch_before_it() -> Result<()> {
    let feed = Feed::open().await?;
    let (writer, operator) = (feed.connect().await?, feed.connect().await?);
    writer.batch_execute(&format!("begin; {}", change(1))).await?;
    operator.batch_execute("select purple_flea.declare_restore('tested')").await?;
    let (confirmed, ended) =
        tokio::join!(operator.batch_execute("select purple_flea.confirm_restore(true)"), async {
            wait_until_one_waits(&feed.owner).await?;
            anyhow::Ok(writer.batch_execute("commit").await?)
        });
    confirmed?;
    ended?;
    let (late, next) = (feed.connect().await?, change(2));
    late.batch_execute(&next).await?;
    let mut cursor = None;
    assert_eq!(feed.read_all(&mut cursor).await?, ["1=1", "2=1"]);
    let epochs = "select array_agg(epoch order by id) from public.frame_events";
    assert_eq!(feed.owner.query_one(epochs, &[]).await?.get::<_, Vec<i32>>(0), [1, 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_made_while_its_makers_membership_ends_opens_nothing() -> Result<()> {
    let feed = Feed::open().await?;
    let (maker, service) = (feed.connect().await?, feed.connect().await?);
    let join = "insert into public.memberships (tenant_id, user_id, role) \
                values (purple_flea.operator_tenant(), '00000000-0000-4000-8000-00000000000a', 'admin')";
    feed.owner.batch_execute(join).await?;
    let make = "begin; set local role authenticated; \
        set local request.jwt.claims = '{\"sub\": \"00000000-0000-4000-8000-00000000000a\"}'; \
        select public.create_api_key('00000000-0000-4000-8000-000000000001', 'late', '{events:read}'); \
        select public.create_event_subscription( \
          '00000000-0000-4000-8000-000000000001', 'https://hooks.example.com/late');";
    maker.batch_execute(make).await?;
    let leave = tokio::spawn(async move {
        service.batch_execute("delete from public.memberships where role = 'admin'").await
    });
    tokio::select! {
        waits = wait_until_one_waits(&feed.owner) => waits?,
        () = async { while !leave.is_finished() { tokio::time::sleep(LOOK_EVERY).await } } => {}
    }
    maker.batch_execute("commit").await?;
    leave.await??;
    let open = "select (select count(*) from public.api_keys where label = 'late' and revoked_at is null) \
                  + (select count(*) from public.event_subscriptions where state = 'active')";
    assert_eq!(feed.owner.query_one(open, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_during_a_call_takes_no_event_from_the_page() -> Result<()> {
    let feed = Feed::open().await?;
    let (reader, sweeper) = (feed.connect().await?, feed.connect().await?);
    let old = "insert into public.frame_events (tenant_id, type, subject, payload, occurred_at, epoch, position) \
               select purple_flea.operator_tenant(), 'test.changed', 'test:' || n, \
                 jsonb_build_object('reference', n, 'status', 1), now() - interval '40 days', 1, 1 \
               from generate_series(1, 50) as n";
    feed.owner.batch_execute(old).await?;
    let (first, cursor) = feed.read(&reader, None).await?;
    assert_eq!(first.len(), 7);
    // The call has to wait for the table after it has found its place.
    sweeper.batch_execute("begin; lock table public.frame_events in access exclusive mode").await?;
    let (page, swept) = tokio::join!(feed.read(&reader, Some(&cursor)), async {
        wait_until_one_waits(&feed.owner).await?;
        anyhow::Ok(sweeper.batch_execute("select purple_flea.delete_old_events(20); commit").await?)
    });
    swept?;
    assert_eq!(page?.0.first().map(|(_, event)| event.as_str()), Some("8=1"));
    let late = feed.read(&reader, Some(&cursor)).await.map(|_| ()).unwrap_err();
    assert!(late.to_string().contains("cursor_too_old"), "{late}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_of_a_restore_fails_no_deposit_of_a_transaction_that_fired_an_event() -> Result<()> {
    let feed = Feed::open().await?;
    let (depositor, operator) = (feed.connect().await?, feed.connect().await?);
    feed.owner.batch_execute("insert into public.agents (id) values ('a')").await?;
    depositor.batch_execute(&format!("begin; {}", change(1))).await?;
    operator.batch_execute("select purple_flea.declare_restore('tested')").await?;
    let (confirmed, deposited) = tokio::join!(
        operator.batch_execute("select purple_flea.confirm_restore(true)"),
        async {
            wait_until_one_waits(&feed.owner).await?;
            let deposit = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
                           values ('a', 'deposit', 100, 100); commit";
            anyhow::Ok(depositor.batch_execute(deposit).await?)
        }
    );
    deposited?;
    confirmed?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_deleted_while_its_deliveries_are_settled() -> Result<()> {
    let feed = Feed::open().await?;
    let (service, settler) = (feed.connect().await?, feed.connect().await?);
    let subscribe = "insert into public.tenants (id, name) values ('00000000-0000-4000-8000-0000000000aa', 'a team'); \
        select public.create_event_subscription( \
          '00000000-0000-4000-8000-0000000000aa', 'https://hooks.example.com/a')";
    feed.owner.batch_execute(subscribe).await?;
    // The locks of settle_deliveries(), in its order.
    settler.batch_execute("begin; select from purple_flea.subscription_progress for update").await?;
    let (deleted, settled) =
        tokio::join!(service.batch_execute("delete from public.tenants where name = 'a team'"), async {
            wait_until_one_waits(&feed.owner).await?;
            let judge = "update public.event_subscriptions set last_success_at = now() where true; commit";
            anyhow::Ok(settler.batch_execute(judge).await?)
        });
    settled?;
    deleted?;
    let left = "select count(*) from purple_flea.subscription_progress";
    assert_eq!(feed.owner.query_one(left, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_another_database_holds_the_feed_back_and_the_health_names_it() -> Result<()> {
    let feed = Feed::open().await?;
    feed.owner.batch_execute("create database other").await?;
    let url = feed.cluster.url(OWNER);
    let server = url.strip_suffix("/postgres").context("another database")?;
    let url = format!("{server}/other?application_name=reporter");
    let (other, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let mut cursor = None;
    // A transaction that only reads has no number.
    other.batch_execute("begin; select count(*) from pg_class").await?;
    feed.owner.batch_execute(&change(1)).await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["1=1"]);
    other.batch_execute("create table public.report (n integer)").await?;
    feed.owner.batch_execute(&change(2)).await?;
    assert!(feed.read_all(&mut cursor).await?.is_empty());
    let pid: i32 = other.query_one("select pg_backend_pid()", &[]).await?.get(0);
    let held = soon(async {
        loop {
            let health = feed.health().await?;
            if !health["held_by"].is_null() {
                return anyhow::Ok(health);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await??;
    let holder = &held["held_by"];
    assert_eq!(
        json!([holder["database"], holder["pid"], holder["application"], held["waiting_events"]]),
        json!(["other", pid, "reporter", 1]),
        "{held}"
    );
    assert!(holder["since"].is_string(), "{held}");
    other.batch_execute("commit").await?;
    assert_eq!(feed.read_all(&mut cursor).await?, ["2=1"]);
    let health = feed.health().await?;
    assert_eq!(json!([health["waiting_events"], health["held_by"]]), json!([0, null]));
    Ok(())
}

/// How many clients write at once.
const WRITERS: u64 = 50;

/// How many transactions each of them commits or rolls back.
const TRANSACTIONS: usize = 4;

/// The longest transaction, in milliseconds.
const LONGEST_MS: u64 = 5_000;

/// Commits transactions of different lengths. Each changes a subject of its own at its begin, and a shared one at its
/// end. Gives the number of changes that were certainly committed. A connection that breaks is replaced.
async fn write(cluster: &Cluster, number: u64) -> Result<usize> {
    let mut random = fastrand::Rng::with_seed(number);
    let mut committed = 0;
    for _ in 0..TRANSACTIONS {
        let length = if random.bool() { 0 } else { random.u64(0..=LONGEST_MS) };
        let end = if random.u8(0..10) == 0 { "rollback" } else { "commit" };
        let isolation = if random.u8(0..5) == 0 { "repeatable read" } else { "read committed" };
        let own = usize::try_from(number)? + 10;
        let shared = random.usize(1..=5);
        let client = soon(async {
            loop {
                if let Ok(client) = cluster.connect(OWNER).await {
                    return client;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await?;
        let transaction = async {
            client.batch_execute("set synchronous_commit = off").await?;
            client.batch_execute(&format!("begin isolation level {isolation}; {}", change(own))).await?;
            tokio::time::sleep(Duration::from_millis(length)).await;
            client.batch_execute(&change(shared)).await?;
            client.batch_execute(end).await
        };
        // A transaction fails in the crash, or because it sees an older state of the shared subject.
        if transaction.await.is_ok() && end == "commit" {
            committed += 2;
        }
    }
    Ok(committed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_of_fifty_writers_and_a_crash_ends_with_exactly_the_committed_events() -> Result<()> {
    let feed = Feed::open().await?;
    let follow = async {
        let (mut followed, mut cursor, mut reader) = (Vec::new(), None, feed.connect().await?);
        loop {
            let (events, next) = match feed.read(&reader, cursor.as_deref()).await {
                Ok(page) => page,
                Err(error) if reader.is_closed() => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    if let Ok(again) = feed.connect().await {
                        reader = again;
                    }
                    eprintln!("the follower connects again: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            cursor = Some(next);
            if events.iter().any(|(_, event)| event.starts_with("100=")) {
                return anyhow::Ok(followed);
            }
            if events.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            followed.extend(events);
        }
    };
    let all = async {
        let writers = futures_util::future::try_join_all((0..WRITERS).map(|n| write(&feed.cluster, n)));
        let crash = async {
            // A part of the transactions has been committed, and others are open.
            soon(async {
                let client = feed.cluster.connect(SUPERUSER).await?;
                let written = "select count(*) from public.frame_events";
                while client.query_one(written, &[]).await?.get::<_, i64>(0) < 60 {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                feed.cluster.crash().await
            })
            .await?
        };
        let (writers, crash) = tokio::join!(writers, crash);
        crash?;
        let committed: usize = writers?.into_iter().sum();
        let last = feed.connect().await?;
        // The follower ends with this event.
        last.batch_execute(&change(100)).await?;
        anyhow::Ok(committed)
    };
    let (followed, committed) = tokio::try_join!(follow, all)?;
    let owner = feed.connect().await?;
    let there = "select array_agg(id order by id) from public.frame_events where subject <> 'test:100'";
    let there: Vec<i64> = owner.query_one(there, &[]).await?.get(0);
    let mut read: Vec<i64> = followed.iter().map(|(id, _)| *id).collect();
    read.sort_unstable();
    assert_eq!(read, there, "the follower missed an event, or read one twice");
    assert!(committed <= there.len(), "{committed} changes were committed, and {} are there", there.len());
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, event) in &followed {
        let (subject, count) = event.split_once('=').context("no count")?;
        let last = counts.entry(subject).or_default();
        assert_eq!(count.parse::<u32>()?, *last + 1, "subject {subject} is out of order");
        *last += 1;
    }
    let counted =
        "select jsonb_object_agg(id::text, count)::text from public.subjects where count > 0 and id < 100";
    let counted: BTreeMap<String, u32> = serde_json::from_str(owner.query_one(counted, &[]).await?.get(0))?;
    let counts: BTreeMap<String, u32> =
        counts.into_iter().map(|(subject, count)| (subject.to_owned(), count)).collect();
    assert_eq!(counts, counted, "a change has no event, or an event no change");
    Ok(())
}
