//! Who is measured: the function and the components beside it, on each host that this machine has, and the same work
//! on Deno and as a native server. What each is started with is all that is known of it.

use crate::{
    load::first_answer,
    requests,
    requests::Load,
    server::{Recipe, Server, Stop},
    upstream,
};
use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// What executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    /// Our own host, `purple-flea-host`.
    Embedded,
    /// `wasmtime serve`.
    Wasmtime,
    /// `spin up`.
    Spin,
    /// Deno.
    Deno,
    /// The machine itself.
    Native,
}

/// What is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// The function; on Deno and natively the same work.
    Function,
    /// A component that bets, whatever it was sent: `peers/bare`.
    Bare,
    /// A component that only answers: `peers/empty`.
    Empty,
}

/// One that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// On what.
    pub platform: Platform,
    /// And what.
    pub guest: Guest,
}

/// The function on our own host, as one deploys it.
pub const EMBEDDED: Peer = Peer { platform: Platform::Embedded, guest: Guest::Function };

/// The same work on Deno.
pub const DENO: Peer = Peer { platform: Platform::Deno, guest: Guest::Function };

/// What a start begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The component as it was built: it is compiled first.
    Cold,
    /// Machine code: compiled ahead of time, or by an earlier start.
    Warm,
}

/// How the function works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without a memory.
    Standalone,
    /// By the ledger.
    Ledger,
}

/// What this machine has.
pub struct Machine {
    /// The repository.
    pub root: PathBuf,
    /// Where we put things.
    pub scratch: PathBuf,
    programs: Vec<(Platform, PathBuf)>,
}

impl Peer {
    /// What it is called.
    pub fn name(self) -> String {
        let platform = match self.platform {
            Platform::Embedded => "embedded",
            Platform::Wasmtime => "wasmtime",
            Platform::Spin => "spin",
            Platform::Deno => "deno",
            Platform::Native => "native",
        };
        match self.guest {
            Guest::Function => platform.to_owned(),
            Guest::Bare => format!("{platform}/bare"),
            Guest::Empty => format!("{platform}/empty"),
        }
    }

    /// What it can be asked.
    pub fn loads(self) -> &'static [Load] {
        match (self.guest, self.platform) {
            (Guest::Empty, _) => &[Load::Skip],
            (Guest::Bare, _) => &[Load::Bet],
            (Guest::Function, Platform::Deno | Platform::Native) => &[Load::Skip, Load::Bet],
            (Guest::Function, _) => &[Load::Skip, Load::Bet, Load::Refused, Load::Duplicate],
        }
    }

    /// What its start can begin with. (Spin keeps what it has compiled, and Deno what it has translated.)
    pub fn forms(self) -> &'static [Form] {
        match self.platform {
            Platform::Embedded | Platform::Wasmtime => &[Form::Cold, Form::Warm],
            Platform::Spin | Platform::Deno | Platform::Native => &[Form::Warm],
        }
    }
}

impl Form {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

impl Machine {
    /// Looks what is there. What must be there is made by `scripts/bench`.
    pub fn look() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let scratch = root.join("target/bench");
        fs::create_dir_all(&scratch)?;
        let ours = |name: &str| Some(root.join("target/host").join(name)).filter(|path| path.is_file());
        let found = [
            (Platform::Embedded, ours("purple-flea-host")),
            (Platform::Wasmtime, in_path("wasmtime")),
            (Platform::Spin, in_path("spin")),
            (Platform::Deno, deno(&root)),
            (Platform::Native, ours("bench-native")),
        ];
        let programs = found.into_iter().filter_map(|(platform, path)| Some((platform, path?))).collect();
        Ok(Self { root, scratch, programs })
    }

