//! One failure never affects other jobs. Examples: a row that an application locks, a number that Postgres cannot
//! store, a claim without a reply, a watcher at its limit.

use crate::{
    front_door::{assert_no_call, assert_problem, soon},
    whole_stack::{
        LOOK_EVERY, NOTIFY_ALL, count, deposit, job, job_in, notify, pass_time, send, sql, start,
        start_silent,
    },
};
use anyhow::Result;
use serde_json::json;
use stack::{
    local::Local,
    postgres::OWNER,
    postgrest::Trouble,
    purple_flea::{Fault, How, KEY},
};
use std::time::Duration;
use tokio_postgres::Client;

/// Inserts a number of deposits of an agent. Creates the agent if it is new, and funds its account.
async fn deposits(stack: &Local, agent: &str, number: u32) -> Result<()> {
    stack.purple_flea.fund(agent, 1_000_000.into());
    sql(
        stack,
        &format!(
            "insert into public.agents (id) values ('{agent}') on conflict do nothing; \
             insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
             select '{agent}', 'deposit', 100, 100 from generate_series(1, {number})"
        ),
    )
    .await
}

/// Counts the jobs of an agent in a state.
async fn jobs(stack: &Local, agent: &str, state: &str) -> Result<i64> {
    let jobs =
        format!("select count(*) from purple_flea.jobs where agent_id = '{agent}' and state = '{state}'");
    count(stack, &jobs).await
}

