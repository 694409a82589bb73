//! The least that a bet can cost in a WASI 0.3 component. It reads a body, sends the same request for every body, and
//! passes on the reply. The function's cost above this is its own work; this much is the host's.
#![cfg(target_family = "wasm")]

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use spin_sdk::{
    http::{FullBody, IntoRequest, Request},
    http_service,
    wasip3::{
        http::{client, types::ErrorCode},
        http_compat::http_from_wasi_response,
    },
};
use std::sync::OnceLock;

/// The body of every bet.
const BET: &str = r#"{"agent_id":"agent-001","wager":10.00,"cashout_at":1.5}"#;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The URL and the key of every bet. Each instance reads them once.
static SETTINGS: OnceLock<(String, String)> = OnceLock::new();

#[http_service]
async fn handle(request: Request) -> Response<FullBody<Bytes>> {
    match bet(request).await {
        Ok(body) => reply(StatusCode::OK, body),
        Err(error) => reply(StatusCode::BAD_GATEWAY, Bytes::from(format!("{error:?}"))),
    }
}

async fn bet(request: Request) -> Result<Bytes, ErrorCode> {
    let _ = request.into_body().collect().await?.to_bytes();
    let (url, bearer) = SETTINGS.get_or_init(|| {
        let setting = |name| std::env::var(name).unwrap_or_default();
        (
            format!("{}/casino/crash", setting("PURPLE_FLEA_URL")),
            format!("Bearer {}", setting("PURPLE_FLEA_KEY")),
        )
    });
    let request = http::Request::post(url)
        .header(AUTHORIZATION, bearer)
        .header(CONTENT_TYPE, JSON)
        .header(CONTENT_LENGTH, BET.len())
        .body(FullBody::new(Bytes::from_static(BET.as_bytes())))
        .map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    let response = client::send(request.into_request()?).await?;
    Ok(http_from_wasi_response(response)?.into_body().collect().await?.to_bytes())
}

fn reply(status: StatusCode, body: Bytes) -> Response<FullBody<Bytes>> {
    let length = body.len();
    let mut response = Response::new(FullBody::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    // With the length known, every host sends headers and body in one packet.
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}
