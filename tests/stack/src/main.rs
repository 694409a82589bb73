//! Runs the whole stack on this machine: `stack dev` for a person to try, `stack chaos` with faults, `stack tour` for
//! everything that the function does. `scripts/dev`, `scripts/chaos` and `scripts/tour` build and start it.

mod chaos;
mod dev;
mod tour;

use clap::{Parser, Subcommand};
use stack::host;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The local stack of Purple Flea Edge.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts everything, and runs until it is interrupted.
    Dev(dev::Options),
    /// Makes deposits while faults are injected, and reports deposits that were lost or bet on twice.
    Chaos(chaos::Options),
    /// Takes two agents through everything that the function does.
    Tour(tour::Options),
    /// Runs the component alone, until it is killed.
    #[command(hide = true)]
    Host {
        /// The address to listen on.
        #[arg(long)]
        listen: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let (name, for_ever) = match &command {
        Command::Dev(options) => ("dev", !options.once),
        Command::Chaos(_) => ("chaos", false),
        Command::Tour(_) => ("tour", false),
        Command::Host { .. } => ("host", true),
    };
    // The branch that ends first drops the other one, and with it every process that was started.
    tokio::select! {
        result = run(command) => match result {
            Ok(code) => code,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                ExitCode::FAILURE
            }
        },
        code = interrupted() => {
            if for_ever {
                return ExitCode::SUCCESS;
            }
            eprintln!("{name}: interrupted before the end");
            ExitCode::from(code)
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev(options) => dev::run(&options).await?,
        Command::Chaos(options) => return chaos::run(&options).await,
        Command::Tour(options) => return tour::run(&options).await,
        Command::Host { listen } => host::serve(listen).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal that asks us to end, and gives the exit code that shells know it by.
async fn interrupted() -> u8 {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => signal.recv().await,
        Err(_) => std::future::pending().await,
    };
    let code = tokio::select! {
        _ = wait(SignalKind::hangup()) => SignalKind::hangup(),
        _ = wait(SignalKind::interrupt()) => SignalKind::interrupt(),
        _ = wait(SignalKind::terminate()) => SignalKind::terminate(),
    };
    u8::try_from(128 + code.as_raw_value()).unwrap_or(1)
}
