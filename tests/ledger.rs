//! The function in ledger mode places at most one bet for each deposit, and gives the same outcome to every caller.

use crate::{
    front_door::{assert_problem, reply, soon},
    whole_stack::{NOTIFY_ALL, count, deposit, job, job_in, notify, pass_time, send, sql, start_silent},
};
use anyhow::Result;
use futures_util::future::join_all;
use serde_json::{Value, json};
use stack::purple_flea::{Fault, How};
use std::collections::BTreeMap;

#[tokio::test(flavor = "multi_thread")]
async fn one_deposit_takes_one_claim_and_one_settlement() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&stack, "100").await?;
    let reply = notify(&stack, id).await?;
    assert_eq!(reply.body["status"], "executed", "{}", reply.body);
    assert_eq!(reply.body["wager"].to_string(), "10.00");
    assert!(!reply.headers.contains_key("idempotent-replayed"), "the first reply is not a replay");
    assert_eq!(stack.postgrest.calls(), ["claim_jobs", "settle_jobs"]);
    let job = job(&stack, id).await?;
    let bets = stack.purple_flea.bets();
    let [bet] = &bets[..] else { panic!("{bets:?}") };
    assert_eq!(job["idempotency_key"], bet.idempotency_key.as_deref().unwrap_or_default());
    assert_eq!((&job["state"], &job["result"]["bet_id"]), (&json!("executed"), &json!(bet.bet_id)));

    // A repeated request of either form gets the same outcome, with a header that marks it as an earlier one.
    let row =
        format!(r#"{{"id": {id}, "agent_id": "agent-001", "change_type": "deposit", "new_balance": 999}}"#);
    for again in [notify(&stack, id).await?, send(&stack, &format!("wallet-change-{id}"), &row).await?] {
        assert_eq!((again.status.as_u16(), &again.headers["idempotent-replayed"]), (200, &"true".parse()?));
        assert_eq!((&again.body["bet_id"], &again.body["wager"]), (&json!(bet.bet_id), &reply.body["wager"]));
    }
    assert_eq!(stack.purple_flea.requests().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_identical_concurrent_requests_place_one_bet() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&stack, "100").await?;
    let replies = join_all((0..200).map(|_| notify(&stack, id))).await;
    let mut bets = Vec::new();
    for reply in replies {
        let reply = reply?;
        match reply.status.as_u16() {
            // Another request's claim was not yet committed.
            200 if reply.body["status"] == "waiting" => {}
            200 => bets.push(reply.body["bet_id"].to_string()),
            409 => assert_problem(&reply, 409, "in_flight", "no"),
            _ => panic!("{}", reply.body),
        }
    }
    bets.dedup();
    assert_eq!((stack.purple_flea.requests().len(), bets.len()), (1, 1), "{bets:?}");
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_concurrent_deposits_each_get_their_own_outcome() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let mut wagers = BTreeMap::new();
    for n in 1..=200_i64 {
        let id = deposit(&stack, &(n * 10).to_string()).await?;
        wagers.insert(id, format!("{n}.00"));
    }
    let replies = join_all(wagers.keys().map(|id| notify(&stack, *id))).await;
    for (id, reply) in wagers.keys().copied().zip(replies) {
        let reply = reply?;
        assert_eq!(reply.body["reference"], format!("wallet-change-{id}"), "{}", reply.body);
        if reply.body["status"] == "executed" {
            assert_eq!(reply.body["wager"].to_string(), wagers[&id]);
        } else if reply.body["status"] != "waiting" {
            // Another request has claimed the job.
            assert_problem(&reply, 409, "in_flight", "no");
        }
    }
    for (id, wager) in &wagers {
        let job = job_in(&stack, *id, "executed").await?;
        assert_eq!(&job["result"]["wager"].to_string(), wager);
    }
    let bets = stack.purple_flea.bets();
    assert_eq!(bets.len(), 200);
    let wrong = "select count(*) from public.trade_results t join purple_flea.jobs j using (reference) \
                 where t.bet_id <> j.result ->> 'bet_id' or t.wager <> j.stake";
    assert_eq!(count(&stack, wrong).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_without_a_reference_executes_every_due_job() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false"), ("bets_at_once", "7")]).await?;
    let many = "insert into public.wallet_changes (agent_id, change_type, new_balance) \
                select 'agent-001', 'deposit', 100 from generate_series(1, 20)";
    sql(&stack, many).await?;
    let reply = send(&stack, "notification-1", NOTIFY_ALL).await?;
    assert_eq!((&reply.body["status"], &reply.body["jobs"]), (&json!("drained"), &json!(20)));
    // A call serves many jobs: the worker makes three or four claims, and settles several outcomes in one call.
    let calls = stack.postgrest.calls().len();
    assert!((6..20).contains(&calls), "{calls} calls to the ledger for 20 jobs");
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daily_limit_holds_for_a_hundred_concurrent_deposits() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    sql(
        &stack,
        "insert into purple_flea.trade_policies (agent_id, daily_wager_limit) values ('agent-001', 55)",
    )
    .await?;
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(deposit(&stack, "100").await?);
    }
    join_all(ids.iter().map(|id| notify(&stack, *id))).await;
    let open = "select count(*) from purple_flea.jobs where state in ('pending', 'claimed')";
    soon(async {
        while count(&stack, open).await? > 0 {
            send(&stack, "notification-1", NOTIFY_ALL).await?;
        }
        anyhow::Ok(())
    })
    .await??;
    let wagered: rust_decimal::Decimal = stack.purple_flea.bets().iter().map(|bet| bet.wager).sum();
    assert_eq!(wagered, 50.into());
    let skipped =
        "select count(*) from purple_flea.jobs where state = 'skipped' and reason = 'daily_wager_limit'";
    assert_eq!(count(&stack, skipped).await?, 95);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledgers_policy_decides_and_a_caller_cannot_override_it() -> Result<()> {
    let stack =
        start_silent(&[("after_reply", "false"), ("wager_fraction", "1"), ("max_wager", "1")]).await?;
    let policy = "insert into purple_flea.trade_policies (agent_id, game, side, wager_fraction) values ('agent-001', 'coin-flip', 'tails', 0.5)";
    sql(&stack, policy).await?;
    let id = deposit(&stack, "100").await?;
    let row =
        format!(r#"{{"id": {id}, "agent_id": "agent-999", "change_type": "deposit", "new_balance": 5}}"#);
    let with_policy = format!(r#"{{"record": {row}, "policy": {{"game": "crash"}}}}"#);
    let refused = send(&stack, &format!("wallet-change-{id}"), &with_policy).await?;
    assert_problem(&refused, 400, "policy_in_ledger", "no");
    let reply = send(&stack, &format!("wallet-change-{id}"), &row).await?;
    assert_eq!((&reply.body["game"], &reply.body["side"]), (&json!("coin-flip"), &json!("tails")));
    assert_eq!(
        (&reply.body["agent_id"], reply.body["wager"].to_string().as_str()),
        (&json!("agent-001"), "50.00")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_of_a_deposit_has_its_own_reply() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    assert_problem(&notify(&stack, 12_345).await?, 404, "unknown_deposit", "no");
    let withdrawal = r#"{"id": 7, "agent_id": "agent-001", "change_type": "withdrawal", "new_balance": 5}"#;
    assert_eq!(send(&stack, "wallet-change-7", withdrawal).await?.body["reason"], "not_a_deposit");

    let poor = deposit(&stack, "1").await?;
    for replayed in [false, true] {
        let reply = notify(&stack, poor).await?;
        assert_eq!(
            (&reply.body["status"], &reply.body["reason"]),
            (&json!("skipped"), &json!("below_min_balance"))
        );
        assert_eq!(reply.headers.contains_key("idempotent-replayed"), replayed);
    }

    stack.purple_flea.misbehave_once(answers(400, r#"{"error":"kelly_limit_exceeded","max_bet":4.93}"#));
    let refused = deposit(&stack, "100").await?;
    let first = notify(&stack, refused).await?;
    assert_problem(&first, 422, "rejected", "no");
    assert_eq!(first.body["max_bet"].to_string(), "4.93");
    let replay = notify(&stack, refused).await?;
    assert_eq!((replay.status.as_u16(), &replay.body["status"]), (200, &json!("rejected")));
    assert_eq!(replay.body["reason"], "kelly_limit_exceeded");

    stack.purple_flea.misbehave_once(answers(429, "{}"));
    let limited = deposit(&stack, "100").await?;
    assert_problem(&notify(&stack, limited).await?, 503, "rate_limited", "no");
    let waiting = notify(&stack, limited).await?;
    assert_eq!(
        (&waiting.body["status"], &waiting.body["reason"]),
        (&json!("waiting"), &json!("rate_limited"))
    );
    assert!(waiting.body["retry_after_s"].as_u64() > Some(50), "{}", waiting.body);
    pass_time(&stack, limited, "2 minutes").await?;
    assert_eq!(notify(&stack, limited).await?.body["status"], "executed");

    stack.purple_flea.misbehave_once(answers(500, "{}"));
    let lost = deposit(&stack, "100").await?;
    for _ in 0..2 {
        assert_problem(&notify(&stack, lost).await?, 502, "outcome_unknown", "unknown");
    }

    let old = deposit(&stack, "100").await?;
    pass_time(&stack, old, "25 hours").await?;
    assert_problem(&notify(&stack, old).await?, 422, "too_old", "no");

    sql(&stack, "update purple_flea.trade_policies set paused = true where agent_id is null").await?;
    let paused = deposit(&stack, "100").await?;
    let waiting = notify(&stack, paused).await?;
    assert_eq!((&waiting.body["status"], &waiting.body["reason"]), (&json!("waiting"), &json!("paused")));
    assert_eq!(stack.purple_flea.bets().len(), 1);
    Ok(())
}

fn answers(status: u16, body: &str) -> Fault {
    Fault { after_the_bet: false, how: How::answer(status, body) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_function_claims_nothing() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false"), ("paused", "true")]).await?;
    let id = deposit(&stack, "100").await?;
    let waiting = notify(&stack, id).await?;
    assert_eq!((&waiting.body["status"], &waiting.body["reason"]), (&json!("waiting"), &json!("paused")));
    assert_eq!(job(&stack, id).await?["state"], "pending");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_that_prefers_respond_async_gets_202_and_its_bet_continues() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let id = deposit(&stack, "100").await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Hang });
    let (url, reference) = (format!("{}/execute-trade", stack.host.url), format!("wallet-change-{id}"));
    let body = format!(r#"{{"ledger": true, "reference": "{reference}"}}"#);
    let request = || stack::webhook::signed(&url, &reference, body.as_bytes());
    let accepted = reply(request()?.header("prefer", "respond-async").body(body.clone().into())?).await?;
    assert_eq!((accepted.status.as_u16(), &accepted.body["status"]), (202, &json!("accepted")));
    soon(stack.purple_flea.reached(1)).await?;
    // A caller without this preference waits, and learns that another request has claimed the job.
    assert_problem(&reply(request()?.body(body.clone().into())?).await?, 409, "in_flight", "no");
    job_in(&stack, id, "unknown").await?;
    assert_eq!(stack.purple_flea.requests().len(), 1);

    // With `after_reply` off, the function ignores the preference: it leaves no work for after the reply.
    let without = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&without, "100").await?;
    let (url, reference) = (format!("{}/execute-trade", without.host.url), format!("wallet-change-{id}"));
    let body = format!(r#"{{"ledger": true, "reference": "{reference}"}}"#);
    let request =
        stack::webhook::signed(&url, &reference, body.as_bytes())?.header("prefer", "respond-async");
    assert_eq!(reply(request.body(body.into())?).await?.body["status"], "executed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_refuses_a_notification_signed_for_another_deposit() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let id = deposit(&stack, "100").await?;
    let body = format!(r#"{{"ledger": true, "reference": "wallet-change-{id}"}}"#);
    assert_problem(&send(&stack, "wallet-change-999", &body).await?, 401, "unauthorized", "no");
    for body in [
        r#"{"ledger": true, "reference": "no spaces"}"#,
        r#"{"ledger": true, "reference": 5}"#,
        r#"{"ledger": "yes"}"#,
    ] {
        assert_problem(&send(&stack, "notification-1", body).await?, 400, "invalid_event", "no");
    }
    let calls = stack.postgrest.calls();
    assert!(calls.is_empty(), "a refused notification caused the calls {calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_owner_can_read_why_a_deposit_led_to_no_bet() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    sql(&stack, "update public.agents set owner_id = '00000000-0000-0000-0000-000000000001'").await?;
    let id = deposit(&stack, "1").await?;
    notify(&stack, id).await?;
    sql(&stack, "set role authenticated; set request.jwt.claims = '{\"sub\": \"00000000-0000-0000-0000-000000000001\"}'").await?;
    let row = stack.owner.query_one("select to_json(d)::text from public.agent_jobs d", &[]).await?;
    let seen: Value = serde_json::from_str(row.get(0))?;
    assert_eq!((&seen["state"], &seen["reason"]), (&json!("skipped"), &json!("below_min_balance")));
    Ok(())
}
