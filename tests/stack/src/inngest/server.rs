//! The stand-in's own server: registrations, events, and the state of runs.

use super::{Shared, state};
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{fmt::Write, sync::Arc};
use tokio::{net::TcpListener, task::JoinSet};

/// Serves connections until it is dropped.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| serve(&shared, request));
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (status, body) = match (&head.method, &parts[..]) {
        (&Method::POST, ["fn", "register"]) => {
            register(shared, &head.headers, head.uri.query().unwrap_or_default(), &body)
        }
        (&Method::POST, ["e", key]) => take_events(shared, key, &body),
        (&Method::GET, ["v0", "runs", run, what]) => run_state(shared, &head.headers, run, what),
        _ => (StatusCode::NOT_FOUND, "404 page not found".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    // The real server says this of its JSON, too.
    response.headers_mut().insert("content-type", "text/plain; charset=utf-8".parse()?);
    Ok(response)
}

fn register(shared: &Shared, headers: &HeaderMap, query: &str, body: &Bytes) -> (StatusCode, String) {
    if !shows_key(shared, headers) {
        return (StatusCode::UNAUTHORIZED, "Authentication failed".to_owned());
    }
    let kind = if shared.options.signing_key.is_some() { "cloud" } else { "dev" };
    let expected = headers.get("x-inngest-expected-server-kind");
    if expected.is_some_and(|expected| expected != kind) || !headers.contains_key("x-inngest-sdk") {
        return (StatusCode::BAD_REQUEST, "the app expects another kind of server".to_owned());
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    // The server keeps these addresses by another name.
    let renamed =
        body.to_string().replace("//127.0.0.1:", "//localhost:").replace("//0.0.0.0:", "//localhost:");
    let functions =
        serde_json::from_str(&renamed).map_err(Into::into).and_then(|body| state::functions(&body));
    match functions {
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")),
        Ok(functions) => {
            let mut state = shared.state();
            let modified = state.register(functions);
            state.registration = Some((headers.clone(), query.to_owned(), body));
            let (app, sync) =
                ("f3d2a4c6-5b7e-4c8d-9a1f-0e2b4d6c8a9f", "0c9d8e7f-6a5b-4c3d-8e1f-2a3b4c5d6e7f");
            let reply = json!({ "ok": true, "modified": modified, "sync_id": sync, "app_id": app });
            (StatusCode::OK, reply.to_string())
        }
    }
}

fn take_events(shared: &Shared, key: &str, body: &Bytes) -> (StatusCode, String) {
    if shared.options.event_key.as_deref().is_some_and(|known| known != key) {
        let error = json!({ "error": "Event key not found", "status": 401 });
        return (StatusCode::UNAUTHORIZED, error.to_string());
    }
    let events = match serde_json::from_slice(body) {
        Ok(Value::Array(events)) => events,
        Ok(event) => vec![event],
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let taken: Result<Vec<String>> = {
        let mut state = shared.state();
        events.into_iter().map(|event| state.take(event)).collect()
    };
    shared.changed.notify_one();
    match taken {
        Ok(ids) => (StatusCode::OK, json!({ "ids": ids, "status": 200 }).to_string()),
        Err(error) => {
            (StatusCode::BAD_REQUEST, json!({ "error": format!("{error:#}"), "status": 400 }).to_string())
        }
    }
}

fn run_state(shared: &Shared, headers: &HeaderMap, run: &str, what: &str) -> (StatusCode, String) {
    if !shows_key(shared, headers) {
        return (StatusCode::UNAUTHORIZED, "Authentication failed".to_owned());
    }
    let state = shared.state();
    match (state.kept(run), what) {
        (Some(kept), "batch") => (StatusCode::OK, json!([kept.event]).to_string()),
        (Some(kept), "actions") => (StatusCode::OK, Value::Object(kept.memos.clone()).to_string()),
        _ => (StatusCode::NOT_FOUND, json!({ "error": "run not found", "status": 404 }).to_string()),
    }
}

/// Returns whether a request shows the hash of the signing key: of the bytes that its digits stand for.
fn shows_key(shared: &Shared, headers: &HeaderMap) -> bool {
    let Some(key) = &shared.options.signing_key else { return true };
    let digits = key.rsplit('-').next().unwrap_or(key);
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    let bytes: Vec<u8> = pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect();
    let mut expected = "Bearer ".to_owned() + key.strip_suffix(digits).unwrap_or_default();
    for byte in Sha256::digest(bytes) {
        let _ = write!(expected, "{byte:02x}");
    }
    headers.get("authorization").is_some_and(|shown| *shown == *expected)
}
