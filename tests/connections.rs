//! Unknown callers at the production host's public address: silent, slow, endless, malformed. None of them delays
//! another caller longer than the limit for a request head, and no malformed request reaches the function.

use crate::{
    front_door::assert_no_call,
    host_program::{Playing, Program, Start, free_address, metric, program},
    wire::Wire,
};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::process::Command;

/// A whole request.
const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: edge\r\n\r\n";

/// Limit for a request head in these tests.
const HEAD: Duration = Duration::from_millis(300);

/// Much longer than the limit for a request head, and much shorter than the default limit for an idle connection.
const LATE: Duration = Duration::from_secs(30);

/// Starts a host with a short limit for request heads, and the default limit for idle connections.
async fn host(more: &[&str]) -> Result<Playing> {
    let head = HEAD.as_millis().to_string();
    let arguments = [&["--head-ms", &head, "--threads", "1"], more].concat();
    Playing::start(Start { arguments: &arguments, ..Start::default() }).await
}

/// Asserts that the host serves a new caller long before an idle connection reaches its default limit.
async fn assert_serves(host: &Program) -> Result<()> {
    let serving = async {
        let mut new_caller = Wire::to(&host.url).await?;
        new_caller.send(HEALTH).await?;
        new_caller.reply().await
    };
    let reply =
        tokio::time::timeout(LATE, serving).await.context("the host did not serve a new caller in time")?;
    assert_eq!(reply?.status, 200);
    Ok(())
}

