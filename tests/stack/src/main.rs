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
    let (Ok(mut interrupted), Ok(mut terminated)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        eprintln!("this system has no signals");
        return ExitCode::FAILURE;
    };
    // Whichever ends first: what the other branches hold is dropped, and with it everything that was started.
    tokio::select! {
        result = dev::run(&options) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("dev: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ = interrupted.recv() => ExitCode::SUCCESS,
        _ = terminated.recv() => ExitCode::SUCCESS,
    }
}
