//! JSON replies.

use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::Serialize;

/// Makes a JSON reply with status 200.
pub fn json(body: &impl Serialize) -> Response<Vec<u8>> {
    json_as(StatusCode::OK, "application/json", body)
}

/// Makes a JSON reply with a `content-length`. Without it the host sends headers and body in two writes. If
/// the host uses Nagle's algorithm, a keep-alive caller then waits 40 ms for the body.
pub fn json_as(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Vec<u8>> {
    // All keys are strings and all values are of known types, so this always serialises.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length.into());
    response
}
