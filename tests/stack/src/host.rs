//! Runs the component: on the embedded host, or on the `wasmtime` or `spin` of this machine.

mod embedded;
mod external;

use crate::{log::Log, postgrest, purple_flea, repository, webhook};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A kind of host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wasmtime, embedded.
    Embedded,
    /// `wasmtime serve`.
    Wasmtime,
    /// `spin up`.
    Spin,
    /// Wasmtime embedded in a process of its own, which can be killed: this program again, as `stack host`.
    Child,
    /// The same, but its connections are as Spin's: without `TCP_NODELAY`, and kept for as long. A stand-in for Spin.
    LikeSpin,
}

impl Kind {
    /// Reads the kind from `WASI_HOST`; embedded if that is not set.
    pub fn from_env() -> Result<Self> {
        match std::env::var("WASI_HOST").unwrap_or_default().as_str() {
            "" | "embedded" => Ok(Self::Embedded),
            "wasmtime" => Ok(Self::Wasmtime),
            "spin" => Ok(Self::Spin),
            other => bail!("WASI_HOST is {other:?}; it can be embedded, wasmtime or spin"),
        }
    }
}

/// A build of the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// The default build, which reads Spin variables.
    Spin,
    /// The build without the `spin` feature, which reads the environment.
    Wasi,
    /// The component of release 0.1.0, as it was built: after an upgrade of the database it runs until it is replaced.
    Release010,
}

impl Build {
    /// Gives the build that a kind of host runs by default.
    pub fn on(kind: Kind) -> Self {
        if kind == Kind::Wasmtime { Self::Wasi } else { Self::Spin }
    }

    /// Gives the path of the artifact. Fails if it is missing or older than its sources.
    pub fn artifact(self) -> Result<PathBuf> {
        let folder = match self {
            Self::Spin => "target/wasm32-wasip2/release",
            Self::Wasi => "target/wasi/wasm32-wasip2/release",
            Self::Release010 => return Ok(repository().join("tests/releases/purple_flea_edge-0.1.0.wasm")),
        };
        let path = repository().join(folder).join("purple_flea_edge.wasm");
        let built = std::fs::metadata(&path).and_then(|data| data.modified());
        let changed = newest(&repository().join("src"))?.max(newest(&repository().join("component/src"))?);
        match (built, changed) {
            (Err(_), _) => bail!("{} is not there; scripts/build makes it", path.display()),
            (Ok(built), changed) if built < changed => {
                bail!("{} is older than its sources; scripts/build makes it anew", path.display())
            }
            (Ok(_), _) => Ok(path),
        }
    }

    /// Lists the interfaces that the build imports.
    pub fn imports(self) -> Result<Vec<String>> {
        embedded::imports(&self.artifact()?)
    }
}

/// Gives the time of the newest change of a folder's Rust sources. An editor's other files do not count.
fn newest(folder: &Path) -> Result<SystemTime> {
    let mut latest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let (folder, name) = (entry.file_type()?.is_dir(), name.to_string_lossy());
        if name.starts_with('.') || !(folder || name.ends_with(".rs")) {
            continue;
        }
        let changed = if entry.file_type()?.is_dir() {
            newest(&entry.path())?
        } else {
            entry.metadata()?.modified()?
        };
        latest = latest.max(changed);
    }
    Ok(latest)
}

pub use external::{SPIN_OPTIONS, child_environment, spin};
pub use purple_flea_host::Settings;

/// Makes the settings of a local function that bets at a simulator.
pub fn local_settings(purple_flea_url: &str) -> Settings {
    [
        ("purple_flea_url", purple_flea_url),
        ("purple_flea_key", purple_flea::KEY),
        ("webhook_secrets", webhook::SECRET),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Makes the settings that put such a function into ledger mode.
pub fn ledger_settings(supabase_url: &str) -> Result<Settings> {
    Ok([
        ("supabase_url", supabase_url.to_owned()),
        ("supabase_key", postgrest::key("purple_flea_worker")?),
        ("after_reply", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into())
}

/// A running host with one component on it. Ends when it is dropped.
pub struct Host {
    /// Its URL, without a slash at the end.
    pub url: String,
    /// The lines that the component printed.
    pub log: Log,
    running: Running,
}

enum Running {
    Embedded { server: embedded::Server },
    External { process: external::Running },
}

/// Runs the embedded host in this process until it is killed: the other side of [`Kind::Child`] and [`Kind::LikeSpin`].
pub async fn serve(listen: String) -> Result<()> {
    let settings = serde_json::from_str(&std::env::var(external::SETTINGS).context("no settings")?)?;
    let after_reply = std::env::var(external::AFTER_REPLY_MS).context("no time after the reply")?.parse()?;
    let options = Options {
        build: Build::Spin,
        settings,
        allowed_origins: None,
        listen: Some(listen),
        after_reply: Duration::from_millis(after_reply),
    };
    let like_spin = std::env::var_os(external::LIKE_SPIN).is_some();
    let _server = embedded::Server::start(&options, Log::printing(), like_spin).await?;
    std::future::pending().await
}

/// The options of a host's start.
pub struct Options {
    /// Which build of the component.
    pub build: Build,
    /// The function's settings.
    pub settings: Settings,
    /// The origins that it may send to; `None` allows all. Only the embedded host obeys it.
    pub allowed_origins: Option<Vec<String>>,
    /// Its address, `127.0.0.1:<port>`; `None` takes a free port. A host that replaces another one takes that one's address.
    pub listen: Option<String>,
    /// How long the component may go on after a reply; the embedded host and its child only.
    pub after_reply: Duration,
}

/// The default of [`Options::after_reply`].
pub const AFTER_REPLY: Duration = Duration::from_secs(60);

impl Host {
    /// Starts a host and waits until it listens.
    pub async fn start(kind: Kind, options: &Options) -> Result<Self> {
        let log = Log::default();
        let (url, running) = match kind {
            Kind::Embedded => {
                let server = embedded::Server::start(options, log.clone(), false).await?;
                (server.url.clone(), Running::Embedded { server })
            }
            Kind::Wasmtime | Kind::Spin | Kind::Child | Kind::LikeSpin => {
                let process = external::Running::start(kind, options, log.clone())
                    .await
                    .with_context(|| format!("{kind:?} did not start"))?;
                (process.url.clone(), Running::External { process })
            }
        };
        Ok(Self { url, log, running })
    }

    /// Counts the instances of the component; 0 for a host in another process, which does not tell.
    pub fn instances(&self) -> i64 {
        match &self.running {
            Running::Embedded { server } => server.metrics.instances(),
            Running::External { .. } => 0,
        }
    }

    /// Kills the host as `kill -9` does: its work in progress is lost. Fails for a host in this process.
    pub async fn kill(&mut self) -> Result<()> {
        match &mut self.running {
            Running::Embedded { .. } => anyhow::bail!("a host that runs inside of us cannot be killed"),
            Running::External { process } => process.kill().await,
        }
    }

    /// Limits the host to its open files, or removes that limit. Fails for a host in this process.
    pub fn limit_open_files(&self, limited: bool) -> Result<()> {
        match &self.running {
            Running::Embedded { .. } => bail!("a host that runs inside of us shares our open files"),
            Running::External { process } => process.limit_open_files(limited),
        }
    }
}
