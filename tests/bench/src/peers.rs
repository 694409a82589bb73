//! Lists the servers to measure: the function and the small components on each host that this machine has, and the same
//! work on Deno and as a native server. A [`Recipe`] is all that the rest of the bench knows of a server.

use crate::{
    load::first_answer,
    requests,
    requests::Load,
    server::{Recipe, Server, Stop},
    upstream,
};
use anyhow::{Context, Result, bail};
use stack::host::{self, Kind, Settings};
use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The program that executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Platform {
    /// The project's own host, `purple-flea-host`.
    Embedded,
    /// `wasmtime serve`.
    Wasmtime,
    /// `spin up`.
    Spin,
    /// The stand-in for Spin: the project's own host without `TCP_NODELAY`. Only the section `latency` measures it.
    LikeSpin,
    /// Deno.
    Deno,
    /// The machine itself, without a runtime.
    Native,
}

/// The executed code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guest {
    /// The function; on Deno and natively, the same work.
    Function,
    /// A component that bets for every request: `peers/bare`.
    Bare,
    /// A component that only answers: `peers/empty`.
    Empty,
}

/// A server to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The program that executes.
    pub platform: Platform,
    /// The executed code.
    pub guest: Guest,
}

/// The function on the project's own host, as in production.
pub const EMBEDDED: Peer = Peer { platform: Platform::Embedded, guest: Guest::Function };

/// The same work on Deno.
pub const DENO: Peer = Peer { platform: Platform::Deno, guest: Guest::Function };

/// The form of the code that a server starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The component as built. The host compiles it first.
    Cold,
    /// Machine code, compiled ahead of time or by an earlier start.
    Warm,
}

/// The function's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Standalone mode.
    Standalone,
    /// Ledger mode.
    Ledger,
}

/// The programs and folders of this machine.
pub struct Machine {
    /// The repository's folder.
    pub root: PathBuf,
    /// The folder for the bench's files.
    pub scratch: PathBuf,
    programs: Vec<(Platform, PathBuf)>,
}

impl Platform {
    /// Gives its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Wasmtime => "wasmtime",
            Self::Spin => "spin",
            Self::LikeSpin => "like_spin",
            Self::Deno => "deno",
            Self::Native => "native",
        }
    }
}

impl Peer {
    /// Gives its name in the tables.
    pub fn name(self) -> String {
        let platform = self.platform.name();
        match self.guest {
            Guest::Function => platform.to_owned(),
            Guest::Bare => format!("{platform}/bare"),
            Guest::Empty => format!("{platform}/empty"),
        }
    }

    /// Lists the loads that it can serve.
    pub fn loads(self) -> &'static [Load] {
        match (self.guest, self.platform) {
            (Guest::Empty, _) => &[Load::Skip],
            (Guest::Bare, _) => &[Load::Bet],
            (Guest::Function, Platform::Deno | Platform::Native) => &[Load::Skip, Load::Bet],
            (Guest::Function, _) => &[Load::Skip, Load::Bet, Load::Refused, Load::Duplicate],
        }
    }

    /// Lists the forms that it can start from. (Spin keeps its compiled code, and Deno its translated code.)
    pub fn forms(self) -> &'static [Form] {
        match self.platform {
            Platform::Embedded | Platform::Wasmtime => &[Form::Cold, Form::Warm],
            Platform::Spin | Platform::LikeSpin | Platform::Deno | Platform::Native => &[Form::Warm],
        }
    }
}

impl Form {
    /// Gives its name in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

impl Machine {
    /// Looks for the programs of this machine. `scripts/bench` builds the necessary ones.
    pub fn look() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
        let scratch = root.join("target/bench");
        fs::create_dir_all(&scratch)?;
        let ours = |name: &str| Some(root.join("target/host").join(name)).filter(|path| path.is_file());
        let found = [
            (Platform::Embedded, ours("purple-flea-host")),
            (Platform::Wasmtime, in_path("wasmtime".into())),
            (Platform::Spin, in_path(host::spin())),
            (Platform::LikeSpin, ours("stack")),
            (Platform::Deno, deno(&root)),
            (Platform::Native, ours("bench-native")),
        ];
        let programs = found.into_iter().filter_map(|(platform, path)| Some((platform, path?))).collect();
        Ok(Self { root, scratch, programs })
    }

