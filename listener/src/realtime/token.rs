//! The token with which the listener joins: the database's own, or a user's, which is renewed before it expires.

use super::{backoff, claims, settings::Identity};
use crate::{
    log::{Level, Line},
    runtime::Native,
};
use http::{HeaderValue, Request, header::CONTENT_TYPE};
use purple_flea_edge::runtime::{Limits, Runtime};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time::sleep};

/// Longest time of a sign-in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a sign-in's answer.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024;

/// How long before its end a token is renewed, at most: a third of its life if that is shorter.
const RENEW_BEFORE_S: u64 = 60;

/// The first wait after a sign-in that failed; each wait doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The longest of these waits. Supabase Auth takes few sign-ins an hour.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// A token. Its `Debug` text does not contain it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// The end of its life, in Unix seconds. `None`: it has none, or the listener cannot read it.
    expires_s: Option<u64>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(…, expires {:?})", self.expires_s)
    }
}

impl Token {
    /// Takes a token, and reads when it expires. Realtime checks the rest.
    pub(crate) fn new(text: String) -> Self {
        let expires_s = claims::expires_s(&text);
        Self { text, expires_s }
    }

    /// Whether Realtime would still take it.
    pub(crate) fn is_alive(&self, now_s: u64) -> bool {
        self.expires_s.is_none_or(|end| end > now_s)
    }

    /// How long it may be used before it has to be renewed.
    fn good_for(&self, now_s: u64) -> Option<Duration> {
        let left_s = self.expires_s?.saturating_sub(now_s);
        Some(Duration::from_secs(left_s.saturating_sub(RENEW_BEFORE_S.min(left_s.div_ceil(3)))))
    }
}

/// The wall clock, in Unix seconds.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: Option<String>,
}

/// Provides tokens for as long as the receivers of `tokens` live.
pub(crate) async fn provide(identity: Identity, runtime: Arc<Native>, tokens: watch::Sender<Option<Token>>) {
    let (sign_in, apikey, email, password) = match identity {
        Identity::Token(key) => {
            let _ = tokens.send(Some(Token::new(key.expose().to_owned())));
            tokens.closed().await;
            return;
        }
        Identity::User { sign_in, apikey, email, password } => (sign_in, apikey, email, password),
    };
    let by_password = json!({ "email": email, "password": password });
    let mut refresh: Option<String> = None;
    let mut failures = 0_u32;
    while !tokens.is_closed() {
        let (grant, body) = match &refresh {
            Some(refresh) => ("refresh_token", json!({ "refresh_token": refresh })),
            None => ("password", by_password.clone()),
        };
        let url = format!("{sign_in}?grant_type={grant}");
        let wait = match ask(&url, &apikey, &body, &runtime).await {
            Ok(answer) => {
                let token = Token::new(answer.access_token);
                refresh = answer.refresh_token;
                let (is_alive, wait) = (token.is_alive(now_s()), token.good_for(now_s()));
                let _ = tokens.send(Some(token));
                // By a clock that is wrong each new token has expired. It is asked for less and less often.
                failures = if is_alive { 0 } else { failures.saturating_add(1) };
                let shortest = backoff::doubled(RETRY_FIRST, failures, RETRY_MAX);
                // A token without an end is renewed all the same.
                wait.unwrap_or(Duration::from_secs(3600)).max(shortest)
            }
            Err(cause) => {
                let mut line = Line::new(Level::Warn, "realtime");
                (line.code, line.cause) = (Some("sign_in_failed"), Some(cause));
                line.print();
                // A refresh token is used up, or somebody has signed the user out.
                refresh = None;
                let wait = backoff::doubled(RETRY_FIRST, failures, RETRY_MAX);
                failures = failures.saturating_add(1);
                backoff::jittered(wait, runtime.random())
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = tokens.closed() => {}
        }
    }
}

/// Asks Supabase Auth once. A failure has no part of the answer.
async fn ask(url: &str, apikey: &HeaderValue, body: &Value, runtime: &Native) -> Result<Answer, String> {
    let request = Request::post(url)
        .header("apikey", apikey)
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|_| "request_not_built".to_owned())?;
    let limits = Limits { timeout: SIGN_IN_TIMEOUT, hold: Duration::ZERO, reply_bytes: ANSWER_LIMIT_BYTES };
    let answer = runtime.send(request, limits).await.map_err(|_| "not_reached".to_owned())?;
    if !answer.head.status.is_success() {
        return Err(format!("status_{}", answer.head.status.as_u16()));
    }
    serde_json::from_slice(&answer.body).map_err(|_| "unreadable".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

    fn token(claims: &str) -> Token {
        Token::new(format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn a_token_is_renewed_a_minute_before_its_end_or_after_two_thirds_of_a_short_life() {
        let seconds = |claims: &str| token(claims).good_for(1000).map(|time| time.as_secs());
        assert_eq!(seconds(r#"{"exp": 4600}"#), Some(3540));
        assert_eq!(seconds(r#"{"exp": 1009}"#), Some(6));
        assert_eq!(seconds(r#"{"exp": 900}"#), Some(0));
        assert_eq!(seconds("{}"), None);
    }

    #[test]
    fn a_token_that_cannot_be_read_is_left_to_realtime() {
        for text in ["", "a", "a.b.c", "e30.e30.x", "e30.eyJleHAiOiAibm93In0.x"] {
            assert!(Token::new(text.to_owned()).is_alive(u64::MAX), "{text}");
        }
        assert!(token(r#"{"exp": 1001}"#).is_alive(1000));
        assert!(!token(r#"{"exp": 1000}"#).is_alive(1000));
        assert!(!format!("{:?}", token(r#"{"exp": 1000}"#)).contains("e30"));
    }
}
