//! Serves inbound connections: passes each request to the component, and its reply back.

use crate::{
    Options,
    connector::OutboundSlots,
    instance::{InstanceFactory, InstanceTemplate},
    listener::Slot,
    metrics::Metrics,
    outbound, request,
    stream::TrackedStream,
    timeouts::{CallerTimeouts, PhaseTracker},
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

/// Most bytes of a request's head. A signed notification has 1 KiB of headers, a large token 4 KiB.
const HEAD_LIMIT_BYTES: usize = 32 * 1024;

/// Most bytes that hyper buffers of a request, and of a reply that its caller does not read: two heads.
const BUFFER_LIMIT_BYTES: usize = 64 * 1024;

/// The component on one thread's event loop.
#[derive(Clone)]
pub struct Function {
    handler: ProxyHandler<InstanceFactory>,
    timeouts: CallerTimeouts,
    no_delay: bool,
    metrics: Arc<Metrics>,
}

/// Makes the function of each thread. All share the counters and the limits.
#[derive(Clone)]
pub struct FunctionTemplate {
    instances: InstanceTemplate,
    keep_alive: Duration,
    no_delay: bool,
    outbound: OutboundSlots,
    timeouts: CallerTimeouts,
    metrics: Arc<Metrics>,
}

impl FunctionTemplate {
    /// Checks that the component can run on this host. Fails if the component imports an interface that the host lacks.
    pub fn new(component: &Component, options: &Options) -> Result<Self> {
        let metrics = Arc::new(Metrics::default());
        Ok(Self {
            instances: InstanceTemplate::new(component, options, metrics.clone())?,
            keep_alive: options.keep_alive,
            no_delay: options.no_delay,
            outbound: OutboundSlots::new(options),
            timeouts: options.timeouts,
            metrics,
        })
    }

    /// Gives the counters of all threads together.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Makes the function of the current event loop.
    pub fn function(&self) -> Function {
        let pool = outbound::pool(self.keep_alive, self.no_delay, self.outbound.clone());
        let factory = InstanceFactory { template: self.instances.clone(), pool };
        let handler = ProxyHandler::new(factory);
        Function { handler, timeouts: self.timeouts, no_delay: self.no_delay, metrics: self.metrics.clone() }
    }
}

impl Function {
    /// Serves one connection until it ends or its caller takes too long. When `closing` becomes true, the connection ends
    /// after its current request. A caller that hangs up does not stop the function's work on its request.
    pub async fn serve(&self, stream: TcpStream, slot: Slot, mut closing: watch::Receiver<bool>) {
        // Without it a reply of two writes waits 40 ms for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(self.no_delay);
        let _counted = self.metrics.connection();
        let tracker = PhaseTracker::new();
        let service = service_fn(|request| self.answer(request, &tracker));
        let mut builder = http1::Builder::new();
        // `PhaseTracker` limits the time for heads. A caller may close its sending half before it reads the reply.
        builder.header_read_timeout(None).half_close(true);
        builder.max_header_size(HEAD_LIMIT_BYTES).max_buf_size(BUFFER_LIMIT_BYTES);
        let io = TokioIo::new(TrackedStream { stream, tracker: tracker.clone() });
        let mut connection = pin!(builder.serve_connection(io, service));
        let mut timed_out = pin!(tracker.timed_out(self.timeouts, slot.crowded.clone()));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = timed_out.as_mut() => return self.metrics.timed_out(),
            _ = closing.wait_for(|closing| *closing) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection => {}
            () = timed_out => self.metrics.timed_out(),
        }
    }

    async fn answer(
        &self,
        request: http::Request<Incoming>,
        tracker: &PhaseTracker,
    ) -> Result<http::Response<WasiBody>, Infallible> {
        let received = Instant::now();
        let _counted = self.metrics.request();
        tracker.requested();
        let response = match request::checked(request) {
            Ok(request) => self.call_component(request::with_authority(request)).await,
            Err(detail) => {
                self.metrics.refused();
                request::refusal(detail).map(|body| body.map_err(|never| match never {}).boxed_unsync())
            }
        };
        tracker.replied();
        self.metrics.replied(response.status(), received.elapsed());
        Ok(response)
    }

    /// Passes a request to the component. A component that fails gives a 500 and a log line.
    async fn call_component(&self, request: http::Request<Incoming>) -> http::Response<WasiBody> {
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
