//! Answers as Purple Flea and the ledger as fast as possible: at once, always with the same answer. It runs on a thread
//! of its own, so that no other work delays it.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::task::{LocalSet, spawn_local};

/// The key of all bets. It guards nothing.
pub const KEY: &str = "pf_sk_benchmark";

/// The gateway's reply to a crash bet, as the simulator shapes it.
const CRASH: &str = concat!(
    r#"{"bet_id":"bet_00000001","game":"crash","agent_id":"agent-001","wager":10.00,"payout":15.00,"#,
    r#""new_balance":1005.00,"cash_out_at":1.5,"crash_point":1.84,"cashed_out":true,"#,
    r#""win_probability":0.6533,"roll":47.83,"outcome":"win"}"#,
);

/// The upstream. It runs until the process ends.
pub struct Upstream {
    /// Its URL, without a slash at the end.
    pub url: String,
    bets: Arc<AtomicU64>,
}

#[derive(Deserialize)]
struct Claim<'a> {
    #[serde(borrow)]
    references: Vec<&'a str>,
    claim: &'a str,
}

impl Upstream {
    /// Starts the upstream on a free port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let bets = Arc::new(AtomicU64::new(0));
        let counter = bets.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        std::thread::Builder::new().name("upstream".to_owned()).spawn(move || {
            let _ = LocalSet::new().block_on(&runtime, accept(listener, counter));
        })?;
        Ok(Self { url, bets })
    }

    /// Counts the bets so far.
    pub fn bets(&self) -> u64 {
        self.bets.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, bets: Arc<AtomicU64>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let bets = bets.clone();
        spawn_local(async move {
            let service = service_fn(|request| answer(request, &bets));
            // The measured server reports an error of its connection.
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, bets: &AtomicU64) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let bearer = head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let ours = bearer.and_then(|value| value.strip_prefix(b"Bearer ")) == Some(KEY.as_bytes());
    let (status, reply) = match head.uri.path() {
        _ if !ours => (StatusCode::UNAUTHORIZED, Bytes::from_static(b"{}")),
        "/casino/crash" => {
            bets.fetch_add(1, Ordering::Relaxed);
            (StatusCode::OK, Bytes::from_static(CRASH.as_bytes()))
        }
        "/rest/v1/rpc/claim_jobs" => (StatusCode::OK, executed_before(&body)?),
        _ => (StatusCode::NOT_FOUND, Bytes::from_static(b"{}")),
    };
    let mut response = Response::new(Full::new(reply));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Gives the answer of `sql/functions/075_claim.sql` when no job is due and the requested deposit was executed before.
fn executed_before(claim: &[u8]) -> Result<Bytes> {
    let Claim { references, claim } = serde_json::from_slice(claim)?;
    let reference = references.first().context("no reference was asked for")?;
    Ok(Bytes::from(format!(
        r#"{{"token":"{claim}","lease_ms":null,"jobs":[],"answers":[{{"reference":"{reference}","agent_id":"agent-001","state":"executed","result":{{"status":"executed","reference":"{reference}","agent_id":"agent-001","game":"crash","cashout_at":1.5,"wager":10.00,"outcome":"win","payout":15.00,"crash_point":1.84,"bet_id":"bet_00000001"}}}}],"more":false,"lookups":false,"watching":false}}"#
    )))
}
