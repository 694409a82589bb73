//! One call of a database function through PostgREST: `POST {url}/rest/v1/rpc/{function}` with named arguments.

use super::object::{Object, Unreadable};
use crate::{
    endpoint::{BaseUrl, Key},
    log::{Level, Line},
    runtime::{Limits, Runtime, SendError},
    time_budget,
};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;
use std::time::Duration;

/// Longest reply that is read, in bytes: 100 jobs of at most 8 KiB each. The tables limit names to 128 bytes,
/// descriptions to 200 characters and keys to 512 bytes. A policy has 20 columns.
const REPLY_LIMIT_BYTES: usize = 1024 * 1024;

/// The header for Supabase's gateway.
const APIKEY: &str = "apikey";

/// PostgREST's code for an unknown function.
const NO_SUCH_FUNCTION: &str = "PGRST202";

/// PostgREST's codes for a token that it cannot accept now: one that it cannot verify, and one whose times are
/// not the present. Both pass by themselves while PostgREST loads its keys, or while two clocks differ.
const TOKEN_CODES: [&str; 2] = ["PGRST301", "PGRST303"];

/// The wait before a call is repeated whose token was refused, in milliseconds. Tokens have whole seconds.
const TOKEN_RETRY_MS: u64 = 1_000;

/// The URL of PostgREST, and the keys that the function shows it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Supabase's URL.
    pub url: BaseUrl,
    /// The function's role in the database: a bearer token, or one of Supabase's API keys, which goes into the
    /// `apikey` header alone.
    pub key: Key,
    /// The `apikey` header beside a bearer token: it opens Supabase's gateway.
    pub apikey: Key,
}

/// The reason why the ledger gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerError {
    /// The call was certainly not sent.
    NotReached(&'static str),
    /// The call was sent, and no complete answer came back. The database may have executed it.
    Lost(&'static str),
    /// The database or its gateway has a failure that may pass. The number is the status.
    InTrouble(u16),
    /// The database refuses our key, or the key's role may not make the call. The number is the status.
    RefusedUs(u16),
    /// The database cannot accept our token now. The text is PostgREST's code.
    TokenRefused(&'static str),
    /// The database does not have the functions, because the SQL was not applied.
    Missing,
    /// The ledger and this function have no protocol version in common.
    Mismatch,
    /// Any other failure, with the code of PostgREST or Postgres. It is a mistake in the function.
    Failed(String),
    /// The answer is not readable.
    Unreadable,
}

impl LedgerError {
    /// Classifies PostgREST's refusal by its status and its code.
    fn from_status(status: u16, code: Option<String>) -> Self {
        let token_code = TOKEN_CODES.into_iter().find(|known| code.as_deref() == Some(known));
        if let (401, Some(code)) = (status, token_code) {
            return Self::TokenRefused(code);
        }
        match (status, code) {
            (_, Some(code)) if code == NO_SUCH_FUNCTION => Self::Missing,
            (401 | 403, _) => Self::RefusedUs(status),
            (408 | 429 | 500.., _) => Self::InTrouble(status),
            (404, None) => Self::RefusedUs(status),
            (_, code) => Self::Failed(code.map_or_else(
                || format!("status_{status}"),
                |code| code.chars().filter(char::is_ascii_alphanumeric).take(16).collect(),
            )),
        }
    }

    /// Returns whether another attempt may succeed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NotReached(_) | Self::Lost(_) | Self::InTrouble(_))
    }

    /// Returns the stable code that replies and the log share.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RefusedUs(_) | Self::TokenRefused(_) => "ledger_refused_us",
            Self::Missing => "ledger_missing",
            Self::Mismatch => "ledger_mismatch",
            Self::Failed(_) | Self::Unreadable => "ledger_failed",
            Self::NotReached(_) | Self::Lost(_) | Self::InTrouble(_) => "ledger_not_reached",
        }
    }

    /// Returns the detail that the log adds to the code.
    pub fn cause(&self) -> String {
        match self {
            Self::NotReached(cause) | Self::Lost(cause) | Self::TokenRefused(cause) => (*cause).to_owned(),
            Self::InTrouble(status) | Self::RefusedUs(status) => format!("status_{status}"),
            Self::Missing => NO_SUCH_FUNCTION.to_owned(),
            Self::Mismatch => "protocol".to_owned(),
            Self::Failed(code) => code.clone(),
            Self::Unreadable => "unreadable".to_owned(),
        }
    }
}

impl Connection {
    /// Calls a function with our own key, and returns the body of a success. A call whose token was refused was
    /// not executed, and is repeated once.
    pub async fn call(
        &self,
        function: &str,
        arguments: &Value,
        runtime: &impl Runtime,
    ) -> Result<Vec<u8>, LedgerError> {
        match self.call_once(function, arguments, runtime).await {
            Err(refused @ LedgerError::TokenRefused(_)) => {
                let mut line = Line::new(runtime.now(), "ledger");
                (line.level, line.code, line.cause) =
                    (Level::Warn, Some("ledger_not_reached"), Some(refused.cause()));
                runtime.log(&line);
                runtime.sleep(Duration::from_millis(TOKEN_RETRY_MS)).await;
                self.call_once(function, arguments, runtime).await
            }
            result => result,
        }
    }

    /// Calls a function once, and returns the body of a success.
    pub(super) async fn call_once(
        &self,
        function: &str,
        arguments: &Value,
        runtime: &impl Runtime,
    ) -> Result<Vec<u8>, LedgerError> {
        let request =
            self.request(function, arguments).ok_or(LedgerError::NotReached("request_not_built"))?;
        let limits = Limits {
            timeout: Duration::from_secs(time_budget::LEDGER_CALL_S),
            hold: Duration::ZERO,
            reply_bytes: REPLY_LIMIT_BYTES,
        };
        let answer = runtime.send(request, limits).await.map_err(|error| match error {
            SendError::NotSent(cause) => LedgerError::NotReached(cause),
            SendError::TimedOut => LedgerError::Lost("timed_out"),
            SendError::Broken(how) => LedgerError::Lost(how),
        })?;
        let status = answer.head.status.as_u16();
        if answer.head.status.is_success() {
            return if answer.whole { Ok(answer.body) } else { Err(LedgerError::Unreadable) };
        }
        let code = text(&answer.body).and_then(Object::read).and_then(|error| error.maybe_text("code"));
        Err(LedgerError::from_status(status, code.unwrap_or_default()))
    }

    fn request(&self, function: &str, arguments: &Value) -> Option<http::Request<Vec<u8>>> {
        let url = self.url.join(&format!("/rest/v1/rpc/{function}"))?;
        let body = serde_json::to_vec(arguments).ok()?;
        let mut request = http::Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len())
            .header(ACCEPT, "application/json");
        request = if self.key.is_api_key() {
            request.header(APIKEY, self.key.bare())
        } else {
            request.header(APIKEY, self.apikey.bare()).header(AUTHORIZATION, self.key.bearer())
        };
        request.body(body).ok()
    }
}

/// Returns an answer as text.
pub(super) fn text(answer: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(answer).map_err(|_| Unreadable)
}

impl From<Unreadable> for LedgerError {
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

#[cfg(test)]
mod tests;
