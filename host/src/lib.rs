//! A host for the component: Wasmtime and hyper in one process. The local stack and the tests run the component on it,
//! and so can production: `purple-flea-host` is its program.
//!
//! What it does beyond `wasmtime serve`: it provides `spin:variables`, keeps outbound connections, limits where the
//! component may send to, and keeps each request on the thread that its connection was given to.

pub mod admin;
pub mod component;
pub mod descriptors;
mod dial;
pub mod gate;
mod instance;
pub mod metrics;
mod outbound;
pub mod output;
pub mod patience;
mod request;
pub mod server;
mod stream;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// The function's settings by name, in lower case.
pub type Settings = BTreeMap<String, String>;

/// How long outbound connections are kept, where nothing else is asked for: shorter than servers keep theirs (five seconds
/// and more), because a request on one that its server closes at that moment may have been executed or not.
pub const KEEP: Duration = Duration::from_secs(3);

/// What the component gets, and what it may do.
#[derive(Clone)]
pub struct Options {
    /// The component: a `.wasm`, which is compiled, or what [`component::compile`] made of one.
    pub component: PathBuf,
    /// Its settings: as Spin variables if it asks for them, otherwise in its environment, in upper case.
    pub settings: Settings,
    /// The origins that it may send to; `None` allows all.
    pub allowed_origins: Option<Vec<String>>,
    /// How long it may go on after a reply.
    pub after_reply: Duration,
    /// How long an outbound connection is kept after its last request; see [`KEEP`].
    pub keep: Duration,
    /// Most outbound connections at once, idle ones included. See [`descriptors::plan`].
    pub outbound: usize,
    /// How long the host waits for its callers.
    pub patience: patience::Patience,
    /// Where its lines go.
    pub output: output::Output,
}
