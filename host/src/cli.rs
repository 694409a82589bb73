//! The command line of `purple-flea-host`.

use clap::{Parser, Subcommand};
use purple_flea_host::{KEEP_ALIVE, timeouts::CallerTimeouts};
use std::{net::SocketAddr, path::PathBuf};

/// Runs the component behind HTTP/1.1, with one event loop for each processor.
///
/// The function's settings come from the environment, by their names in upper case (PURPLE_FLEA_URL …). After SIGTERM or
/// SIGINT the host takes no more connections and finishes the work in progress. A second signal ends it at once.
#[derive(Parser)]
#[command(name = "purple-flea-host", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Compiles the component ahead of time, for this kind of machine and this version of the host.
    Compile {
        /// The component.
        wasm: PathBuf,
        /// The file to write. The host runs it as native code, so only trusted users may be able to change it.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Prints the interfaces that the component imports and exports, as JSON.
    Interfaces {
        /// The component.
        wasm: PathBuf,
    },
}

#[derive(clap::Args)]
pub(crate) struct Serve {
    /// The component: a .wasm file, or the output of the command `compile`.
    pub(crate) component: Option<PathBuf>,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
    /// The address of /metrics (for Prometheus) and /live. Without it the host serves neither. Keep it private.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Number of event loops. By default one for each processor.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Most inbound connections at once; further ones wait. By default 1024, or as many as the limit of open files allows.
    /// (The host raises its limit of open files to the hard limit.)
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Longest time for a request's head, in milliseconds. While a new connection waits, it is also the longest time that
    /// another connection may idle.
    #[arg(long, default_value_t = CallerTimeouts::default().head.as_millis() as u64, value_name = "MS")]
    pub(crate) head_ms: u64,
    /// Longest time that a connection may idle while no new one waits, in milliseconds. Give it more than the proxy in front
    /// of the host keeps its idle connections.
    #[arg(long, default_value_t = CallerTimeouts::default().idle.as_millis() as u64, value_name = "MS")]
    pub(crate) idle_ms: u64,
    /// An origin that the component may send to (https://api.purpleflea.com); repeat it for each. Without it the component
    /// may send anywhere.
    #[arg(long = "allow", value_name = "ORIGIN")]
    pub(crate) allow: Vec<String>,
    /// Longest time that the component may work after its last reply, in seconds. The host cuts longer work off, logs a line
    /// and counts it in purple_flea_cut_off_total.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) after_reply_s: u64,
    /// How long an outbound connection is kept after its last request, in milliseconds. Keep it shorter than the servers do:
    /// a request on a connection that its server closes at that moment may have been executed or not. 0 makes a new
    /// connection for each request.
    #[arg(long, default_value_t = KEEP_ALIVE.as_millis() as u64, value_name = "MS")]
    pub(crate) keep_ms: u64,
    /// Longest time for the work in progress when the host is told to end, in seconds.
    #[arg(long, default_value_t = 75, value_name = "SECONDS")]
    pub(crate) grace_s: u64,
}
