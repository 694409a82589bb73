//! Purple Flea's services, one module each, in both dialects. [`reply`] interprets the replies, and
//! [`history`] reads earlier bets.
//!
//! Purple Flea has no idempotency: the same request twice moves money twice. So the function sends a request
//! once. The result is one of three: executed, certainly not executed, or unknown.

pub mod accounts;
pub mod daily;
pub mod escrow;
pub mod escrow_search;
pub mod faucet;
pub mod games;
pub mod history;
pub mod positions;
pub mod reply;
pub mod statement;
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

/// The header that carries the idempotency key. Purple Flea ignores it today; an operator can find a bet by
/// it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Longest reply that is read, in bytes. Game replies are under 1 KiB, the others about as short.
const REPLY_LIMIT_BYTES: usize = 64 * 1024;

/// Purple Flea, as the settings describe it.
#[derive(Debug, Clone)]
pub struct PurpleFlea {
    /// The dialect.
    pub api: Api,
    /// The longest time of one exchange.
    pub timeout: Duration,
    /// How long the body of a request that must be executed once is held back after its head.
    pub hold: Duration,
    /// Games and accounts. In the `gateway` dialect also every call without a service of its own.
    pub casino: Service,
    /// Balances. In the `live` dialect the casino reports them.
    pub wallet: Service,
    /// Escrows. The service accepts the casino's key.
    pub escrow: Service,
    /// The faucet.
    pub faucet: Service,
    /// The daily claim. In the `live` dialect the casino has it.
    pub daily: Service,
    /// Trading. In the `gateway` dialect it takes orders alone.
    pub trading: Service,
}

/// A service of Purple Flea's.
#[derive(Debug, Clone)]
pub struct Service {
    /// The service's base URL.
    pub url: BaseUrl,
    /// The service's shared key, if there is one.
    pub key: Option<Key>,
}

/// One exchange.
struct Call<'a> {
    method: Method,
    route: String,
    body: Option<Value>,
    /// The idempotency key, if the call must be executed once.
    idempotency_key: Option<&'a str>,
    /// Whether the request shows a key.
    with_key: bool,
    /// The accepted content type of the reply.
    accept: &'static str,
    /// The codes with which a 403 or 404 refuses this request alone.
    final_codes: &'static [&'static str],
    /// Whether every 2xx is a success, even without a body.
    any_success: bool,
}

impl<'a> Call<'a> {
    fn post(route: String, body: Value, idempotency_key: &'a str) -> Self {
        let idempotency_key = Some(idempotency_key);
        Self { method: Method::POST, body: Some(body), idempotency_key, ..Self::get(route) }
    }

    fn get(route: String) -> Self {
        Self {
            method: Method::GET,
            route,
            body: None,
            idempotency_key: None,
            with_key: true,
            accept: "application/json",
            final_codes: &[],
            any_success: false,
        }
    }
}

/// Makes a request's body. One function makes all bodies, because each use of `json!` adds its own code to
/// the component.
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
    /// Returns the base URLs of all services.
    pub fn urls(&self) -> [&BaseUrl; 6] {
        [&self.casino, &self.wallet, &self.escrow, &self.faucet, &self.daily, &self.trading]
            .map(|service| &service.url)
    }

    /// Sends the call once, and returns the body of a success.
    async fn call(
        &self,
        service: &Service,
        account: &Account,
        call: Call<'_>,
        runtime: &impl Runtime,
    ) -> Result<Value, Failure> {
        let (final_codes, any_success) = (call.final_codes, call.any_success);
        let own_key = call.with_key && !matches!(account.key, AccountKey::Shared);
        let answer = self.exchange(service, account, call, REPLY_LIMIT_BYTES, runtime).await?;
        let reply = reply::interpret(&answer, final_codes, own_key, runtime.now());
        if any_success && answer.head.status.is_success() && !reply::names_an_error(&answer) {
            return Ok(reply.unwrap_or_default());
        }
        reply
    }

    /// Sends the call once, and returns the answer without a judgement.
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
        let hold = call.idempotency_key.map_or(Duration::ZERO, |_| self.hold);
        let request = build(service, key.filter(|_| call.with_key), call);
        let request = request.ok_or(Failure::NotSent("request_not_built"))?;
        Ok(runtime.send(request, Limits { timeout: self.timeout, hold, reply_bytes }).await?)
    }
}

fn build(service: &Service, key: Option<&Key>, call: Call<'_>) -> Option<http::Request<Vec<u8>>> {
    let posts = call.method == Method::POST;
    let mut request = http::Request::builder().method(call.method).uri(service.url.join(&call.route)?);
    if let Some(key) = key {
        request = request.header(AUTHORIZATION, key.bearer());
    }
    let body = match call.body {
        None => {
            if posts {
                request = request.header(CONTENT_LENGTH, 0);
            }
            Vec::new()
        }
        Some(body) => {
            let body = serde_json::to_vec(&body).ok()?;
            // With a `content-length`, every host sends headers and body in one packet.
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
