//! A minimal HTTP client, which sends one request on one new connection; and a listener on a free port.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Listens on a free port of the loopback interface. Gives the listener and its `http://` URL.
pub async fn listen() -> Result<(TcpListener, String)> {
    listen_on("127.0.0.1:0").await
}

/// Listens on an address. Gives the listener and its `http://` URL.
pub async fn listen_on(address: &str) -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("{address} is taken"))?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

/// Connects to the host of a URL.
pub async fn connect(uri: &http::Uri) -> Result<SendRequest<Full<Bytes>>> {
    let host = uri.host().context("the URL has no host")?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The sender sees an error of the connection.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Rewrites a request with a whole URL into the form that goes over a connection: a path, and a `host` header.
pub fn in_origin_form<B>(mut request: Request<B>) -> Result<Request<B>> {
    let authority = request.uri().authority().context("the URL has no host")?.clone();
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse()?;
    Ok(request)
}

/// Answers the requests of one connection until it ends.
pub async fn serve(stream: TcpStream, respond: impl AsyncFn(Request<Vec<u8>>) -> Response<Vec<u8>>) {
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        let response = respond(Request::from_parts(head, body)).await;
        hyper::Result::Ok(response.map(|body| Full::new(Bytes::from(body))))
    });
    // A caller that hangs up is the caller's business.
    let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Sends one request on a connection of its own and reads the whole reply.
pub async fn send(request: Request<Vec<u8>>) -> Result<Response<Bytes>> {
    let mut sender = connect(request.uri()).await?;
    let request = in_origin_form(request)?.map(|body| Full::new(Bytes::from(body)));
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}
