//! The operators' API and the health route. The ledger executes an operator's request once and records the operator's
//! name, or refuses it with a reason. A public health reply contains no numbers and costs the database little.

use crate::{
    front_door::{ADAS_TOKEN, FrontDoor, OPERATORS, Reply, assert_problem, reply, soon},
    whole_stack::{count, deposit, job, notify, pass_time, sql, start_silent},
};
use anyhow::Result;
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};
use stack::{
    local::Local,
    postgrest,
    purple_flea::{Fault, How},
};

/// Starts the stack with two operators and silenced triggers.
async fn with_operators() -> Result<Local> {
    let key = postgrest::key("purple_flea_operator")?;
    let changes = [("operator_tokens", OPERATORS), ("supabase_operator_key", &key), ("after_reply", "false")];
    start_silent(&changes).await
}

async fn operate(stack: &Local, body: &Value) -> Result<Reply> {
    operate_as(stack, ADAS_TOKEN, &body.to_string()).await
}

async fn operate_as(stack: &Local, token: &str, body: &str) -> Result<Reply> {
    let request = Request::post(format!("{}/operator", stack.host.url))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    reply(request.body(body.into())?).await
}

async fn get(url: &str, token: Option<&str>) -> Result<Reply> {
    let mut request = Request::get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    reply(request.body(vec![])?).await
}

/// Makes a deposit whose job is unknown. Its claim is so old that no worker can still execute it.
async fn unknown_deposit(stack: &Local) -> Result<i64> {
    stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
    let id = deposit(stack, "100").await?;
    assert_problem(&notify(stack, id).await?, 502, "outcome_unknown", "unknown");
    pass_time(stack, id, "104 seconds").await?;
    Ok(id)
}

