//! The function's work as a native server. It shows how fast Rust could be without WebAssembly, and so how much could
//! be saved at most.
//!
//! It verifies signatures (Standard Webhooks, over the raw bytes), decides in decimals, and bets over kept connections.
//! It answers with JSON and writes one log line for each request, as the function does in standalone mode.
//!
//! It uses one thread, because the work waits for nothing but sockets. No work moves between threads, so a request
//! costs as little CPU as possible.

use anyhow::{Context, Result, anyhow};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use sha2::Sha256;
use std::{
    cell::RefCell,
    env,
    io::Write,
    rc::Rc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

/// The most by which a signature's time may differ from ours, either way. Source: Standard Webhooks.
const TOLERANCE_S: u64 = 300;

/// The smallest balance that the server bets from, in dollars.
const MIN_BALANCE: Decimal = Decimal::from_parts(5, 0, 0, false, 0);

/// The part of the balance that one bet stakes.
const WAGER_FRACTION: Decimal = Decimal::from_parts(1, 0, 0, false, 1);

struct Function {
    secret: Vec<u8>,
    /// Purple Flea's address: `host:port`.
    purple_flea: String,
    bearer: String,
    /// Kept connections without a request.
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    id: u64,
    agent_id: &'a str,
    change_type: &'a str,
    #[serde(borrow)]
    new_balance: &'a RawValue,
}

#[derive(Deserialize)]
struct Played<'a> {
    bet_id: &'a str,
    outcome: &'a str,
    #[serde(borrow)]
    payout: &'a RawValue,
    #[serde(borrow)]
    crash_point: &'a RawValue,
}

fn main() -> Result<()> {
    let setting = |name| env::var(name).with_context(|| format!("{name} is not set"));
    let function = Rc::new(Function {
        secret: BASE64.decode(setting("WEBHOOK_SECRETS")?.strip_prefix("whsec_").context("no whsec_")?)?,
        purple_flea: setting("PURPLE_FLEA_URL")?.trim_start_matches("http://").to_owned(),
        bearer: format!("Bearer {}", setting("PURPLE_FLEA_KEY")?),
        idle: RefCell::default(),
    });
    let address = format!("127.0.0.1:{}", setting("PORT")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, serve(function, address))
}

async fn serve(function: Rc<Function>, address: String) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let function = function.clone();
        spawn_local(async move {
            let service = service_fn(|request| function.handle(request));
            // A caller that disconnects is no error.
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Function {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let (status, reply) = match self.verify(&head.headers, &body) {
            Ok(()) => (StatusCode::OK, self.execute(&body).await?),
            Err(_) => (StatusCode::UNAUTHORIZED, json!({ "code": "unauthorized" })),
        };
        let line = json!({
            "time": now_s(), "level": "info", "event": "request", "status": status.as_u16(),
            "reference": reply["reference"], "decision": reply["status"], "outcome": reply["outcome"],
            "ms": started.elapsed().as_millis(),
        });
        let _ = writeln!(std::io::stdout().lock(), "{line}");
        let mut response = Response::new(Full::from(reply.to_string()));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<()> {
        let value = |name| headers.get(name).context("a header is missing")?.to_str().context("not text");
        let (id, timestamp) = (value("webhook-id")?, value("webhook-timestamp")?);
        if timestamp.parse::<u64>()?.abs_diff(now_s()) > TOLERANCE_S {
            return Err(anyhow!("too old"));
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret)?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        let signature = value("webhook-signature")?.strip_prefix("v1,").context("no v1")?;
        // The comparison takes the same time for every wrong signature.
        mac.verify_slice(&BASE64.decode(signature)?).map_err(|_| anyhow!("another signature"))
    }

    async fn execute(&self, body: &[u8]) -> Result<serde_json::Value> {
        let row: Row = serde_json::from_slice(body)?;
        let reference = format!("wallet-change-{}", row.id);
        let balance: Decimal = row.new_balance.get().parse()?;
        if row.change_type != "deposit" || balance < MIN_BALANCE {
            return Ok(json!({ "status": "skipped", "reason": "not_a_deposit", "reference": reference }));
        }
        let wager =
            (balance * WAGER_FRACTION).round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero);
        let bet = format!(
            r#"{{"agent_id":{},"wager":{wager:.2},"cashout_at":1.5}}"#,
            serde_json::to_string(row.agent_id)?
        );
        let reply = self.bet(&reference, bet).await?;
        let played: Played = serde_json::from_slice(&reply)?;
        Ok(json!({
            "status": "executed", "reference": reference, "agent_id": row.agent_id, "game": "crash",
            "cashout_at": 1.5, "wager": RawValue::from_string(format!("{wager:.2}"))?, "outcome": played.outcome,
            "payout": played.payout, "crash_point": played.crash_point, "bet_id": played.bet_id,
        }))
    }

    async fn bet(&self, reference: &str, body: String) -> Result<Bytes> {
        let request = Request::post("/casino/crash")
            .header(header::HOST, &self.purple_flea)
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", reference)
            .body(Full::from(body))?;
        let mut connection = self.connection().await?;
        let response = connection.send_request(request).await?;
        let reply = response.into_body().collect().await?.to_bytes();
        self.idle.borrow_mut().push(connection);
        Ok(reply)
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>> {
        loop {
            let Some(mut idle) = self.idle.borrow_mut().pop() else { break };
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let stream = TcpStream::connect(&self.purple_flea).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // The request's sender sees an error of the connection.
        spawn_local(connection);
        Ok(sender)
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
