//! `purple-flea-host`: runs the component in production.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use purple_flea_host::{
    KEEP, Options, Settings, admin, component, descriptors,
    gate::{Gate, Place, Places},
    metrics::Metrics,
    output::{self, Output},
    patience::Patience,
    server::Blueprint,
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{
        mpsc::{UnboundedSender, unbounded_channel},
        watch,
    },
};

/// Runs the component behind HTTP/1.1, one event loop for each processor.
///
/// The function's settings come from the environment, by their names in upper case (PURPLE_FLEA_URL …). SIGTERM and
/// SIGINT let what is under way come to its end first; the second one does not.
#[derive(Parser)]
#[command(name = "purple-flea-host", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Compiles the component ahead of time, for this kind of machine and this version of the host.
    Compile {
        /// The component.
        wasm: PathBuf,
        /// Where the compiled one goes; whoever can write there decides what the host runs.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(clap::Args)]
struct Serve {
    /// The component, compiled ahead of time or not.
    component: Option<PathBuf>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:3000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Where /metrics (for Prometheus) and /live are; nowhere if it is left out. Not for the public.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Event loops; as many as there are processors if it is left out.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Most inbound connections at once; others wait. If it is left out: 1024, or as many as there are open files for. (The
    /// host raises its limit of open files to the hard limit.)
    #[arg(long, value_name = "N")]
    connections: Option<usize>,
    /// How long a caller may take for a request's head, in milliseconds. While a newcomer waits for a place, an idle
    /// connection has no longer either.
    #[arg(long, default_value_t = Patience::default().head.as_millis() as u64, value_name = "MS")]
    head_ms: u64,
    /// How long a connection may idle while no newcomer waits, in milliseconds: longer than a proxy keeps its own.
    #[arg(long, default_value_t = Patience::default().idle.as_millis() as u64, value_name = "MS")]
    idle_ms: u64,
    /// An origin that the component may send to (https://api.purpleflea.com); again for each. Any, if it is left out.
    #[arg(long = "allow", value_name = "ORIGIN")]
    allow: Vec<String>,
    /// How long the component may go on after its last reply, in seconds. Work that takes longer is cut off; a line says so,
    /// and purple_flea_cut_off_total counts it.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    after_reply_s: u64,
    /// How long an outbound connection is kept after its last request, in milliseconds: less than the servers keep theirs,
    /// or a request on one that is closed at that moment has an unknown end. 0: a new one for each request.
    #[arg(long, default_value_t = KEEP.as_millis() as u64, value_name = "MS")]
    keep_ms: u64,
    /// How long the end waits for what is under way, in seconds.
    #[arg(long, default_value_t = 75, value_name = "SECONDS")]
    grace_s: u64,
}

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
        None => Builder::new_current_thread().enable_all().build()?.block_on(serve(cli.serve)),
    }
}

/// Writes beside the file and renames: a host that starts meanwhile sees the old one or the new one.
fn compile(wasm: &Path, output: &Path) -> Result<()> {
    let compiled = component::compile(&component::engine()?, wasm)?;
    let beside = output.with_extension("part");
    std::fs::write(&beside, &compiled).with_context(|| format!("{} cannot be written", beside.display()))?;
    std::fs::rename(&beside, output).with_context(|| format!("{} cannot be written", output.display()))?;
    eprintln!("{}: {} bytes", output.display(), compiled.len());
    Ok(())
}

async fn serve(serve: Serve) -> Result<()> {
    let Some(path) = serve.component else { bail!("which component? (see --help)") };
    let threads = serve.threads.map_or_else(std::thread::available_parallelism, |threads| {
        threads.try_into().context("--threads").map_err(std::io::Error::other)
    })?;
    let plan = descriptors::plan(descriptors::raise(), threads.get(), serve.connections)?;
    let component = component::load(&component::engine()?, &path)?;
    let options = Options {
        component: path,
        settings: settings(),
        allowed_origins: Some(serve.allow).filter(|origins| !origins.is_empty()),
        after_reply: Duration::from_secs(serve.after_reply_s),
        keep: Duration::from_millis(serve.keep_ms),
        outbound: plan.outbound,
        patience: Patience {
            head: Duration::from_millis(serve.head_ms),
            idle: Duration::from_millis(serve.idle_ms),
        },
        output: Output::stdout()?,
    };
    let blueprint = Blueprint::new(&component, &options)?;
    let places = Places::new(plan.inbound);
    let gate = listen(serve.listen, places.clone()).await?;
    let (closing, closed) = watch::channel(false);
    let lanes = lanes(threads.get(), &blueprint, &closed)?;
    if let Some(address) = serve.admin {
        let gate = listen(address, Places::new(descriptors::ADMIN_CONNECTIONS)).await?;
        tokio::spawn(admin::serve(gate, blueprint.metrics().clone(), options.patience));
    }
    eprintln!(
        "purple-flea-host: listening on http://{} with {} event loops, for {} connections",
        gate.address()?,
        lanes.len(),
        plan.inbound
    );
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        error = accept(gate, &lanes) => return error,
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    eprintln!("purple-flea-host: ending; what is under way has {} s", serve.grace_s);
    let _ = closing.send(true);
    let metrics = blueprint.metrics();
    let done = tokio::select! {
        () = ended(&places, metrics) => true,
        () = tokio::time::sleep(Duration::from_secs(serve.grace_s)) => false,
        _ = term.recv() => false,
        _ = int.recv() => false,
    };
    if done {
        eprintln!("purple-flea-host: ended");
    } else {
        eprintln!("purple-flea-host: ended before it was done; cut off: {}", metrics.in_progress());
    }
    output::flush();
    Ok(())
}

async fn listen(address: SocketAddr, places: Places) -> Result<Gate> {
    Gate::listen(address, places).await.with_context(|| format!("cannot listen on {address}"))
}

/// What the component may ask for by name; the environment has other things in it, which it does not.
fn settings() -> Settings {
    let known = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(known).collect()
}

/// A connection, and its place among those that there may be.
type Connection = (std::net::TcpStream, Place);

/// The way of connections to an event loop.
type Lane = UnboundedSender<Connection>;

/// An event loop on a thread of its own, for each lane: a request never changes its thread.
fn lanes(threads: usize, blueprint: &Blueprint, closed: &watch::Receiver<bool>) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for number in 0..threads {
        let (lane, mut accepted) = unbounded_channel::<Connection>();
        let (blueprint, closed) = (blueprint.clone(), closed.clone());
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(format!("loop-{number}")).spawn(move || {
            runtime.block_on(async move {
                let function = blueprint.function();
                while let Some((stream, place)) = accepted.recv().await {
                    let (function, closed) = (function.clone(), closed.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = TcpStream::from_std(stream) {
                            function.serve(stream, place, closed).await;
                        }
                    });
                }
                // The work after the replies goes on until the process ends.
                std::future::pending::<()>().await;
            });
        })?;
        lanes.push(lane);
    }
    Ok(lanes)
}

/// Gives each connection to the next lane.
async fn accept(gate: Gate, lanes: &[Lane]) -> Result<()> {
    for lane in lanes.iter().cycle() {
        let (stream, place) = gate.next().await;
        lane.send((stream.into_std()?, place)).ok().context("an event loop ended")?;
    }
    bail!("no event loops")
}

/// Waits until no connection is open and no instance works any more.
async fn ended(places: &Places, metrics: &Metrics) {
    while places.taken() > 0 || metrics.instances() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
