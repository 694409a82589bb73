//! The reference of a request, its `webhook-id`: the same reference names one request with one body.

use crate::{
    escrows::{OTHER, start_with_two_agents},
    front_door::assert_problem,
    services::request,
    whole_stack::{NOTIFY_ALL, deposit, send, start_silent},
};
use anyhow::Result;
use serde_json::json;
use stack::local::AGENT;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_reference_with_another_body_is_refused_and_executes_nothing() -> Result<()> {
    let stack = start_with_two_agents(&[("after_reply", "false")]).await?;
    let look = |agent: &str| json!({ "agent_id": agent });
    let gift =
        |what: &str| json!({ "sender_id": AGENT, "receiver_id": OTHER, "amount": 5, "description": what });
    let order = |size: u32| json!({ "agent_id": AGENT, "market": "BTC", "direction": "long", "size": size });
    for (path, name, first, others) in [
        ("/balance", "look-1", look(OTHER), vec![("/balance", look(AGENT)), ("/faucet/daily", look(OTHER))]),
        ("/escrow", "gift-1", gift("a gift"), vec![("/escrow", gift("a loan")), ("/trade", order(25))]),
        (
            "/trade",
            "order-1",
            order(25),
            vec![("/trade", order(26)), ("/order", order(25)), ("/escrow", gift("a gift"))],
        ),
    ] {
        let made = request(&stack, path, name, &first).await?;
        assert_eq!(made.body["status"], "executed", "{path}: {}", made.body);
        let executed = stack.purple_flea.requests().len();
        for (path, other) in others {
            let refused = request(&stack, path, name, &other).await?;
            assert_problem(&refused, 409, "reference_taken", "no");
        }
        let again = request(&stack, path, name, &first).await?;
        assert_eq!(again.headers["idempotent-replayed"], "true", "{path}: {}", again.body);
        assert_eq!(stack.purple_flea.requests().len(), executed, "{path}");
    }
    Ok(())
}

/// In ledger mode the row of a deposit is a hint. The ledger's own row decides, and a row of another agent is another
/// deposit.
#[tokio::test(flavor = "multi_thread")]
async fn another_agents_row_with_a_deposits_reference_is_refused() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&stack, "100").await?;
    let row = |agent: &str, balance: u32| {
        json!({ "id": id, "agent_id": agent, "change_type": "deposit", "new_balance": balance }).to_string()
    };
    let reference = format!("wallet-change-{id}");
    let made = send(&stack, &reference, &row(AGENT, 100)).await?;
    assert_eq!(made.body["status"], "executed");
    let again = send(&stack, &reference, &row(AGENT, 7)).await?;
    assert_eq!(again.body["bet_id"], made.body["bet_id"]);
    let refused = send(&stack, &reference, &row(OTHER, 100)).await?;
    assert_problem(&refused, 409, "reference_taken", "no");
    assert_eq!(stack.purple_flea.bets().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_is_only_an_id_may_have_any_form() -> Result<()> {
    let stack = start_with_two_agents(&[("after_reply", "false")]).await?;
    let odd = ["evt 2026/11/30 #1", "wallet-change-1", &"x".repeat(200)];
    for name in odd {
        for (path, body) in [
            ("/balance", json!({ "agent_id": OTHER })),
            ("/faucet", json!({ "agent_id": OTHER })),
            ("/reconcile", json!({})),
        ] {
            let reply = request(&stack, path, name, &body).await?;
            assert!(reply.body["code"] == "rejected" || reply.status == 200, "{path} {name}: {}", reply.body);
        }
        let order = json!({ "agent_id": AGENT, "market": "BTC", "direction": "long", "size": 25 });
        assert_problem(&request(&stack, "/trade", name, &order).await?, 400, "invalid_reference", "no");
        let all = send(&stack, name, NOTIFY_ALL).await?;
        assert_eq!(all.body["status"], "drained", "{}", all.body);
    }
    Ok(())
}
