//! Replies of JSON.

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::Serialize;

/// Makes a reply of a success.
pub fn json(body: &impl Serialize) -> Response<Vec<u8>> {
    json_as(StatusCode::OK, "application/json", body)
}

/// Makes a reply with its length: without the length, head and body leave in two writes, and a keep-alive caller waits
/// 40 ms for the second on a host that leaves Nagle's algorithm on.
pub fn json_as(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Vec<u8>> {
    // Every body has string keys and values of our own, so it always serialises.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length.into());
    response
}
