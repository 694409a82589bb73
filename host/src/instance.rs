//! Makes instances of the component, provides their imports, and limits their memory, requests and time.

use crate::{
    Options, Settings, component,
    metrics::Metrics,
    outbound::{Outbound, Pool},
};
use anyhow::Result;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use wasmtime::{
    Engine, Store, StoreContextMut, StoreLimits, StoreLimitsBuilder, Trap,
    component::{Component, ComponentType, GuestTaskId, Lift, Linker, Lower, ResourceTable},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{WasiCli, WasiCliView},
    p2::bindings::{cli, random::insecure_seed},
    p3,
    random::WasiRandom,
};
use wasmtime_wasi_http::{
    WasiHttpCtx, WasiHttpCtxView, WasiHttpView,
    handler::{HandlerState, Instance, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus},
    p3::bindings::ServicePre,
};

/// Requests that one instance serves before it is replaced. A new instance costs less than a millisecond, and frees any
/// memory that the old one may have leaked.
const REUSE_LIMIT: usize = 10_000;

/// Requests that one instance serves at once, as on Wasmtime and Spin. A trap ends them all.
const CONCURRENT_LIMIT: usize = 16;

/// How long an idle instance is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time of one request: far longer than the function's own limits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How much later the host ends an instance whose every request took too long. The limit of the requests comes first, so
/// that work after earlier replies keeps its time.
const REQUEST_GRACE: Duration = Duration::from_secs(5);

/// Most memory of an instance, in bytes. It needs one or two MiB; one that reaches this limit leaks.
const MEMORY_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// The interface through which Spin provides settings.
const VARIABLES: &str = "spin:variables/variables@3.0.0";

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

/// Provides the imports: clocks, random numbers, standard output, HTTP and settings. No files, and no sockets.
fn linker(engine: &Engine) -> Result<Linker<Data>> {
    let mut linker: Linker<Data> = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(&mut linker)?;
    // Rust's standard library imports these.
    cli::environment::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    cli::exit::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    cli::terminal_input::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    cli::terminal_output::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    cli::terminal_stdin::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    cli::terminal_stdout::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    cli::terminal_stderr::add_to_linker::<Data, WasiCli>(&mut linker, Data::cli)?;
    insecure_seed::add_to_linker::<Data, WasiRandom>(&mut linker, |data| data.wasi.random())?;
    p3::cli::add_to_linker(&mut linker)?;
    p3::clocks::add_to_linker(&mut linker)?;
    p3::random::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    linker.instance(VARIABLES)?.func_wrap_concurrent("get", |accessor, (name,): (String,)| {
        let value = accessor.with(|mut data| data.get().settings.get(&name).cloned());
        Box::pin(async move { Ok((value.ok_or(VariableError::Undefined(name)),)) })
    })?;
    Ok(linker)
}

/// Everything that instances share, on all threads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct InstanceTemplate {
    pre: ServicePre<Data>,
    engine: Engine,
    from_variables: bool,
    settings: Arc<Settings>,
    allowed_origins: Option<Arc<[String]>>,
    after_reply: Duration,
    output: crate::output::Output,
    metrics: Arc<Metrics>,
}

impl InstanceTemplate {
    pub(crate) fn new(component: &Component, options: &Options, metrics: Arc<Metrics>) -> Result<Self> {
        let engine = component.engine();
        Ok(Self {
            pre: ServicePre::new(linker(engine)?.instantiate_pre(component)?)?,
            engine: engine.clone(),
            from_variables: component::imports(component).iter().any(|name| name == VARIABLES),
            settings: Arc::new(options.settings.clone()),
            allowed_origins: options.allowed_origins.clone().map(Arc::from),
            after_reply: options.after_reply,
            output: options.output.clone(),
            metrics,
        })
    }
}

/// Makes the instances of one thread, which share a pool of connections.
pub(crate) struct InstanceFactory {
    pub(crate) template: InstanceTemplate,
    pub(crate) pool: Pool,
}

impl HandlerState for InstanceFactory {
    type StoreData = Data;
    type WorkerExpiration = Expiration;
    type WorkerState = Limits;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Data, Expiration, Limits>> {
        let InstanceTemplate { pre, engine, settings, metrics, .. } = &self.template;
        let mut wasi = WasiCtx::builder();
        wasi.stdout(self.template.output.clone()).inherit_stderr();
        if !self.template.from_variables {
            for (name, value) in settings.iter() {
                wasi.env(name.to_ascii_uppercase(), value);
            }
        }
        let unanswered = Arc::new(AtomicUsize::new(0));
        let hooks = Outbound {
            pool: self.pool.clone(),
            allowed_origins: self.template.allowed_origins.clone(),
            metrics: metrics.clone(),
            unanswered: unanswered.clone(),
        };
        let data = Data {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks,
            table: ResourceTable::new(),
            settings: settings.clone(),
            limits: StoreLimitsBuilder::new().memory_size(MEMORY_LIMIT_BYTES).build(),
        };
        let mut store = Store::new(engine, data);
        store.limiter(|data| &mut data.limits);
        let proxy = ProxyPre::P3(pre.clone()).instantiate_async(&mut store).await?;
        let number = metrics.instance_made();
        Ok(Instance {
            store,
            proxy,
            view: WasiHttpView::http,
            expiration: Expiration {
                sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
                after_reply: self.template.after_reply,
                number,
                unanswered,
                metrics: metrics.clone(),
            },
            state: Limits { metrics: metrics.clone() },
        })
    }
}

/// Ends an instance that idles, or that takes too long.
pub(crate) struct Expiration {
    sleep: Pin<Box<Sleep>>,
    after_reply: Duration,
    number: u64,
    unanswered: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Expiration {
    /// Logs and counts that the host ends the instance now, and how many requests it loses.
    fn note(&self, status: WorkerStatus) {
        let why = match status {
            WorkerStatus::Idle => return,
            WorkerStatus::Requests => {
                format!("no reply within {} s", (REQUEST_TIMEOUT + REQUEST_GRACE).as_secs())
            }
            WorkerStatus::PostReturn => {
                format!("its work after a reply took {} s (--after-reply-s)", self.after_reply.as_secs_f64())
            }
        };
        self.metrics.cut_off();
        let (number, unanswered) = (self.number, self.unanswered.load(Relaxed));
        eprintln!(
            "purple-flea-host: instance {number} was cut off: {why}; outbound requests without a reply: {unanswered}"
        );
    }
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        let limit = match status {
            WorkerStatus::Idle => IDLE_TIMEOUT,
            WorkerStatus::Requests => REQUEST_TIMEOUT + REQUEST_GRACE,
            WorkerStatus::PostReturn => self.after_reply,
        };
        let deadline = (since + limit).into();
        // This is called often, and setting the timer is expensive. A timer that fires too early is set again below.
        if self.sleep.deadline() > deadline || self.sleep.is_elapsed() {
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            std::task::ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline() >= deadline {
                self.note(status);
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}

/// Limits the requests of one instance, and counts its end.
pub(crate) struct Limits {
    metrics: Arc<Metrics>,
}

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
        // An instance that is dropped with its host ends with an error, too, which is no trap.
        let trap = result.as_ref().err().filter(|error| error.is::<Trap>());
        self.metrics.instance_ended(trap.is_some());
        if let Some(error) = trap {
            eprintln!("purple-flea-host: the component trapped: {error:?}");
        }
    }
}

/// The state of an instance's imports.
pub(crate) struct Data {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Outbound,
    table: ResourceTable,
    settings: Arc<Settings>,
    limits: StoreLimits,
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
