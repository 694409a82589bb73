//! Frames under concurrency: the timeline of a channel has no gap and follows the order of commits, and the events of
//! submissions come with them. tests/sql/frames has what one transaction can show.

use crate::{front_door::soon, whole_stack::LOOK_EVERY};
use anyhow::{Context, Result};
use stack::postgres::{Cluster, OWNER};
use tokio_postgres::{Client, error::SqlState};

/// A tenant with an agent, two channels, and frames that are approved: `f1`, `f2` and so on to the first channel, `g1` to the
/// second one. Ids are made of names.
const ROWS: &str = "set client_min_messages = error; \
    insert into public.tenants (id, name) values (md5('t')::uuid, 't'); \
    insert into public.agents (id, tenant_id) values ('a', md5('t')::uuid); \
    insert into public.channels (id, tenant_id, name) \
      values (md5('f')::uuid, md5('t')::uuid, 'f'), (md5('g')::uuid, md5('t')::uuid, 'g'); \
    insert into public.approval_policies (tenant_id, approval) values (md5('t')::uuid, 'automatic'); \
    insert into public.frame_submissions (id, tenant_id, channel_id, agent_id) \
      select md5(n)::uuid, md5('t')::uuid, md5(left(n, 1))::uuid, 'a' \
      from unnest(array['f1', 'f2', 'f3', 'f4', 'g1']) as n; \
    update public.frame_submissions set status = 'processing' where true; \
    update public.frame_submissions set status = 'approved' where true";

/// Makes the statement that moves a frame.
fn to(status: &str, frame: &str) -> String {
    format!("update public.frame_submissions set status = '{status}' where id = md5('{frame}')::uuid")
}

async fn start() -> Result<(Cluster, Client)> {
    let cluster = Cluster::start().await?;
    cluster.migrate_with(OWNER, &["--with", "frames"]).await?;
    let owner = cluster.connect(OWNER).await?;
    owner.batch_execute(ROWS).await?;
    Ok((cluster, owner))
}

