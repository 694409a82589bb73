//! Bets that callers request: each is made once, under the policy of its agent.

use crate::{
    front_door::{Reply, assert_no_call, assert_problem, reply, with_operation},
    services::{request, wait_for_row},
    whole_stack::{NOTIFY_ALL, count, send, sql, start},
};
use anyhow::Result;
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    postgrest::user_key,
    purple_flea::{Fault, How},
};

/// A bet that the tests request.
fn flip(wager: &str) -> Value {
    serde_json::from_str(&format!(
        r#"{{"agent_id": "{AGENT}", "game": "coin-flip", "side": "tails", "wager": {wager}}}"#
    ))
    .unwrap()
}

async fn skipped(stack: &Local, webhook_id: &str, bet: &Value, reason: &str) -> Result<()> {
    let reply = request(stack, "/bet", webhook_id, bet).await?;
    assert_eq!((&reply.body["status"], &reply.body["reason"]), (&json!("skipped"), &json!(reason)), "{bet}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_identical_concurrent_requests_make_one_bet_and_one_result() -> Result<()> {
    for api in ["gateway", "live"] {
        let stack = start(&[("purple_flea_api", api)]).await?;
        let bet = flip("2.50");
        let requests = (0..8).map(|_| request(&stack, "/bet", "my-bet-1", &bet));
        let replies: Vec<Reply> = join_all(requests).await.into_iter().collect::<Result<_>>()?;
        assert!(replies.iter().all(|reply| [200, 409].contains(&reply.status.as_u16())), "{replies:?}");
        let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
        assert_eq!((&row["game"], &row["reference"]), (&json!("coin-flip"), &json!("my-bet-1")));
        assert_eq!(row["wager"].to_string(), "2.5000");
        let bets = stack.purple_flea.bets();
        assert_eq!((bets.len(), bets[0].game), (1, "coin-flip"), "{api}");
        let other = request(&stack, "/bet", "my-bet-1", &flip("2.51")).await?;
        assert_problem(&other, 409, "reference_taken", "no");
        assert_eq!(stack.purple_flea.bets().len(), 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_bet_obeys_the_policy_of_its_agent() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live")]).await?;
    sql(&stack, "update purple_flea.trade_policies set max_wager = 5, daily_wager_limit = 8").await?;
    skipped(&stack, "above", &flip("5.01"), "above_max_wager").await?;
    assert_eq!(request(&stack, "/bet", "first", &flip("5")).await?.body["status"], "executed");
    skipped(&stack, "second", &flip("3.01"), "daily_wager_limit").await?;
    assert_eq!(request(&stack, "/bet", "third", &flip("3")).await?.body["status"], "executed");
    sql(&stack, "update purple_flea.trade_policies set paused = true, daily_wager_limit = null").await?;
    let held = request(&stack, "/bet", "fourth", &flip("1")).await?;
    assert_eq!((&held.body["status"], &held.body["reason"]), (&json!("waiting"), &json!("paused")));
    assert_eq!(stack.purple_flea.bets().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_bet_whose_reply_was_lost_is_found_and_never_made_again() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    // The policy's game is crash. The request names the game that is looked for.
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::answer(500, "{}") });
    let lost = request(&stack, "/bet", "lost-1", &flip("2")).await?;
    assert_problem(&lost, 502, "outcome_unknown", "unknown");
    let again = request(&stack, "/bet", "lost-1", &flip("2")).await?;
    assert_problem(&again, 502, "outcome_unknown", "unknown");
    sql(
        &stack,
        "update purple_flea.jobs set lookup_at = now() - interval '1 second', \
         lease_until = now() - interval '1 second' where reference = 'lost-1'",
    )
    .await?;
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
    let bets = stack.purple_flea.bets();
    assert_eq!((bets.len(), &row["bet_id"], &row["game"]), (1, &json!(bets[0].bet_id), &json!("coin-flip")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_that_is_none_is_refused_before_any_call() -> Result<()> {
    let stack = start(&[]).await?;
    for wrong in [
        json!({"agent_id": AGENT, "game": "coin-flip", "wager": 5}),
        json!({"agent_id": AGENT, "game": "coin-flip", "side": "edge", "wager": 5}),
        json!({"agent_id": AGENT, "game": "coin-flip", "side": "heads", "guess": "higher", "wager": 5}),
        json!({"agent_id": AGENT, "game": "crash", "wager": 5}),
        json!({"agent_id": AGENT, "game": "crash", "cashout_at": 1, "wager": 5}),
        json!({"agent_id": AGENT, "game": "crash", "cashout_at": 1.5, "side": "heads", "wager": 5}),
        json!({"agent_id": AGENT, "game": "trade", "wager": 5}),
        json!({"agent_id": AGENT, "game": "poker", "wager": 5}),
        json!({"agent_id": AGENT, "game": "hi-lo", "guess": "higher", "wager": 0}),
        json!({"agent_id": AGENT, "game": "hi-lo", "guess": "higher", "wager": -1}),
        json!({"agent_id": AGENT, "game": "hi-lo", "guess": "higher", "wager": 0.001}),
        json!({"agent_id": AGENT, "game": "hi-lo", "guess": "higher", "wager": "NaN"}),
        json!({"agent_id": AGENT, "game": "hi-lo", "guess": "higher"}),
    ] {
        assert_problem(&request(&stack, "/bet", "wrong-1", &wrong).await?, 400, "invalid_event", "no");
    }
    skipped(
        &stack,
        "hi-lo-1",
        &json!({"agent_id": AGENT, "game": "hi-lo", "guess": "higher", "wager": 5}),
        "no_hi_lo",
    )
    .await?;
    assert_no_call(&stack.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_bets_for_its_own_agents_alone() -> Result<()> {
    const OWNER: &str = "11111111-1111-1111-1111-111111111111";
    const STRANGER: &str = "22222222-2222-2222-2222-222222222222";
    let stack = start(&[]).await?;
    let own = format!(
        "insert into auth.users values ('{OWNER}'), ('{STRANGER}'); \
         update public.agents set owner_id = '{OWNER}' where id = '{AGENT}'"
    );
    sql(&stack, &own).await?;
    let bet = async |user: &str| {
        let body = with_operation("/bet", &flip("1").to_string());
        let bearer = format!("Bearer {}", user_key(user)?);
        let request = Request::post(format!("{}/bet", stack.host.url))
            .header("authorization", bearer)
            .header("content-type", "application/json")
            .header("webhook-id", "owners-1");
        reply(request.body(body.into())?).await
    };
    assert_problem(&bet(STRANGER).await?, 403, "not_yours", "no");
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where kind = 'bet'").await?, 0);
    assert_eq!(bet(OWNER).await?.body["status"], "executed");
    Ok(())
}
