//! Connections in, and the way of a request to the component and back.

use crate::{
    Options,
    dial::Places,
    gate::Place,
    instance::{Maker, Origin},
    metrics::Metrics,
    outbound,
    patience::{Pace, Patience},
    request,
    stream::Accompanied,
};
use anyhow::Result;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch};
use wasmtime::component::Component;
use wasmtime_wasi_http::{Error, WasiBody, handler::ProxyHandler};

/// Most bytes of a request's head. A signed notification's has 1 KiB, and a large token 4 KiB.
const HEAD_LIMIT_BYTES: usize = 32 * 1024;

/// Most bytes that hyper holds of what a caller sends, and of what it does not take: two heads.
const BUFFER_LIMIT_BYTES: usize = 64 * 1024;

/// The component, ready to serve on one thread's event loop.
#[derive(Clone)]
pub struct Function {
    handler: ProxyHandler<Maker>,
    patience: Patience,
    metrics: Arc<Metrics>,
}

/// What the functions of all threads are made from.
#[derive(Clone)]
pub struct Blueprint {
    origin: Origin,
    keep: Duration,
    outbound: Places,
    patience: Patience,
    metrics: Arc<Metrics>,
}

impl Blueprint {
    /// Checks that the component can run here.
    pub fn new(component: &Component, options: &Options) -> Result<Self> {
        let metrics = Arc::new(Metrics::default());
        Ok(Self {
            origin: Origin::new(component, options, metrics.clone())?,
            keep: options.keep,
            outbound: Places::new(options),
            patience: options.patience,
            metrics,
        })
    }

    /// Its counters, those of all threads together.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The component on the current event loop.
    pub fn function(&self) -> Function {
        let pool = outbound::pool(self.keep, self.outbound.clone());
        let maker = Maker { origin: self.origin.clone(), pool };
        let handler = ProxyHandler::new(maker);
        Function { handler, patience: self.patience, metrics: self.metrics.clone() }
    }
}

impl Function {
    /// Serves one connection until it ends, until the host's patience with its caller does, or until `closing` says so
    /// and its last request is answered. A caller that hangs up ends nothing: the function answers what it was asked.
    pub async fn serve(&self, stream: TcpStream, place: Place, mut closing: watch::Receiver<bool>) {
        // Otherwise a reply of two writes waits 40 ms for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let _counted = self.metrics.connection();
        let pace = Pace::new();
        let service = service_fn(|request| self.answer(request, &pace));
        let mut builder = http1::Builder::new();
        // `Pace` has limits of its own for heads. With half-closed connections a caller may end what it sends before it
        // reads, and a connection lasts until its reply is there.
        builder.header_read_timeout(None).half_close(true);
        builder.max_header_size(HEAD_LIMIT_BYTES).max_buf_size(BUFFER_LIMIT_BYTES);
        let io = TokioIo::new(Accompanied { stream, companion: pace.clone() });
        let mut connection = pin!(builder.serve_connection(io, service));
        let mut exhausted = pin!(pace.exhausted(self.patience, place.crowded.clone()));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = exhausted.as_mut() => return self.metrics.timed_out(),
            _ = closing.wait_for(|closing| *closing) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection => {}
            () = exhausted => self.metrics.timed_out(),
        }
    }

    async fn answer(
        &self,
        request: http::Request<Incoming>,
        pace: &Pace,
    ) -> Result<http::Response<WasiBody>, Infallible> {
        let came_in = Instant::now();
        let _counted = self.metrics.request();
        pace.requested();
        let response = match request::checked(request) {
            Ok(request) => self.ask(request).await,
            Err(detail) => {
                self.metrics.refused();
                request::refusal(detail).map(|body| body.map_err(|never| match never {}).boxed_unsync())
            }
        };
        pace.replied();
        self.metrics.replied(response.status(), came_in.elapsed());
        Ok(response)
    }

    /// Asks the component.
    async fn ask(&self, request: http::Request<Incoming>) -> http::Response<WasiBody> {
        let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
        self.handler.handle((), request).await.unwrap_or_else(|error| {
            eprintln!("purple-flea-host: the component failed: {error:?}");
            let body = Full::from("the component failed").map_err(|never| match never {});
            let mut response = http::Response::new(body.boxed_unsync());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}