/// Reads the frames of a channel, in order, as `f1 f2`.
async fn timeline(owner: &Client, channel: &str) -> Result<String> {
    let read = "select coalesce(string_agg(n, ' ' order by t.position), ''), \
          coalesce(array_agg(t.position order by t.position), '{}') \
        from public.channel_timeline t \
        join unnest(array['f1', 'f2', 'f3', 'f4', 'g1']) as n on md5(n)::uuid = t.submission_id \
        where t.channel_id = md5($1)::uuid";
    let row = owner.query_one(read, &[&channel]).await?;
    let (frames, places): (String, Vec<i64>) = (row.get(0), row.get(1));
    assert!(places.iter().copied().eq((1..).take(places.len())), "the timeline has a gap: {places:?}");
    Ok(frames)
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

#[tokio::test(flavor = "multi_thread")]
async fn frames_promoted_at_once_get_places_without_a_gap_in_the_order_of_their_commits() -> Result<()> {
    let (cluster, owner) = start().await?;
    let (first, second) = (cluster.connect(OWNER).await?, cluster.connect(OWNER).await?);
    for (end, then) in [("commit", "f1 f2"), ("rollback", "f1 f2 f4")] {
        let (one, other) = if end == "commit" { ("f1", "f2") } else { ("f3", "f4") };
        first.batch_execute(&format!("begin; {}", to("promoted", one))).await?;
        // Another channel does not wait.
        soon(second.batch_execute(&to("promoted", "g1"))).await??;
        let promote = to("promoted", other);
        let (waited, ended) = tokio::join!(second.batch_execute(&promote), async {
            wait_until_one_waits(&owner).await?;
            anyhow::Ok(first.batch_execute(end).await?)
        });
        waited?;
        ended?;
        assert_eq!(timeline(&owner, "f").await?, then, "after a {end}");
    }
    assert_eq!(timeline(&owner, "g").await?, "g1");
    let told = "select string_agg(n, ' ' order by e.epoch, e.position, e.id) from public.frame_events e \
        join unnest(array['f1', 'f2', 'f3', 'f4', 'g1']) as n on 'submission:' || md5(n)::uuid = e.subject \
        where e.type = 'frame.promoted' and n <> 'g1'";
    let told: String = owner.query_one(told, &[]).await?.get(0);
    assert_eq!(told.split(' ').count(), 3, "a promotion that was rolled back told an event: {told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_submission_its_media_and_its_override_are_in_the_order_of_their_commits()
-> Result<()> {
    let (cluster, owner) = start().await?;
    let (first, second) = (cluster.connect(OWNER).await?, cluster.connect(OWNER).await?);
    let media = "insert into public.frame_media (tenant_id, submission_id, path) \
        values (md5('t')::uuid, md5('f1')::uuid, 'p'), (md5('t')::uuid, md5('f2')::uuid, 'other')";
    owner.batch_execute(media).await?;
    let process = "update public.frame_media set status = 'processing' where path = 'p'";
    let process_again = "update public.frame_media set status = 'ready' where path = 'p'";
    let override_it = "insert into public.approval_policies (tenant_id, submission_id, approval) \
        values (md5('t')::uuid, md5('f1')::uuid, 'required')";
    // Each one begins while the one before it is open.
    for (one, other) in [(to("promoted", "f1").as_str(), process), (process_again, override_it)] {
        first.batch_execute(&format!("begin; {one}")).await?;
        // Another submission does not wait.
        soon(owner.batch_execute("update public.frame_media set status = 'failed' where path = 'other'"))
            .await??;
        let (waited, ended) = tokio::join!(second.batch_execute(other), async {
            wait_until_one_waits(&owner).await?;
            anyhow::Ok(first.batch_execute("commit").await?)
        });
        waited?;
        ended?;
    }
    let told = "select array_agg(e.type || ' ' || (e.payload ->> 'status') order by e.epoch, e.position, e.id) \
        from public.frame_events e \
        where e.subject = 'submission:' || md5('f1')::uuid \
          and e.payload ->> 'status' in ('promoted', 'processing', 'ready', 'required')";
    let told: Vec<String> = owner.query_one(told, &[]).await?.get(0);
    assert_eq!(
        told,
        [
            "frame.submission.status_changed processing",
            "frame.submission.status_changed promoted",
            "frame.promoted promoted",
            "frame.media.status_changed processing",
            "frame.media.status_changed ready",
            "frame.approval.changed required",
        ]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_cannot_see_the_last_event_of_a_submission_adds_none() -> Result<()> {
    let (cluster, owner) = start().await?;
    let early = cluster.connect(OWNER).await?;
    let media = "insert into public.frame_media (tenant_id, submission_id, path) \
        values (md5('t')::uuid, md5('f1')::uuid, 'p'), (md5('t')::uuid, md5('f1')::uuid, 'q')";
    owner.batch_execute(media).await?;
    let process = |path| format!("update public.frame_media set status = 'processing' where path = '{path}'");
    // It has a lower number than the next transaction, and sees the tables as they are now.
    early.batch_execute("begin isolation level repeatable read; select pg_current_xact_id()").await?;
    owner.batch_execute(&process("p")).await?;
    let refused = early.batch_execute(&process("q")).await.err().context("it added an event")?;
    assert_eq!(refused.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{refused:?}");
    early.batch_execute("rollback").await?;
    early.batch_execute(&process("q")).await?;
    let told = "select count(*) from public.frame_events e \
        where e.subject = 'submission:' || md5('f1')::uuid and e.type = 'frame.media.status_changed'";
    assert_eq!(owner.query_one(told, &[]).await?.get::<_, i64>(0), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reviewers_at_once_move_a_frame_once_and_the_second_one_learns_where_it_is() -> Result<()> {
    let (cluster, owner) = start().await?;
    let (first, second) = (cluster.connect(OWNER).await?, cluster.connect(OWNER).await?);
    first.batch_execute(&format!("begin; {}", to("promoted", "f1"))).await?;
    let reject = to("rejected", "f1");
    let (refused, ended) = tokio::join!(second.batch_execute(&reject), async {
        wait_until_one_waits(&owner).await?;
        anyhow::Ok(first.batch_execute("commit").await?)
    });
    ended?;
    let refused = refused.err().context("a promoted frame was rejected")?;
    let refused = refused.as_db_error().context("no error of the database")?;
    assert_eq!(refused.message(), "a submission cannot become rejected from promoted");
    let told = "select array_agg(e.type order by e.epoch, e.position, e.id) from public.frame_events e \
        where e.subject = 'submission:' || md5('f1')::uuid and e.payload ->> 'status' in ('promoted', 'rejected')";
    let told: Vec<String> = owner.query_one(told, &[]).await?.get(0);
    assert_eq!(told, ["frame.submission.status_changed", "frame.promoted"]);
    Ok(())
}
