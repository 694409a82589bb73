//! Runs the `wasmtime` or the `spin` of this machine as a process.

use super::{Build, Kind, Options, Settings};
use crate::{
    http1,
    log::Log,
    process::{self, Process},
    repository,
};
use anyhow::{Context, Result, bail, ensure};
use http::Request;
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

/// How long the kernel may take to end the processes of a host that was killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the stack checks whether the host answers, or still listens.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// The variable that hands a child its settings, as JSON.
pub(super) const SETTINGS: &str = "STACK_HOST_SETTINGS";

/// The variable that tells a child how long the component may go on after a reply, in milliseconds.
pub(super) const AFTER_REPLY_MS: &str = "STACK_HOST_AFTER_REPLY_MS";

/// The variable that makes a child like Spin, whatever its value.
pub(super) const LIKE_SPIN: &str = "STACK_HOST_LIKE_SPIN";

/// The options that docs/deploy/spin.md recommends for `spin up`.
pub const SPIN_OPTIONS: [&str; 2] = ["--max-instance-reuse-count", "10000"];

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
        ensure!(TcpStream::connect(&address).await.is_err(), "another program listens on {address}");
        let mut command = command(kind, options, &address)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // `spin up` starts the process that serves, and ends it only when it is interrupted.
        let mut process = Process::spawn_group(&mut command, Signal::INT)?;
        process.read_lines(&log, &log)?;
        let url = format!("http://{address}");
        let answering = async {
            while !answers(&url).await {
                if let Some(status) = process.ended()? {
                    bail!("it ended with {status}:\n{}", log.lines().join("\n"));
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_TIMEOUT, answering).await.context("it did not answer in time")??;
        Ok(Self { url, process })
    }

    /// Kills the host with every process that it has started. Fails if something still listens at its address: then the
    /// host was not killed, or another program has taken its place.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.process.kill().await?;
        let address = self.url.trim_start_matches("http://");
        let gone = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(TRY_EVERY).await;
            }
        };
        tokio::time::timeout(END_TIMEOUT, gone).await.context("it was killed and still listens")
    }

    pub(super) fn limit_open_files(&self, limited: bool) -> Result<()> {
        if limited {
            return self.process.allow_no_more_files();
        }
        self.process.limit_open_files(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }
}

/// Tells whether the component on a host answers.
async fn answers(url: &str) -> bool {
    let Ok(request) = Request::get(format!("{url}/health")).body(Vec::new()) else { return false };
    http1::send(request).await.is_ok()
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
            let mut command = process::command(&spin(), None, "INT");
            command.args(["up", "--listen", address, "--from"]).arg(repository().join("spin.toml"));
            command.args(SPIN_OPTIONS);
            for (name, value) in &options.settings {
                command.env(format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase()), value);
            }
            command
        }
        Kind::Child | Kind::LikeSpin => {
            let mut command = process::command(&this_program()?, None, "KILL");
            command.args(["host", "--listen", address]);
            command.envs(child_environment(kind, &options.settings, options.after_reply)?);
            command
        }
        Kind::Embedded => bail!("the embedded host is not a process"),
    })
}

/// Gives the environment of a child. The settings go through it, because every user of the machine may read a process's
/// arguments.
pub fn child_environment(
    kind: Kind,
    settings: &Settings,
    after_reply: Duration,
) -> Result<Vec<(String, String)>> {
    let mut environment = vec![
        (SETTINGS.to_owned(), serde_json::to_string(settings)?),
        (AFTER_REPLY_MS.to_owned(), after_reply.as_millis().to_string()),
    ];
    if kind == Kind::LikeSpin {
        environment.push((LIKE_SPIN.to_owned(), "1".to_owned()));
    }
    Ok(environment)
}

/// Gives the program `spin`: the one that the variable SPIN names, or the one in the PATH.
pub fn spin() -> PathBuf {
    std::env::var_os("SPIN").filter(|path| !path.is_empty()).map_or("spin".into(), PathBuf::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_whose_address_is_still_served_was_not_killed() -> Result<()> {
        let (_another, url) = http1::listen().await?;
        let mut command = process::plain_command(Path::new("sleep"));
        let process = Process::spawn_group(command.arg("600"), Signal::INT)?;
        let mut host = Running { url, process };
        assert!(host.kill().await.is_err());
        Ok(())
    }
}
