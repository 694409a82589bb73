//! The balance in an agent's row: Purple Flea's last word on the agent's own account.

use crate::{
    services::wait_for_row,
    whole_stack::{job_in, notify, sql, start, start_silent},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    postgres::OWNER,
};

/// Starts the stack in the live dialect, with one more agent that has an account of its own.
async fn with_own_account(start: impl AsyncFnOnce(&[(&str, &str)]) -> Result<Local>) -> Result<Local> {
    let stack = start(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    let key = stack.purple_flea.register("ag_own");
    stack.purple_flea.fund("ag_own", 1_000.into());
    let agent = "insert into public.agents (id) values ('own')";
    sql(&stack, &format!("{agent}; select purple_flea.set_agent_key('own', '{key}')")).await?;
    Ok(stack)
}

/// Inserts a deposit of an agent, and gives its id.
async fn deposit_of(stack: &Local, agent: &str) -> Result<i64> {
    let insert = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         values ('{agent}', 'deposit', 100, 100) returning id"
    );
    Ok(stack.owner.query_one(&insert, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_its_own_account_has_the_balance_of_its_newest_bet() -> Result<()> {
    let stack = with_own_account(start).await?;
    for agent in ["own", AGENT] {
        deposit_of(&stack, agent).await?;
    }
    wait_for_row(&stack, "select to_jsonb(count(*))::text from public.trade_results having count(*) = 2")
        .await?;
    let balances =
        wait_for_row(&stack, "select jsonb_object_agg(id, balance)::text from public.agents").await?;
    let told = "select result::text from purple_flea.jobs where agent_id = 'own' and kind = 'deposit'";
    let told: Value = wait_for_row(&stack, told).await?;
    let bet = stack.purple_flea.bets().into_iter().find(|bet| bet.agent_id == "ag_own").context("no bet")?;
    assert_eq!(told["bet_id"], json!(bet.bet_id));
    let number = |value: &Value| value.to_string().parse::<f64>();
    assert_eq!(number(&balances["own"])?, number(&told["balance"])?, "{told}");
    assert!(number(&balances["own"])? > 900.0, "{balances}");
    assert_eq!(number(&balances[AGENT])?, 0.0, "the shared account's balance is no agent's");
    Ok(())
}

/// An application that holds the agent's row delays no outcome. The balance waits for the agent's next outcome.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_is_recorded_while_an_application_holds_the_agents_row() -> Result<()> {
    let stack = with_own_account(start_silent).await?;
    let application = stack.cluster.connect(OWNER).await?;
    let hold = "begin; update public.agents set status = 'offline' where id = 'own'";
    application.batch_execute(hold).await?;
    let id = deposit_of(&stack, "own").await?;
    assert_eq!(notify(&stack, id).await?.body["status"], "executed");
    job_in(&stack, id, "executed").await?;
    application.batch_execute("commit").await?;
    let untold = "select to_jsonb(balance)::text from public.agents where id = 'own' and balance_at is null";
    wait_for_row(&stack, untold).await?;
    let next = deposit_of(&stack, "own").await?;
    assert_eq!(notify(&stack, next).await?.body["status"], "executed");
    let told =
        "select to_jsonb(balance)::text from public.agents where id = 'own' and balance_at is not null";
    wait_for_row(&stack, told).await?;
    Ok(())
}
