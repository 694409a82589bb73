//! Runs the local stack, which the tests and `scripts/dev` share. A part that the machine does not have is replaced by
//! a stand-in, which says so.
//!
//! | part | module | real, or a stand-in? |
//! | --- | --- | --- |
//! | PostgreSQL with Supabase's roles | [`postgres`] | the machine's own server, a throw-away cluster; safeupdate is a stand-in where the server has none |
//! | pg_net | [`pg_net`] | the extension where the server has it, otherwise a stand-in |
//! | PostgREST | [`postgrest`] | the `postgrest` of this machine where there is one, otherwise a stand-in |
//! | Supabase Realtime | [`realtime`] | a stand-in, where a test starts one |
//! | Supabase's gateway | [`gateway`] | a stand-in, where a test starts one |
//! | pg_cron | [`sweeper`] | always a stand-in: a task that calls `purple_flea.sweep()` |
//! | the WASI host | [`host`] | Wasmtime embedded; `wasmtime` or `spin` by `WASI_HOST` |
//! | Purple Flea | [`purple_flea`] | always the crate `simulator`, whose tests compare it with the released servers where the machine has them |
//! | Inngest | [`inngest`] | the real server where `INNGEST_CLI` names it, otherwise a stand-in; where a test starts one |
//!
//! [`local`] puts them together. Everything listens on free ports of the loopback interface and ends with the value that started it.

pub mod gateway;
pub mod host;
pub mod http1;
pub mod inngest;
pub mod local;
pub mod log;
pub mod pg_net;
pub mod postgres;
pub mod postgrest;
pub mod process;
pub mod realtime;
pub mod sweeper;
pub mod webhook;

pub use simulator as purple_flea;

use std::path::Path;

/// The root of this repository.
pub fn repository() -> &'static Path {
    // `tests/stack` lies two folders below it.
    let stack = Path::new(env!("CARGO_MANIFEST_DIR"));
    stack.parent().and_then(Path::parent).unwrap_or(stack)
}
