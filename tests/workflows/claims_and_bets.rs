//! The daily claim and the scheduled bet: one of each at each time of their crons.

use super::setup::{Driven, error_of};
use crate::services::calls;
use anyhow::Result;
use rust_decimal::Decimal;
use serde_json::json;
use stack::{inngest::Status, local::AGENT};
use std::time::Duration;

const CLAIM: &str = "daily-faucet-claim";
const BET: &str = "scheduled-bet";

/// The settings of a bet at noon.
const AT_NOON: [(&str, &str); 2] = [("inngest_bet_cron", "0 12 * * *"), ("inngest_bet_wager", "2.50")];

#[tokio::test(flavor = "multi_thread")]
async fn the_daily_claim_is_made_once_a_day_with_the_workflows_wallet() -> Result<()> {
    let driven = Driven::start(&[("inngest_agent_wallet", "0xours")]).await?;
    let fired = driven.clock()?.fire(CLAIM)?;
    let run = driven.inngest.ended(&fired).await?;
    assert_eq!((run.status, &run.output["claimed"]), (Status::Completed, &json!(true)), "{run:?}");
    assert!(run.output["tx_hash"].is_string() && run.output["new_balance"].is_number(), "{run:?}");
    assert_eq!(run.output["amount_usdc"].to_string(), "1");
    let requests = driven.stack.purple_flea.requests();
    let claim = requests.iter().find(|request| request.path == "/api/claim");
    let body: serde_json::Value = serde_json::from_str(claim.map_or("", |claim| &claim.body))?;
    assert_eq!(body, json!({ "agent_id": AGENT, "wallet_address": "0xours" }));
    let status = requests.iter().find(|request| request.path == "/api/status");
    assert_eq!(status.map(|status| status.query.clone()), Some(format!("agent_id={AGENT}")));
    // The next morning by Inngest's clock is the same day by Purple Flea's.
    let fired = driven.clock()?.fire(CLAIM)?;
    let run = driven.inngest.ended(&fired).await?;
    assert_eq!((run.status, &run.output["claimed"]), (Status::Completed, &json!(false)), "{run:?}");
    assert!(run.output["next_eligible"].is_string(), "{run:?}");
    assert_eq!(calls(&driven.stack, "/api/claim"), 1);
    driven.stack.purple_flea.advance(Duration::from_secs(25 * 60 * 60));
    let fired = driven.clock()?.fire(CLAIM)?;
    assert_eq!(driven.inngest.ended(&fired).await?.output["claimed"], true);
    assert_eq!(driven.steps().await?, ["claim-faucet executed 1", "claim-faucet executed 1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_is_lost_at_any_step_is_made_once() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    for (number, step) in ["check-faucet-status", "claim-faucet", "fetch-balance", ""].into_iter().enumerate() {
        driven.clock()?.lose_answer(step);
        let fired = driven.clock()?.fire(CLAIM)?;
        let run = driven.inngest.ended(&fired).await?;
        assert_eq!((run.status, &run.output["claimed"]), (Status::Completed, &json!(true)), "{step}: {run:?}");
        assert_eq!(calls(&driven.stack, "/api/claim"), number + 1, "{step}");
        driven.stack.purple_flea.advance(Duration::from_secs(25 * 60 * 60));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_live_dialect_the_claim_is_the_casinos_for_an_agent_with_a_key() -> Result<()> {
    let driven = Driven::live(&[]).await?;
    // The shared key would claim for its own account.
    let fired = driven.clock()?.fire(CLAIM)?;
    let run = driven.inngest.ended(&fired).await?;
    assert_eq!(error_of(&run).0, "no_daily_claim");
    let key = driven.stack.purple_flea.register("ag_keyed");
    let name = format!("purple_flea_key:{AGENT}");
    let set = format!(
        "select purple_flea.set_agent_key('{AGENT}', '{key}'); \
         update public.agents set api_key = '{name}', pf_agent_id = 'ag_keyed' where id = '{AGENT}'"
    );
    driven.stack.owner.batch_execute(&set).await?;
    let fired = driven.clock()?.fire(CLAIM)?;
    let run = driven.inngest.ended(&fired).await?;
    assert_eq!((run.status, &run.output["claimed"]), (Status::Completed, &json!(true)), "{run:?}");
    assert_eq!(calls(&driven.stack, "/api/v1/daily/claim"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_time_of_the_cron_has_one_bet_whatever_gets_lost() -> Result<()> {
    let driven = Driven::start(&AT_NOON).await?;
    for (number, step) in ["nothing", "place-bet", ""].into_iter().enumerate() {
        driven.clock()?.lose_answer(step);
        let fired = driven.clock()?.fire(BET)?;
        let run = driven.inngest.ended(&fired).await?;
        assert_eq!(run.status, Status::Completed, "{step}: {run:?}");
        assert_eq!(run.output["wager"].to_string(), "2.50");
        assert!(run.output["outcome"] == "win" || run.output["outcome"] == "loss", "{run:?}");
        driven.clock()?.rerun(&fired)?;
        driven.inngest.rest().await?;
        let runs = driven.inngest.runs_of(&fired).await?;
        assert!(runs.len() == 2 && runs.iter().all(|again| again.output == run.output), "{runs:?}");
        assert_eq!(driven.stack.purple_flea.bets().len(), number + 1, "{step}");
    }
    // Purple Flea's reply is lost: the bet was made, and no attempt makes another one.
    driven.lose_reply_after(&[]);
    let fired = driven.clock()?.fire(BET)?;
    assert_eq!(error_of(&driven.inngest.ended(&fired).await?).0, "outcome_unknown");
    let bets = driven.stack.purple_flea.bets();
    assert!(bets.len() == 4 && bets.iter().all(|bet| bet.wager == Decimal::new(250, 2)), "{bets:?}");
    assert_eq!(bets[0].game, "coin-flip");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_time_in_the_settings_there_is_no_scheduled_bet() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let functions = driven.clock()?.functions();
    let ids: Vec<&str> = functions.iter().filter_map(|function| function["id"].as_str()).collect();
    assert_eq!(
        ids,
        [
            "purple-flea-trade-on-price-alert", "purple-flea-trade-trigger",
            "purple-flea-daily-faucet-claim", "purple-flea-escrow-lifecycle"
        ]
    );
    let escrow = functions.last().cloned().unwrap_or_default();
    assert_eq!(escrow["timeouts"]["finish"], "8d");
    Ok(())
}
