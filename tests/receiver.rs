//! A receiver of webhooks: an https server on the loopback interface that answers as a test wants, and keeps what it got.
//! And the program `purple-flea-listener`, which finds it by names of its own.

use crate::{front_door::soon, host_program::command};
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use stack::{
    host::ledger_settings,
    log::Log,
    postgrest::PostgRest,
    process::{Process, Signal},
    repository,
};
use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, pki_types::PrivateKeyDer},
};

/// The domain of the receivers' names. The listener knows them by its file of hosts.
const DOMAIN: &str = "receivers.example";

/// A request that a receiver got.
#[derive(Debug, Clone)]
pub struct Got {
    pub path: String,
    /// By their names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
    /// Time at which it was there as a whole.
    pub at: Instant,
    /// The answer that it gets.
    pub answer: Option<Answer>,
}

impl Got {
    /// Gives a header.
    pub fn header(&self, name: &str) -> Result<&str> {
        Ok(self.headers.get(name).with_context(|| format!("no header {name}"))?)
    }

    /// Gives the event.
    pub fn event(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// How a receiver answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A status.
    Status(u16),
    /// A status, and a header line.
    With(u16, String),
    /// Nothing, ever.
    Hang,
    /// 200, once the test opens the gate.
    AtTheGate,
}

type Choose = dyn Fn(&Got) -> Answer + Send + Sync;

/// A running receiver. Ends when it is dropped.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
    folder: TempDir,
    _task: JoinSet<()>,
}

struct Shared {
    got: Mutex<Vec<Got>>,
    arrived: Notify,
    gate: Notify,
    choose: Box<Choose>,
}

impl Shared {
    fn got(&self) -> MutexGuard<'_, Vec<Got>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiver {
    /// Starts a receiver for all names of the domain.
    pub async fn start(choose: impl Fn(&Got) -> Answer + Send + Sync + 'static) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([format!("*.{DOMAIN}")])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), pem(made.cert.der()))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (arrived, gate) = (Notify::new(), Notify::new());
        let shared = Arc::new(Shared { got: Mutex::default(), arrived, gate, choose: Box::new(choose) });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), shared.clone()));
        Ok(Self { port, shared, folder, _task: task })
    }

    /// Gives the URL of a path, at a host of the domain.
    pub fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}.{DOMAIN}:{}{path}", self.port)
    }

    /// Gives what came so far, in the order of arrival.
    pub fn got(&self) -> Vec<Got> {
        self.shared.got().clone()
    }

    /// Waits until what came is what a test waits for.
    pub async fn until(&self, enough: impl Fn(&[Got]) -> bool) -> Result<Vec<Got>> {
        let waiting = async {
            loop {
                let arrived = self.shared.arrived.notified();
                let got = self.got();
                if enough(&got) {
                    return got;
                }
                arrived.await;
            }
        };
        soon(waiting).await.with_context(|| {
            let got = self.got();
            format!("{} requests came, the last {:?}", got.len(), got.last())
        })
    }

    /// Lets all requests that wait at the gate through.
    pub fn open_gate(&self) {
        self.shared.gate.notify_waiters();
    }

    /// Starts a listener that knows this receiver by its names, and may send to the loopback interface.
    pub async fn listener(&self, postgrest: &PostgRest, arguments: &[&str]) -> Result<Listener> {
        let mut all = vec!["--unsafe-test-addresses", "127.0.0.0/8"];
        all.extend(arguments);
        self.strict_listener(postgrest, &all).await
    }

    /// Starts a listener that may not.
    pub async fn strict_listener(&self, postgrest: &PostgRest, arguments: &[&str]) -> Result<Listener> {
        let names: Vec<String> =
            ["a", "b", "c", "hang"].map(|name| format!("127.0.0.1 {name}.{DOMAIN}")).into();
        let others = [
            "10.1.2.3 private",
            "169.254.169.254 metadata",
            "::1 six",
            "::ffff:127.0.0.1 mapped",
            "64:ff9b::7f00:1 nat64",
        ]
        .map(|line| format!("{line}.{DOMAIN}"));
        let hosts = self.folder.path().join("hosts");
        std::fs::write(&hosts, [names, others.into()].concat().join("\n"))?;
        let mut program = command("", &program()?);
        program.env_clear().args(["--poll-ms", "50"]).args(arguments);
        program.arg("--hosts").arg(hosts).arg("--trust-ca").arg(self.folder.path().join("ca.pem"));
        for (name, value) in ledger_settings(&postgrest.url)? {
            program.env(name.to_ascii_uppercase(), value);
        }
        program.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut program, Signal::KILL)?;
        let (log, said) = (Log::default(), Log::default());
        process.read_lines(&log, &said)?;
        tokio::select! {
            line = soon(said.find(|line| line.contains("claims deliveries"))) => line?,
            status = process.wait() => bail!("it ended with {}: {}", status?, said.lines().join("\n")),
        };
        Ok(Listener { process, log, said })
    }
}

fn pem(certificate: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(certificate))
}

/// Gives the path of the listener that cargo builds. Fails if it is not built.
pub fn program() -> Result<PathBuf> {
    let program = repository().join("target/debug/purple-flea-listener");
    if !program.exists() {
        bail!("{} is not there; cargo build -p purple-flea-listener makes it", program.display());
    }
    Ok(program)
}

/// A running listener. Dropping it ends it.
pub struct Listener {
    pub process: Process,
    /// Its lines of JSON.
    pub log: Log,
    /// What it says to people.
    pub said: Log,
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        connections.spawn(async move {
            // A listener that is killed breaks its connections.
            let _ = serve(stream, &acceptor, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, acceptor: &TlsAcceptor, shared: &Shared) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut bytes = Vec::new();
    let got = loop {
        if let Some(got) = parse(&bytes)? {
            break got;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("half a request");
        }
    };
    let answer = (shared.choose)(&got);
    let gate = shared.gate.notified();
    shared.got().push(Got { answer: Some(answer.clone()), ..got });
    shared.arrived.notify_waiters();
    let (status, header) = match answer {
        Answer::Status(status) => (status, String::new()),
        Answer::With(status, header) => (status, format!("{header}\r\n")),
        Answer::Hang => std::future::pending().await,
        Answer::AtTheGate => {
            gate.await;
            (200, String::new())
        }
    };
    let reply = format!("HTTP/1.1 {status} Said\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(reply.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// Reads a request, if all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<Got>> {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("no path")?.to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").context("no length")?.parse()?;
    if body.len() < length {
        return Ok(None);
    }
    Ok(Some(Got { path, headers, body: body.to_owned(), at: Instant::now(), answer: None }))
}
