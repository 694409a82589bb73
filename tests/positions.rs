//! Positions through the whole stack: a position has no more leverage than its policy says, and is closed once.

use crate::{
    front_door::{Reply, assert_problem},
    services::{calls, request, wait_for_row},
    whole_stack::{count, sql, start},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    purple_flea::{Fault, How, TRADING_KEY},
    sweeper::Sweeper,
};
use std::time::Duration;

/// The settings of live trading, on the shared key's account.
const LIVE: [(&str, &str); 2] = [("purple_flea_api", "live"), ("purple_flea_trading_key", TRADING_KEY)];

/// Opens a position of the first agent's in the `live` dialect, and gives its id.
async fn open_position(stack: &Local, webhook_id: &str) -> Result<String> {
    let order = json!({"agent_id": AGENT, "market": "BTC", "size": 25});
    let opened = request(stack, "/trade", webhook_id, &order).await?;
    Ok(opened.body["position_id"].as_str().with_context(|| opened.body.to_string())?.to_owned())
}

/// Waits until the row of a position's close meets a condition, and reads the row.
async fn close_row(stack: &Local, position_id: &str, condition: &str) -> Result<Value> {
    let row = format!(
        "select to_jsonb(c)::text from public.close_requests c where position_id = '{position_id}' and {condition}"
    );
    wait_for_row(stack, &row).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_whose_reply_is_lost_is_sent_once_and_found_among_the_positions() -> Result<()> {
    let stack = start(&LIVE).await?;
    let _sweeper = Sweeper::start(&stack.cluster, Duration::from_millis(200));
    let position = open_position(&stack, "open-1").await?;
    stack.purple_flea.set_price("BTC", 60_000.into());
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    let insert =
        format!("insert into public.close_requests (agent_id, position_id) values ('{AGENT}', '{position}')");
    sql(&stack, &insert).await?;
    // A second call could end another position on the market, so the close is unknown until a look-up finds it.
    close_row(&stack, &position, "status = 'pending' and reason = 'outcome_unknown'").await?;
    sql(&stack, "update purple_flea.jobs set lookup_at = now() where state = 'unknown'").await?;
    let row = close_row(&stack, &position, "status = 'closed'").await?;
    assert_eq!((&row["reason"], row["exit_price"].to_string().as_str()), (&json!(null), "60000"));
    assert!(row["pnl"].to_string().starts_with('-'), "{row}");
    assert!(row["fee"].as_f64() > Some(0.0), "{row}");
    assert_eq!(calls(&stack, "/v1/trade/close"), 1, "the close must be sent once");
    // A second request for it, by row or by hand, has no effect.
    sql(&stack, &insert).await?;
    close_row(&stack, &position, "status = 'refused' and reason = 'already_requested'").await?;
    let close = json!({"agent_id": AGENT, "position_id": position});
    let again = request(&stack, "/close", "close-again", &close).await?;
    assert_eq!(
        (&again.body["status"], &again.body["reference"], again.headers["idempotent-replayed"].to_str()?),
        (&json!("executed"), &json!(format!("close-{}", row["id"])), "true")
    );
    assert_eq!(calls(&stack, "/v1/trade/close"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_concurrent_requests_to_close_a_position_are_one_row_and_close_it_once() -> Result<()> {
    let stack = start(&LIVE).await?;
    let position = open_position(&stack, "open-1").await?;
    let close = json!({"agent_id": AGENT, "position_id": position});
    let names: Vec<String> = (0..8).map(|n| format!("by-hand-{n}")).collect();
    let requests = names.iter().map(|name| request(&stack, "/close", name, &close));
    let replies: Vec<Reply> = join_all(requests).await.into_iter().collect::<Result<_>>()?;
    assert!(
        replies.iter().all(|reply| reply.status == 200 || reply.body["code"] == "in_flight"),
        "{replies:?}"
    );
    close_row(&stack, &position, "status = 'closed'").await?;
    assert_eq!(count(&stack, "select count(*) from public.close_requests").await?, 1);
    assert_eq!(calls(&stack, "/v1/trade/close"), 1);
    let unknown = json!({"agent_id": AGENT, "position_id": "pos_of_nobody"});
    let refused = request(&stack, "/close", "close-unknown", &unknown).await?;
    assert_problem(&refused, 422, "rejected", "no");
    assert_eq!(refused.body["purple_flea_code"], "position_not_found");
    close_row(&stack, "pos_of_nobody", "status = 'refused' and reason = 'position_not_found'").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_position_is_opened_with_more_leverage_than_its_agents_policy_says() -> Result<()> {
    let stack = start(&LIVE).await?;
    sql(&stack, "update purple_flea.trade_policies set leverage = 2, game = 'trade', market = 'ETH'").await?;
    let order = |more: &[(&str, i32)]| {
        let mut order = json!({"agent_id": AGENT, "market": "BTC", "size": 25});
        for (name, value) in more {
            order[*name] = json!(value);
        }
        order
    };
    let above = request(&stack, "/order", "order-1", &order(&[("leverage", 3)])).await?;
    assert_eq!((&above.body["status"], &above.body["reason"]), (&json!("skipped"), &json!("leverage_limit")));
    request(&stack, "/order", "order-2", &order(&[])).await?;
    request(&stack, "/order", "order-3", &order(&[("leverage", 1)])).await?;
    sql(&stack, &format!("insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)")).await?;
    let used = "select to_jsonb(array_agg(leverage order by id))::text from public.trade_results having count(*) = 3";
    assert_eq!(wait_for_row(&stack, used).await?, json!([2, 1, 2]));
    assert_eq!(stack.purple_flea.positions().len(), 3);
    Ok(())
}
