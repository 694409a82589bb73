//! Starts and stops a measured server, and reads its CPU time and memory.

use anyhow::{Result, bail};
use nix::{time::clock_getcpuclockid, unistd::Pid};
use stack::process::{self, Process, Signal, family};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

/// A running server. Ends when it is dropped.
pub struct Server {
    process: Process,
    errors: PathBuf,
    /// When the server was started.
    pub started: Instant,
}

/// The way to start and to stop a server.
pub struct Recipe {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The way to end the program, and every process that it starts.
    pub stop: Stop,
}

/// A way to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// With SIGKILL: the server has nothing to lose.
    Kill,
    /// With SIGINT: the server has children that it ends itself.
    Interrupt,
}

impl Server {
    /// Starts a server whose standard error goes to the file `errors`. A server that is `tied` ends with the bench even
    /// if the bench is killed. That takes a program in between, which a measured start must not have.
    pub fn start(recipe: &Recipe, errors: &Path, tied: bool) -> Result<Self> {
        let (signal, name) = match recipe.stop {
            Stop::Kill => (Signal::KILL, "KILL"),
            Stop::Interrupt => (Signal::INT, "INT"),
        };
        let mut command = match tied {
            true => process::command(&recipe.program, None, name),
            false => process::plain_command(&recipe.program),
        };
        command.args(&recipe.arguments).env_clear().envs(recipe.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(errors)?);
        let started = Instant::now();
        let process = Process::spawn(&mut command, signal)?;
        Ok(Self { process, errors: errors.to_owned(), started })
    }

    /// Fails, with what the server printed, if it has ended.
    pub fn must_live(&mut self) -> Result<()> {
        if let Some(status) = self.process.ended()? {
            let printed = fs::read_to_string(&self.errors).unwrap_or_default();
            bail!("the server ended with {status}:\n{printed}");
        }
        Ok(())
    }

    /// Sums the user and system time of the server and its children, with all their threads, ended ones included. The
    /// kernel's CPU clock of a process counts nanoseconds; `/proc/PID/stat` counts units of 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(family(self.process.id()?).into_iter().filter_map(cpu).sum())
    }

    /// Sums the resident memory of the server and its children, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let family = self.process.id().map(family).unwrap_or_default();
        family.into_iter().filter_map(resident_bytes).sum()
    }
}

/// Reads the CPU time of one process with all its threads; nothing if it has ended.
pub fn cpu(pid: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    clock.now().ok().map(Duration::from)
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}