/// Reads the events of a deposit's history that an operator caused.
async fn history(stack: &Local, id: i64) -> Result<Vec<Value>> {
    let history =
        operate(stack, &json!({ "operation": "history", "reference": format!("wallet-change-{id}") }))
            .await?;
    assert_eq!(history.status, 200, "{}", history.body);
    let events = history.body["events"].as_array().cloned().unwrap_or_default();
    assert_eq!(events[0]["to_state"], "pending", "the history begins with the new job: {}", history.body);
    Ok(events.into_iter().filter(|event| event["changed_by"] == "operator").collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_settles_each_unknown_job_once_and_the_history_names_the_operator() -> Result<()> {
    let stack = with_operators().await?;
    let [released, closed, recorded] =
        [unknown_deposit(&stack).await?, unknown_deposit(&stack).await?, unknown_deposit(&stack).await?];
    let reference = |id: i64| format!("wallet-change-{id}");
    let status = get(&format!("{}/operator/status", stack.host.url), Some(ADAS_TOKEN)).await?;
    assert_eq!((&status.body["health"]["unknown"], &status.body["health"]["due"]), (&json!(3), &json!(0)));
    let stuck: Vec<&Value> =
        status.body["stuck_jobs"].as_array().unwrap().iter().map(|job| &job["reference"]).collect();
    assert_eq!(stuck, [&json!(reference(released)), &json!(reference(closed)), &json!(reference(recorded))]);

    let why = "support says there is no such bet";
    for (id, mut request, state) in [
        (released, json!({ "operation": "release_job", "why": why }), "pending"),
        (closed, json!({ "operation": "close_job", "why": why }), "rejected"),
        (
            recorded,
            json!({ "operation": "record_bet", "bet_id": "bet_1", "wager": 10.00, "won": true, "payout": 15.50 }),
            "executed",
        ),
    ] {
        request["reference"] = json!(reference(id));
        let done = operate(&stack, &request).await?;
        assert_eq!((done.status.as_u16(), &done.body), (200, &json!({ "done": true })));
        assert_eq!(job(&stack, id).await?["state"], state);
        let events = history(&stack, id).await?;
        assert_eq!((events.len(), &events[0]["detail"]["operator"]), (1, &json!("ada")), "{events:?}");
        if state != "executed" {
            assert_eq!(events[0]["detail"]["why"], why);
        }
        let line =
            stack.host.log.find(|line| line.contains(r#""operator""#) && line.contains(&reference(id)));
        let line: Value = serde_json::from_str(&soon(line).await?)?;
        assert_eq!((&line["event"], &line["decision"]), (&json!("operator"), &request["operation"]));
        // The ledger refuses the same request a second time.
        let again = operate(&stack, &request).await?;
        assert_problem(&again, 409, "not_possible", "no");
        assert!(again.body["detail"].as_str().unwrap().contains(state), "{}", again.body);
    }
    let payout =
        "select count(*) from public.trade_results where payout = 15.50 and wager = 10 and bet_id = 'bet_1'";
    assert_eq!(count(&stack, payout).await?, 1);
    sql(&stack, "update purple_flea.jobs set due_at = 'infinity' where state = 'pending'").await?;
    let retry = json!({ "operation": "retry_job", "reference": reference(released) });
    assert_eq!(operate(&stack, &retry).await?.body, json!({ "done": true }));
    assert_eq!(notify(&stack, released).await?.body["status"], "executed");
    assert!(
        !stack.host.log.lines().join("\n").contains(ADAS_TOKEN),
        "the function logged an operator's token"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_operator_request_gives_its_reason_and_changes_nothing() -> Result<()> {
    let stack = with_operators().await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
    let id = deposit(&stack, "100").await?;
    notify(&stack, id).await?;
    let reference = format!("wallet-change-{id}");
    let before = job(&stack, id).await?;
    let too_early = json!({ "operation": "release_job", "reference": reference, "why": "hurry" });
    let refused = operate(&stack, &too_early).await?;
    assert_problem(&refused, 409, "not_possible", "no");
    assert!(refused.body["detail"].as_str().unwrap().contains("may still be under way"), "{}", refused.body);
    pass_time(&stack, id, "104 seconds").await?;

    let twice =
        format!(r#"{{"operation": "history", "operation": "release_job", "reference": "{reference}"}}"#);
    let long = format!(r#"{{"operation": "declare_restore", "why": "{}"}}"#, "x".repeat(501));
    for (body, status, code) in [
        (r#"{"reference": "wallet-change-1"}"#, 400, "missing_operation"),
        (r#"{"operation": "drop_table"}"#, 400, "other_operation"),
        (r#"{"operation": "operator"}"#, 400, "other_operation"),
        (r#"{"operation": "status"}"#, 400, "other_operation"),
        (r#"{"operation": "escrow_release", "escrow_id": 1}"#, 400, "other_operation"),
        (r#"{"operation": 7}"#, 400, "invalid_event"),
        (&twice, 400, "invalid_event"),
        (&long, 400, "invalid_event"),
        ("[]", 400, "invalid_event"),
        ("{", 400, "invalid_json"),
        (r#"{"operation": "history"}"#, 400, "invalid_details"),
        (r#"{"operation": "release_job", "reference": "wallet-change-1"}"#, 400, "invalid_details"),
        (r#"{"operation": "retry_job", "reference": "wallet-change-1", "why": "x"}"#, 400, "invalid_details"),
        (r#"{"operation": "history", "reference": null}"#, 400, "invalid_details"),
        (r#"{"operation": "history", "reference": "wallet change 1"}"#, 400, "invalid_event"),
        (r#"{"operation": "history", "reference": "wallet-change-1", "x": 1}"#, 400, "invalid_event"),
        (
            r#"{"operation": "record_bet", "reference": "wallet-change-1", "bet_id": "b", "wager": 1e999999, "won": true}"#,
            400,
            "invalid_event",
        ),
        (
            r#"{"operation": "record_bet", "reference": "wallet-change-1", "bet_id": "b", "wager": 1, "won": "yes"}"#,
            400,
            "invalid_event",
        ),
        // The tables refuse a bet with a wager of zero.
        (
            r#"{"operation": "record_bet", "reference": "wallet-change-1", "bet_id": "b", "wager": 0, "won": false}"#,
            409,
            "not_possible",
        ),
        (
            r#"{"operation": "record_escrow", "reference": "wallet-change-1", "pf_escrow_id": "e"}"#,
            409,
            "not_possible",
        ),
        (r#"{"operation": "retry_job", "reference": "wallet-change-1"}"#, 409, "not_possible"),
        (r#"{"operation": "history", "reference": "wallet-change-999"}"#, 422, "unknown_job"),
    ] {
        let refused = operate_as(&stack, ADAS_TOKEN, body).await?;
        assert_problem(&refused, status, code, "no");
    }
    let (state, after) = (&before["state"], job(&stack, id).await?);
    assert_eq!((state, &before["reason"]), (&after["state"], &after["reason"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_identifies_its_operator_and_an_operators_name_is_no_token() -> Result<()> {
    let stack = with_operators().await?;
    let body = r#"{"operation": "history", "reference": "wallet-change-1"}"#;
    for wrong in ["ada", &format!("ada:{ADAS_TOKEN}"), &format!("grace:{ADAS_TOKEN}"), &ADAS_TOKEN[1..]] {
        assert_problem(&operate_as(&stack, wrong, body).await?, 401, "unauthorized", "no");
    }
    assert_problem(&operate_as(&stack, "Zk3vT-8qWm_LxR5nYb2hJd", body).await?, 422, "unknown_job", "no");
    soon(stack.host.log.find(|line| line.contains(r#""operator":"grace""#))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_routes_need_operators_and_a_refused_operator_key_is_reported() -> Result<()> {
    let door = FrontDoor::with(&[("operator_tokens", OPERATORS)]).await?;
    let status = get(&door.url("/operator/status"), Some(ADAS_TOKEN)).await?;
    assert_problem(&status, 503, "ledger_not_configured", "no");
    let stack = start_silent(&[]).await?;
    assert_problem(&operate(&stack, &json!({ "operation": "history" })).await?, 401, "unauthorized", "no");
    // The worker's key can claim and settle, but it cannot act for an operator.
    let stack = start_silent(&[("operator_tokens", OPERATORS)]).await?;
    let status = get(&format!("{}/operator/status", stack.host.url), Some(ADAS_TOKEN)).await?;
    assert_problem(&status, 503, "operator_key_refused", "no");
    assert_eq!(status.headers["retry-after"], "60");
    let service = postgrest::key("service_role")?;
    let stack = start_silent(&[("operator_tokens", OPERATORS), ("supabase_key", &service)]).await?;
    assert_eq!(get(&format!("{}/operator/status", stack.host.url), Some(ADAS_TOKEN)).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_shows_its_numbers_to_operators_only() -> Result<()> {
    let stack = with_operators().await?;
    deposit(&stack, "100").await?;
    let url = format!("{}/health", stack.host.url);
    let members = |reply: &Reply| reply.body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for token in [None, Some("a.b.c"), Some("ada")] {
        let health = get(&url, token).await?;
        assert_eq!(members(&health), ["mode", "paused", "status", "sweeper", "version", "why"]);
    }
    let health = get(&url, Some(ADAS_TOKEN)).await?;
    assert_eq!((&health.body["due"], &health.body["unknown"]), (&json!(1), &json!(0)), "{}", health.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_passes_the_ledgers_reasons_to_every_caller_and_its_job_counts_to_operators_only() -> Result<()>
{
    let stack = with_operators().await?;
    sql(
        &stack,
        r#"create or replace function public.ledger_health() returns jsonb language sql set search_path = pg_catalog, pg_temp as $$
             select '{"protocols": [2], "status": "degraded", "why": ["waiting_for_keys"], "sweeper": "ok", "due": 2, "oldest_due_s": 9, "unknown": 0, "alarms": 0,
               "not_executed": [{"reason": "agent_without_key", "jobs": 2, "oldest_s": 9}], "anything_new": 1}'::jsonb $$"#,
    )
    .await?;
    let url = format!("{}/health", stack.host.url);
    let public = get(&url, None).await?;
    assert_eq!(
        (&public.body["status"], &public.body["why"]),
        (&json!("degraded"), &json!(["waiting_for_keys"]))
    );
    let hidden = public.body.get("not_executed").is_none() && public.body.get("anything_new").is_none();
    assert!(hidden, "a public reply shows members for operators: {}", public.body);
    let operators = get(&url, Some(ADAS_TOKEN)).await?;
    assert_eq!(
        operators.body["not_executed"],
        json!([{"reason": "agent_without_key", "jobs": 2, "oldest_s": 9}])
    );
    Ok(())
}

/// Here the host decides how many instances it starts. The function's own tests of its health check one look a second.
#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_health_requests_cause_at_most_eighty_ledger_queries() -> Result<()> {
    let stack = with_operators().await?;
    let url = format!("{}/health", stack.host.url);
    for _ in 0..50 {
        for reply in join_all((0..8).map(|_| get(&url, None))).await {
            assert_eq!(reply?.body["why"], json!(["no_sweeper"]));
        }
    }
    let looks = stack.postgrest.calls().iter().filter(|call| *call == "ledger_health").count();
    assert!((1..=80).contains(&looks), "{looks} queries for 400 requests");
    Ok(())
}