    /// Everybody that can be measured here. `all` has the two small components on `wasmtime serve`, too.
    pub fn peers(&self, all: bool) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (platform, _) in &self.programs {
            peers.push(Peer { platform: *platform, guest: Guest::Function });
            if *platform == Platform::Embedded || (*platform == Platform::Wasmtime && all) {
                peers.extend([Guest::Bare, Guest::Empty].map(|guest| Peer { platform: *platform, guest }));
            }
        }
        peers
    }

    /// The component, as it was built.
    pub fn component(&self, guest: Guest) -> PathBuf {
        let name = match guest {
            Guest::Function => "purple_flea_edge",
            Guest::Bare => "bench_bare",
            Guest::Empty => "bench_empty",
        };
        self.root.join(format!("target/wasi/wasm32-wasip2/release/{name}.wasm"))
    }

    /// The function as Spin runs it.
    pub fn spin_component(&self) -> PathBuf {
        self.root.join("target/wasm32-wasip2/release/purple_flea_edge.wasm")
    }

    /// Compiles a peer's component ahead of time, where its host can.
    pub fn compile(&self, peer: Peer) -> Result<()> {
        if !matches!(peer.platform, Platform::Embedded | Platform::Wasmtime) {
            return Ok(());
        }
        let mut command = Command::new(self.program(peer.platform)?);
        command.arg("compile");
        if peer.platform == Platform::Wasmtime {
            command.arg("-Wcomponent-model-async");
        }
        command.arg(self.component(peer.guest)).arg("-o").arg(self.compiled(peer));
        let output = command.output()?;
        if !output.status.success() {
            bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Where it listens and what it is started with.
    pub fn recipe(&self, peer: Peer, form: Form, mode: Mode, upstream: &str, port: u16) -> Result<Recipe> {
        let address = format!("127.0.0.1:{port}");
        let mut environment = settings(mode, upstream);
        let artifact = match form {
            Form::Cold => self.component(peer.guest),
            Form::Warm => self.compiled(peer),
        };
        let artifact = artifact.display().to_string();
        let arguments = match peer.platform {
            Platform::Embedded => words(&["--listen", &address, &artifact]),
            Platform::Wasmtime => wasmtime_arguments(&address, &environment, artifact),
            // Spin has not been measured yet.
            Platform::Spin => {
                let manifest = self.root.join("spin.toml").display().to_string();
                for (name, _) in &mut environment {
                    *name = format!("SPIN_VARIABLE_{name}");
                }
                words(&["up", "--quiet", "--listen", &address, "--from", &manifest])
            }
            Platform::Deno => {
                let script = self.root.join("tests/bench/peers/deno/execute-trade.ts").display().to_string();
                let options = ["run", "--no-check", "--no-config", "--no-lock", "--allow-net", "--allow-env"];
                [words(&options), vec![script]].concat()
            }
            Platform::Native => Vec::new(),
        };
        if matches!(peer.platform, Platform::Deno | Platform::Native) {
            environment.push(("PORT".to_owned(), port.to_string()));
            environment.push(("DENO_DIR".to_owned(), self.scratch.join("deno").display().to_string()));
            environment.push(("DENO_NO_UPDATE_CHECK".to_owned(), "1".to_owned()));
        }
        // Of our own environment only what a program cannot do without: a host hands the rest to the component.
        for name in ["HOME", "PATH"] {
            environment.extend(env::var(name).ok().map(|value| (name.to_owned(), value)));
        }
        // `spin` ends the server that it has started only when it is interrupted; the others have nothing to lose.
        let stop = if peer.platform == Platform::Spin { Stop::Interrupt } else { Stop::Kill };
        Ok(Recipe { program: self.program(peer.platform)?.clone(), arguments, environment, stop })
    }

    /// Starts one and waits for its first answer: its process, where it listens, and how long that took.
    pub async fn start(
        &self,
        peer: Peer,
        form: Form,
        mode: Mode,
        upstream: &str,
        tied: bool,
    ) -> Result<(Server, String, Duration)> {
        let port = free_port()?;
        let authority = format!("127.0.0.1:{port}");
        let recipe = self.recipe(peer, form, mode, upstream, port)?;
        let errors = self.scratch.join(format!("{}.log", peer.name().replace('/', "-")));
        let mut server = Server::start(&recipe, &errors, tied)?;
        let load = match (peer.guest, mode) {
            (Guest::Bare, _) => Load::Bet,
            (_, Mode::Standalone) => Load::Skip,
            (_, Mode::Ledger) => Load::Duplicate,
        };
        let start = first_answer(&authority, load, &mut server).await?;
        Ok((server, authority, start))
    }

    fn compiled(&self, peer: Peer) -> PathBuf {
        self.scratch.join(format!("{}.cwasm", peer.name().replace('/', "-")))
    }

    fn program(&self, platform: Platform) -> Result<&PathBuf> {
        let found = self.programs.iter().find(|(known, _)| *known == platform);
        found.map(|(_, program)| program).with_context(|| format!("{platform:?} is not there"))
    }
}

/// The arguments of `wasmtime serve`. Its component gets the variables of the environment by name.
fn wasmtime_arguments(address: &str, environment: &[(String, String)], artifact: String) -> Vec<String> {
    let mut arguments = words(&["serve", "-Scli,p3,inherit-network", "-Wcomponent-model-async"]);
    // A cold start compiles: a cache of earlier compilations must not help it.
    arguments.extend(words(&["-Ccache=n", "--allow-precompiled", "--no-logging-prefix", "--addr", address]));
    for (name, _) in environment {
        arguments.extend(["--env".to_owned(), name.clone()]);
    }
    arguments.push(artifact);
    arguments
}

/// A port that was free a moment ago: these servers do not tell which one they took.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The settings of the function. The others take of them what they need.
fn settings(mode: Mode, upstream: &str) -> Vec<(String, String)> {
    let mut settings = vec![
        ("PURPLE_FLEA_URL", upstream),
        ("PURPLE_FLEA_KEY", upstream::KEY),
        ("WEBHOOK_SECRETS", requests::SECRET),
    ];
    if mode == Mode::Ledger {
        settings.extend([("SUPABASE_URL", upstream), ("SUPABASE_KEY", upstream::KEY)]);
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The program itself, and not npm's wrapper: its CPU and memory are to be its own.
fn deno(root: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(root.join("target/tools/deno/node_modules/@deno")).ok()?;
    packages.flatten().map(|package| package.path().join("deno")).find(|path| path.is_file())
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}
