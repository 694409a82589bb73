//! The receivers of webhooks: one https server on the loopback interface that has a path for each subscription. It
//! answers at once, or never.

use crate::aside::Threads;
use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// The receivers' name. The listener knows it by its file of hosts.
const HOST: &str = "hooks.receivers.example";

/// The answer.
const TAKEN: &[u8] = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What the receivers do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// They answer at once.
    Answer,
    /// They take the connection and say nothing at all, so that they cost this machine next to nothing.
    Hang,
}

/// The running receivers. They end when this is dropped.
pub struct Receivers {
    port: u16,
    /// The file of hosts and the certificate.
    files: [PathBuf; 2],
    got: Arc<Got>,
    _threads: Threads,
}

/// When each request was there as a whole, or each connection that hangs, in seconds since 1970.
#[derive(Default)]
struct Got(Mutex<Vec<f64>>);

impl Got {
    fn note(&self) -> Result<()> {
        self.times().push(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
        Ok(())
    }

    fn times(&self) -> MutexGuard<'_, Vec<f64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receivers {
    /// Starts the receivers on a thread of their own. Their files go into `folder`.
    pub async fn start(manner: Manner, folder: &Path) -> Result<Self> {
        // Each request that hangs keeps its connection.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let files = [folder.join("receivers.hosts"), folder.join("receivers.pem")];
        let certificate = BASE64.encode(made.cert.der());
        std::fs::write(&files[0], format!("127.0.0.1 {HOST}\n"))?;
        std::fs::write(
            &files[1],
            format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n"),
        )?;
        let got = Arc::new(Got::default());
        let threads = Threads::start("receivers", 1)?;
        let (acceptor, shared) = (TlsAcceptor::from(Arc::new(config)), got.clone());
        let begin = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            tokio::spawn(accept(listener, acceptor, manner, shared));
            Ok(port)
        };
        let port = threads.run(begin).await?;
        Ok(Self { port, files, got, _threads: threads })
    }

    /// Gives the beginning of the receivers' URLs.
    pub fn url(&self) -> String {
        format!("https://{HOST}:{}/", self.port)
    }

    /// Gives the listener's options that let it find and trust the receivers.
    pub fn options(&self) -> Vec<String> {
        let [hosts, certificate] = self.files.each_ref().map(|path| path.to_string_lossy().into_owned());
        ["--unsafe-test-addresses", "127.0.0.0/8", "--hosts", &hosts, "--trust-ca", &certificate]
            .map(str::to_owned)
            .into()
    }

    /// Counts the requests that came.
    pub fn count(&self) -> usize {
        self.got.times().len()
    }

    /// Gives when each request after the first `skip` was there, in seconds since 1970.
    pub fn times(&self, skip: usize) -> Vec<f64> {
        self.got.times().iter().skip(skip).copied().collect()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, manner: Manner, got: Arc<Got>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, got) = (acceptor.clone(), got.clone());
        connections.spawn(async move {
            // A listener that ends, or waits no longer, breaks its connections.
            let _ = serve(stream, &acceptor, manner, &got).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, acceptor: &TlsAcceptor, manner: Manner, got: &Got) -> Result<()> {
    if manner == Manner::Hang {
        got.note()?;
        // Until the listener closes the connection.
        let mut bytes = Vec::new();
        while stream.read_buf(&mut bytes).await? > 0 {}
        return Ok(());
    }
    let mut stream = acceptor.accept(stream).await?;
    let mut bytes = Vec::new();
    while !is_whole(&bytes)? {
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("half a request");
        }
    }
    got.note()?;
    stream.write_all(TAKEN).await?;
    Ok(stream.shutdown().await?)
}

/// Says whether a request is there with its whole body.
fn is_whole(bytes: &[u8]) -> Result<bool> {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.context("a request without its length")?;
    Ok(body.len() >= length.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body() {
        let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        for (text, whole) in
            [("POST", false), (head, false), (&format!("{head}{{}}"), false), (&format!("{head}{{ }}"), true)]
        {
            assert_eq!(is_whole(text.as_bytes()).unwrap(), whole, "{text}");
        }
        assert!(is_whole(b"POST / HTTP/1.1\r\n\r\n").is_err());
    }
}
