//! The `live` casino refuses a bet above Kelly's limit for good. The policy skips such a bet, and names the limit.

use crate::{
    front_door::{FrontDoor, assert_no_call},
    whole_stack::{deposit, job, notify, sql, start_silent},
};
use anyhow::Result;
use serde_json::json;
use stack::purple_flea::LIVE_AGENT;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenth_of_the_balance_is_bet_at_2_48_and_skipped_at_2_49_with_the_limit_in_reply_and_log()
-> Result<()> {
    for (cashout_at, allowed) in [("2.48", true), ("2.49", false)] {
        let door = FrontDoor::with(&[("purple_flea_api", "live"), ("cashout_at", cashout_at)]).await?;
        door.purple_flea.fund(LIVE_AGENT, 100.into());
        let reply = door.deposit(1, "100").await?;
        if allowed {
            assert_eq!(reply.body["status"], "executed");
            continue;
        }
        assert_eq!(
            (&reply.body["status"], &reply.body["reason"]),
            (&json!("skipped"), &json!("above_kelly_limit"))
        );
        assert_eq!(reply.body["max_bet"].to_string(), "9.99");
        let line = door.line(&["above_kelly_limit"]).await?;
        assert_eq!(line["cause"], "max_bet 9.99");
        assert_no_call(&door.purple_flea);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_own_risk_factor_counts_and_a_skipped_bet_keeps_its_limit_in_the_ledger() -> Result<()> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    let policy = "insert into purple_flea.trade_policies (agent_id, cashout_at) values ('agent-001', 5)";
    sql(&stack, policy).await?;
    let skipped = deposit(&stack, "100").await?;
    let reply = notify(&stack, skipped).await?;
    assert_eq!(
        (&reply.body["reason"], reply.body["max_bet"].to_string().as_str()),
        (&json!("above_kelly_limit"), "4.98")
    );
    let kept = job(&stack, skipped).await?;
    assert_eq!((&kept["state"], kept["result"]["max_bet"].to_string().as_str()), (&json!("skipped"), "4.98"));
    assert_no_call(&stack.purple_flea);
    for risk_factor in ["0.51", "null"] {
        let set = format!(
            "update purple_flea.trade_policies set risk_factor = {risk_factor} where agent_id = 'agent-001'"
        );
        sql(&stack, &set).await?;
        let id = deposit(&stack, "100").await?;
        assert_eq!(notify(&stack, id).await?.body["status"], "executed", "{risk_factor}");
    }
    Ok(())
}
