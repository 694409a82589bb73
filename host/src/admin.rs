//! `/metrics` and `/live`, for operators: at an address of their own.

use crate::{listener::Listener, metrics, metrics::Metrics, timeouts::CallerTimeouts};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc};

/// Serves forever. An operator's programs are few, so an idle connection has no more time than a request's head.
pub async fn serve(listener: Listener, metrics: Arc<Metrics>, timeouts: CallerTimeouts) {
    loop {
        let (stream, slot) = listener.next().await;
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(answer(&request, &metrics)));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(timeouts.head);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
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
