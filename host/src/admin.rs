//! `/metrics` and `/live`, for those who watch: at an address of their own.

use crate::{gate::Gate, metrics::Metrics, patience::Patience};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, sync::Arc};

/// Answers for ever. The callers are few, and get no more time to idle than for a request's head.
pub async fn serve(gate: Gate, metrics: Arc<Metrics>, patience: Patience) {
    loop {
        let (stream, place) = gate.next().await;
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(answer(&request, &metrics)));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(patience.head);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, metrics.text()),
        "/live" => (StatusCode::OK, "live\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "/metrics or /live\n".to_owned()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    Ok(response)
}
