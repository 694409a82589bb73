//! Runs child processes that never outlive us.

use crate::log::Log;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, kill_process, kill_process_group};
use std::{
    path::Path,
    process::ExitStatus,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

pub use rustix::process::Signal;

/// Debian's tool for running a program as another user, and for ending it with its parent.
const SETPRIV: &str = "/usr/bin/setpriv";

/// How long a child gets to end by itself. PostgreSQL's fast shutdown takes the longest: it writes a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the stack checks whether a child has ended: seldom enough to cost nothing, often enough to cause no delay.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Makes a command that gets `signal` when we end, for any reason, if the machine has setpriv. With a `user` it runs as
/// that user.
pub fn command(program: &Path, user: Option<&str>, signal: &str) -> Command {
    if !Path::new(SETPRIV).exists() {
        return plain_command(program);
    }
    let mut command = plain_command(Path::new(SETPRIV));
    command.args(["--pdeathsig", signal]);
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}

/// Makes a command without a program in between, for a measured start. Its child may outlive us if we are killed.
pub fn plain_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true);
    command
}

/// A child process. Dropping it signals the child by its own process id and waits; a child that does not end in time is
/// killed. (A program that is killed at once leaves its own children, files and shared memory behind.)
pub struct Process {
    child: Child,
    stop: Signal,
    /// Whether the child leads a process group, which its own children belong to.
    leads: bool,
}

impl Process {
    /// Starts a child that ends by the signal `stop`.
    pub fn spawn(command: &mut Command, stop: Signal) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("{:?} does not start", command.as_std()))?;
        Ok(Self { child, stop, leads: false })
    }

    /// Starts a child in a process group of its own, so that its own children are killed with it.
    pub fn spawn_group(command: &mut Command, stop: Signal) -> Result<Self> {
        let mut process = Self::spawn(command.process_group(0), stop)?;
        process.leads = true;
        Ok(process)
    }

    /// Gives the child's process id. Fails when the child has ended and was waited for.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid()?, signal)?)
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.id()?)?).context("no process has the id 0")
    }

    /// Waits for the child's end, without a limit: bound it from outside.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// Gives the child's status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills the child, with its process group if it leads one, and waits for its own end.
    pub async fn kill(&mut self) -> Result<()> {
        if self.leads {
            kill_process_group(self.pid()?, Signal::KILL)?;
        }
        Ok(self.child.kill().await?)
    }

    /// Takes the child's standard input. It must be a pipe.
    pub fn stdin(&mut self) -> Result<tokio::process::ChildStdin> {
        self.child.stdin.take().context("no stdin")
    }

    /// Copies the lines of the child's standard output and error to logs. Each must be a pipe that nothing else reads.
    pub fn read_lines(&mut self, stdout: &Log, stderr: &Log) -> Result<()> {
        tokio::spawn(copy(self.child.stdout.take().context("no stdout")?, stdout.clone()));
        tokio::spawn(copy(self.child.stderr.take().context("no stderr")?, stderr.clone()));
        Ok(())
    }

    /// Sets how many files the child and its own children may open from now on; open files stay open. Their hard limits
    /// stay as they are.
    pub fn limit_open_files(&self, count: u64) -> Result<()> {
        family(self.id()?).into_iter().try_for_each(|pid| limit_open_files(pid, count))
    }

    /// Leaves the child and its own children no file descriptor beyond those that are open.
    pub fn allow_no_more_files(&self) -> Result<()> {
        for pid in family(self.id()?) {
            let mut open = Vec::new();
            for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
                open.push(entry?.file_name().to_string_lossy().parse::<u64>()?);
            }
            // The kernel gives the lowest free number, and none from the limit on.
            let lowest_free = (0..).find(|number| !open.contains(number)).context("every number is taken")?;
            limit_open_files(pid, lowest_free)?;
        }
        Ok(())
    }
}

/// Lists a process and all processes that it has started, directly or not.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family));
    }
    all
}

fn limit_open_files(pid: u32, count: u64) -> Result<()> {
    let mut prlimit = std::process::Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string(), &format!("--nofile={count}:")]);
    ensure!(prlimit.status()?.success(), "prlimit failed");
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        // The child may be signalled only until it was waited for: after that its id may belong to another process.
        if !matches!(self.child.try_wait(), Ok(None)) || self.signal(self.stop).is_err() {
            return;
        }
        let asked = Instant::now();
        while asked.elapsed() < STOP_TIMEOUT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if let (true, Ok(pid)) = (self.leads, self.pid()) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        // `kill_on_drop` kills a child that has not ended by now.
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, log: Log) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        log.write(&buffer[..count]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// Limit of each wait: longer than a step takes on a busy machine.
    const WAIT_LIMIT: Duration = Duration::from_secs(60);

    /// Waits until a process has ended. One that nobody waits for stays as a zombie.
    async fn ended(pid: &str) {
        let runs = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
        };
        while runs() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    #[tokio::test]
    async fn a_child_that_leads_a_group_is_killed_with_its_own_children() -> Result<()> {
        let mut command = plain_command(Path::new("sh"));
        command.args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn_group(&mut command, Signal::INT)?;
        let log = Log::default();
        process.read_lines(&log, &log)?;
        let pid = tokio::time::timeout(WAIT_LIMIT, log.nth(0)).await?;
        assert!(family(process.id()?).contains(&pid.parse()?));
        process.kill().await?;
        tokio::time::timeout(WAIT_LIMIT, ended(&pid)).await.context("the child's child runs on")
    }
}
