//! The paths that request a job: every path accepts its documented body and nothing else, and a wrong request
//! moves no money.

use crate::front_door::{
    FrontDoor, OPERATIONS, Reply, assert_no_call, assert_problem, reply, with_operation,
};
use anyhow::Result;
use http::Request;
use serde_json::json;
use stack::{purple_flea::TRADING_KEY, webhook};

/// Every path, with a body that it accepts once the operation is added.
const PATHS: [(&str, &str); 14] = [
    ("/register", r#"{"agent_id": "agent-001"}"#),
    ("/faucet", r#"{"agent_id": "agent-001"}"#),
    ("/faucet/daily", r#"{"agent_id": "agent-001"}"#),
    ("/balance", r#"{"agent_id": "agent-001"}"#),
    ("/trade", r#"{"agent_id": "agent-001", "market": "BTC", "direction": "long", "size": 25}"#),
    ("/order", r#"{"agent_id": "agent-001", "asset": "ETH", "side": "sell", "size_usdc": 25.50}"#),
    ("/escrow", r#"{"sender_id": "agent-001", "receiver_id": "agent-002", "amount": 2.50}"#),
    ("/escrow/release", r#"{"agent_id": "agent-001", "pf_escrow_id": "esc_1"}"#),
    ("/escrow/cancel", r#"{"agent_id": "agent-001", "pf_escrow_id": "esc_1"}"#),
    ("/escrow/complete", r#"{"agent_id": "agent-001", "pf_escrow_id": "esc_1"}"#),
    ("/escrow/dispute", r#"{"agent_id": "agent-001", "pf_escrow_id": "esc_1", "reason": "no logo"}"#),
    ("/escrow/status", r#"{"agent_id": "agent-001", "pf_escrow_id": "esc_1"}"#),
    ("/close", r#"{"agent_id": "agent-001", "position_id": "pos_1"}"#),
    ("/bet", r#"{"agent_id": "agent-001", "game": "crash", "cashout_at": 1.5, "wager": 5}"#),
];

/// Gives a body that a path accepts.
fn body_of(path: &str) -> &'static str {
    PATHS.iter().find(|(known, _)| *known == path).map_or("{}", |(_, body)| body)
}

/// Adds the path's operation to a body, signs it, and sends it.
async fn send(door: &FrontDoor, path: &str, body: &str) -> Result<Reply> {
    send_unchanged(door, path, &with_operation(path, body)).await
}

/// Signs a body and sends it.
async fn send_unchanged(door: &FrontDoor, path: &str, body: &str) -> Result<Reply> {
    reply(webhook::signed(&door.url(path), "by-hand-1", body.as_bytes())?.body(body.into())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_refuses_unsigned_oversized_and_malformed_requests() -> Result<()> {
    let door = FrontDoor::open().await?;
    for (path, body) in PATHS {
        let url = door.url(path);
        let unsigned = Request::post(&url).header("content-type", "application/json").body(body.into())?;
        assert_problem(&reply(unsigned).await?, 401, "unauthorized", "no");
        let wrong_method = reply(Request::get(&url).body(vec![])?).await?;
        assert_problem(&wrong_method, 405, "method_not_allowed", "no");
        assert_eq!(wrong_method.headers["allow"], "POST");
        let text = Request::post(&url).header("content-type", "text/plain").body(body.into())?;
        assert_problem(&reply(text).await?, 415, "unsupported_media_type", "no");
        let large = format!(r#"{{"agent_id": "{}"}}"#, "x".repeat(65_536));
        assert_problem(&send(&door, path, &large).await?, 413, "body_too_large", "no");
        for (wrong, code) in [
            (r#"{"operation": 7, "agent_id": "a"}"#, "invalid_event"),
            (r#"{"operation": null, "agent_id": "a"}"#, "missing_operation"),
            (r#"{"operation": "", "agent_id": "a"}"#, "other_operation"),
            (r#"{"operation": "execute_trade", "agent_id": "a"}"#, "other_operation"),
            (r#"{"record": {"operation": "trade"}}"#, "missing_operation"),
            ("{}", "missing_operation"),
        ] {
            assert_problem(&send_unchanged(&door, path, wrong).await?, 400, code, "no");
        }
        let twice = with_operation(path, &with_operation(path, body));
        assert_problem(&send_unchanged(&door, path, &twice).await?, 400, "invalid_event", "no");
        for (wrong, code) in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ("\u{0}", "invalid_json"),
            ("null", "invalid_event"),
            ("[]", "invalid_event"),
            ("{}", "invalid_event"),
            (r#"{"agent_id": 1}"#, "invalid_event"),
            (r#"{"agent_id": "a", "agent_id": "b"}"#, "invalid_event"),
            (r#"{"agent_id": "a", "wager": 5, "sender_id": "a"}"#, "invalid_event"),
        ] {
            assert_problem(&send(&door, path, wrong).await?, 400, code, "no");
        }
        let deep = format!(r#"{{"agent_id": {}1{}}}"#, "[".repeat(70), "]".repeat(70));
        assert_problem(&send(&door, path, &deep).await?, 400, "invalid_event", "no");
    }
    assert_no_call(&door.purple_flea);
    Ok(())
}

/// Sends the body of every operation to every other path, so no path executes a request that was signed for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_body_is_accepted_only_on_the_path_of_its_operation() -> Result<()> {
    let door = FrontDoor::open().await?;
    // No signature opens the path of heartbeats.
    for (path, operation) in OPERATIONS.into_iter().filter(|(path, _)| *path != "/heartbeat") {
        for (other, _) in OPERATIONS.into_iter().filter(|(other, _)| *other != path) {
            let refused = send_unchanged(&door, path, &with_operation(other, body_of(other))).await?;
            assert_problem(&refused, 400, "other_operation", "no");
            let detail = refused.body["detail"].as_str().unwrap();
            assert!(detail.contains(operation) && !detail.contains("agent-001"), "{detail}");
        }
        for notifications in ["/", "/execute-trade", "/functions/v1/execute-trade"] {
            let refused = send_unchanged(&door, notifications, &with_operation(path, body_of(path))).await?;
            assert_problem(&refused, 400, "other_operation", "no");
        }
    }
    assert_no_call(&door.purple_flea);
    // A deposit row may name its own operation.
    let row = crate::front_door::row(1, "100").replacen('{', r#"{"operation": "execute_trade", "#, 1);
    assert_eq!(door.send(1, &row).await?.body["status"], "executed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_amounts_and_names_are_refused_before_any_call() -> Result<()> {
    let door = FrontDoor::open().await?;
    let trade = |market: &str, direction: &str, size: &str| {
        format!(
            r#"{{"agent_id": "agent-001", "market": {market}, "direction": {direction}, "size": {size}}}"#
        )
    };
    for size in ["0", "0.001", "-1", "1000000000000", "1e12", "\"NaN\"", "null", "99999999.99999"] {
        for path in ["/trade", "/order"] {
            let reply = send(&door, path, &trade("\"BTC\"", "\"long\"", size)).await?;
            assert_problem(&reply, 400, "invalid_event", "no");
        }
        let escrow = format!(r#"{{"sender_id": "agent-001", "receiver_id": "agent-002", "amount": {size}}}"#);
        assert_problem(&send(&door, "/escrow", &escrow).await?, 400, "invalid_event", "no");
    }
    for (market, direction) in [
        ("\"\"", "\"long\""),
        ("\"BTC USD\"", "\"long\""),
        ("\"a-market-of-too-long-a-name\"", "\"long\""),
        ("\"BTC\"", "\"up\""),
        ("\"BTC\"", "\"LONG\""),
        ("null", "\"long\""),
    ] {
        assert_problem(
            &send(&door, "/trade", &trade(market, direction, "5")).await?,
            400,
            "invalid_event",
            "no",
        );
    }
    for leverage in ["0", "51", "2.5", "-1", "\"2\""] {
        let body =
            format!(r#"{{"agent_id": "agent-001", "market": "BTC", "size": 5, "leverage": {leverage}}}"#);
        assert_problem(&send(&door, "/trade", &body).await?, 400, "invalid_event", "no");
    }
    for id in ["\"../../agents\"", "\"pos 1\"", "\"\"", "7", "null"] {
        let body = format!(r#"{{"agent_id": "agent-001", "position_id": {id}}}"#);
        assert_problem(&send(&door, "/close", &body).await?, 400, "invalid_event", "no");
    }
    for (sender, receiver, more) in [
        ("agent-001", "agent-001", ""),
        ("", "agent-002", ""),
        ("agent-001", "", ""),
        ("agent-001", "agent-002", r#", "description": "no""#),
        ("agent-001", "agent-002", r#", "description": "a \u0000 gift""#),
        ("agent\\u0000", "agent-002", ""),
        ("agent-001", "agent\\u0000", ""),
        ("agent-001", "agent-002", r#", "timeout": 5"#),
        ("agent-001", "agent-002", r#", "timeout_hours": 0"#),
        ("agent-001", "agent-002", r#", "timeout_hours": 721"#),
        ("agent-001", "agent-002", r#", "timeout_hours": "soon""#),
    ] {
        let body = format!(r#"{{"sender_id": "{sender}", "receiver_id": "{receiver}", "amount": 5{more}}}"#);
        assert_problem(&send(&door, "/escrow", &body).await?, 400, "invalid_event", "no");
    }
    // Half of a character outside of the first plane is no text.
    for text in [r#""a \ud83d gift""#, r#""a \ude00 gift""#] {
        let body = format!(
            r#"{{"sender_id": "agent-001", "receiver_id": "agent-002", "amount": 5, "description": {text}}}"#
        );
        assert_problem(&send(&door, "/escrow", &body).await?, 400, "invalid_json", "no");
    }
    for id in ["../../agents", "esc 1", "", "esc/1"] {
        let body = json!({"agent_id": "agent-001", "pf_escrow_id": id}).to_string();
        assert_problem(&send(&door, "/escrow/release", &body).await?, 400, "invalid_event", "no");
    }
    // Only a function with a ledger accepts `escrow_id`.
    let body = r#"{"escrow_id": 7}"#;
    assert_problem(&send(&door, "/escrow/release", body).await?, 400, "invalid_event", "no");
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_caller_needs_a_webhook_id_to_move_money_and_a_ledger_to_register() -> Result<()> {
    let door = FrontDoor::with(&[("webhook_token", "a-token-for-calls-by-hand")]).await?;
    let bearer = async |path: &str, body: &str| {
        let request = Request::post(door.url(path))
            .header("authorization", "Bearer a-token-for-calls-by-hand")
            .header("content-type", "application/json")
            .body(with_operation(path, body).into())?;
        reply(request).await
    };
    for (path, body) in
        PATHS.into_iter().filter(|(path, _)| ["/trade", "/order", "/escrow", "/bet"].contains(path))
    {
        assert_problem(&bearer(path, body).await?, 400, "missing_reference", "no");
    }
    assert_problem(&bearer(PATHS[0].0, PATHS[0].1).await?, 503, "ledger_not_configured", "no");
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_dialect_skips_a_cancellation_and_says_why() -> Result<()> {
    let door = FrontDoor::with(&[("purple_flea_api", "live")]).await?;
    let reply = send(&door, "/escrow/cancel", body_of("/escrow/cancel")).await?;
    assert_eq!((&reply.body["status"], &reply.body["reason"]), (&json!("skipped"), &json!("no_cancel")));
    let detail = reply.body["detail"].as_str();
    assert!(detail.is_some_and(|detail| detail.contains("dispute")), "{}", reply.body);
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_dialect_skips_a_close_and_says_why() -> Result<()> {
    let door = FrontDoor::open().await?;
    let reply = send(&door, "/close", body_of("/close")).await?;
    assert_eq!((&reply.body["status"], &reply.body["reason"]), (&json!("skipped"), &json!("no_close")));
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_function_opens_positions_within_its_leverage_and_closes_them_once() -> Result<()> {
    let settings = [("purple_flea_api", "live"), ("purple_flea_trading_key", TRADING_KEY), ("leverage", "3")];
    let door = FrontDoor::with(&settings).await?;
    let above = r#"{"agent_id": "agent-001", "market": "BTC", "size": 25, "leverage": 4}"#;
    let skipped = send(&door, "/trade", above).await?;
    assert_eq!(
        (&skipped.body["status"], &skipped.body["reason"]),
        (&json!("skipped"), &json!("leverage_limit"))
    );
    assert_no_call(&door.purple_flea);
    let opened = send(&door, "/trade", r#"{"agent_id": "agent-001", "market": "BTC", "size": 25}"#).await?;
    assert_eq!(
        (opened.body["leverage"].to_string().as_str(), &opened.body["direction"]),
        ("3", &json!("long"))
    );

    door.purple_flea.set_price("BTC", 60_000.into());
    let row = json!({"id": 3, "agent_id": "agent-001", "position_id": opened.body["position_id"], "status": "pending"});
    let webhook = json!({"type": "INSERT", "table": "close_requests", "schema": "public", "record": row});
    let (url, body) = (door.url("/execute-trade"), webhook.to_string());
    let closed = reply(webhook::signed(&url, "close-3", body.as_bytes())?.body(body.into())?).await?;
    assert_eq!(
        (&closed.body["status"], closed.body["exit_price"].to_string().as_str()),
        (&json!("executed"), "60000")
    );
    assert!(closed.body["pnl"].to_string().starts_with('-'), "{}", closed.body);
    let close = json!({"agent_id": "agent-001", "position_id": opened.body["position_id"]});
    let again = send(&door, "/close", &close.to_string()).await?;
    assert_eq!(again.body["reason"], "already_closed", "{}", again.body);
    for amount in ["exit_price", "pnl", "fee"] {
        assert_eq!(again.body[amount], closed.body[amount], "{amount}");
    }
    let unknown = send(&door, "/close", r#"{"agent_id": "agent-001", "position_id": "pos_9"}"#).await?;
    assert_problem(&unknown, 422, "rejected", "no");
    assert_eq!(unknown.body["purple_flea_code"], "position_not_found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_function_executes_a_webhook_of_each_table_before_it_replies() -> Result<()> {
    let door = FrontDoor::open().await?;
    door.purple_flea.fund("agent-002", 0.into());
    let webhook = async |id: &str, kind: &str, table: &str, record: serde_json::Value| {
        let body =
            json!({"type": kind, "table": table, "schema": "public", "record": record, "old_record": null});
        let (url, body) = (door.url("/execute-trade"), body.to_string());
        reply(webhook::signed(&url, id, body.as_bytes())?.body(body.into())?).await
    };
    let claimed = webhook("new-1", "INSERT", "agents", json!({"id": "agent-002", "api_key": ""})).await?;
    assert_eq!((&claimed.body["status"], &claimed.body["credited"]), (&json!("executed"), &json!(1)));
    let again = webhook("new-2", "INSERT", "agents", json!({"id": "agent-002", "api_key": ""})).await?;
    assert_problem(&again, 422, "rejected", "no");
    assert_eq!(again.body["purple_flea_code"], "already_claimed");
    let row = json!({"id": 7, "sender_id": "agent-001", "receiver_id": "agent-002", "amount": 2.50, "status": "pending"});
    let wrong_reference = webhook("escrow-8", "INSERT", "escrow_requests", row.clone()).await?;
    assert_problem(&wrong_reference, 401, "unauthorized", "no");
    let made = webhook("escrow-7", "INSERT", "escrow_requests", row.clone()).await?;
    assert_eq!(
        (&made.body["reference"], &made.body["escrow_status"]),
        (&json!("escrow-7"), &json!("funded"))
    );
    let mut updated = row;
    updated["requested_status"] = json!("released");
    updated["pf_escrow_id"] = made.body["pf_escrow_id"].clone();
    let released = webhook("escrow-7-release", "UPDATE", "escrow_requests", updated.clone()).await?;
    assert_eq!(released.body["escrow_status"], "released");
    assert_eq!(door.purple_flea.balance("agent-002").normalize().to_string(), "3.475");
    updated["requested_status"] = json!("cancelled");
    let late = webhook("escrow-7-cancel", "UPDATE", "escrow_requests", updated).await?;
    assert_problem(&late, 422, "rejected", "no");
    assert_eq!(late.body["escrow_status"], "released");
    Ok(())
}
