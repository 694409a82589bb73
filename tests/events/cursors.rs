//! A cursor is the place of one tenant in one generation of the database, and says where to go on when that place is gone.

use super::{SCOPES, api_key, emit, get, next, page, references, tenant};
use crate::{
    front_door::{assert_problem, soon},
    whole_stack::{LOOK_EVERY, sql, start_silent},
};
use anyhow::{Context, Result};
use stack::{local::Local, postgres::SUPERUSER};

/// The query for the events of these tests alone: the use of a key is an event, too.
const ONLY: &str = "types=trade.executed";

/// Starts the stack with a tenant that has three events. Gives the tenant, its key, and the cursor after the first event.
async fn with_three_events() -> Result<(Local, String, String, String)> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    for n in 1..=3 {
        emit(&stack.owner, &tenant, "trade:a", &n.to_string()).await?;
    }
    let first = page(&stack, &format!("?{ONLY}&limit=1"), &key).await?;
    assert_eq!((references(&first), &first["more"]), (vec!["1"], &true.into()));
    let cursor = next(&first)?.to_owned();
    Ok((stack, tenant, key, cursor))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_after_its_cursor_page_by_page() -> Result<()> {
    let (stack, tenant, key, cursor) = with_three_events().await?;
    let second = page(&stack, &format!("?{ONLY}&limit=1&after={cursor}"), &key).await?;
    assert_eq!(references(&second), ["2"]);
    let own = second["events"][0]["cursor"].as_str().context("an event without a cursor")?;
    let third = page(&stack, &format!("?{ONLY}&after={own}"), &key).await?;
    assert_eq!((references(&third), &third["more"]), (vec!["3"], &false.into()));
    let end = page(&stack, &format!("?{ONLY}&after={}", next(&third)?), &key).await?;
    assert_eq!((references(&end), &end["more"]), (vec![], &false.into()));
    emit(&stack.owner, &tenant, "trade:b", "4").await?;
    let fourth = page(&stack, &format!("?{ONLY}&after={}", next(&end)?), &key).await?;
    assert_eq!(references(&fourth), ["4"]);
    // The same cursor gives the same page again.
    assert_eq!(references(&page(&stack, &format!("?{ONLY}&after={cursor}"), &key).await?), ["2", "3", "4"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_latest_gives_the_events_from_now_on() -> Result<()> {
    let (stack, tenant, key, _) = with_three_events().await?;
    let now = page(&stack, &format!("?{ONLY}&after=latest"), &key).await?;
    assert_eq!((references(&now), &now["more"]), (vec![], &false.into()));
    emit(&stack.owner, &tenant, "trade:a", "4").await?;
    assert_eq!(references(&page(&stack, &format!("?{ONLY}&after={}", next(&now)?), &key).await?), ["4"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_cursor_or_another_tenants_is_refused() -> Result<()> {
    let (stack, _, key, cursor) = with_three_events().await?;
    for place in 0..cursor.len() {
        let other = if cursor.as_bytes()[place] == b'A' { "B" } else { "A" };
        let mut forged = cursor.clone();
        forged.replace_range(place..=place, other);
        let reply = get(&stack, &format!("/events?after={forged}"), &key).await?;
        assert_problem(&reply, 400, "cursor_invalid", "no");
    }
    for other in [
        "",
        "0",
        "none",
        &cursor[1..],
        &format!("{cursor}A"),
        &"A".repeat(512),
        &format!("{cursor}%3D"),
        "%00",
    ] {
        let reply = get(&stack, &format!("/events?after={other}"), &key).await?;
        assert_problem(&reply, 400, "cursor_invalid", "no");
    }
    let theirs = tenant(&stack.owner, "theirs").await?;
    let their_key = api_key(&stack.owner, &theirs, &SCOPES).await?;
    let reply = get(&stack, &format!("/events?after={cursor}"), &their_key).await?;
    assert_problem(&reply, 400, "cursor_invalid", "no");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_below_deleted_events_is_gone_and_names_the_oldest_that_is_kept() -> Result<()> {
    let (stack, tenant, key, cursor) = with_three_events().await?;
    let superuser = stack.cluster.connect(SUPERUSER).await?;
    // Nobody else may change an event.
    let aged = "set session_replication_role = replica; \
        update public.frame_events set occurred_at = occurred_at - interval '31 days' where payload ->> 'reference' in ('1', '2')";
    superuser.batch_execute(aged).await?;
    sql(&stack, "select purple_flea.sweep()").await?;
    let gone = get(&stack, &format!("/events?{ONLY}&after={cursor}"), &key).await?;
    assert_problem(&gone, 410, "cursor_too_old", "no");
    let start = gone.body["start"].as_str().context("no cursor to go on from")?;
    assert_eq!(references(&page(&stack, &format!("?{ONLY}&after={start}"), &key).await?), ["3"]);
    assert_eq!(references(&page(&stack, &format!("?{ONLY}"), &key).await?), ["3"]);
    emit(&stack.owner, &tenant, "trade:a", "4").await?;
    assert_eq!(references(&page(&stack, &format!("?{ONLY}&after={start}"), &key).await?), ["3", "4"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_an_old_cursor_is_gone_and_names_the_start_of_the_new_generation() -> Result<()> {
    let (stack, tenant, key, cursor) = with_three_events().await?;
    sql(&stack, "select purple_flea.declare_restore('a snapshot')").await?;
    for query in [format!("after={cursor}"), "after=latest".to_owned(), ONLY.to_owned()] {
        let held = get(&stack, &format!("/events?{query}"), &key).await?;
        assert_problem(&held, 503, "restore_unconfirmed", "no");
        assert!(held.headers.contains_key("retry-after"), "{:?}", held.headers);
    }
    sql(&stack, "select purple_flea.confirm_restore(why => 'a snapshot')").await?;
    let gone = get(&stack, &format!("/events?{ONLY}&after={cursor}"), &key).await?;
    assert_problem(&gone, 410, "cursor_of_another_generation", "no");
    let start = gone.body["start"].as_str().context("no cursor to go on from")?;
    emit(&stack.owner, &tenant, "trade:a", "4").await?;
    assert_eq!(references(&page(&stack, &format!("?{ONLY}&after={start}"), &key).await?), ["4"]);
    Ok(())
}

/// A dump that is restored in place brings back the feed's secret and its events. The events since the dump are gone, and
/// their cursors with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_from_before_a_restored_dump_is_gone_and_the_lost_events_stay_lost() -> Result<()> {
    let (stack, tenant, key, _) = with_three_events().await?;
    let schemas = ["public", "purple_flea"];
    let dump = stack.cluster.dump("backup", &schemas).await?;
    emit(&stack.owner, &tenant, "trade:a", "lost").await?;
    let before = page(&stack, &format!("?{ONLY}"), &key).await?;
    assert_eq!(references(&before), ["1", "2", "3", "lost"]);
    // pg_restore fails for objects that it cannot replace. The events show whether it restored them.
    let _ = stack.cluster.restore(&dump, &schemas, &[]).await;
    let query = format!("/events?{ONLY}&after={}", next(&before)?);
    // PostgREST must first reload its schema.
    let held = soon(async {
        loop {
            let held = get(&stack, &query, &key).await?;
            if held.body["code"] != "ledger_missing" {
                return anyhow::Ok(held);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await??;
    assert_problem(&held, 503, "restore_unconfirmed", "no");
    sql(&stack, "select purple_flea.confirm_restore(why => 'a backup')").await?;
    let gone = get(&stack, &query, &key).await?;
    assert_problem(&gone, 410, "cursor_of_another_generation", "no");
    let start = gone.body["start"].as_str().context("no cursor to go on from")?;
    emit(&stack.owner, &tenant, "trade:a", "new").await?;
    assert_eq!(references(&page(&stack, &format!("?{ONLY}&after={start}"), &key).await?), ["new"]);
    assert_eq!(references(&page(&stack, &format!("?{ONLY}"), &key).await?), ["1", "2", "3", "new"]);
    Ok(())
}