    /// Lists every server that this machine can run. With `all`, the two small components run on `wasmtime serve`, too.
    pub fn peers(&self, all: bool) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (platform, _) in self.programs.iter().filter(|(platform, _)| *platform != Platform::LikeSpin) {
            peers.push(Peer { platform: *platform, guest: Guest::Function });
            if *platform == Platform::Embedded || (*platform == Platform::Wasmtime && all) {
                peers.extend([Guest::Bare, Guest::Empty].map(|guest| Peer { platform: *platform, guest }));
            }
        }
        peers
    }

    /// Gives the path of the built component.
    pub fn component(&self, guest: Guest) -> PathBuf {
        let name = match guest {
            Guest::Function => "purple_flea_edge",
            Guest::Bare => "bench_bare",
            Guest::Empty => "bench_empty",
        };
        self.root.join(format!("target/wasi/wasm32-wasip2/release/{name}.wasm"))
    }

    /// Gives the path of the build that Spin runs.
    pub fn spin_component(&self) -> PathBuf {
        self.root.join("target/wasm32-wasip2/release/purple_flea_edge.wasm")
    }

    /// Compiles a peer's component ahead of time, if its host can do that.
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

    /// Gives the command that starts a peer on a port.
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
            Platform::Spin => {
                let manifest = self.root.join("spin.toml").display().to_string();
                for (name, _) in &mut environment {
                    *name = format!("SPIN_VARIABLE_{name}");
                }
                let up = words(&["up", "--quiet", "--listen", &address, "--from", &manifest]);
                [up, words(&host::SPIN_OPTIONS)].concat()
            }
            Platform::LikeSpin => words(&["host", "--listen", &address]),
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
        // The server gets no more of our environment than a program needs, because a host hands the rest to the
        // component.
        for name in ["HOME", "PATH"] {
            environment.extend(env::var(name).ok().map(|value| (name.to_owned(), value)));
        }
        // `spin` ends its own server only when it is interrupted. The others have nothing to lose.
        let stop = if peer.platform == Platform::Spin { Stop::Interrupt } else { Stop::Kill };
        Ok(Recipe { program: self.program(peer.platform)?.clone(), arguments, environment, stop })
    }

    /// Gives the command that starts the function on a platform, with all its settings.
    pub fn stack_recipe(&self, platform: Platform, settings: Settings, port: u16) -> Result<Recipe> {
        let peer = Peer { platform, guest: Guest::Function };
        let mut recipe = self.recipe(peer, Form::Warm, Mode::Standalone, "", port)?;
        // In a duplicate, the later value counts.
        recipe.environment.extend(match platform {
            Platform::LikeSpin => host::child_environment(Kind::LikeSpin, &settings, host::AFTER_REPLY)?,
            _ => {
                let prefix = if platform == Platform::Spin { "SPIN_VARIABLE_" } else { "" };
                let named = |(name, value): (String, String)| {
                    (format!("{prefix}{}", name.to_ascii_uppercase()), value)
                };
                settings.into_iter().map(named).collect()
            }
        });
        Ok(recipe)
    }

    /// Tells whether this machine has the program of a platform.
    pub fn has(&self, platform: Platform) -> bool {
        self.program(platform).is_ok()
    }

    /// Starts a peer and waits for its first answer. Gives the process, its address, and the time to the first answer.
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

/// Gives the arguments of `wasmtime serve`, which hands its component the named variables of the environment.
fn wasmtime_arguments(address: &str, environment: &[(String, String)], artifact: String) -> Vec<String> {
    let mut arguments = words(&["serve", "-Scli,p3,inherit-network", "-Wcomponent-model-async"]);
    // A cold start compiles, so no cache of earlier compilations may help.
    arguments.extend(words(&["-Ccache=n", "--allow-precompiled", "--no-logging-prefix", "--addr", address]));
    for (name, _) in environment {
        arguments.extend(["--env".to_owned(), name.clone()]);
    }
    arguments.push(artifact);
    arguments
}

/// Gives a port that was free a moment ago. These servers do not tell which port they took.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Gives the function's settings. The other servers read those that they need.
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

/// Finds the program itself, not npm's wrapper, so that CPU and memory are Deno's own.
fn deno(root: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(root.join("target/tools/deno/node_modules/@deno")).ok()?;
    packages.flatten().map(|package| package.path().join("deno")).find(|path| path.is_file())
}

/// Finds a program by its name in the PATH, or by its own path.
fn in_path(program: PathBuf) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(&program)).find(|path| path.is_file())
}
