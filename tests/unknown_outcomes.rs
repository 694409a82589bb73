//! An unknown outcome is not a failure. These tests check which replies of Purple Flea prove an outcome. The function
//! never sends a bet twice.

use crate::front_door::{FrontDoor, Reply, assert_no_call, assert_problem, reply, row, soon};
use anyhow::Result;
use serde_json::json;
use stack::{
    host::{AFTER_REPLY, Build, Host, Kind, Options, local_settings},
    http1,
    purple_flea::{Fault, How, PurpleFlea},
    webhook,
};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls};

/// Sends one deposit to a Purple Flea with a fault, and asserts that the function sends its bet once.
async fn deposit_with_fault(door: &FrontDoor, fault: Fault) -> Result<Reply> {
    let before = door.purple_flea.requests().len();
    door.purple_flea.misbehave_once(fault);
    let reply = door.deposit(1, "100").await?;
    assert_eq!(door.purple_flea.requests().len(), before + 1, "the function must send the bet exactly once");
    Ok(reply)
}

fn answers(status: u16, body: &str) -> Fault {
    Fault { after_the_bet: false, how: How::answer(status, body) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_that_purple_flea_refuses_is_rejected_with_purple_fleas_code() -> Result<()> {
    let door = FrontDoor::open().await?;
    for status in [400, 402, 409, 422] {
        let reply =
            deposit_with_fault(&door, answers(status, r#"{"error":"kelly_limit_exceeded","max_bet":4.93}"#))
                .await?;
        assert_problem(&reply, 422, "rejected", "no");
        assert_eq!(reply.body["retryable"], false);
        assert_eq!(reply.body["purple_flea_code"], "kelly_limit_exceeded");
        assert_eq!(reply.body["max_bet"].to_string(), "4.93");
        assert_eq!(reply.body["reference"], "wallet-change-1");
    }
    let poor = r#"{"record":{"id":1,"agent_id":"agent-002","change_type":"deposit","new_balance":100}}"#;
    assert_eq!(door.send(1, poor).await?.body["purple_flea_code"], "unknown_agent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_or_a_wrong_url_rejects_no_deposit() -> Result<()> {
    let door = FrontDoor::open().await?;
    for status in [401, 403, 404] {
        let reply = deposit_with_fault(&door, answers(status, "{}")).await?;
        assert_problem(&reply, 503, "purple_flea_refused_us", "no");
        assert_eq!((&reply.body["retryable"], &reply.headers["retry-after"]), (&json!(true), &"60".parse()?));
    }
    let door = FrontDoor::with(&[("purple_flea_key", "another-key")]).await?;
    assert_problem(&door.deposit(1, "100").await?, 503, "purple_flea_refused_us", "no");
    let bets = door.purple_flea.bets();
    assert!(bets.is_empty(), "Purple Flea accepted {bets:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_reply_says_how_long_to_wait() -> Result<()> {
    let door = FrontDoor::open().await?;
    let by_default = deposit_with_fault(&door, answers(429, r#"{"error":"rate_limited"}"#)).await?;
    assert_problem(&by_default, 503, "rate_limited", "no");
    assert_eq!(by_default.headers["retry-after"], "60");
    let mut how = How::answer(429, "{}");
    if let How::Answer { headers, .. } = &mut how {
        headers.push(("retry-after", "17".to_owned()));
    }
    let by_header = deposit_with_fault(&door, Fault { after_the_bet: false, how }).await?;
    assert_eq!(
        (&by_header.headers["retry-after"], &by_header.body["retryable"]),
        (&"17".parse()?, &json!(true))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_sending_makes_the_outcome_unknown() -> Result<()> {
    let door = FrontDoor::open().await?;
    for after_the_bet in [false, true] {
        for status in [500, 502, 503, 504, 408] {
            let reply =
                deposit_with_fault(&door, Fault { after_the_bet, how: How::answer(status, "{}") }).await?;
            assert_problem(&reply, 502, "outcome_unknown", "unknown");
            assert_eq!(reply.body["retryable"], false);
            assert!(
                !reply.headers.contains_key("retry-after"),
                "a caller must not retry: {:?}",
                reply.headers
            );
        }
        for how in [How::Reset, How::BreakOff] {
            let reply = deposit_with_fault(&door, Fault { after_the_bet, how }).await?;
            assert_problem(&reply, 502, "outcome_unknown", "unknown");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_never_follows_a_redirect_of_a_bet() -> Result<()> {
    let door = FrontDoor::open().await?;
    for status in [301, 302, 303, 307, 308] {
        let mut how = How::answer(status, "{}");
        if let How::Answer { headers, .. } = &mut how {
            headers.push(("location", format!("{}/casino/crash", door.purple_flea.url)));
        }
        let reply = deposit_with_fault(&door, Fault { after_the_bet: false, how }).await?;
        assert_problem(&reply, 502, "outcome_unknown", "unknown");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_status_without_a_readable_outcome_is_unknown() -> Result<()> {
    let door = FrontDoor::open().await?;
    let cut_off = format!(r#"{{"outcome":"win","payout":15,"padding":"{}"}}"#, "x".repeat(64 * 1024));
    for body in [
        "",
        "{}",
        "null",
        "<html>ok</html>",
        r#"{"outcome":"pending"}"#,
        r#"{"won":true,"outcome":"loss"}"#,
        &cut_off,
    ] {
        let reply = deposit_with_fault(&door, answers(200, body)).await?;
        assert_problem(&reply, 502, "outcome_unknown", "unknown");
    }
    let readable =
        deposit_with_fault(&door, answers(201, r#"{"won":"true","amount_won":"15.00","extra":{"a":[1]}}"#))
            .await?;
    assert_eq!((&readable.body["status"], &readable.body["outcome"]), (&json!("executed"), &json!("win")));
    assert_eq!(readable.body["payout"].to_string(), "15.00");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_with_an_oversized_body_is_still_a_refusal() -> Result<()> {
    let door = FrontDoor::open().await?;
    let reply = deposit_with_fault(&door, answers(400, &"x".repeat(200 * 1024))).await?;
    assert_problem(&reply, 422, "rejected", "no");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_times_out_as_unknown_if_the_server_hangs_drips_or_stalls() -> Result<()> {
    for how in [How::Hang, How::Drip, How::Stall] {
        let door = FrontDoor::with(&[("purple_flea_timeout_ms", "1500")]).await?;
        let reply = deposit_with_fault(&door, Fault { after_the_bet: true, how }).await?;
        assert_problem(&reply, 504, "timed_out", "unknown");
        let line = door.line(&["timed_out"]).await?;
        let ms: f64 = line["purple_flea_ms"].to_string().parse()?;
        assert!((1_500.0..8_000.0).contains(&ms), "{line}");
    }
    Ok(())
}

/// Starts a function that calls Purple Flea at a URL.
async fn function_calling(url: &str, timeout_ms: u64, allowed_origins: Option<Vec<String>>) -> Result<Host> {
    let mut settings = local_settings(url);
    settings.insert("purple_flea_timeout_ms".into(), timeout_ms.to_string());
    let options =
        Options { build: Build::Spin, settings, allowed_origins, listen: None, after_reply: AFTER_REPLY };
    Host::start(Kind::Embedded, &options).await
}

/// Signs a deposit row and sends it to a host.
async fn deposit(host: &Host) -> Result<Reply> {
    let body = row(1, "100");
    let request = webhook::signed(&format!("{}/", host.url), "wallet-change-1", body.as_bytes())?;
    reply(request.body(body.into())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_that_was_never_sent_is_reported_as_not_executed() -> Result<()> {
    let (listener, closed) = http1::listen().await?;
    drop(listener);
    for url in [closed.as_str(), "https://name.invalid"] {
        let reply = deposit(&function_calling(url, 13_000, None).await?).await?;
        assert_problem(&reply, 503, "not_reached", "no");
        assert_eq!((&reply.body["retryable"], &reply.headers["retry-after"]), (&json!(true), &"10".parse()?));
    }
    let purple_flea = PurpleFlea::start().await?;
    let denied = deposit(&function_calling(&purple_flea.url, 1_500, Some(vec![])).await?).await?;
    assert_problem(&denied, 503, "not_reached", "no");
    assert_no_call(&purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_is_reported_as_not_executed_if_the_tls_handshake_hangs() -> Result<()> {
    let (listener, url) = http1::listen().await?;
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = listener.accept().await {
            held.push(connection);
        }
    });
    let reply = deposit(&function_calling(&url.replace("http:", "https:"), 1_500, None).await?).await?;
    assert_problem(&reply, 503, "not_reached", "no");
    silent.abort();
    Ok(())
}

/// Some hosts report an untrusted certificate as a broken connection. That proves nothing, so the outcome is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn the_function_never_sends_its_key_to_a_server_with_an_untrusted_certificate() -> Result<()> {
    let (listener, url) = http1::listen().await?;
    let server = tokio::spawn(tls_server(listener));
    let host = function_calling(&url.replace("http:", "https:"), 1_500, None).await?;
    let reply = deposit(&host).await?;
    assert!(matches!(reply.status.as_u16(), 502 | 503), "{}", reply.body);
    assert!(!soon(server).await???, "the function completed the handshake");
    Ok(())
}

/// Accepts one connection with a self-signed certificate, and tells whether the caller completes the handshake.
async fn tls_server(listener: TcpListener) -> Result<bool> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
    let (stream, _) = listener.accept().await?;
    Ok(TlsAcceptor::from(Arc::new(config)).accept(stream).await.is_ok())
}