/// Asserts that the host closes a connection long before an idle connection reaches its default limit.
async fn assert_closed(connection: &mut Wire) -> Result<()> {
    let closed_after = connection.closed().await?;
    assert!(closed_after < LATE, "the host closed the connection only after {closed_after:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_limits_are_5_s_for_a_request_head_and_75_s_for_an_idle_connection() -> Result<()> {
    let help = Command::new(program()?).arg("--help").output().await?.stdout;
    let help = String::from_utf8(help)?;
    assert!(help.contains("[default: 5000]") && help.contains("[default: 75000]"), "{help}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_closes_a_connection_whose_request_head_is_late() -> Result<()> {
    let admin = free_address()?;
    let host = host(&["--admin", &admin]).await?.program;
    let mut silent = Wire::to(&host.url).await?;
    assert_closed(&mut silent).await?;

    let mut dripping = Wire::to(&host.url).await?;
    let dripped = async {
        dripping.send("GET /health HTTP/1.1\r\nhost: edge\r\nx-drip: ").await?;
        // The pauses between the bytes are shorter than the limit for a head.
        while dripping.send("x").await.is_ok() {
            tokio::time::sleep(HEAD / 10).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LATE, dripped).await??;
    assert_eq!(metric(&admin, "purple_flea_connections_timed_out_total").await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_keeps_an_idle_connection_while_places_are_free() -> Result<()> {
    let host = host(&[]).await?.program;
    let mut kept = Wire::to(&host.url).await?;
    for _ in 0..2 {
        kept.send(HEALTH).await?;
        assert_eq!(kept.reply().await?.status, 200);
        tokio::time::sleep(HEAD * 3).await;
    }
    // A later head has the same limit as the first one.
    kept.send("GET /health").await?;
    assert_closed(&mut kept).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_closes_an_idle_connection_after_its_idle_limit() -> Result<()> {
    let host = host(&["--idle-ms", "600"]).await?.program;
    let mut idle = Wire::to(&host.url).await?;
    idle.send(HEALTH).await?;
    assert_eq!(idle.reply().await?.status, 200);
    assert_closed(&mut idle).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_idle_connections_make_room_when_all_places_are_taken() -> Result<()> {
    let host = host(&["--connections", "8"]).await?.program;
    let mut held = Vec::new();
    for number in 0..8 {
        let mut wire = Wire::to(&host.url).await?;
        if number % 2 == 0 {
            wire.send(HEALTH).await?;
            assert_eq!(wire.reply().await?.status, 200);
        }
        held.push(wire);
    }
    assert_serves(&host).await?;
    // The same holds if all connections are idle.
    held.clear();
    for _ in 0..8 {
        let mut wire = Wire::to(&host.url).await?;
        wire.send(HEALTH).await?;
        assert_eq!(wire.reply().await?.status, 200);
        held.push(wire);
    }
    assert_serves(&host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_no_reply_makes_room() -> Result<()> {
    let host = host(&["--connections", "1"]).await?.program;
    let mut greedy = Wire::to(&host.url).await?;
    // The caller sends until the buffers of both sides are full. Now the host waits for the caller to read.
    greedy.fill(&HEALTH.repeat(100), HEAD).await?;
    assert_serves(&host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_body_never_ends_is_refused_and_makes_room() -> Result<()> {
    let playing = host(&["--connections", "1"]).await?;
    let mut endless = Wire::to(&playing.program.url).await?;
    endless.send("POST /execute-trade HTTP/1.1\r\nhost: edge\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{").await?;
    assert_serves(&playing.program).await?;
    let reply = endless.reply().await?;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    assert_no_call(&playing.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_exactly_one_valid_host_never_reaches_the_function() -> Result<()> {
    let admin = free_address()?;
    let host = host(&["--admin", &admin]).await?.program;
    for head in [
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.0\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: edge\r\nhost: edge\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: edge\r\nHost: other\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost:\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: user@edge\r\n\r\n",
        "GET http://edge/health HTTP/1.1\r\n\r\n",
        "CONNECT edge:443 HTTP/1.1\r\nhost: edge:443\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: edge\r\n\r\n",
        "GET ftp://edge/health HTTP/1.1\r\nhost: edge\r\n\r\n",
    ] {
        let mut wire = Wire::to(&host.url).await?;
        wire.send(head).await?;
        let reply = wire.reply().await?;
        assert_eq!(reply.status, 400, "{head:?}: {reply:?}");
        assert!(reply.head.contains("content-type: application/problem+json"), "{reply:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&reply.body)?["status"], 400, "{reply:?}");
        wire.closed().await?;
    }
    assert_eq!(metric(&admin, "purple_flea_requests_refused_total").await?, 11);
    assert_eq!(metric(&admin, "purple_flea_instances_total").await?, 0);
    assert_serves(&host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_or_oversized_request_never_reaches_the_function() -> Result<()> {
    let admin = free_address()?;
    let host = host(&["--admin", &admin]).await?.program;
    let large = format!("GET /health HTTP/1.1\r\nhost: edge\r\nx: {}\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET /health HTTP/1.1\r\nhost: edge\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (head, status) in [
        ("GET /health HTTP/1.1\r\nhost: edge\r\nx: folded\r\n line\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nhost : edge\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: edge\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}", 400),
        ("POST / HTTP/1.1\r\nhost: edge\r\ncontent-length: +2\r\n\r\n{}", 400),
        ("POST / HTTP/1.1\r\nhost: edge\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nhost: edge\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (&large, 431),
        (&many, 431),
    ] {
        let mut wire = Wire::to(&host.url).await?;
        wire.send(head).await?;
        let reply = wire.reply().await?;
        assert_eq!(reply.status, status, "{head:.80}: {reply:?}");
        wire.closed().await?;
    }
    let mut second = Wire::to(&host.url).await?;
    second.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    assert_closed(&mut second).await?;
    assert_eq!(metric(&admin, "purple_flea_instances_total").await?, 0);
    assert_serves(&host).await
}

/// The host reads a request with both lengths as chunked, and does not read the rest as another request.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_hide_a_request_in_the_body_of_another() -> Result<()> {
    let admin = free_address()?;
    let host = host(&["--admin", &admin]).await?.program;
    let lengths = [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ];
    for (number, lengths) in lengths.iter().enumerate() {
        let mut wire = Wire::to(&host.url).await?;
        wire.send(&format!("POST / HTTP/1.1\r\nhost: edge\r\n{lengths}\r\n\r\n0\r\n\r\n{HEALTH}")).await?;
        let reply = wire.reply().await?;
        assert!((400..500).contains(&reply.status), "{reply:?}");
        assert!(wire.reply().await.is_err(), "the host answered the hidden request");
        let answered = metric(&admin, "purple_flea_reply_seconds_count").await?;
        assert_eq!(answered, number as u64 + 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_answers_pipelined_requests_and_absolute_targets_in_order() -> Result<()> {
    let host = host(&[]).await?.program;
    let mut wire = Wire::to(&host.url).await?;
    let proxied = "GET http://edge/health HTTP/1.1\r\nhost: other\r\n\r\n";
    let unknown = "GET /nowhere HTTP/1.1\r\nhost: edge\r\n\r\n";
    wire.send(&format!("{proxied}{unknown}{HEALTH}")).await?;
    for status in [200, 404, 200] {
        assert_eq!(wire.reply().await?.status, status);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_half_closes_gets_its_reply() -> Result<()> {
    let host = host(&[]).await?.program;
    let mut wire = Wire::to(&host.url).await?;
    wire.send(HEALTH).await?;
    wire.finish().await?;
    assert_eq!(wire.reply().await?.status, 200);
    assert_closed(&mut wire).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_delay_the_admin_address() -> Result<()> {
    let admin = free_address()?;
    let _host = host(&["--admin", &admin]).await?;
    let mut silent = Vec::new();
    // The admin address has fewer places than these 40.
    for _ in 0..40 {
        silent.push(Wire::to(&admin).await?);
    }
    let mut wire = Wire::to(&admin).await?;
    wire.send("GET /live HTTP/1.1\r\nhost: admin\r\n\r\n").await?;
    assert_eq!(tokio::time::timeout(LATE, wire.reply()).await??.body, "live\n");
    for mut silent in silent {
        assert_closed(&mut silent).await?;
    }
    Ok(())
}
