//! Runs the program `purple-flea-host` as a child process of a test.

use crate::{
    front_door::{row, soon},
    wire::Wire,
};
use anyhow::{Context, Result, bail, ensure};
use stack::{
    host::{Build, Settings, local_settings},
    http1,
    local::AGENT,
    log::Log,
    process::{self, Process, Signal},
    purple_flea::PurpleFlea,
    repository, webhook,
};
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};
use tokio::{process::Command, sync::OnceCell};

/// Gives the path of the program that cargo builds. Fails if it is not built.
pub fn program() -> Result<PathBuf> {
    let program = repository().join("target/debug/purple-flea-host");
    if !program.exists() {
        bail!("{} is not there; cargo build -p purple-flea-host makes it", program.display());
    }
    Ok(program)
}

/// Compiles the component ahead of time, once for all tests, and gives its path.
pub async fn compiled() -> Result<&'static Path> {
    static COMPILED: OnceCell<PathBuf> = OnceCell::const_new();
    let path = COMPILED.get_or_try_init(async || {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("edge-{}.cwasm", std::process::id()));
        let mut command = Command::new(program()?);
        command.arg("compile").arg(Build::Spin.artifact()?).arg("--output").arg(&path);
        let Output { status, stderr, .. } = command.output().await?;
        ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        anyhow::Ok(path)
    });
    Ok(path.await?)
}

/// How a test starts the program.
#[derive(Default)]
pub struct Start<'a> {
    /// Arguments besides `--listen` and the component.
    pub arguments: &'a [&'a str],
    /// Limits for open files as `prlimit` writes them, `soft:hard`. If empty, the limits of the test apply.
    pub open_files: &'a str,
}

/// A running program. Dropping it ends the program.
pub struct Program {
    pub process: Process,
    /// URL of the public address, without a slash at the end.
    pub url: String,
    /// Lines that the function printed.
    pub log: Log,
    /// Lines of the host itself.
    pub said: Log,
}

impl Program {
    /// Starts the program with these settings of the function, and waits until it listens.
    pub async fn start(settings: &Settings, start: Start<'_>) -> Result<Self> {
        let mut command = command(start.open_files, &program()?);
        command.env_clear().args(["--listen", "127.0.0.1:0"]).args(start.arguments).arg(compiled().await?);
        for (name, value) in settings {
            command.env(name.to_ascii_uppercase(), value);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command, Signal::KILL)?;
        let (log, said) = (Log::default(), Log::default());
        process.read_lines(&log, &said)?;
        let listening = tokio::select! {
            line = soon(said.find(|line| line.contains("listening on"))) => line?,
            status = process.wait() => bail!("it ended with {}: {}", status?, said.lines().join("\n")),
        };
        let url = listening.split_whitespace().find(|word| word.starts_with("http://"));
        let url = url.with_context(|| listening.clone())?.to_owned();
        Ok(Self { process, url, log, said })
    }
}

/// The program, and the simulator of Purple Flea that its function calls.
pub struct Playing {
    pub program: Program,
    pub purple_flea: PurpleFlea,
}

impl Playing {
    pub async fn start(start: Start<'_>) -> Result<Self> {
        let purple_flea = PurpleFlea::start().await?;
        purple_flea.fund(AGENT, 1_000.into());
        let program = Program::start(&local_settings(&purple_flea.url), start).await?;
        Ok(Self { program, purple_flea })
    }

    /// Signs a deposit row and sends it.
    pub async fn deposit(&self, id: u64) -> Result<(u16, String)> {
        let body = row(id, "100");
        let url = format!("{}/", self.program.url);
        let request = webhook::signed(&url, &format!("wallet-change-{id}"), body.as_bytes())?;
        let reply = http1::send(request.body(body.into_bytes())?).await?;
        Ok((reply.status().as_u16(), String::from_utf8_lossy(reply.body()).into_owned()))
    }
}

/// Finds a free address for the admin listener.
pub fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Reads the value of a metric from the admin address.
pub async fn metric(admin: &str, name: &str) -> Result<u64> {
    let mut wire = Wire::to(admin).await?;
    wire.send("GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n").await?;
    let text = wire.reply().await?.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("{name} is not in {text}"))?.parse()?)
}

/// Builds a command for a program with these limits for open files. The program dies with the test.
pub fn command(open_files: &str, program: &Path) -> Command {
    if open_files.is_empty() {
        return process::command(program, None, "KILL");
    }
    let mut command = process::command(Path::new("/usr/bin/prlimit"), None, "KILL");
    command.arg(format!("--nofile={open_files}")).arg("--").arg(program);
    command
}
