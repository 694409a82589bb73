//! A server's process: started, watched, and always ended by its own id.

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    time::clock_getcpuclockid,
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Debian's tool that has a program end with its parent, however that ends.
const SETPRIV: &str = "/usr/bin/setpriv";

/// How long a server gets to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running server. Ends when it is dropped.
pub struct Process {
    child: Child,
    stop: Signal,
    complaints: PathBuf,
    /// When it was started.
    pub started: Instant,
}

/// What something is started with, and how it is ended.
pub struct Recipe {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The signal that ends it and whatever it has started.
    pub stop: Signal,
}

impl Process {
    /// Starts it. What it complains about goes to a file. With `tied` it ends with us even if we are killed: that is a
    /// program in between, which a measured start must not have.
    pub fn start(recipe: &Recipe, complaints: &Path, tied: bool) -> Result<Self> {
        let mut command = if tied && Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            let signal = recipe.stop.as_str().trim_start_matches("SIG");
            command.args(["--pdeathsig", signal, "--"]).arg(&recipe.program);
            command
        } else {
            Command::new(&recipe.program)
        };
        command.args(&recipe.arguments).env_clear().envs(recipe.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(complaints)?);
        let started = Instant::now();
        let child =
            command.spawn().with_context(|| format!("{} does not start", recipe.program.display()))?;
        Ok(Self { child, stop: recipe.stop, complaints: complaints.to_owned(), started })
    }

    /// An error with its own words if it has ended.
    pub fn must_live(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.complaints).unwrap_or_default();
            bail!("the server ended with {status}:\n{said}");
        }
        Ok(())
    }

    /// The user and system time that it has used so far, with all its threads, those that have ended too, and its
    /// children. The kernel's own CPU clock of a process counts nanoseconds; `/proc/PID/stat` would count 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(family(self.child.id()).into_iter().filter_map(cpu).sum())
    }

    /// The resident memory of it and its children, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        family(self.child.id()).into_iter().filter_map(resident_bytes).sum()
    }
}

/// The CPU time of one process with all its threads; nothing if it has ended.
pub fn cpu(pid: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    clock.now().ok().map(Duration::from)
}

/// A process and everything that it has started.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(family));
    }
    all
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

impl Drop for Process {
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        // Only while it is ours: once waited for, the id may be somebody else's.
        if !matches!(self.child.try_wait(), Ok(None)) || kill(Pid::from_raw(pid), self.stop).is_err() {
            return;
        }
        let asked = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if asked.elapsed() > STOP_TIMEOUT {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
