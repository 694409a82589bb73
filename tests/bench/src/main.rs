//! Measures the function. Progress goes to standard error, tables to standard output, and one line of JSON is the last.

mod aside;
mod chart;
mod cpu;
mod deposits;
mod figures;
mod function;
mod growth;
mod latency;
mod load;
mod peers;
mod progress;
mod requests;
mod rig;
mod server;
mod table;
mod upstream;

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
    /// Fewer and shorter loads: six minutes instead of half an hour.
    #[arg(long)]
    quick: bool,
    /// What to measure; everything if it is left out.
    #[arg(long, value_enum)]
    section: Vec<Section>,
    /// In the section `function` measure these alone, by the names that the tables give them: embedded, deno, embedded/bare …
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// How many rounds of the section `function`, of which the medians are told.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
}

/// A part of what is measured. Each adds its own keys to the report.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// The function by itself, beside its peers.
    Function,
    /// From a deposit's commit to its trade's, through the whole stack.
    Latency,
    /// The same when there is more of everything, with pictures.
    Growth,
}

// One thread: the client must not take the servers more CPU than it must.
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
    // Whatever runs is dropped when this returns, and so every process is ended.
    let report = tokio::select! {
        report = local.run_until(measure(options)) => report?,
        _ = interrupted.recv() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    };
    println!("\n{}", Value::Object(report));
    Ok(())
}

/// The load average of the last minute from which on others take the servers' processors.
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
    Ok(report)
}
