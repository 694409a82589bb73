//! The function refuses bad requests with a clear reason and never passes them on to Purple Flea.

use crate::front_door::{FrontDoor, assert_no_call, assert_problem, reply, row, soon};
use anyhow::Result;
use http::{HeaderName, HeaderValue, Method, Request};
use stack::webhook;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SECOND_SECRET: &str = "whsec_dGhlIHNlY29uZCBzZWNyZXQsIHdoaWxlIHJvdGF0aW5nISE=";

#[tokio::test(flavor = "multi_thread")]
async fn the_function_refuses_bodies_that_are_not_an_event() -> Result<()> {
    let door = FrontDoor::open().await?;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_column = row(1, "100").replacen('{', &format!(r#"{{"note":{deep},"#), 1);
    let deep_elsewhere = format!(r#"{{"record":{},"old_record":{deep}}}"#, row(1, "100"));
    for (body, code) in [
        ("", "invalid_json"),
        ("{", "invalid_json"),
        ("{\"new_balance\": NaN}", "invalid_json"),
        (&row(1, "100")[..50], "invalid_json"),
        (&deep, "invalid_event"),
        (&deep_column, "invalid_event"),
        (&deep_elsewhere, "invalid_event"),
        ("[]", "invalid_event"),
        ("null", "invalid_event"),
        ("\"deposit\"", "invalid_event"),
        ("{}", "invalid_event"),
        ("{\"record\": 5}", "invalid_event"),
        ("{\"agent_id\": \"agent-001\"}", "invalid_event"),
    ] {
        let reply = door.send(1, body).await?;
        assert_problem(&reply, 400, code, "no");
    }
    for invalid_utf8 in [
        &b"{\"agent_id\":\"\xff\xfe\",\"change_type\":\"deposit\",\"new_balance\":100,\"id\":1}"[..],
        b"{\"agent_id\":\"agent-001\",\"change_type\":\"deposit\",\"new_balance\":100,\"id\":1,\"note\":\"\xff\"}",
        b"{\"record\":{\"agent_id\":\"agent-001\",\"change_type\":\"deposit\",\"new_balance\":100,\"id\":1},\"x\":\"\xff\"}",
    ] {
        let reply = reply(signed("wallet-change-1", &door, invalid_utf8)?).await?;
        assert_problem(&reply, 400, "invalid_json", "no");
    }
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_refuses_balances_that_are_not_a_valid_amount() -> Result<()> {
    let door = FrontDoor::open().await?;
    for number in [
        "\"NaN\"",
        "1e400",
        "-100",
        "-0.01",
        "123456789012345678901234567890",
        "100000000",
        "100.00001",
        "\"Infinity\"",
        "true",
    ] {
        let reply = door.deposit(1, number).await?;
        assert_problem(&reply, 400, "invalid_event", "no");
    }
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_refuses_a_caller_that_sets_a_limit_or_chooses_an_impossible_bet() -> Result<()> {
    let door = FrontDoor::open().await?;
    for policy in [
        r#"{"max_wager":1000000}"#,
        r#"{"paused":false}"#,
        r#"{"wager_fraction":1}"#,
        r#"{"min_balance":0}"#,
        r#"{"game":"hilo"}"#,
        r#"{"side":"edge"}"#,
        r#"{"cashout_at":1.00}"#,
        r#"{"cashout_at":100.01}"#,
    ] {
        let reply = door.send(1, &format!(r#"{{"record":{},"policy":{policy}}}"#, row(1, "100"))).await?;
        assert_problem(&reply, 400, "invalid_event", "no");
    }
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_accepts_a_body_of_64_kib_and_refuses_one_byte_more() -> Result<()> {
    let door = FrontDoor::open().await?;
    let padded = |length: usize| {
        let row = row(1, "100");
        let padding = " ".repeat(length - row.len());
        row + &padding
    };
    let over = door.send(1, &padded(64 * 1024 + 1)).await?;
    assert_problem(&over, 413, "body_too_large", "no");
    let far_over = door.send(1, &padded(900 * 1024)).await?;
    assert_problem(&far_over, 413, "body_too_large", "no");
    assert_no_call(&door.purple_flea);
    assert_eq!(door.send(1, &padded(64 * 1024)).await?.body["status"], "executed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_unauthenticated_caller_gets_the_same_reply() -> Result<()> {
    let door = FrontDoor::with(&[("webhook_token", "a-token-for-calls-by-hand")]).await?;
    let body = row(1, "100");
    let now_s = webhook::unix_s();
    let signed_at = |timestamp_s: u64, secret: &str, id: &str, signed_body: &str| -> Result<_> {
        let signature = webhook::signature(secret, id, timestamp_s, signed_body.as_bytes())?;
        Ok(vec![
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", timestamp_s.to_string()),
            ("webhook-signature", signature),
        ])
    };
    let good = signed_at(now_s, webhook::SECRET, "wallet-change-1", &body)?;
    let mut truncated = good.clone();
    truncated[2].1.truncate(20);
    let repeated = |name: &str| {
        let mut headers = good.clone();
        headers.push(("authorization", "Bearer a-token-for-calls-by-hand".to_owned()));
        let again = headers.iter().find(|(n, _)| *n == name).cloned().unwrap();
        headers.push(again);
        headers
    };
    let token = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let cases = [
        ("no_signature", vec![]),
        ("wrong_signature", signed_at(now_s, webhook::SECRET, "wallet-change-1", "another body")?),
        ("wrong_signature", signed_at(now_s, SECOND_SECRET, "wallet-change-1", &body)?),
        ("wrong_signature", truncated),
        ("too_old", signed_at(now_s - 400, webhook::SECRET, "wallet-change-1", &body)?),
        ("from_the_future", signed_at(now_s + 400, webhook::SECRET, "wallet-change-1", &body)?),
        ("reference_mismatch", signed_at(now_s, webhook::SECRET, "wallet-change-2", &body)?),
        ("repeated_header", repeated("webhook-id")),
        ("repeated_header", repeated("webhook-timestamp")),
        ("repeated_header", repeated("webhook-signature")),
        ("repeated_header", repeated("authorization")),
        ("wrong_token", token("a-token-for-calls-by-hanD")),
        ("malformed_header", token("")),
        ("malformed_header", vec![("authorization", "Basic YTpi".to_owned())]),
    ];
    let mut replies = Vec::new();
    for (cause, headers) in cases {
        let mut request =
            Request::post(door.url("/execute-trade")).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let reply = reply(request.body(body.clone().into())?).await?;
        assert_problem(&reply, 401, "unauthorized", "no");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        // Each request logs one line, so this line belongs to this request.
        let newest = soon(door.host.log.nth(replies.len())).await?;
        assert!(newest.contains(cause), "{cause}: {newest}");
        let mut body = reply.body;
        // Only a caller that knows the secret and signed for another row gets a reference in its reply.
        body.as_object_mut().map(|body| body.remove("reference"));
        replies.push(body.to_string());
    }
    replies.dedup();
    assert_eq!(replies.len(), 1, "the replies differ: {replies:?}");
    assert_no_call(&door.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_accepts_either_secret_during_a_rotation() -> Result<()> {
    let both = format!("{}, {SECOND_SECRET}", webhook::SECRET);
    let door = FrontDoor::with(&[("webhook_secrets", &both)]).await?;
    for (id, secret) in [(1, webhook::SECRET), (2, SECOND_SECRET)] {
        let (body, reference, now_s) = (row(id, "100"), format!("wallet-change-{id}"), webhook::unix_s());
        let request = Request::post(door.url("/execute-trade"))
            .header("content-type", "application/json")
            .header("webhook-id", &reference)
            .header("webhook-timestamp", now_s)
            .header("webhook-signature", webhook::signature(secret, &reference, now_s, body.as_bytes())?)
            .body(body.into())?;
        assert_eq!(reply(request).await?.body["status"], "executed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_wrong_methods_and_wrong_content_types_each_get_their_own_problem() -> Result<()> {
    let door = FrontDoor::open().await?;
    for path in [
        "/execute-trade/",
        "/trading",
        "/operator/",
        "/operators",
        "/functions/v1",
        "/health/../execute-trade",
        "//",
    ] {
        let reply = reply(Request::post(door.url(path)).body(vec![])?).await?;
        assert_problem(&reply, 404, "not_found", "no");
    }
    for (method, path, allow) in [
        (Method::GET, "/execute-trade", "POST"),
        (Method::PUT, "/", "POST"),
        (Method::DELETE, "/functions/v1/execute-trade", "POST"),
        (Method::POST, "/health", "GET"),
        (Method::POST, "/operator/status", "GET"),
        (Method::GET, "/operator", "POST"),
    ] {
        let reply = reply(Request::builder().method(method).uri(door.url(path)).body(vec![])?).await?;
        assert_problem(&reply, 405, "method_not_allowed", "no");
        assert_eq!(reply.headers["allow"], allow);
    }
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/jsonp"),
        Some("application/x-www-form-urlencoded"),
        Some(""),
    ] {
        let mut request = signed("wallet-change-1", &door, row(1, "100").as_bytes())?;
        request.headers_mut().remove("content-type");
        if let Some(content_type) = content_type {
            request.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
        }
        assert_problem(&reply(request).await?, 415, "unsupported_media_type", "no");
    }
    let mut two = signed("wallet-change-1", &door, row(1, "100").as_bytes())?;
    two.headers_mut()
        .append(HeaderName::from_static("content-type"), HeaderValue::from_static("application/json"));
    assert_problem(&reply(two).await?, 415, "unsupported_media_type", "no");
    assert_no_call(&door.purple_flea);

    for (id, content_type) in [(2, "application/json; charset=utf-8"), (3, "Application/JSON;charset=UTF-8")]
    {
        let mut request = signed(&format!("wallet-change-{id}"), &door, row(id, "100").as_bytes())?;
        request.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
        assert_eq!(reply(request).await?.body["status"], "executed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_notification_to_a_standalone_function_never_bets() -> Result<()> {
    let door = FrontDoor::open().await?;
    let reply = door.send(1, &format!(r#"{{"record":{},"ledger":true}}"#, row(1, "100"))).await?;
    assert_problem(&reply, 503, "ledger_not_configured", "no");
    assert_eq!(reply.body["retryable"], true);
    assert_no_call(&door.purple_flea);
    Ok(())
}

/// The caller announces more bytes than it sends and stays silent. The function replies after its limit for a body.
#[tokio::test(flavor = "multi_thread")]
async fn the_function_refuses_a_body_that_never_arrives_completely() -> Result<()> {
    let door = FrontDoor::open().await?;
    let address = door.host.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await?;
    let head = "POST /execute-trade HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\":";
    stream.write_all(head.as_bytes()).await?;
    let mut first = [0; 12];
    soon(stream.read_exact(&mut first)).await??;
    assert_eq!(&first, b"HTTP/1.1 400");
    door.line(&["incomplete_body"]).await?;
    assert_no_call(&door.purple_flea);
    Ok(())
}

fn signed(id: &str, door: &FrontDoor, body: &[u8]) -> Result<Request<Vec<u8>>> {
    Ok(webhook::signed(&door.url("/execute-trade"), id, body)?.body(body.to_vec())?)
}
