//! The host of production, `host`, in this process.

use super::Options;
use crate::{http1, log::Log};
use anyhow::Result;
use purple_flea_host::{
    component::{self, Component},
    gate::{Gate, Places},
    metrics::Metrics,
    output::Output,
    patience::Patience,
    server::Blueprint,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::watch, task::JoinSet};

/// Most connections at once, in and out: more than any test makes.
const CONNECTIONS: usize = 4096;

/// A listening host. Ends, with all its connections, when it is dropped.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) metrics: Arc<Metrics>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(options: &Options, log: Log) -> Result<Self> {
        let path = options.build.artifact()?;
        let listen = options.listen.clone();
        let options = purple_flea_host::Options {
            component: path.clone(),
            settings: options.settings.clone(),
            allowed_origins: options.allowed_origins.clone(),
            after_reply: options.after_reply,
            keep: purple_flea_host::KEEP,
            outbound: CONNECTIONS,
            patience: Patience::default(),
            output: Output::to(move |bytes| log.write(bytes)),
        };
        let component = tokio::task::spawn_blocking(move || compiled(&path)).await??;
        let blueprint = Blueprint::new(&component, &options)?;
        let metrics = blueprint.metrics().clone();
        let (listener, url) = http1::listen_on(listen.as_deref().unwrap_or("127.0.0.1:0")).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(Gate::new(listener, Places::new(CONNECTIONS)), blueprint));
        Ok(Self { url, metrics, _tasks: tasks })
    }
}

/// The interfaces that a build of the component imports.
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

async fn accept(gate: Gate, blueprint: Blueprint) {
    let function = blueprint.function();
    let (_open, closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let (stream, place) = gate.next().await;
        let (function, closing) = (function.clone(), closing.clone());
        connections.spawn(async move { function.serve(stream, place, closing).await });
        while connections.try_join_next().is_some() {}
    }
}
