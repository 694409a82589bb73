//! Runs the `wasmtime` or the `spin` of this machine as a process.

use super::{Build, Kind, Options};
use crate::{
    log::Log,
    process::{self, Process},
    repository,
};
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Signal, getrlimit};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
};

/// How long a host may take to listen. Compiling the component is part of that.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the stack checks whether the host listens.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// The variable that hands a child its settings, as JSON.
pub(super) const SETTINGS: &str = "STACK_HOST_SETTINGS";

/// The variable that tells a child how long the component may go on after a reply, in milliseconds.
pub(super) const AFTER_REPLY_MS: &str = "STACK_HOST_AFTER_REPLY_MS";

/// A host's process. Ends when it is dropped.
pub(super) struct Running {
    pub(super) url: String,
    process: Process,
}

impl Running {
    pub(super) async fn start(kind: Kind, options: &Options, log: Log) -> Result<Self> {
        let address = match &options.listen {
            Some(address) => address.clone(),
            None => free_address().await?,
        };
        let mut command = command(kind, options, &address)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // `spin` ends the server that it has started only when it is interrupted.
        let mut process = Process::spawn(&mut command, Signal::INT)?;
        process.read_lines(&log, &log)?;
        let listening = async {
            while TcpStream::connect(&address).await.is_err() {
                if let Some(status) = process.ended()? {
                    bail!("it ended with {status}:\n{}", log.lines().join("\n"));
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, listening).await.context("it did not listen in time")??;
        Ok(Self { url: format!("http://{address}"), process })
    }

    pub(super) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }

    pub(super) fn limit_open_files(&self, limited: bool) -> Result<()> {
        if limited {
            return self.process.allow_no_more_files();
        }
        self.process.limit_open_files(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }
}

/// Makes the command that starts a host on an address.
fn command(kind: Kind, options: &Options, address: &str) -> Result<Command> {
    Ok(match kind {
        Kind::Wasmtime => {
            if options.build != Build::Wasi {
                bail!("`wasmtime serve` has no spin:variables; it runs the build without the `spin` feature");
            }
            let mut command = process::command(Path::new("wasmtime"), None, "KILL");
            command.args([
                "serve",
                "-Scli,p3,inherit-network",
                "-Wcomponent-model-async",
                "--no-logging-prefix",
            ]);
            command.args(["--addr", address]);
            for (name, value) in &options.settings {
                // The arguments contain only the names, because every user of the machine may read a process's
                // arguments.
                let name = name.to_ascii_uppercase();
                command.env(&name, value).arg("--env").arg(name);
            }
            command.arg(options.build.artifact()?);
            command
        }
        Kind::Spin => {
            let mut command = process::command(Path::new("spin"), None, "INT");
            command.args(["up", "--listen", address, "--from"]).arg(repository().join("spin.toml"));
            for (name, value) in &options.settings {
                command.env(format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase()), value);
            }
            command
        }
        Kind::Child => {
            let mut command = process::command(&this_program()?, None, "KILL");
            command.args(["host", "--listen", address]);
            // The settings go through the environment, because every user of the machine may read a process's
            // arguments.
            command.env(SETTINGS, serde_json::to_string(&options.settings)?);
            command.env(AFTER_REPLY_MS, options.after_reply.as_millis().to_string());
            command
        }
        Kind::Embedded => bail!("the embedded host is not a process"),
    })
}

/// Finds the program `stack`. The tests, which are another program, find it in cargo's folder.
fn this_program() -> Result<PathBuf> {
    let us = std::env::current_exe()?;
    if us.file_name().is_some_and(|name| name == "stack") {
        return Ok(us);
    }
    let built = repository().join("target/debug/stack");
    if !built.exists() {
        bail!("{} is not there; cargo build -p stack makes it", built.display());
    }
    Ok(built)
}

/// Gives a port that was free a moment ago. These hosts do not tell which port they took.
async fn free_address() -> Result<String> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.to_string())
}
