//! A caller that waits is answered soon after an event, and at most 32 callers wait.

use super::{SCOPES, api_key, emit, get, next, page, references, tenant};
use crate::{
    front_door::soon,
    whole_stack::{LOOK_EVERY, count, start_silent},
    wire::Wire,
};
use anyhow::Result;
use futures_util::future::join_all;
use stack::local::Local;
use std::time::{Duration, Instant};

/// The number of seats.
const SEATS: i64 = 32;

/// The longest wait of a caller.
const WAIT: Duration = Duration::from_secs(20);

/// Starts the stack with a tenant. Gives the tenant, its key, and a request that waits for the tenant's next event.
async fn with_a_tenant() -> Result<(Local, String, String, String)> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    // The first use of the key is an event, too, and a cursor moves on behind events of other types.
    page(&stack, "", &key).await?;
    let now = page(&stack, "?after=latest&types=trade.executed", &key).await?;
    let target = format!("/events?types=trade.executed&after={}", next(&now)?);
    Ok((stack, tenant, key, target))
}

/// Waits until so many callers have a seat.
async fn seated(stack: &Local, callers: i64) -> Result<()> {
    let taken = "select count(*) from purple_flea.feed_seats where until > clock_timestamp()";
    soon(async {
        while count(stack, taken).await? != callers {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_is_answered_soon_after_an_event_is_committed() -> Result<()> {
    let (stack, tenant, key, target) = with_a_tenant().await?;
    let waiting = format!("{target}&wait_s=20");
    let waits = get(&stack, &waiting, &key);
    let committed = async {
        seated(&stack, 1).await?;
        emit(&stack.owner, &tenant, "trade:a", "1").await?;
        anyhow::Ok(Instant::now())
    };
    let (waited, committed) = tokio::join!(waits, committed);
    let (waited, after) = (waited?, committed?.elapsed());
    assert_eq!(references(&waited.body), ["1"], "{}", waited.body);
    assert!(after < WAIT / 2, "the event came {after:?} after its commit");
    seated(&stack, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_waits_in_vain_gets_an_empty_page_with_its_cursor() -> Result<()> {
    let (stack, tenant, key, target) = with_a_tenant().await?;
    let waited = get(&stack, &format!("{target}&wait_s=2"), &key).await?;
    assert_eq!((references(&waited.body), waited.body.get("not_waited")), (vec![], None), "{}", waited.body);
    let calls = stack.postgrest.calls();
    let looks = calls.iter().filter(|call| *call == "read_events").count();
    // Two of them are those of `with_a_tenant`.
    assert!((4..=5).contains(&looks), "{calls:?}");
    seated(&stack, 0).await?;
    emit(&stack.owner, &tenant, "trade:a", "1").await?;
    let query = format!("?types=trade.executed&after={}", next(&waited.body)?);
    assert_eq!(references(&page(&stack, &query, &key).await?), ["1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thirty_third_caller_is_answered_at_once_and_the_others_get_the_event() -> Result<()> {
    let (stack, tenant, key, target) = with_a_tenant().await?;
    let waiting = format!("{target}&wait_s=20");
    let waits = join_all((0..SEATS).map(|_| get(&stack, &waiting, &key)));
    let next_one = async {
        seated(&stack, SEATS).await?;
        let refused = get(&stack, &waiting, &key).await?;
        let still =
            count(&stack, "select count(*) from purple_flea.feed_seats where until > clock_timestamp()")
                .await?;
        emit(&stack.owner, &tenant, "trade:a", "1").await?;
        anyhow::Ok((refused, still))
    };
    let (waited, next_one) = soon(async { tokio::join!(waits, next_one) }).await?;
    let (refused, still) = next_one?;
    assert_eq!(still, SEATS, "the others do not wait any more");
    assert_eq!((refused.status.as_u16(), references(&refused.body)), (200, vec![]));
    assert_eq!(refused.body["not_waited"], "too_many_waiters", "{}", refused.body);
    assert!(target.ends_with(next(&refused.body)?), "the cursor stays: {}", refused.body);
    for waited in waited {
        assert_eq!(references(&waited?.body), ["1"]);
    }
    seated(&stack, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_frees_its_seat_when_its_wait_is_over() -> Result<()> {
    let (stack, _, key, target) = with_a_tenant().await?;
    let mut wire = Wire::to(&stack.host.url).await?;
    wire.send(&format!(
        "GET {target}&wait_s=2 HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {key}\r\n\r\n"
    ))
    .await?;
    seated(&stack, 1).await?;
    drop(wire);
    seated(&stack, 0).await?;
    assert_eq!(stack.traps(), 0, "the component trapped");
    Ok(())
}
