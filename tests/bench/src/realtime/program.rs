//! Starts the programs around Realtime, and reads what they print: the listener, and programs with supabase-js.

use crate::{peers::Machine, stage::START_TIMEOUT};
use anyhow::{Context, Result};
use serde_json::Value;
use stack::{
    log::Log,
    process::{self, Process, Signal},
};
use std::{fs, path::Path, process::Stdio};
use tokio::time::timeout;

/// The folder with an unmodified supabase-js, below the repository's. `scripts/bench` installs it.
const CLIENTS: &str = "target/clients";

/// A running program. It is killed when this is dropped.
pub struct Program {
    name: String,
    printed: Log,
    errors: Log,
    _process: Process,
}

impl Program {
    /// Starts a program in a folder, with no more of our environment than a program needs.
    pub fn start(
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        folder: &Path,
    ) -> Result<Self> {
        let mut command = process::command(program, None, "KILL");
        command.args(arguments).current_dir(folder).env_clear().envs(environment.iter().copied());
        for name in ["HOME", "PATH"] {
            command.envs(std::env::var(name).ok().map(|value| (name, value)));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command, Signal::KILL)?;
        let (printed, errors) = (Log::default(), Log::default());
        process.read_lines(&printed, &errors)?;
        Ok(Self { name: program.display().to_string(), printed, errors, _process: process })
    }

    /// Starts a program of `peers` on Node.js, with supabase-js.
    pub fn on_node(machine: &Machine, script: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let script = machine.root.join("tests/bench/peers").join(script);
        let script = fs::read_to_string(&script).with_context(|| script.display().to_string())?;
        // Node.js before 22 has a WebSocket behind this option. A script that is an argument finds the libraries of the
        // current folder.
        let options = ["--experimental-websocket", "--no-warnings", "--input-type=module", "--eval", &script];
        Self::start(Path::new("node"), &options, environment, &machine.root.join(CLIENTS))
    }

    /// Waits until the program has printed a line of JSON that is meant.
    pub async fn says(&self, is_meant: impl Fn(&Value) -> bool) -> Result<()> {
        let is_meant = |line: &str| serde_json::from_str(line).is_ok_and(|line| is_meant(&line));
        let said = timeout(START_TIMEOUT, self.printed.find(is_meant)).await;
        said.map(|_| ()).with_context(|| {
            let all = [self.printed.lines(), self.errors.lines()].concat();
            format!("{} did not start in time:\n{}", self.name, all.join("\n"))
        })
    }

    /// Gives the lines of JSON that the program has printed.
    pub fn lines(&self) -> Vec<Value> {
        self.printed.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Gives the version of supabase-js in use, where it is installed.
pub fn supabase_js(machine: &Machine) -> Option<String> {
    let package = machine.root.join(CLIENTS).join("node_modules/@supabase/supabase-js/package.json");
    let package: Value = serde_json::from_slice(&fs::read(package).ok()?).ok()?;
    package["version"].as_str().map(str::to_owned)
}
