//! What goes out: Purple Flea's services, a module each, in either of its two dialects. [`reply`] says what comes back,
//! [`history`] what was bet before.
//!
//! Purple Flea has no idempotency: the same request twice moves money twice. So a request is sent once, and
//! whatever its classify_send_error, the result says one of three things: done, certainly not done, or unknown.

pub mod accounts;
pub mod escrow;
pub mod faucet;
pub mod games;
pub mod history;
pub mod reply;
pub mod trading;

use crate::{
    domain::{
        account::{Account, AccountKey, Api},
        failure::Failure,
    },
    endpoint::{BaseUrl, Key},
    runtime::{Answer, Limits, Runtime},
};
use http::{
    Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE},
};
use serde_json::{Map, Value};
use std::time::Duration;

/// The header that carries our bet key. Purple Flea ignores it today; an operator can find a bet by it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Most that is read of a reply, in bytes. Game replies are under 1 KiB, the others about as short.
const REPLY_LIMIT_BYTES: usize = 64 * 1024;

/// Purple Flea, as the settings describe it.
#[derive(Debug, Clone)]
pub struct PurpleFlea {
    /// Which dialect it speaks.
    pub api: Api,
    /// How long one exchange may take.
    pub timeout: Duration,
    /// Games, accounts and balances; in the `gateway` dialect everything that has no place of its own.
    pub casino: Service,
    /// Escrows: the casino's key.
    pub escrow: Service,
    /// The faucet.
    pub faucet: Service,
    /// Trading; in the `gateway` dialect orders.
    pub trading: Service,
}

/// A service of Purple Flea's.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where it is.
    pub url: BaseUrl,
    /// Everybody's key there, if there is one.
    pub key: Option<Key>,
}

/// One exchange.
struct Call<'a> {
    method: Method,
    route: String,
    body: Option<Value>,
    /// What it can be found by, where it is to be done once.
    idempotency_key: Option<&'a str>,
    /// Whether a key is shown.
    with_key: bool,
    /// What it is to be answered with.
    accept: &'static str,
    /// The words with which a 403 or 404 refuses this request alone.
    finals: &'static [&'static str],
}

impl<'a> Call<'a> {
    fn post(route: String, body: Value, idempotency_key: &'a str) -> Self {
        let idempotency_key = Some(idempotency_key);
        Self { method: Method::POST, body: Some(body), idempotency_key, ..Self::get(route) }
    }

    fn get(route: String) -> Self {
        let (method, accept) = (Method::GET, "application/json");
        Self { method, route, body: None, idempotency_key: None, with_key: true, accept, finals: &[] }
    }
}

/// A request's body. One function writes them all: `json!` is compiled in anew, field by field, wherever it stands.
fn body<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Value {
    fn object(fields: Vec<(&str, Value)>) -> Value {
        let mut object = Map::new();
        for (name, value) in fields {
            object.insert(name.to_owned(), value);
        }
        Value::Object(object)
    }
    object(fields.into())
}

impl PurpleFlea {
    /// Asks once. What is given back is a success's body.
    async fn call(
        &self,
        service: &Service,
        account: &Account,
        call: Call<'_>,
        runtime: &impl Runtime,
    ) -> Result<Value, Failure> {
        let finals = call.finals;
        let own_key = call.with_key && !matches!(account.key, AccountKey::Shared);
        let answer = self.exchange(service, account, call, REPLY_LIMIT_BYTES, runtime).await?;
        reply::judge(&answer, finals, own_key, runtime.now())
    }

    /// Asks once, and says nothing about the answer.
    async fn exchange(
        &self,
        service: &Service,
        account: &Account,
        call: Call<'_>,
        reply_bytes: usize,
        runtime: &impl Runtime,
    ) -> Result<Answer, Failure> {
        let key = match &account.key {
            AccountKey::Shared => service.key.as_ref(),
            AccountKey::Own(key) => Some(key),
            AccountKey::Missing => None,
        };
        if call.with_key && key.is_none() {
            return Err(Failure::NoKey);
        }
        let request = build(service, key.filter(|_| call.with_key), call);
        let request = request.ok_or(Failure::NotSent("request_not_built"))?;
        Ok(runtime.send(request, Limits { timeout: self.timeout, reply_bytes }).await?)
    }
}

fn build(service: &Service, key: Option<&Key>, call: Call<'_>) -> Option<http::Request<Vec<u8>>> {
    let mut request = http::Request::builder().method(call.method).uri(service.url.join(&call.route)?);
    if let Some(key) = key {
        request = request.header(AUTHORIZATION, key.bearer());
    }
    let body = match call.body {
        None => Vec::new(),
        Some(body) => {
            let body = serde_json::to_vec(&body).ok()?;
            // With its length known, head and body leave in one piece on every host.
            request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
            body
        }
    };
    request = request.header(ACCEPT, call.accept);
    if let Some(idempotency_key) = call.idempotency_key {
        request = request.header(IDEMPOTENCY_KEY, idempotency_key);
    }
    request.body(body).ok()
}
