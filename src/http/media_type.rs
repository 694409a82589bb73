//! The media type of a request's body.

use http::{HeaderMap, header::CONTENT_TYPE};

/// Returns whether the only `content-type` is `application/json`, with or without parameters such as a
/// charset.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = first.as_bytes().split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}
