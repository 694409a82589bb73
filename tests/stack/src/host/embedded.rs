//! Wasmtime embedded: what `wasmtime serve` does, with `spin:variables` provided and outbound hosts limited.

use super::{Options, Settings};
use crate::{http1, log::Log};
use anyhow::Result;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinSet, time::Sleep};
use wasmtime::{
    Config, Engine, Store, StoreContextMut, Trap,
    component::{Component, ComponentType, GuestTaskId, Lift, Linker, Lower, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
    handler::{
        HandlerState, Instance, ProxyHandler, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState,
        WorkerStatus,
    },
    p3::bindings::ServicePre,
};

/// Requests that one instance serves before it is replaced, as Wasmtime and Spin have it.
const REUSE_LIMIT: usize = 128;

/// Requests that one instance serves at once, likewise.
const CONCURRENT_LIMIT: usize = 16;

/// How long an instance without work is kept, likewise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one request may take; far longer than the function's own limits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The interface through which Spin hands out settings.
const VARIABLES: &str = "spin:variables/variables@3.0.0";

/// A listening host. Ends, with all its connections, when it is dropped.
pub(super) struct Server {
    pub(super) url: String,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(options: &Options, log: Log) -> Result<Self> {
        let path = options.build.artifact()?;
        let component = tokio::task::spawn_blocking(move || compiled(&path)).await??;
        let from_variables =
            component.component_type().imports(component.engine()).any(|(name, _)| name == VARIABLES);
        let pre = ServicePre::new(linker(component.engine())?.instantiate_pre(&component)?)?;
        let handler = ProxyHandler::new(State {
            pre,
            engine: component.engine().clone(),
            from_variables,
            settings: Arc::new(options.settings.clone()),
            allowed_origins: options.allowed_origins.clone().map(Arc::from),
            log,
        });
        let (listener, url) = http1::listen_on(options.listen.as_deref().unwrap_or("127.0.0.1:0")).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, handler));
        Ok(Self { url, _tasks: tasks })
    }
}

/// The interfaces that a build of the component imports.
pub(super) fn imports(path: &Path) -> Result<Vec<String>> {
    Ok(imports_of(&compiled(path)?))
}

fn imports_of(component: &Component) -> Vec<String> {
    component.component_type().imports(component.engine()).map(|(name, _)| name.to_owned()).collect()
}

/// Compiles a component once per process, however many hosts it runs on.
fn compiled(path: &Path) -> Result<Component> {
    static COMPONENTS: Mutex<BTreeMap<PathBuf, Component>> = Mutex::new(BTreeMap::new());
    let mut components = COMPONENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(component) = components.get(path) {
        return Ok(component.clone());
    }
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    let component = Component::from_file(&Engine::new(&config)?, path)?;
    components.insert(path.to_owned(), component.clone());
    Ok(component)
}

async fn accept(listener: TcpListener, handler: ProxyHandler<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Otherwise a reply of two writes waits 40 ms for the caller's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        connections.spawn(async move {
            let service = service_fn(|request| serve(&handler, request));
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    handler: &ProxyHandler<State>,
    request: http::Request<Incoming>,
) -> Result<http::Response<WasiBody>, Infallible> {
    let request = request.map(|body| body.map_err(Error::from).boxed_unsync());
    Ok(handler.handle((), request).await.unwrap_or_else(|error| {
        eprintln!("the component failed: {error:?}");
        let body = Full::from("the component failed").map_err(|never| match never {});
        let mut response = http::Response::new(body.boxed_unsync());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum VariableError {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

fn linker(engine: &Engine) -> Result<Linker<Data>> {
    let mut linker: Linker<Data> = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    linker.instance(VARIABLES)?.func_wrap_concurrent("get", |accessor, (name,): (String,)| {
        let value = accessor.with(|mut data| data.get().settings.get(&name).cloned());
        Box::pin(async move { Ok((value.ok_or(VariableError::Undefined(name)),)) })
    })?;
    Ok(linker)
}

/// What every instance is made from.
struct State {
    pre: ServicePre<Data>,
    engine: Engine,
    from_variables: bool,
    settings: Arc<Settings>,
    allowed_origins: Option<Arc<[String]>>,
    log: Log,
}

impl HandlerState for State {
    type StoreData = Data;
    type WorkerExpiration = Expiration;
    type WorkerState = Limits;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Data, Expiration, Limits>> {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(self.log.clone()).inherit_stderr();
        if !self.from_variables {
            for (name, value) in self.settings.iter() {
                wasi.env(name.to_ascii_uppercase(), value);
            }
        }
        let data = Data {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: Outbound { allowed_origins: self.allowed_origins.clone() },
            table: ResourceTable::new(),
            settings: self.settings.clone(),
        };
        let pre = ProxyPre::P3(self.pre.clone());
        let mut store = Store::new(&self.engine, data);
        let proxy = pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy,
            view: WasiHttpView::http,
            expiration: Expiration(Box::pin(tokio::time::sleep(Duration::ZERO))),
            state: Limits,
        })
    }
}

/// Ends an instance that idles, or whose requests take too long.
struct Expiration(Pin<Box<Sleep>>);

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        let limit = match status {
            WorkerStatus::Idle => IDLE_TIMEOUT,
            WorkerStatus::Requests | WorkerStatus::PostReturn => REQUEST_TIMEOUT,
        };
        let deadline = (since + limit).into();
        if self.0.deadline() != deadline {
            self.0.as_mut().reset(deadline);
        }
        self.0.as_mut().poll(cx)
    }
}

/// Shares an instance between requests.
struct Limits;

impl WorkerState for Limits {
    type StoreData = Data;
    type RequestData = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        match (total, concurrent) {
            (REUSE_LIMIT.., _) => ShouldAccept::Never,
            (_, CONCURRENT_LIMIT..) => ShouldAccept::No,
            _ => ShouldAccept::Yes,
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Data>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(tokio::time::sleep(REQUEST_TIMEOUT))
    }

    fn drop(&self, _: Store<Data>, result: wasmtime::Result<()>) {
        // An instance that is dropped with its host ends with an error too, but not with a trap.
        if let Err(error) = result
            && error.is::<Trap>()
        {
            eprintln!("the component trapped: {error:?}");
        }
    }
}

/// What an instance's imports see.
struct Data {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Outbound,
    table: ResourceTable,
    settings: Arc<Settings>,
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Data {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Wasmtime's own client behind a list of allowed origins, as Spin has one.
struct Outbound {
    allowed_origins: Option<Arc<[String]>>,
}

type Sent = wasmtime_wasi_http::Result<(
    http::Response<WasiBody>,
    Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
)>;

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = wasmtime_wasi_http::Result<()>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let uri = request.uri();
        let origin = format!(
            "{}://{}",
            uri.scheme_str().unwrap_or_default(),
            uri.authority().map_or("", |a| a.as_str())
        );
        let allowed = self.allowed_origins.as_ref().is_none_or(|list| list.contains(&origin));
        Box::new(async move {
            if !allowed {
                return Err(Error::HttpRequestDenied);
            }
            let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
            let io: Box<dyn Future<Output = _> + Send> = Box::new(io);
            Ok((response.map(BodyExt::boxed_unsync), io))
        })
    }
}
