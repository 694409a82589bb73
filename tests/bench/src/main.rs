//! Measures the function. Standard error shows the progress. Standard output gets the tables, and then one line of
//! JSON.

mod aside;
mod chart;
mod cpu;
mod deposits;
mod feed;
mod figures;
mod function;
mod growth;
mod latency;
mod load;
mod pace;
mod peers;
mod progress;
mod realtime;
mod requests;
mod rig;
mod rival;
mod server;
mod settlement;
mod stage;
mod table;
mod upstream;
mod workflows;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

/// Measures the function against its peers. `scripts/bench` builds what it needs.
#[derive(Parser)]
struct Options {
    /// Measure with fewer and shorter loads: nine minutes instead of three quarters of an hour.
    #[arg(long)]
    quick: bool,
    /// Measure this section only; without the option, measure all.
    #[arg(long, value_enum)]
    section: Vec<Section>,
    /// In the section `function`, measure this peer only. The tables show the names: embedded, deno, embedded/bare …
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// The number of rounds of the section `function`. The tables give the medians of all rounds.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// A section of the measurements. Each adds its own keys to the report.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// The function alone, beside its peers.
    Function,
    /// The time from a deposit's commit to its trade's, through the whole stack.
    Latency,
    /// The same as each quantity grows, with charts.
    Growth,
    /// The event feed: its events' cost, its pages, and its webhooks.
    Feed,
    /// A call of a workflow that only replays.
    Workflows,
    /// Realtime: the doorbell, an owner's callback, the specification's resident agent, and signals.
    Realtime,
}

// The client uses one thread, to leave the servers as much CPU as possible.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let local = LocalSet::new();
    // Returning drops all work, and with the work every process.
    let report = tokio::select! {
        report = local.run_until(measure(options)) => report?,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    };
    println!("\n{}", Value::Object(report));
    Ok(())
}

/// The load average of the last minute above which other programs may disturb the measurement.
const BUSY_LOAD: f64 = 0.5;

async fn measure(options: &Options) -> Result<Map<String, Value>> {
    let mut report = Map::new();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.insert("quick".to_owned(), json!(options.quick));
    report.insert("cores".to_owned(), json!(cores));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse::<f64>().ok());
    report.insert("load_before".to_owned(), json!(load));
    if load.is_some_and(|load| load >= BUSY_LOAD) {
        eprintln!("This machine is busy, or was a moment ago: others may be in these figures");
    }
    let wanted = |section| options.section.is_empty() || options.section.contains(&section);
    if wanted(Section::Function) {
        let plan = function::Plan { quick: options.quick, rounds: options.rounds, peers: &options.peer };
        function::run(&plan, &mut report).await?;
    }
    if wanted(Section::Latency) {
        latency::run(options.quick, &mut report).await?;
    }
    if wanted(Section::Growth) {
        growth::run(options.quick, &mut report).await?;
    }
    if wanted(Section::Feed) {
        feed::run(options.quick, &mut report).await?;
    }
    if wanted(Section::Workflows) {
        workflows::run(options.quick, &mut report).await?;
    }
    if wanted(Section::Realtime) {
        realtime::run(options.quick, &mut report).await?;
    }
    Ok(report)
}
