//! `/metrics` and `/live`, for operators: at an address of their own.

use crate::metrics::{self, Metrics};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections to this address: a Prometheus or two, and an operator. Further ones wait.
const CONNECTIONS: usize = 16;

/// Longest time for a request's head, also while the connection idles.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The wait after a connection that could not be accepted: file descriptors may be short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves forever.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(answer(&request, &metrics)));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = "text/plain; charset=utf-8";
    let (status, content_type, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics::CONTENT_TYPE, metrics.text()),
        "/live" => (StatusCode::OK, plain, "live\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, plain, "/metrics or /live\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}
