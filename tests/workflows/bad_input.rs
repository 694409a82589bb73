//! Events that ask for what cannot be: each ends its run with a reason, at once, and moves no money.

use super::setup::{Driven, error_of};
use crate::escrows::OTHER;
use anyhow::Result;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_served_is_a_final_error_and_nothing_is_sent() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let alert = |change: Value| changed(json!({ "asset": "BTC", "price": 65000, "direction": "long" }), change);
    let trade = |change: Value| changed(json!({ "market": "BTC", "size": 5, "direction": "long" }), change);
    let escrow = |change: Value| {
        changed(json!({ "escrow_id": "E1", "amount_usdc": 25, "counterparty": OTHER }), change)
    };
    let cases = [
        ("price.alert", json!({}), "invalid_event", "missing field `asset`"),
        ("price.alert", json!(null), "invalid_event", ""),
        ("price.alert", json!([1]), "invalid_event", ""),
        ("price.alert", alert(json!({ "price": null })), "invalid_event", "price"),
        ("price.alert", alert(json!({ "price": -1 })), "invalid_event", "`price` must be above 0"),
        ("price.alert", alert(json!({ "price": 0 })), "invalid_event", "`price` must be above 0"),
        ("price.alert", alert(json!({ "price": "65000" })), "invalid_event", "price"),
        ("price.alert", alert(json!({ "direction": "up" })), "invalid_event", "unknown variant"),
        ("price.alert", alert(json!({ "asset": "no market" })), "invalid_event", "market must be"),
        ("price.alert", alert(json!({ "agent_id": "another" })), "agent_in_event", "agent_id"),
        ("price.alert", alert(json!({ "wallet_address": "0x" })), "agent_in_event", "wallet_address"),
        ("trade.trigger", trade(json!({ "size": 0 })), "invalid_event", "whole cents"),
        ("trade.trigger", trade(json!({ "size": 0.001 })), "invalid_event", "whole cents"),
        ("trade.trigger", trade(json!({ "size": -5 })), "invalid_event", "whole cents"),
        ("trade.trigger", trade(json!({ "size": 1e12 })), "invalid_event", "must lie within"),
        ("trade.trigger", trade(json!({ "direction": null })), "invalid_event", ""),
        ("trade.trigger", trade(json!({ "agent": "another" })), "agent_in_event", "agent"),
        ("escrow.created", escrow(json!({ "amount_usdc": 0 })), "invalid_event", "0.10 or more"),
        ("escrow.created", escrow(json!({ "amount_usdc": -5 })), "invalid_event", "0.10 or more"),
        ("escrow.created", escrow(json!({ "amount_usdc": 0.105 })), "invalid_event", "whole cents"),
        ("escrow.created", escrow(json!({ "escrow_id": 7 })), "invalid_event", ""),
        ("escrow.created", escrow(json!({ "escrow_id": "" })), "invalid_event", "1 to 128 bytes"),
        ("escrow.created", escrow(json!({ "counterparty": "a\u{0}b" })), "invalid_event", "control characters"),
        ("escrow.created", escrow(json!({ "counterparty": "nobody" })), "unknown_counterparty", "agents"),
        ("escrow.created", escrow(json!({ "counterparty": stack::local::AGENT })), "invalid_escrow", ""),
        ("escrow.created", escrow(json!({ "sender_id": "another" })), "agent_in_event", "sender_id"),
    ];
    for (name, data, code, words) in cases {
        let run = driven.run(&format!("purple-flea/{name}"), data.clone()).await?;
        let (got, message) = error_of(&run);
        assert!(got == code && message.contains(words), "{name} {data}: {got} {message}");
    }
    let paths: Vec<String> =
        driven.stack.purple_flea.requests().into_iter().map(|request| request.path).collect();
    assert!(paths.is_empty(), "{paths:?}");
    assert_eq!(driven.jobs("pending").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_that_purple_flea_does_not_know_is_refused_once() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let data = json!({ "asset": "NOWHERE", "price": 1, "direction": "long" });
    let run = driven.run("purple-flea/price.alert", data).await?;
    assert_eq!(error_of(&run).0, "unknown_market");
    assert_eq!(crate::services::calls(&driven.stack, "/trading/order"), 1);
    assert!(driven.stack.purple_flea.positions().is_empty());
    assert_eq!(driven.steps().await?, ["place-order rejected unknown_market 1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_of_an_unknown_escrow_starts_and_resumes_nothing() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let data = json!({ "escrow_id": "E9", "confirmed_by": OTHER });
    let event = driven.inngest.send_named("purple-flea/escrow.confirmed", data).await?;
    driven.inngest.rest().await?;
    assert!(driven.inngest.runs_of(&event).await?.is_empty());
    assert!(driven.stack.purple_flea.requests().is_empty());
    Ok(())
}

fn changed(mut data: Value, change: Value) -> Value {
    for (name, value) in change.as_object().into_iter().flatten() {
        data[name] = value.clone();
    }
    data
}
