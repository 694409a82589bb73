//! Hosts the component with Wasmtime and hyper, in one process. The local stack and the tests run the component on this
//! library; the program `purple-flea-host` runs it in production.
//!
//! Beyond what `wasmtime serve` does, the host provides `spin:variables`, keeps outbound connections, limits where the
//! component may send to, and keeps each request on the thread of its connection.

pub mod admin;
pub mod component;
mod connector;
pub mod descriptors;
mod instance;
pub mod listener;
pub mod metrics;
mod outbound;
pub mod output;
mod request;
pub mod server;
mod stream;
pub mod timeouts;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// The function's settings by name, in lower case.
pub type Settings = BTreeMap<String, String>;

/// How long outbound connections are kept by default. Servers keep theirs for five seconds and more. The host is the first
/// to close, because a request on a connection that its server closes at that moment may have been executed or not.
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Settings of the host for one component.
#[derive(Clone)]
pub struct Options {
    /// The component: a `.wasm` file, or the output of [`component::compile`].
    pub component: PathBuf,
    /// The function's settings: Spin variables if the component imports those, otherwise environment variables in upper case.
    pub settings: Settings,
    /// The origins that the component may send to; `None` allows all.
    pub allowed_origins: Option<Vec<String>>,
    /// Longest time that the component may work after a reply.
    pub after_reply: Duration,
    /// How long an outbound connection is kept after its last request. See [`KEEP_ALIVE`].
    pub keep_alive: Duration,
    /// Whether small writes leave at once (`TCP_NODELAY`), in and out. A stand-in for a host without it says no.
    pub no_delay: bool,
    /// Most outbound connections at once, idle ones included. See [`descriptors::plan`].
    pub outbound_connections: usize,
    /// Longest times that the host waits for its callers.
    pub timeouts: timeouts::CallerTimeouts,
    /// Where the component's log lines go.
    pub output: output::Output,
}
