//! Checks a request before the component sees it.

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_TYPE, HOST},
    uri::{Authority, Scheme},
};
use http_body_util::Full;

/// The detail of a refusal for a target that is no path.
const NO_PATH: &str = "The target of a request is a path.";

/// Checks a request's target and its `Host`, and rewrites the target as a path. hyper has already refused contradicting
/// lengths, folded lines and unknown transfer codings. The error is the detail of the refusal.
pub(crate) fn checked<B>(mut request: Request<B>) -> Result<Request<B>, &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("A request has exactly one Host header.");
    };
    if authority(host.as_bytes()).is_none() {
        return Err("The Host header is a host, and a port if it has one.");
    }
    let uri = request.uri();
    let path = match uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') => path.clone(),
        _ => return Err(NO_PATH),
    };
    match (uri.scheme(), uri.authority()) {
        (None, None) => return Ok(request),
        // A request in the form that proxies get: its target names the host, and overrides the header.
        (Some(scheme), Some(target)) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {
            let target = authority(target.as_str().as_bytes()).ok_or(NO_PATH)?;
            let host = HeaderValue::from_str(target.as_str()).map_err(|_| NO_PATH)?;
            request.headers_mut().insert(HOST, host);
        }
        _ => return Err(NO_PATH),
    }
    *request.uri_mut() = Uri::from(path);
    Ok(request)
}

/// Writes the checked host into the target. The component does not see the header `host`: WASI keeps the host there.
pub(crate) fn with_authority<B>(mut request: Request<B>) -> Request<B> {
    let host = request.headers().get(HOST).and_then(|host| authority(host.as_bytes()));
    if let (Some(host), Some(path)) = (host, request.uri().path_and_query().cloned()) {
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(path).build();
        if let Ok(uri) = uri {
            *request.uri_mut() = uri;
        }
    }
    request
}

/// Parses a host and its port. A user name is refused.
fn authority(text: &[u8]) -> Option<Authority> {
    Authority::try_from(text).ok().filter(|authority| !authority.as_str().contains('@'))
}

/// Makes the reply to a refused request. The connection ends with it.
pub(crate) fn refusal(detail: &str) -> Response<Full<Bytes>> {
    let body = format!(r#"{{"type":"about:blank","title":"Bad Request","status":400,"detail":"{detail}"}}"#);
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(target: &str, hosts: &[&str]) -> Result<(String, String), &'static str> {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let request = checked(request.body(()).map_err(|_| "not a request")?)?;
        let host = request.headers()[HOST].to_str().map_err(|_| "not a host")?;
        Ok((request.uri().to_string(), host.to_owned()))
    }

    #[test]
    fn the_component_learns_the_checked_host() {
        let request = Request::get("/a?b=c").header(HOST, "[::1]:3000").body(()).unwrap();
        assert_eq!(with_authority(checked(request).unwrap()).uri(), "http://[::1]:3000/a?b=c");
    }

    #[test]
    fn a_request_for_a_path_passes_as_it_is() {
        for (target, host) in [("/", "edge"), ("/health?x=1", "edge.example:3000"), ("//a", "[::1]:3000")] {
            assert_eq!(outcome(target, &[host]), Ok((target.to_owned(), host.to_owned())));
        }
    }

    #[test]
    fn a_request_as_to_a_proxy_becomes_one_for_a_path() {
        for (target, path) in [("http://edge/health?x=1", "/health?x=1"), ("https://edge", "/")] {
            assert_eq!(outcome(target, &["other"]), Ok((path.to_owned(), "edge".to_owned())));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (target, hosts) in [
            ("/", &[][..]),
            ("/", &["edge", "edge"]),
            ("/", &[""]),
            ("/", &["user@edge"]),
            ("/", &["a b"]),
            ("*", &["edge"]),
            ("edge:80", &["edge"]),
            ("ftp://edge/", &["edge"]),
            ("http://user@edge/", &["edge"]),
        ] {
            assert!(outcome(target, hosts).is_err(), "{target} {hosts:?}");
        }
    }
}