/// Waits until an agent has a number of jobs in a state.
async fn wait_for_jobs(stack: &Local, agent: &str, state: &str, number: i64) -> Result<()> {
    soon(async {
        while jobs(stack, agent, state).await? != number {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    })
    .await?
}

/// Opens a connection that holds a lock until its transaction ends.
async fn hold_lock(stack: &Local, lock: &str) -> Result<Client> {
    let client = stack.cluster.connect(OWNER).await?;
    client.batch_execute(&format!("begin; {lock}")).await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_locks_an_agents_row_delays_only_that_agents_settlements() -> Result<()> {
    let stack = start_silent(&[]).await?;
    deposits(&stack, "locked", 10).await?;
    deposits(&stack, "free", 20).await?;
    stack.purple_flea.delay(Some(Duration::from_secs(3)));
    let application = async {
        soon(stack.purple_flea.reached(30)).await?;
        let lock = "select from public.agents where id = 'locked' for update";
        let application = hold_lock(&stack, lock).await?;
        wait_for_jobs(&stack, "free", "executed", 20).await?;
        let claimed = jobs(&stack, "locked", "claimed").await?;
        assert_eq!(claimed, 10, "these settlements wait for their agent's row");
        application.batch_execute("commit").await?;
        wait_for_jobs(&stack, "locked", "executed", 10).await
    };
    let (reply, done) = tokio::join!(send(&stack, "notification-1", NOTIFY_ALL), application);
    done?;
    assert_eq!(reply?.body["jobs"], 30);
    assert_eq!(stack.purple_flea.bets().len(), 30);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_table_locked_for_longer_than_a_claim_waits_makes_no_job_unknown() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    deposits(&stack, "agent-001", 5).await?;
    let lock = hold_lock(&stack, "lock table purple_flea.jobs in access exclusive mode").await?;
    let unlock = async {
        // The function waits 5 s for its first reply; the lock lasts longer than that and than a claim stays valid.
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        lock.batch_execute("commit").await
    };
    let (_, unlocked) = tokio::join!(send(&stack, "notification-1", NOTIFY_ALL), unlock);
    unlocked?;
    // The database may still have to finish the claim and its abandonment.
    wait_for_jobs(&stack, "agent-001", "claimed", 0).await?;
    sql(&stack, "update purple_flea.jobs set due_at = clock_timestamp() where state = 'pending'").await?;
    send(&stack, "notification-2", NOTIFY_ALL).await?;
    wait_for_jobs(&stack, "agent-001", "executed", 5).await?;
    assert_eq!(stack.purple_flea.bets().len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_gets_no_reply_is_abandoned_and_no_bet_is_sent() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&stack, "100").await?;
    for _ in 0..3 {
        stack.postgrest.misbehave_once(Trouble::AfterTheCall);
    }
    assert_problem(&notify(&stack, id).await?, 503, "ledger_not_reached", "no");
    assert_eq!(stack.postgrest.calls(), ["claim_jobs", "claim_jobs", "claim_jobs", "abandon_claim"]);
    let given_back = job(&stack, id).await?;
    assert_eq!((&given_back["state"], &given_back["reason"]), (&json!("pending"), &json!("abandoned")));
    assert_no_call(&stack.purple_flea);
    assert_eq!(notify(&stack, id).await?.body["status"], "executed");
    assert_eq!(stack.purple_flea.bets().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_postgres_cannot_store_costs_the_bet_its_proof_but_not_its_outcome() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let reply = r#"{"won": true, "amount_won": 15, "bet_id": "bet_odd", "proof": {"server_seed_hash": "d7b4", "client_seed": "k", "nonce": 1e999999, "result_hash": "3f4a"}}"#;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(200, reply) });
    deposits(&stack, "agent-001", 20).await?;
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    assert_eq!(jobs(&stack, "agent-001", "executed").await?, 20);
    let odd = "select count(*) from public.trade_results where bet_id = 'bet_odd' and proof is null";
    assert_eq!(count(&stack, odd).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_looks_up_an_unknown_bet_with_the_key_that_placed_it() -> Result<()> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::answer(500, "{}") });
    let id = deposit(&stack, "100").await?;
    assert_problem(&notify(&stack, id).await?, 502, "outcome_unknown", "unknown");
    // Meanwhile the agent gets its own account, whose history does not contain that bet.
    sql(&stack, "select purple_flea.set_agent_key('agent-001', 'sk_live_of_its_own')").await?;
    pass_time(&stack, id, "104 seconds").await?;
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    job_in(&stack, id, "executed").await?;
    let requests = stack.purple_flea.requests();
    let look_up = requests.iter().find(|request| request.path.contains("export.csv"));
    let shown = look_up.and_then(|request| request.headers.get("authorization"));
    let expected = format!("Bearer {KEY}");
    assert_eq!(shown.and_then(|value| value.to_str().ok()), Some(expected.as_str()), "{requests:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_at_its_limit_lets_deposits_notify_another_worker() -> Result<()> {
    let stack = start(&[("bets_at_once", "2"), ("linger_ms", "3000")]).await?;
    stack.purple_flea.delay(Some(Duration::from_secs(5)));
    let many = "insert into public.wallet_changes (agent_id, change_type, new_balance) \
                select 'agent-001', 'deposit', 100 from generate_series(1, 6)";
    sql(&stack, many).await?;
    // Four bets are more than one watcher's limit of two, and no bet has ended yet.
    soon(stack.purple_flea.reached(4)).await?;
    let ended = count(&stack, "select count(*) from public.trade_results").await?;
    assert_eq!(ended, 0, "a bet ended before a second worker came");
    wait_for_jobs(&stack, "agent-001", "executed", 6).await?;
    assert_eq!(stack.purple_flea.bets().len(), 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_an_unsupported_protocol_version_gets_an_error_and_places_no_bet() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&stack, "100").await?;
    let speaks = "create or replace function purple_flea.speaks(protocol integer) returns boolean language sql immutable \
                  set search_path = pg_catalog, pg_temp as $$ select protocol > 2 $$";
    sql(&stack, speaks).await?;
    let refused = notify(&stack, id).await?;
    assert_problem(&refused, 503, "ledger_mismatch", "no");
    assert_eq!(
        (&refused.body["retryable"], refused.headers.contains_key("retry-after")),
        (&json!(true), true)
    );
    assert_eq!(job(&stack, id).await?["state"], "pending");
    assert_no_call(&stack.purple_flea);
    Ok(())
}
