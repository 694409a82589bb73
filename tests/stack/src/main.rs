//! `stack dev`: the whole stack on this machine, for a person to play with. `scripts/dev` builds and starts it.

mod dev;

use clap::{Parser, Subcommand};
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
    /// Starts everything, and stays up until it is interrupted.
    Dev(dev::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Dev(options) = Arguments::parse().command;
    // Whichever ends first: what the other branch holds is dropped, and with it everything that was started.
    tokio::select! {
        result = dev::run(&options) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("dev: {error:#}");
                ExitCode::FAILURE
            }
        },
        code = interrupted() => {
            if !options.once {
                return ExitCode::SUCCESS;
            }
            eprintln!("dev: interrupted before the reply");
            ExitCode::from(code)
        }
    }
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
