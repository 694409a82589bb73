//! Runs the real PostgREST of this machine behind the gateway's part.

use super::{JWT_SECRET, PREFIX};
use crate::{
    http1,
    postgres::Cluster,
    process::{self, Process},
};
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, header, request::Parts};
use http_body_util::Full;
use rustix::process::Signal;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// How long a real PostgREST may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the stack checks that.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Finds the program on the PATH.
pub(super) fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("postgrest")).find(|file| file.is_file())
}

/// Starts the program for a cluster, with the settings of hosted Supabase. Gives its URL, too.
pub(super) async fn start(cluster: &Cluster, program: &Path) -> Result<(Process, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port();
    let mut command = process::command(program, None, "TERM");
    for (name, value) in [
        ("PGRST_DB_URI", cluster.url("authenticator")),
        ("PGRST_DB_SCHEMAS", "public".to_owned()),
        ("PGRST_DB_EXTRA_SEARCH_PATH", "public,extensions".to_owned()),
        ("PGRST_DB_ANON_ROLE", "anon".to_owned()),
        ("PGRST_JWT_SECRET", JWT_SECRET.to_owned()),
        ("PGRST_SERVER_HOST", "127.0.0.1".to_owned()),
        ("PGRST_SERVER_PORT", port.to_string()),
    ] {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process::spawn(&mut command, Signal::TERM)?;
    let address = format!("127.0.0.1:{port}");
    let listening = async {
        while TcpStream::connect(&address).await.is_err() {
            sleep(TRY_EVERY).await;
        }
    };
    timeout(START_TIMEOUT, listening).await.context("postgrest did not listen in time")?;
    Ok((process, format!("http://{address}")))
}

/// Does the gateway's part: removes its prefix. The headers of the connection itself stay behind.
pub(super) async fn forward(real: &str, head: &Parts, body: &Bytes) -> Result<Response<Full<Bytes>>> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.strip_prefix(PREFIX).unwrap_or(path);
    let mut request = http::Request::builder()
        .method(&head.method)
        .uri(format!("{real}/{}", path.trim_start_matches('/')))
        .body(body.to_vec())?;
    *request.headers_mut() = head.headers.clone();
    for name in [header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        request.headers_mut().remove(name);
    }
    Ok(http1::send(request).await?.map(Full::new))
}
