//! Price alerts and trade triggers: one order an event.

use super::setup::{ALERT, Driven, Log, alert, error_of};
use crate::{
    services::{calls, request},
    whole_stack::{NOTIFY_ALL, send, sql},
};
use anyhow::Result;
use serde_json::{Value, json};
use stack::{inngest::Status, local::AGENT};
use std::time::Duration;

/// A balance that covers an order, as the gateway answers.
const RICH: &str = r#"{"usdc_balance": 1000}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_price_alert_opens_one_position_as_the_specification_writes_it() -> Result<()> {
    let log = Log::start(0).await?;
    let driven = Driven::start(&[("inngest_log_url", &log.url)]).await?;
    let run = driven.run(ALERT, alert()).await?;
    let positions = driven.stack.purple_flea.positions();
    assert_eq!((run.status, positions.len()), (Status::Completed, 1), "{run:?}");
    let order_id = run.output["order_id"].clone();
    let told = json!({ "order_id": order_id, "asset": "BTC", "direction": "long", "price": 65000.50 });
    assert!(order_id.is_string(), "{run:?}");
    assert_eq!(run.output, told);
    let requests = driven.stack.purple_flea.requests();
    let seen: Vec<(&str, &str)> =
        requests.iter().map(|request| (request.path.as_str(), request.query.as_str())).collect();
    assert_eq!(seen, [("/wallet/balance", ""), ("/trading/order", "")]);
    let order: Value = serde_json::from_str(&requests[1].body)?;
    assert_eq!(order, json!({ "asset": "BTC", "side": "long", "size_usdc": 10, "order_type": "market" }));
    // The log's request is not signed, because no secret is set.
    let logged = log.got();
    assert_eq!(logged.len(), 1);
    let (head, body) = logged[0].split_once("\r\n\r\n").unwrap_or_default();
    assert!(head.starts_with("POST / "), "{head}");
    assert!(head.contains("webhook-id: wf-") && !head.contains("webhook-signature"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body)?, told);
    assert_eq!(driven.steps().await?, ["place-order executed 1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_live_dialect_an_alert_and_a_trigger_open_one_position_each() -> Result<()> {
    let driven = Driven::live(&[]).await?;
    let run = driven.run(ALERT, alert()).await?;
    assert_eq!((run.status, &run.output["asset"]), (Status::Completed, &json!("BTC")), "{run:?}");
    let data = json!({ "market": "ETH-USD", "direction": "sell", "size": 12.50 });
    let run = driven.run("purple-flea/trade.trigger", data).await?;
    assert_eq!(run.status, Status::Completed, "{run:?}");
    assert_eq!(
        (&run.output["market"], &run.output["direction"], run.output["size"].to_string()),
        (&json!("ETH-USD"), &json!("short"), "12.5".to_owned())
    );
    assert_eq!((driven.stack.purple_flea.positions().len(), calls(&driven.stack, "/v1/trade/open")), (2, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_without_ten_dollars_is_skipped() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    // The balance is 9.99 now.
    let held = driven.stack.purple_flea.balance(AGENT);
    driven.stack.purple_flea.fund(AGENT, rust_decimal::Decimal::new(999, 2) - held);
    let held = driven.stack.purple_flea.balance(stack::purple_flea::LIVE_AGENT);
    driven.stack.purple_flea.fund(stack::purple_flea::LIVE_AGENT, rust_decimal::Decimal::new(999, 2) - held);
    let run = driven.run(ALERT, alert()).await?;
    assert_eq!(run.output, json!({ "skipped": true, "reason": "insufficient balance" }), "{run:?}");
    assert!(driven.stack.purple_flea.positions().is_empty() && driven.steps().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_reply_is_lost_is_not_sent_again_by_any_attempt_or_rerun() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    driven.lose_reply_after(&[RICH]);
    let event = driven.inngest.send_named(ALERT, alert()).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!(error_of(&run).0, "outcome_unknown");
    driven.clock()?.rerun(&event)?;
    driven.inngest.rest().await?;
    let runs = driven.inngest.runs_of(&event).await?;
    assert!(runs.len() == 2 && runs.iter().all(|run| error_of(run).0 == "outcome_unknown"), "{runs:?}");
    assert_eq!((driven.stack.purple_flea.positions().len(), calls(&driven.stack, "/trading/order")), (1, 1));
    assert_eq!(driven.steps().await?, ["place-order unknown outcome_unknown 2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_ours_that_is_lost_at_any_step_opens_no_second_position() -> Result<()> {
    let log = Log::start(0).await?;
    let driven = Driven::start(&[("inngest_log_url", &log.url)]).await?;
    for (number, step) in ["check-balance", "place-order", "log-trade", ""].into_iter().enumerate() {
        driven.clock()?.lose_answer(step);
        let run = driven.run(ALERT, alert()).await?;
        assert_eq!(run.status, Status::Completed, "{step}: {run:?}");
        let lost = driven.clock()?.exchanges().iter().filter(|exchange| exchange.lost).count();
        assert_eq!(lost, number + 1, "the answer of `{step}` was not lost");
        assert_eq!(driven.stack.purple_flea.positions().len(), number + 1, "{step}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_again_and_a_rerun_get_the_order_that_there_is() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let event = json!({ "name": ALERT, "id": "alert-1", "data": alert() });
    driven.inngest.send(&event).await?;
    let first = driven.inngest.ended("alert-1").await?;
    // Inngest itself drops a repeat within a day, and not later.
    driven.clock()?.advance(Duration::from_secs(25 * 60 * 60)).await?;
    driven.inngest.send(&event).await?;
    driven.inngest.rest().await?;
    driven.clock()?.rerun("alert-1")?;
    driven.inngest.rest().await?;
    let runs = driven.inngest.runs_of("alert-1").await?;
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert!(runs.iter().all(|run| run.output == first.output), "{runs:?}");
    assert_eq!(driven.stack.purple_flea.positions().len(), 1);
    assert_eq!(driven.steps().await?, ["place-order executed 3"]);
    // The same event that asks for something else is refused.
    driven.clock()?.advance(Duration::from_secs(25 * 60 * 60)).await?;
    let mut other = event.clone();
    other["data"]["asset"] = json!("ETH");
    driven.inngest.send(&other).await?;
    driven.inngest.rest().await?;
    let runs = driven.inngest.runs_of("alert-1").await?;
    let refused = runs.iter().find(|run| run.status == Status::Failed);
    assert_eq!(refused.map(|run| error_of(run).0), Some("reference_taken"), "{runs:?}");
    assert_eq!(driven.stack.purple_flea.positions().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_twice_is_tried_again_and_opens_one_position() -> Result<()> {
    for before in [&[][..], &[RICH]] {
        let driven = Driven::start(&[]).await?;
        driven.limit_after(before, 2);
        let event = driven.inngest.send_named(ALERT, alert()).await?;
        // The ledger keeps to the limit that it heard of: a minute passes between two attempts.
        for _ in 0..3 {
            driven.inngest.rest().await?;
            driven.pass_time("2 minutes").await?;
            driven.clock()?.advance(Duration::from_secs(120)).await?;
        }
        let run = driven.inngest.ended(&event).await?;
        assert_eq!(
            (run.status, driven.stack.purple_flea.positions().len()),
            (Status::Completed, 1),
            "{run:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_attempt_the_job_is_dead_and_nothing_trades_hours_later() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    driven.limit_after(&[RICH], 4);
    let event = driven.inngest.send_named(ALERT, alert()).await?;
    for _ in 0..4 {
        driven.inngest.rest().await?;
        driven.pass_time("2 minutes").await?;
        driven.clock()?.advance(Duration::from_secs(120)).await?;
    }
    let run = driven.inngest.ended(&event).await?;
    let (code, message) = error_of(&run);
    assert!(code == "rate_limited" && message.contains("nothing was executed"), "{run:?}");
    assert_eq!(driven.steps().await?, ["place-order dead run_ended 4"]);
    assert_eq!(send(&driven.stack, "n-1", NOTIFY_ALL).await?.status, 200);
    driven.clock()?.rerun(&event)?;
    driven.inngest.rest().await?;
    let runs = driven.inngest.runs_of(&event).await?;
    assert!(runs.iter().any(|run| error_of(run).0 == "expired"), "{runs:?}");
    assert!(driven.stack.purple_flea.positions().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_a_cancelled_run_expires_and_no_worker_takes_it() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    driven.limit_after(&[RICH], 1);
    let event = driven.inngest.send_named(ALERT, alert()).await?;
    driven.inngest.rest().await?;
    driven.clock()?.cancel_all();
    assert_eq!(driven.inngest.ended(&event).await?.status, Status::Cancelled);
    sql(&driven.stack, "delete from purple_flea.rate_stops where until > now()").await?;
    // Neither a notification that names it nor one for all, nor a caller's own request.
    let name: String =
        driven.stack.owner.query_one("select reference from purple_flea.workflow_steps", &[]).await?.get(0);
    for body in [NOTIFY_ALL.to_owned(), json!({ "ledger": true, "reference": name }).to_string()] {
        send(&driven.stack, &name, &body).await?;
    }
    let order = json!({ "agent_id": AGENT, "market": "BTC", "direction": "long", "size": 10 });
    assert_eq!(request(&driven.stack, "/order", &name, &order).await?.status, 400);
    assert_eq!(driven.jobs("pending").await?, 1);
    driven.pass_time("16 minutes").await?;
    sql(&driven.stack, "select purple_flea.sweep()").await?;
    assert_eq!(driven.steps().await?, ["place-order dead too_old 1"]);
    assert!(driven.stack.purple_flea.positions().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_trades_nothing_and_its_alert_fails() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    sql(
        &driven.stack,
        &format!("insert into purple_flea.trade_policies (agent_id, paused) values ('{AGENT}', true)"),
    )
    .await?;
    let run = driven.run(ALERT, alert()).await?;
    assert_eq!(error_of(&run).0, "paused");
    assert_eq!(driven.steps().await?, ["place-order dead run_ended 4"]);
    sql(&driven.stack, &format!("update purple_flea.trade_policies set paused = false, daily_wager_limit = 15 where agent_id = '{AGENT}'")).await?;
    let run = driven.run(ALERT, alert()).await?;
    assert_eq!(run.status, Status::Completed, "{run:?}");
    let run = driven.run(ALERT, alert()).await?;
    assert_eq!(error_of(&run).0, "daily_wager_limit");
    assert_eq!(driven.stack.purple_flea.positions().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_alerts_at_once_never_overlap_and_open_two_positions() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    driven.stack.purple_flea.delay(Some(Duration::from_millis(200)));
    let events =
        [driven.inngest.send_named(ALERT, alert()).await?, driven.inngest.send_named(ALERT, alert()).await?];
    for event in &events {
        assert_eq!(driven.inngest.ended(event).await?.status, Status::Completed);
    }
    assert_eq!(driven.clock()?.most_at_once("trade-on-price-alert"), 1);
    assert_eq!(driven.stack.purple_flea.positions().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fails_never_trades_again() -> Result<()> {
    let log = Log::start(2).await?;
    let secret = "whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=";
    let driven = Driven::start(&[("inngest_log_url", &log.url), ("inngest_log_secret", secret)]).await?;
    let run = driven.run(ALERT, alert()).await?;
    assert_eq!((run.status, log.got().len()), (Status::Completed, 3), "{run:?}");
    assert!(log.got().iter().all(|request| request.contains("webhook-signature: v1,")));
    let always = Log::start(usize::MAX).await?;
    let failing = Driven::start(&[("inngest_log_url", &always.url)]).await?;
    let run = failing.run(ALERT, alert()).await?;
    assert_eq!((error_of(&run).0, always.got().len()), ("not_logged", 4));
    for driven in [&driven, &failing] {
        assert_eq!(driven.stack.purple_flea.positions().len(), 1);
        assert_eq!(driven.steps().await?, ["place-order executed 1"]);
    }
    Ok(())
}
