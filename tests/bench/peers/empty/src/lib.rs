//! The least that a WASI 0.3 component can do: it answers and reads nothing. The function's cost above this is its own
//! work.
#![cfg(target_family = "wasm")]

use bytes::Bytes;
use http::{
    Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use spin_sdk::{
    http::{FullBody, Request},
    http_service,
};

/// The reply. The bench checks a skip's reply for the same word.
const REPLY: &str = r#"{"status":"skipped"}"#;

#[http_service]
async fn handle(_: Request) -> Response<FullBody<Bytes>> {
    let mut response = Response::new(FullBody::new(Bytes::from_static(REPLY.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    // With the length known, every host sends headers and body in one packet.
    response.headers_mut().insert(CONTENT_LENGTH, REPLY.len().into());
    response
}
