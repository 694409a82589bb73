//! Runs the production host, `host`, in this process.

use super::Options;
use crate::{http1, log::Log};
use anyhow::Result;
use purple_flea_host::{
    component::{self, Component},
    listener::{Listener, Slots},
    metrics::Metrics,
    output::Output,
    server::FunctionTemplate,
    timeouts::CallerTimeouts,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// The most connections at once, in and out: more than any test makes.
const CONNECTIONS: usize = 4096;

/// A listening host. Ends, with all its connections, when it is dropped.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) metrics: Arc<Metrics>,
    _tasks: JoinSet<()>,
}

/// How long a client of hyper's keeps a connection by default, and so does Spin.
const SPIN_KEEP_ALIVE: Duration = Duration::from_secs(90);

impl Server {
    /// Starts a host. One that is `like_spin` keeps its connections as Spin does, and sets no `TCP_NODELAY`.
    pub(super) async fn start(options: &Options, log: Log, like_spin: bool) -> Result<Self> {
        let path = options.build.artifact()?;
        let listen = options.listen.clone();
        let options = purple_flea_host::Options {
            component: path.clone(),
            settings: options.settings.clone(),
            allowed_origins: options.allowed_origins.clone(),
            after_reply: options.after_reply,
            keep_alive: if like_spin { SPIN_KEEP_ALIVE } else { purple_flea_host::KEEP_ALIVE },
            no_delay: !like_spin,
            outbound_connections: CONNECTIONS,
            timeouts: CallerTimeouts::default(),
            output: Output::to(move |bytes| log.write(bytes)),
        };
        let component = tokio::task::spawn_blocking(move || compiled(&path)).await??;
        let template = FunctionTemplate::new(&component, &options)?;
        let metrics = template.metrics().clone();
        let (listener, url) = http1::listen_on(listen.as_deref().unwrap_or("127.0.0.1:0")).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(Listener::new(listener, Slots::new(CONNECTIONS)), template));
        Ok(Self { url, metrics, _tasks: tasks })
    }
}

/// Lists the interfaces that a build of the component imports.
pub(super) fn imports(path: &Path) -> Result<Vec<String>> {
    Ok(component::imports(&compiled(path)?))
}

/// Compiles a component once per process, however many hosts it runs on.
fn compiled(path: &Path) -> Result<Component> {
    static COMPONENTS: Mutex<BTreeMap<PathBuf, Component>> = Mutex::new(BTreeMap::new());
    let mut components = COMPONENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(component) = components.get(path) {
        return Ok(component.clone());
    }
    let component = component::load(&component::engine()?, path)?;
    components.insert(path.to_owned(), component.clone());
    Ok(component)
}

async fn accept(listener: Listener, template: FunctionTemplate) {
    let function = template.function();
    let (_open, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let (stream, slot) = listener.next().await;
        let (function, closing) = (function.clone(), closing.clone());
        connections.spawn(async move { function.serve(stream, slot, closing).await });
        while connections.try_join_next().is_some() {}
    }
}
