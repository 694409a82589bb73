//! `purple-flea-host`: runs the component in production.

mod cli;
mod event_loops;

use anyhow::{Context, Result, bail};
use clap::Parser;
use cli::{Cli, Command, Serve};
use event_loops::EventLoops;
use purple_flea_host::{
    Options, Settings, admin, component,
    descriptors::{self, Plan},
    listener::{Listener, Slots},
    metrics::Metrics,
    output::{self, Output},
    server::FunctionTemplate,
    timeouts::CallerTimeouts,
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// How often the host looks whether the work in progress is done when it ends.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("purple-flea-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Some(Command::Compile { wasm, output }) => compile(&wasm, &output),
        Some(Command::Interfaces { wasm }) => {
            println!("{}", component::interfaces(&component::load(&component::engine()?, &wasm)?));
            Ok(())
        }
        None => Builder::new_current_thread().enable_all().build()?.block_on(serve(cli.serve)),
    }
}

/// Compiles to a file beside the output and renames it: a host that starts meanwhile reads the old file or the new one.
fn compile(wasm: &Path, output: &Path) -> Result<()> {
    let compiled = component::compile(&component::engine()?, wasm)?;
    let part = output.with_extension("part");
    std::fs::write(&part, &compiled).with_context(|| format!("{} cannot be written", part.display()))?;
    std::fs::rename(&part, output).with_context(|| format!("{} cannot be written", output.display()))?;
    eprintln!("{}: {} bytes", output.display(), compiled.len());
    Ok(())
}

async fn serve(serve: Serve) -> Result<()> {
    let Some(path) = &serve.component else { bail!("which component? (see --help)") };
    let threads = serve.threads.map_or_else(std::thread::available_parallelism, |threads| {
        threads.try_into().context("--threads").map_err(std::io::Error::other)
    })?;
    let plan = descriptors::plan(descriptors::raise(), threads.get(), serve.connections)?;
    let component = component::load(&component::engine()?, path)?;
    let options = options(&serve, path.clone(), plan)?;
    let template = FunctionTemplate::new(&component, &options)?;
    let slots = Slots::new(plan.inbound);
    let listener = listen(serve.listen, slots.clone()).await?;
    let (close, closing) = watch::channel(false);
    let loops = EventLoops::start(threads.get(), &template, &closing)?;
    if let Some(address) = serve.admin {
        let listener = listen(address, Slots::new(descriptors::ADMIN_CONNECTIONS)).await?;
        tokio::spawn(admin::serve(listener, template.metrics().clone(), options.timeouts));
    }
    eprintln!(
        "purple-flea-host: listening on http://{} with {} event loops, for {} connections",
        listener.address()?,
        loops.count(),
        plan.inbound
    );
    let mut signals = Signals::new()?;
    tokio::select! {
        error = loops.accept(listener) => return error,
        () = signals.next() => {}
    }
    let _ = close.send(true);
    end(&slots, template.metrics(), serve.grace_s, &mut signals).await;
    output::flush();
    Ok(())
}

fn options(serve: &Serve, component: PathBuf, plan: Plan) -> Result<Options> {
    Ok(Options {
        component,
        settings: settings(),
        allowed_origins: Some(serve.allow.clone()).filter(|origins| !origins.is_empty()),
        after_reply: Duration::from_secs(serve.after_reply_s),
        keep_alive: Duration::from_millis(serve.keep_ms),
        no_delay: true,
        outbound_connections: plan.outbound,
        timeouts: CallerTimeouts {
            head: Duration::from_millis(serve.head_ms),
            idle: Duration::from_millis(serve.idle_ms),
        },
        output: Output::stdout()?,
    })
}

async fn listen(address: SocketAddr, slots: Slots) -> Result<Listener> {
    Listener::listen(address, slots).await.with_context(|| format!("cannot listen on {address}"))
}

/// Collects the environment as the function's settings. The component asks for the names that it knows, and sees no other.
fn settings() -> Settings {
    let known = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(known).collect()
}

/// The signals that tell the host to end.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    /// Waits for one of them.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Waits until no connection is open and no instance works, at most `grace_s` seconds or until another signal.
async fn end(slots: &Slots, metrics: &Metrics, grace_s: u64, signals: &mut Signals) {
    eprintln!("purple-flea-host: ending; the work in progress has {grace_s} s");
    let idle = async {
        while slots.taken() > 0 || metrics.instances() > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let done = tokio::select! {
        () = idle => true,
        () = tokio::time::sleep(Duration::from_secs(grace_s)) => false,
        () = signals.next() => false,
    };
    if done {
        eprintln!("purple-flea-host: ended");
    } else {
        eprintln!("purple-flea-host: ended before it was done; cut off: {}", metrics.in_progress());
    }
}
