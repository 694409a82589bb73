//! A stand-in for Supabase's gateway before PostgREST: it exchanges one secret key for a token, takes that key in the
//! header `apikey` alone, and can refuse a token as PostgREST does for a moment.

use crate::http1;
use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1 as server, service::service_fn};
use hyper_util::rt::TokioIo;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{net::TcpListener, task::JoinSet};

/// The secret key that the gateway knows.
pub const SECRET_KEY: &str = "sb_secret_of_the_local_stack";

/// A running gateway. Ends when it is dropped.
pub struct Gateway {
    /// Its URL, without a slash at the end.
    pub url: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    postgrest: String,
    bearer: HeaderValue,
    refusals: AtomicUsize,
}

impl Gateway {
    /// Starts it before a PostgREST. The secret key is exchanged for this token.
    pub async fn start(postgrest: &str, token: &str) -> Result<Self> {
        let (listener, url) = http1::listen().await?;
        let bearer = HeaderValue::from_str(&format!("Bearer {token}"))?;
        let shared = Shared { postgrest: postgrest.to_owned(), bearer, refusals: AtomicUsize::new(0) };
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { url, shared, _tasks: tasks })
    }

    /// Refuses the next token.
    pub fn refuse_once(&self) {
        self.shared.refusals.fetch_add(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| serve(&shared, request));
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if head.headers.get("apikey").is_some_and(|key| key == SECRET_KEY) {
        if head.headers.get(header::AUTHORIZATION).is_some_and(is_secret_key) {
            return refusal(r#"{"message":"Invalid JWT"}"#);
        }
        head.headers.entry(header::AUTHORIZATION).or_insert_with(|| shared.bearer.clone());
    }
    let refuse = |left: usize| left.checked_sub(1);
    if shared.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() {
        return refusal(r#"{"code":"PGRST303","message":"JWT issued at future"}"#);
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    head.uri = format!("{}{path}", shared.postgrest).parse()?;
    Ok(http1::send(Request::from_parts(head, body.to_vec())).await?.map(Full::new))
}

fn is_secret_key(bearer: &HeaderValue) -> bool {
    bearer.as_bytes().windows(SECRET_KEY.len()).any(|part| part == SECRET_KEY.as_bytes())
}

fn refusal(body: &'static str) -> Result<Response<Full<Bytes>>> {
    let response = Response::builder().status(StatusCode::UNAUTHORIZED);
    let response = response.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
    Ok(response.body(Full::from(body))?)
}
