//! Requests and replies in WASI's types. This module uses these types without the SDK's conversions, because
//! every stream and every future of a message costs a host some microseconds. A body of known length needs
//! fewer of them.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{CONTENT_LENGTH, HOST},
    response,
};
use spin_sdk::wasip3::{
    http::types::{self, ErrorCode, Fields, RequestOptions, Trailers},
    wit_bindgen::{FutureReader, StreamReader, StreamResult},
    wit_future, wit_stream,
};

/// Most bytes of one read. A read takes less if the announced length is shorter.
const READ_BYTES: usize = 16 * 1024;

/// A body that was read up to a limit.
pub struct Read {
    /// The first bytes, up to the limit.
    pub kept: Vec<u8>,
    /// Whether the body is complete.
    pub whole: bool,
}

/// Reads a request's method, target and headers.
pub fn request_head(request: &types::Request) -> Request<()> {
    let mut head = Request::new(());
    // Hosts check the target. A target that is invalid all the same becomes `*`, which is not a path of the
    // function.
    *head.uri_mut() = request
        .get_path_with_query()
        .and_then(|path| Uri::try_from(path).ok())
        .unwrap_or_else(|| Uri::from_static("*"));
    *head.method_mut() = Method::try_from(request.get_method()).unwrap_or(Method::TRACE);
    *head.headers_mut() = headers(&request.get_headers()).unwrap_or_default();
    // Hosts keep the header `host` apart from the others.
    let host = request.get_authority().and_then(|host| HeaderValue::from_str(&host).ok());
    if let Some(host) = host {
        head.headers_mut().entry(HOST).or_insert(host);
    }
    head
}

/// Reads a request's body to its end, or to `read_limit` bytes, and keeps the first `limit` of them.
pub async fn read_request(
    request: types::Request,
    headers: &HeaderMap,
    limit: usize,
    read_limit: usize,
) -> Result<Read, ErrorCode> {
    let length = announced(headers);
    let (completion, result) = wit_future::new(|| Ok(()));
    let (contents, trailers) = types::Request::consume_body(request, result);
    let read = read(contents, trailers, length, limit, read_limit).await;
    drop(completion);
    read
}

/// Reads a reply's status and headers. Returns `None` if they are invalid.
pub fn response_head(response: &types::Response) -> Option<response::Parts> {
    let (mut head, ()) = Response::builder().status(response.get_status_code()).body(()).ok()?.into_parts();
    head.headers = headers(&response.get_headers())?;
    Some(head)
}

/// Reads a reply's body to its end, or to `limit` bytes.
pub async fn read_response(
    response: types::Response,
    headers: &HeaderMap,
    limit: usize,
) -> Result<Read, ErrorCode> {
    let length = announced(headers);
    let (completion, result) = wit_future::new(|| Ok(()));
    let (contents, trailers) = types::Response::consume_body(response, result);
    let read = read(contents, trailers, length, limit, limit).await;
    drop(completion);
    read
}

/// Makes a reply for the host, and the future that writes its body.
pub fn response(response: Response<Vec<u8>>) -> (types::Response, impl Future<Output = ()> + 'static) {
    let (head, body) = response.into_parts();
    let (contents, trailers, writing) = outgoing(body, ());
    let fields = fields(&head.headers).unwrap_or_else(Fields::new);
    let (response, _sent) = types::Response::new(fields, Some(contents), trailers);
    // A host accepts every `http::StatusCode`.
    let _ = response.set_status_code(head.status.as_u16());
    (response, writing)
}

/// Makes a request for the host, and the future that writes its body and then drops `turn`. Returns `None` if the host
/// refuses a part of the request.
pub fn request<T>(
    request: Request<Vec<u8>>,
    options: RequestOptions,
    turn: T,
) -> Option<(types::Request, impl Future<Output = ()>)> {
    let (head, body) = request.into_parts();
    let (contents, trailers, writing) = outgoing(body, turn);
    let (request, _sent) =
        types::Request::new(fields(&head.headers)?, Some(contents), trailers, Some(options));
    request.set_method(&head.method.into()).ok()?;
    request.set_scheme(head.uri.scheme().map(Into::into).as_ref()).ok()?;
    request.set_authority(head.uri.authority().map(|authority| authority.as_str())).ok()?;
    request.set_path_with_query(head.uri.path_and_query().map(|path| path.as_str())).ok()?;
    Some((request, writing))
}

type Contents = StreamReader<u8>;
type End = FutureReader<Result<Option<Trailers>, ErrorCode>>;

/// Makes the stream and the trailers that the host reads, and the future that writes a body to them. The future drops
/// `turn` as soon as the host has taken the body.
fn outgoing<T>(body: Vec<u8>, turn: T) -> (Contents, End, impl Future<Output = ()>) {
    let (mut contents, reader) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let writing = async move {
        // If the host stops reading, the rest of the body is dropped.
        let _ = contents.write_all(body).await;
        drop(contents);
        drop(turn);
        let _ = end.write(Ok(None)).await;
    };
    (reader, trailers, writing)
}

async fn read(
    mut contents: Contents,
    end: End,
    length: Option<usize>,
    limit: usize,
    read_limit: usize,
) -> Result<Read, ErrorCode> {
    let mut read = Read { kept: Vec::new(), whole: true };
    let mut seen = 0_usize;
    while length != Some(seen) && (read.whole || seen < read_limit) {
        let ahead = length.map_or(READ_BYTES, |length| length.saturating_sub(seen)).clamp(1, READ_BYTES);
        let (result, chunk) = contents.read(Vec::with_capacity(ahead)).await;
        seen = seen.saturating_add(chunk.len());
        let room = limit.saturating_sub(read.kept.len());
        read.whole &= chunk.len() <= room;
        if read.kept.is_empty() && read.whole {
            read.kept = chunk;
            // A long body gets its memory at once, and not by doubling it.
            let rest = length.unwrap_or_default().min(limit).saturating_sub(read.kept.len());
            read.kept.reserve_exact(rest);
        } else {
            read.kept.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        }
        if !matches!(result, StreamResult::Complete(_)) {
            // The trailers show whether the stream ended or broke.
            end.await?;
            break;
        }
    }
    match length {
        Some(length) if read.whole && seen < length => Err(ErrorCode::HttpResponseIncomplete),
        _ => Ok(read),
    }
}

/// Returns the announced length of a body, if there is exactly one. The host has checked it against the
/// body's framing.
fn announced(headers: &HeaderMap) -> Option<usize> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok()?.parse().ok()
}

fn headers(fields: &Fields) -> Option<HeaderMap> {
    let all = fields.copy_all();
    let mut headers = HeaderMap::with_capacity(all.len());
    for (name, value) in all {
        headers.try_append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?).ok()?;
    }
    Some(headers)
}

fn fields(headers: &HeaderMap) -> Option<Fields> {
    let all: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&all).ok()
}
