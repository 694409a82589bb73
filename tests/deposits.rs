//! A standalone function makes one bet and one reply of one deposit.

use crate::front_door::{FrontDoor, assert_no_call, reply, row, soon};
use anyhow::Result;
use serde_json::{Value, json};
use stack::{
    host::{Build, Kind},
    http1,
    purple_flea::{self, Fault, How},
    webhook,
};
use std::collections::HashSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_becomes_one_bet_and_the_reply_tells_its_outcome() -> Result<()> {
    let door = FrontDoor::open().await?;
    let reply = door.deposit(42, "100.0000").await?;
    let bets = door.purple_flea.bets();
    let [bet] = &bets[..] else { panic!("{bets:?}") };

    assert_eq!(reply.status, 200);
    assert_eq!(reply.body["status"], "executed");
    assert_eq!(reply.body["reference"], "wallet-change-42");
    assert_eq!(reply.body["agent_id"], "agent-001");
    assert_eq!(reply.body["game"], "crash");
    assert_eq!(reply.body["cashout_at"].to_string(), "1.5");
    assert_eq!(reply.body["wager"].to_string(), "10.00");
    assert_eq!(reply.body["outcome"], if bet.won { "win" } else { "loss" });
    assert_eq!(reply.body["payout"].to_string(), bet.payout.to_string());
    assert_eq!(reply.body["bet_id"], bet.bet_id.as_str());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn purple_flea_receives_the_documented_request_byte_for_byte() -> Result<()> {
    let door = FrontDoor::open().await?;
    door.deposit(7, "12345678.1235").await?;
    let coin = r#"{"record":{"id":8,"agent_id":"agent-001","change_type":"deposit","new_balance":"100"},"policy":{"game":"coin-flip","side":"tails"}}"#;
    door.send(8, coin).await?;
    let requests = door.purple_flea.requests();
    let [crash, flip] = &requests[..] else { panic!("{requests:?}") };

    assert_eq!(crash.path, "/casino/crash");
    assert_eq!(crash.body, r#"{"agent_id":"agent-001","cashout_at":1.5,"wager":1234567.81}"#);
    assert_eq!(flip.path, "/casino/coin-flip");
    assert_eq!(flip.body, r#"{"agent_id":"agent-001","side":"tails","wager":10.00}"#);
    for (request, reference) in [(crash, "wallet-change-7"), (flip, "wallet-change-8")] {
        assert_eq!(request.headers["authorization"], format!("Bearer {}", purple_flea::KEY));
        assert_eq!(request.headers["content-type"], "application/json");
        assert_eq!(request.headers["content-length"], request.body.len().to_string());
        assert_eq!(request.headers["idempotency-key"], reference);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_body_shapes_and_the_three_paths_place_the_same_bet() -> Result<()> {
    let door = FrontDoor::open().await?;
    let webhook = |id| {
        let record = row(id, "50");
        format!(
            r#"{{"type":"INSERT","table":"wallet_changes","schema":"public","record":{record},"old_record":null}}"#
        )
    };
    let realtime = |id| {
        let record = row(id, "50");
        format!(
            r#"{{"data":{{"type":"INSERT","table":"wallet_changes","schema":"public","record":{record}}},"ids":[1]}}"#
        )
    };
    for (id, path, body) in [
        (1, "/", row(1, "50")),
        (2, "/execute-trade", webhook(2)),
        (3, "/functions/v1/execute-trade?game=coin-flip&wager=9", realtime(3)),
    ] {
        let request = webhook::signed(&door.url(path), &format!("wallet-change-{id}"), body.as_bytes())?;
        let reply = reply(request.body(body.into())?).await?;
        assert_eq!(reply.body["status"], "executed");
        assert_eq!(reply.body["game"], "crash");
        assert_eq!(reply.body["wager"].to_string(), "5.00");
    }
    assert_eq!(door.purple_flea.bets().len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_row_may_have_columns_of_the_applications_own_and_any_id() -> Result<()> {
    let door = FrontDoor::open().await?;
    let own = r#"{"type": "manual", "table": 7, "data": {"a": 1}, "record": "r-1", "policy": "vip", "schema": [], "#;
    for id in [0, -5] {
        let body = row(1, "50").replacen('{', own, 1).replace(r#""id": 1"#, &format!(r#""id": {id}"#));
        let reference = format!("wallet-change-{id}");
        let request = webhook::signed(&door.url("/execute-trade"), &reference, body.as_bytes())?;
        let reply = reply(request.body(body.into())?).await?;
        assert_eq!(
            (&reply.body["status"], &reply.body["reference"]),
            (&json!("executed"), &json!(reference))
        );
    }
    Ok(())
}

/// Some readers of lines take U+2028 for the end of one. JSON allows it in a text.
#[tokio::test(flavor = "multi_thread")]
async fn an_agents_name_with_unicodes_line_break_stays_one_line_of_the_log() -> Result<()> {
    let door = FrontDoor::open().await?;
    let name = "a\u{2028}b";
    door.purple_flea.fund(name, 1_000.into());
    let reply = door.send(1, &row(1, "100").replace("agent-001", name)).await?;
    assert_eq!((&reply.body["status"], &reply.body["agent_id"]), (&json!("executed"), &json!(name)));
    let line = soon(door.host.log.find(|line| line.contains("a\\u2028b"))).await?;
    assert!(!line.contains('\u{2028}'), "{line}");
    assert_eq!(serde_json::from_str::<Value>(&line)?["agent"], name);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_no_reason_to_bet_is_skipped_with_its_reason() -> Result<()> {
    let door = FrontDoor::with(&[("min_change", "10")]).await?;
    let with = |key: &str, value: Value| {
        let mut row: Value = serde_json::from_str(&row(1, "100")).unwrap();
        row[key] = value;
        row.to_string()
    };
    let other_table = r#"{"type":"INSERT","table":"trade_results","schema":"public","record":{"id":7}}"#;
    let update =
        r#"{"type":"UPDATE","table":"wallet_changes","schema":"public","record":{},"old_record":{}}"#;
    for (body, reason) in [
        (with("change_type", json!("withdrawal")), "not_a_deposit"),
        (with("new_balance", json!(4.99)), "below_min_balance"),
        (with("new_balance", json!(null)), "no_balance"),
        (with("change_amount", json!(9.99)), "below_min_change"),
        (with("change_amount", json!(null)), "below_min_change"),
        (other_table.to_owned(), "unhandled_table"),
        (update.to_owned(), "unhandled_event"),
    ] {
        let reply = door.send(1, &body).await?;
        assert_eq!(reply.status, 200);
        assert_eq!((&reply.body["status"], &reply.body["reason"]), (&json!("skipped"), &json!(reason)));
    }
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_function_places_no_bet() -> Result<()> {
    let door = FrontDoor::with(&[("paused", "true")]).await?;
    let reply = door.deposit(1, "100").await?;
    assert_eq!(reply.status, 200);
    assert_eq!((&reply.body["status"], &reply.body["reason"]), (&json!("waiting"), &json!("paused")));
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_bearer_token_replaces_the_signature() -> Result<()> {
    let door = FrontDoor::with(&[("webhook_token", "a-token-for-calls-by-hand")]).await?;
    let request = |body: &str| {
        http::Request::post(door.url("/execute-trade"))
            .header("content-type", "application/json; charset=utf-8")
            .header("authorization", "Bearer a-token-for-calls-by-hand")
            .body(body.as_bytes().to_vec())
    };
    let by_row = reply(request(&row(5, "100"))?).await?;
    assert_eq!(by_row.body["reference"], "wallet-change-5");
    let nameless = r#"{"agent_id":"agent-001","change_type":"deposit","new_balance":100}"#;
    let mut by_header = request(nameless)?;
    by_header.headers_mut().insert("webhook-id", "by-hand-1".parse()?);
    assert_eq!(reply(by_header).await?.body["reference"], "by-hand-1");
    let without = reply(request(nameless)?).await?;
    crate::front_door::assert_problem(&without, 400, "missing_reference", "no");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_concurrent_deposits_get_a_hundred_bets_each_in_its_own_reply() -> Result<()> {
    let door = FrontDoor::open().await?;
    let requests = (1..=100_u64).map(|id| {
        let door = &door;
        async move { (id, door.deposit(id, &format!("{}", id * 100)).await) }
    });
    for (id, reply) in soon(futures_util::future::join_all(requests)).await? {
        let reply = reply?;
        assert_eq!(reply.body["reference"], format!("wallet-change-{id}"));
        assert_eq!(reply.body["wager"].to_string(), format!("{}.00", id * 10));
        let bets = door.purple_flea.bets();
        let bet = bets.iter().find(|bet| reply.body["bet_id"] == bet.bet_id.as_str());
        let bet = bet.unwrap_or_else(|| panic!("no bet has the id in the reply {}", reply.body));
        assert_eq!(bet.idempotency_key, Some(format!("wallet-change-{id}")));
        assert_eq!(reply.body["payout"].to_string(), bet.payout.to_string());
    }
    let keys: HashSet<_> = door.purple_flea.bets().into_iter().map(|bet| bet.idempotency_key).collect();
    assert_eq!(keys.len(), 100, "each bet has its own idempotency key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_logs_one_line_with_its_decision_and_no_secret() -> Result<()> {
    let door = FrontDoor::open().await?;
    door.deposit(1, "100").await?;
    let line = door.line(&["\"wallet-change-1\""]).await?;
    assert_eq!((&line["event"], &line["level"]), (&json!("execute_trade"), &json!("info")));
    assert_eq!((&line["agent"], &line["decision"]), (&json!("agent-001"), &json!("bet")));
    assert_eq!(line["status"], 200);
    assert!(
        line["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{line}"
    );
    assert!(line["ms"].is_number() && line["purple_flea_ms"].is_number(), "{line}");

    // A bet of unknown outcome and a refused caller log the other kinds of line.
    door.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
    door.deposit(2, "100").await?;
    let wrong_token = http::Request::post(door.url("/?key=in-the-query"))
        .header("content-type", "application/json")
        .header("authorization", "Bearer hunter2-hunter2-hunter2")
        .body(b"in-the-body".to_vec())?;
    reply(wrong_token).await?;
    door.line(&["unauthorized"]).await?;
    let lines = door.host.log.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    let everything = lines.join("\n");
    for secret in
        [purple_flea::KEY, webhook::SECRET, &webhook::SECRET[6..], "hunter2", "in-the-query", "in-the-body"]
    {
        assert!(!everything.contains(secret), "the log contains {secret}: {everything}");
    }
    Ok(())
}

/// Runs on the host that `WASI_HOST` names. Without that, both builds run on the embedded host.
#[tokio::test(flavor = "multi_thread")]
async fn every_host_and_both_builds_place_bets_and_refuse_forged_requests() -> Result<()> {
    let hosts = match Kind::from_env()? {
        Kind::Embedded => vec![(Kind::Embedded, Build::Spin), (Kind::Embedded, Build::Wasi)],
        Kind::Wasmtime => vec![(Kind::Wasmtime, Build::Wasi)],
        kind => vec![(kind, Build::on(kind))],
    };
    for (kind, build) in hosts {
        check_the_main_paths(FrontDoor::on(kind, build, &[]).await?).await?;
    }
    Ok(())
}

/// Checks health, a skipped deposit, a bet, a forged request, and a caller that hangs up during a bet.
async fn check_the_main_paths(door: FrontDoor) -> Result<()> {
    let health = reply(http::Request::get(door.url("/health")).body(vec![])?).await?;
    assert_eq!((health.status.as_u16(), &health.body["status"]), (200, &json!("ok")));
    assert_eq!(door.deposit(1, "1").await?.body["reason"], "below_min_balance");
    assert_eq!(door.deposit(2, "100").await?.body["status"], "executed");
    let body = row(3, "100");
    let forged = webhook::signed(&door.url("/execute-trade"), "wallet-change-3", b"another body")?;
    assert_eq!(reply(forged.body(body.into())?).await?.status, 401);
    assert_eq!(door.purple_flea.bets().len(), 1);

    // The caller hangs up after the bet was sent. The bet is placed once, and the host keeps serving.
    door.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Hang });
    let body = row(4, "100");
    let request = webhook::signed(&door.url("/execute-trade"), "wallet-change-4", body.as_bytes())?;
    let caller = tokio::spawn(http1::send(request.body(body.into())?));
    soon(door.purple_flea.reached(2)).await?;
    caller.abort();
    assert_eq!(door.deposit(5, "100").await?.body["status"], "executed");
    let keys: Vec<_> = door.purple_flea.bets().into_iter().filter_map(|bet| bet.idempotency_key).collect();
    assert_eq!(keys, ["wallet-change-2", "wallet-change-4", "wallet-change-5"]);
    Ok(())
}
