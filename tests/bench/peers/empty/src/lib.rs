//! The least a WASI 0.3 component can do: it answers, and looks at nothing. What the function costs more than this is
//! the function's own.
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

/// What it says. A skip's reply is checked for the same word.
const REPLY: &str = r#"{"status":"skipped"}"#;

#[http_service]
async fn handle(_: Request) -> Response<FullBody<Bytes>> {
    let mut response = Response::new(FullBody::new(Bytes::from_static(REPLY.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    // With its length known, head and body leave in one piece on every host.
    response.headers_mut().insert(CONTENT_LENGTH, REPLY.len().into());
    response
}
