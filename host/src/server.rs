//! Connections in, and the way of a request to the component and back.

use crate::{
    Options,
    instance::{Maker, Origin},
    metrics::Metrics,
    outbound,
};
use anyhow::Result;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch};
use wasmtime::component::Component;
use wasmtime_wasi_http::{Error, WasiBody, handler::ProxyHandler};

/// How long a request's head may take to arrive, and so how long a connection may idle: a caller that drips or that has
/// gone must not hold a connection for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// The component, ready to serve on one thread's event loop.
#[derive(Clone)]
pub struct Function {
    handler: ProxyHandler<Maker>,
    metrics: Arc<Metrics>,
}

/// What the functions of all threads are made from.
#[derive(Clone)]
pub struct Blueprint {
    origin: Origin,
    keep: Duration,
    metrics: Arc<Metrics>,
}

impl Blueprint {
    /// Checks that the component can run here.
    pub fn new(component: &Component, options: &Options) -> Result<Self> {
        let metrics = Arc::new(Metrics::default());
        Ok(Self { origin: Origin::new(component, options, metrics.clone())?, keep: options.keep, metrics })
    }

    /// Its counters, those of all threads together.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The component on the current event loop.
    pub fn function(&self) -> Function {
        let maker = Maker { origin: self.origin.clone(), pool: outbound::pool(self.keep) };
        Function { handler: ProxyHandler::new(maker), metrics: self.metrics.clone() }
    }
}

impl Function {
    /// Serves one connection until it ends, or until `closing` says so and its last request is answered.
    pub async fn serve(&self, stream: TcpStream, mut closing: watch::Receiver<bool>) {
        // Otherwise a reply of two writes waits 40 ms for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        self.metrics.connected();
        let service = service_fn(|request| self.answer(request));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let closed = tokio::select! {
            _ = connection.as_mut() => true,
            _ = closing.wait_for(|closing| *closing) => false,
        };
        if !closed {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
        self.metrics.disconnected();
    }

    async fn answer(&self, request: http::Request<Incoming>) -> Result<http::Response<WasiBody>, Infallible> {
        let came_in = Instant::now();
        self.metrics.came_in();
        let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
        let response = self.handler.handle((), request).await.unwrap_or_else(|error| {
            eprintln!("purple-flea-host: the component failed: {error:?}");
            let body = Full::from("the component failed").map_err(|never| match never {});
            let mut response = http::Response::new(body.boxed_unsync());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        });
        self.metrics.answered(response.status(), came_in.elapsed());
        Ok(response)
    }
}
