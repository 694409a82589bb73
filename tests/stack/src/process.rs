//! Child processes that never outlive us.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// Debian's tool for running a program with another user, and for ending it with its parent.
const SETPRIV: &str = "/usr/bin/setpriv";

/// How long a child gets to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A command that, where the machine can, gets `signal` when we die, however we die; and, with a `user`, runs as
/// that user.
pub fn command(program: &Path, user: Option<&str>, signal: &str) -> Command {
    let mut command = if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", signal]);
        if let Some(user) = user {
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        }
        command.arg("--").arg(program);
        command
    } else {
        Command::new(program)
    };
    command.kill_on_drop(true);
    command
}

/// A child that is asked to end when it is dropped, by its own process id, and waited for. One that does not end in
/// time is killed. (What is killed at once leaves its own children, files and shared memory behind.)
pub struct Process {
    /// The child.
    pub child: Child,
    signal: Signal,
}

impl Process {
    /// Starts a child that ends by this signal.
    pub fn spawn(command: &mut Command, signal: Signal) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("{:?} does not start", command.as_std()))?;
        Ok(Self { child, signal })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if pid.is_none_or(|pid| kill_process(pid, self.signal).is_err()) {
            return;
        }
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && asked.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Runs a command to its end and gives its output, or an error with what it printed.
pub async fn run(command: &mut Command) -> Result<String> {
    let output = command.output().await.with_context(|| format!("{:?} does not run", command.as_std()))?;
    if !output.status.success() {
        bail!(
            "{:?} failed ({}):\n{}{}",
            command.as_std(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
