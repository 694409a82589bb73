//! Starts the function on a host, with a simulator of Purple Flea, and checks its replies. Most tests begin here.

use crate::openapi;
use anyhow::{Context, Result};
use http::StatusCode;
use serde_json::Value;
use stack::{
    host::{AFTER_REPLY, Build, Host, Kind, Options, local_settings},
    http1,
    purple_flea::PurpleFlea,
    webhook,
};
use std::time::Duration;

/// Limit of every wait. It is longer than any step takes on a busy machine, builds by the scripts included.
const WAIT_LIMIT: Duration = Duration::from_secs(180);

/// The setting `operator_tokens` of the tests that have operators.
pub const OPERATORS: &str = "ada:6f1c9a02be774d35a8e0c4d1937b5f28, grace:Zk3vT-8qWm_LxR5nYb2hJd";

/// The token of the operator ada.
pub const ADAS_TOKEN: &str = "6f1c9a02be774d35a8e0c4d1937b5f28";

/// The function on a host, and the simulator of Purple Flea that it calls.
pub struct FrontDoor {
    pub host: Host,
    pub purple_flea: PurpleFlea,
}

/// A parsed reply of the function.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl FrontDoor {
    /// Starts the function with the stack's own settings. The account of agent-001 is well funded.
    pub async fn open() -> Result<Self> {
        Self::with(&[]).await
    }

    /// Starts the function with some settings changed.
    pub async fn with(changes: &[(&str, &str)]) -> Result<Self> {
        Self::on(Kind::Embedded, Build::Spin, changes).await
    }

    /// Starts a build of the function on a kind of host, with some settings changed.
    pub async fn on(kind: Kind, build: Build, changes: &[(&str, &str)]) -> Result<Self> {
        let purple_flea = PurpleFlea::start().await?;
        purple_flea.fund("agent-001", 50_000_000.into());
        let mut settings = local_settings(&purple_flea.url);
        settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let allowed_origins = Some(vec![purple_flea.url.clone()]);
        let host = Host::start(
            kind,
            &Options { build, settings, allowed_origins, listen: None, after_reply: AFTER_REPLY },
        )
        .await?;
        Ok(Self { host, purple_flea })
    }

    /// Gives the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.host.url)
    }

    /// Signs a deposit row and sends it.
    pub async fn deposit(&self, id: u64, balance: &str) -> Result<Reply> {
        self.send(id, &row(id, balance)).await
    }

    /// Signs a body with the reference of a deposit, and sends it.
    pub async fn send(&self, id: u64, body: &str) -> Result<Reply> {
        let request =
            webhook::signed(&self.url("/execute-trade"), &format!("wallet-change-{id}"), body.as_bytes())?;
        reply(request.body(body.into())?).await
    }

    /// Waits for the first log line of the function that contains all these words, and parses it.
    pub async fn line(&self, words: &[&str]) -> Result<Value> {
        let line =
            self.host.log.find(|line| line.starts_with('{') && words.iter().all(|word| line.contains(word)));
        Ok(serde_json::from_str(&soon(line).await?)?)
    }
}

/// Writes a deposit row as the trigger of a standalone function sends it.
pub fn row(id: u64, balance: &str) -> String {
    format!(
        r#"{{"id": {id}, "agent_id": "agent-001", "created_at": "2026-11-21T00:00:00+00:00", "change_type": "deposit", "new_balance": {balance}, "change_amount": {balance}}}"#
    )
}

/// The paths that request a job, and the operation that a body for each path names.
pub const OPERATIONS: [(&str, &str); 17] = [
    ("/register", "registration"),
    ("/faucet", "faucet"),
    ("/faucet/daily", "daily_claim"),
    ("/balance", "balance"),
    ("/trade", "trade"),
    ("/order", "order"),
    ("/bet", "bet"),
    ("/close", "close"),
    ("/escrow", "escrow"),
    ("/escrow/release", "escrow_release"),
    ("/escrow/cancel", "escrow_cancel"),
    ("/escrow/complete", "escrow_complete"),
    ("/escrow/dispute", "escrow_dispute"),
    ("/escrow/status", "escrow_status"),
    ("/heartbeat", "heartbeat"),
    ("/signals", "publish_signal"),
    ("/reconcile", "reconcile"),
];

/// Adds the operation of a path to a body. A body that is not an object stays as it is.
pub fn with_operation(path: &str, body: &str) -> String {
    let operation = OPERATIONS.iter().find(|(known, _)| *known == path).map(|(_, operation)| operation);
    match (operation, body.strip_prefix('{')) {
        (Some(operation), Some("}")) => format!(r#"{{"operation": "{operation}"}}"#),
        (Some(operation), Some(rest)) => format!(r#"{{"operation": "{operation}", {rest}"#),
        _ => body.to_owned(),
    }
}

/// Sends a request and parses the reply. Fails unless the reply is JSON, has its length in a header, and matches
/// docs/openapi.json.
pub async fn reply(request: http::Request<Vec<u8>>) -> Result<Reply> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (head, body) = soon(http1::send(request)).await??.into_parts();
    let length = head.headers.get("content-length").context("a reply without content-length")?;
    assert_eq!(length.to_str()?, body.len().to_string(), "the content-length of {method} {path}");
    let content_type = head.headers.get("content-type").context("a reply without content-type")?.to_str()?;
    let expected = if head.status.is_success() { "application/json" } else { "application/problem+json" };
    assert_eq!(content_type, expected, "the content-type of {method} {path}: {}", head.status);
    let body = serde_json::from_slice(&body).with_context(|| format!("not JSON: {body:?}"))?;
    let reply = Reply { status: head.status, headers: head.headers, body };
    openapi::check(&method, &path, &reply)?;
    Ok(reply)
}

/// Waits for a future that must end. Fails after [`WAIT_LIMIT`].
pub async fn soon<T>(future: impl Future<Output = T>) -> Result<T> {
    let limit_s = WAIT_LIMIT.as_secs();
    tokio::time::timeout(WAIT_LIMIT, future).await.with_context(|| format!("no result within {limit_s} s"))
}

/// Asserts that Purple Flea has received no request.
#[track_caller]
pub fn assert_no_call(purple_flea: &PurpleFlea) {
    let requests = purple_flea.requests();
    assert!(requests.is_empty(), "Purple Flea received {requests:?}");
}

/// Asserts that a reply is a problem with this status, this code, and this value of `executed`.
#[track_caller]
pub fn assert_problem(reply: &Reply, status: u16, code: &str, executed: &str) {
    assert_eq!(reply.status.as_u16(), status, "{}", reply.body);
    assert_eq!(reply.body["code"], code, "{}", reply.body);
    assert_eq!(reply.body["executed"], executed, "{}", reply.body);
    assert_eq!(reply.body["status"], status, "{}", reply.body);
    assert_eq!(reply.body["type"], format!("urn:purple-flea-edge:problem:{code}"));
    assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{}", reply.body);
    assert!(reply.body["title"].is_string() && reply.body["retryable"].is_boolean(), "{}", reply.body);
}
