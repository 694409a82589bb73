//! Helps the simulator's own tests.

use super::{Entry, KEY, Request, State, answer::Answer, routes, statement::Why};
use anyhow::Result;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::AUTHORIZATION};
use serde_json::Value;
use std::time::Duration;

/// The second agent of the `live` dialect.
pub(super) const THEM: &str = "ag_them";

/// Makes a state with a thousand dollars on the accounts of each dialect.
pub(super) fn funded() -> State {
    let mut state = State::default();
    for agent in [super::LIVE_AGENT, THEM, "agent-001"] {
        let now = state.now();
        state.accounts.book(agent, 1_000.into(), Why::Deposit, "a test", now);
    }
    state
}

/// Sends a request without a network.
fn answer(state: &mut State, method: Method, path_and_query: &str, headers: HeaderMap, body: &str) -> Answer {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let request = Request { path: path.to_owned(), query: query.to_owned(), headers, body: body.to_owned() };
    routes::answer(state, &method, &request, false)
}

fn read(answer: &Answer) -> (u16, Value) {
    (answer.status.as_u16(), serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

/// Makes a header with this key, or no header for an empty key.
fn bearer(key: &str) -> HeaderMap {
    let value = HeaderValue::from_str(&format!("Bearer {key}")).ok().filter(|_| !key.is_empty());
    value.into_iter().map(|value| (AUTHORIZATION, value)).collect()
}

/// Sends a request with the shared key.
pub(super) fn ask(state: &mut State, method: Method, path_and_query: &str, body: &str) -> Answer {
    answer(state, method, path_and_query, bearer(KEY), body)
}

/// Sends a request with a key, or without one. Gives the reply's status and body.
pub(super) fn as_agent(
    state: &mut State,
    key: &str,
    method: Method,
    path_and_query: &str,
    body: &str,
) -> (u16, Value) {
    read(&answer(state, method, path_and_query, bearer(key), body))
}

/// Sends a request with the shared key and some headers.
pub(super) fn send(
    state: &mut State,
    method: Method,
    path_and_query: &str,
    body: &str,
    headers: &[(&'static str, &'static str)],
) -> (u16, Value) {
    let mut all = bearer(KEY);
    for (name, value) in headers {
        all.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    read(&answer(state, method, path_and_query, all, body))
}

/// Sends a POST, such as a bet. Gives the reply's status and body.
pub(super) fn post(state: &mut State, path: &str, body: &str) -> (u16, Value) {
    as_agent(state, KEY, Method::POST, path, body)
}

/// Sends a GET. Gives the reply's status and body.
pub(super) fn get(state: &mut State, path_and_query: &str) -> (u16, Value) {
    as_agent(state, KEY, Method::GET, path_and_query, "")
}

/// Gives the last bet.
pub(super) fn last(state: &mut State) -> &mut Entry {
    state.ledger.last_mut().expect("a bet was taken")
}

/// Fails if a future takes too long.
pub(super) async fn in_time<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(10), what).await?
}
