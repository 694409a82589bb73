//! Measures what a call of a workflow costs that only replays: ten memoised steps and the one that ends it, beside an empty
//! request on the same host. Nothing is called, so all of it is the function's own work.

use crate::{
    peers::{Guest, Machine, Peer, Platform, free_port},
    progress::Progress,
    server::Server,
    table::{Table, number},
};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use purple_flea_edge::inngest::op::step_id;
use serde_json::{Map, Value, json};
use stack::http1;
use std::time::Duration;

/// The goal: the most CPU time that a replay adds to an empty request, in microseconds.
const REPLAY_US: f64 = 1_000.0;

/// Rounds. The table shows the medians.
const ROUNDS: usize = 5;

/// How long the host may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The whole days that the run of the bench has waited, each with two memos.
const DAYS: u32 = 4;

/// Measures, prints a table, and adds the figures to the report.
pub async fn run(quick: bool, report: &mut Map<String, Value>) -> Result<()> {
    let calls = if quick { 500 } else { 3_000 };
    let machine = Machine::look()?;
    let mut progress = Progress::new(ROUNDS + 1);
    progress.step("workflows: the host starts");
    machine.compile(Peer { platform: Platform::Embedded, guest: Guest::Function })?;
    let port = free_port()?;
    let settings = settings().map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let recipe = machine.stack_recipe(Platform::Embedded, settings, port)?;
    let mut server = Server::start(&recipe, &std::env::temp_dir().join("bench-workflows.log"), true)?;
    let url: http::Uri = format!("http://127.0.0.1:{port}").parse()?;
    let mut connection = connect(&url, &mut server).await?;
    let (empty, replay) = (call("/api/inngest?probe=trust", "")?, replay()?);
    let (mut empty_us, mut replay_us) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        progress.step(&format!("workflows: round {round}"));
        empty_us.push(cpu_us(&server, &mut connection, &empty, calls).await?);
        replay_us.push(cpu_us(&server, &mut connection, &replay, calls).await?);
    }
    progress.end();
    let (empty_us, replay_us) = (median(empty_us), median(replay_us));
    let added_us = replay_us - empty_us;
    let mut table = Table::new(1, &["call of a workflow", "CPU µs"]);
    table.row(vec!["an empty request".to_owned(), number(Some(empty_us), 1)]);
    table.row(vec![format!("a replay of {} memoised steps", 2 * DAYS + 3), number(Some(replay_us), 1)]);
    table.row(vec!["what the replay adds (goal: < 1000)".to_owned(), number(Some(added_us), 1)]);
    table.print();
    report.insert(
        "workflows".to_owned(),
        json!({ "empty_us": empty_us, "replay_us": replay_us, "added_us": added_us, "met": added_us < REPLAY_US }),
    );
    Ok(())
}

/// The settings of a development server's function in ledger mode. Nothing listens at these URLs.
fn settings() -> [(&'static str, &'static str); 11] {
    let nowhere = "http://127.0.0.1:1";
    [
        ("purple_flea_url", nowhere),
        ("purple_flea_api", "live"),
        ("purple_flea_key", "a-key"),
        ("webhook_secrets", stack::webhook::SECRET),
        ("supabase_url", nowhere),
        ("supabase_key", "a-key"),
        ("inngest_dev", "true"),
        ("inngest_api_url", nowhere),
        ("inngest_event_url", nowhere),
        ("inngest_agent_id", "agent-001"),
        ("inngest_serve_url", "http://127.0.0.1:1/api/inngest"),
    ]
}

/// A call of `escrow-lifecycle` at its end: the escrow was made, four days have passed, then its counterparty confirmed it,
/// and the money was released.
fn replay() -> Result<Request<Full<Bytes>>> {
    let mut steps = Map::new();
    let mut memo = |name: &str, earlier: u32, memo: Value| steps.insert(step_id(name, earlier), memo);
    memo(
        "create-escrow",
        0,
        json!({ "data": { "reference": "wf-0123456789abcdef0123456789abcdef", "pf_escrow_id": "esc_1" } }),
    );
    for day in 0..DAYS {
        memo("wait-for-counterparty", day, Value::Null);
        memo("read-escrow", day, json!({ "data": "open" }));
    }
    let confirmed = json!({ "escrow_id": "e-1", "confirmed_by": "scout" });
    let event = |name: &str, data: Value| json!({ "id": "01KB", "name": name, "ts": 1_796_065_200_000_u64, "data": data });
    memo("wait-for-counterparty", DAYS, event("purple-flea/escrow.confirmed", confirmed));
    memo("release-escrow", 0, json!({ "data": { "status": "released", "tx_hash": "0xabc" } }));
    let created = json!({ "escrow_id": "e-1", "amount_usdc": 25, "counterparty": "scout" });
    let body = json!({
        "ctx": { "run_id": "01KB0000000000000000000001", "attempt": 0, "max_attempts": 4 },
        "event": event("purple-flea/escrow.created", created),
        "steps": steps,
    });
    call("/api/inngest?fnId=purple-flea-escrow-lifecycle&stepId=step", &body.to_string())
}

fn call(target: &str, body: &str) -> Result<Request<Full<Bytes>>> {
    let request =
        Request::post(target).header("host", "localhost").header("content-type", "application/json");
    Ok(request.header("content-length", body.len()).body(Full::new(Bytes::from(body.to_owned())))?)
}

async fn connect(url: &http::Uri, server: &mut Server) -> Result<SendRequest<Full<Bytes>>> {
    let started = tokio::time::Instant::now();
    loop {
        server.must_live()?;
        if let Ok(connection) = http1::connect(url).await {
            return Ok(connection);
        }
        if started.elapsed() > START_LIMIT {
            bail!("the host does not listen");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends a request again and again. Gives the server's CPU time for each, in microseconds.
async fn cpu_us(
    server: &Server,
    connection: &mut SendRequest<Full<Bytes>>,
    request: &Request<Full<Bytes>>,
    calls: u32,
) -> Result<f64> {
    let before = server.cpu()?;
    for _ in 0..calls {
        let answer = connection.send_request(request.clone()).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        // A replay that executed anything would answer otherwise.
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
    }
    let cpu = server.cpu()?.checked_sub(before).context("time goes back")?;
    Ok(cpu.as_secs_f64() * 1e6 / f64::from(calls))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
