//! A stand-in for the sign-in of Supabase Auth, and not its server: it gives one user tokens that expire soon. Every other
//! path goes on to PostgREST, as on Supabase's gateway.

use anyhow::{Context, Result};
use serde_json::json;
use stack::{postgrest::key_with, webhook::unix_s};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

/// A running sign-in. Ends when it is dropped.
pub struct SignIn {
    pub url: String,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

struct Shared {
    postgrest: String,
    user: String,
    life_s: u64,
    state: Mutex<State>,
    came: Notify,
}

#[derive(Default)]
struct State {
    grants: Vec<String>,
    /// The refresh token that is good for one more token.
    refresh: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SignIn {
    pub async fn start(postgrest: &str, user: &str, life_s: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let postgrest = postgrest.strip_prefix("http://").context("no http")?.to_owned();
        let (state, came) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { postgrest, user: user.to_owned(), life_s, state, came });
        let mut task = JoinSet::new();
        let serving = shared.clone();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(serving.clone(), stream));
            }
        });
        Ok(Self { url, shared, _task: task })
    }

    /// The grants of all tokens that it gave or refused.
    pub fn grants(&self) -> Vec<String> {
        self.shared.state().grants.clone()
    }

    /// Ends the user's session: its refresh token is good for nothing.
    pub fn forget(&self) {
        self.shared.state().refresh = None;
    }

    /// Waits until it was asked so many times.
    pub async fn until(&self, times: usize) {
        loop {
            let came = self.shared.came.notified();
            if self.grants().len() >= times {
                return;
            }
            came.await;
        }
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) -> Result<()> {
    let mut stream = stream;
    let (head, body) = read(&mut stream).await?;
    if !head.starts_with("POST /auth/v1/token?") {
        let mut upstream = TcpStream::connect(&shared.postgrest).await?;
        let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        upstream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
        copy(&mut upstream, &mut stream).await?;
        return Ok(stream.shutdown().await?);
    }
    let (status, answer) = answer(&shared, &head, &serde_json::from_str(&body)?)?;
    let reply = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(reply.as_bytes()).await?;
    shared.came.notify_waiters();
    Ok(stream.shutdown().await?)
}

fn answer(shared: &Shared, head: &str, body: &serde_json::Value) -> Result<(u16, String)> {
    let is_password = head.contains("grant_type=password");
    let mut state = shared.state();
    state.grants.push(if is_password { "password" } else { "refresh_token" }.to_owned());
    let known = if is_password {
        body["password"] == "geheim"
    } else {
        state.refresh.as_deref().is_some_and(|refresh| body["refresh_token"] == refresh)
    };
    if !known {
        return Ok((400, json!({ "error": "invalid_grant" }).to_string()));
    }
    let refresh = format!("refresh-{}", state.grants.len());
    state.refresh = Some(refresh.clone());
    let expires = unix_s() + shared.life_s;
    let claims = json!({
        "sub": shared.user, "role": "authenticated", "aud": "authenticated", "exp": expires,
    });
    let token = key_with(&claims)?;
    Ok((
        200,
        json!({ "access_token": token, "refresh_token": refresh, "expires_in": shared.life_s }).to_string(),
    ))
}

async fn read(stream: &mut TcpStream) -> Result<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
            });
            if body.len() >= length.transpose()?.unwrap_or(0) {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "half a request");
    }
}
