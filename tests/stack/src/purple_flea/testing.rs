//! What the simulator's own tests share.

use super::{Entry, KEY, Request, State, games};
use anyhow::Result;
use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use serde_json::Value;
use std::time::Duration;

/// A simulator's state with a thousand dollars on either dialect's account.
pub(super) fn funded() -> State {
    let mut state = State::default();
    for agent in [super::LIVE_AGENT, "agent-001"] {
        state.balances.insert(agent.to_owned(), 1_000.into());
    }
    state
}

/// Asks with the key, and without a network.
pub(super) fn ask(state: &mut State, method: Method, path_and_query: &str, body: &str) -> games::Answer {
    let key = HeaderValue::from_str(&format!("Bearer {KEY}"));
    let headers = key.into_iter().map(|key| (AUTHORIZATION, key)).collect::<HeaderMap>();
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let request = Request { path: path.to_owned(), query: query.to_owned(), headers, body: body.to_owned() };
    games::answer(state, &method, &request, false)
}

/// Makes a bet; its reply's status and body.
pub(super) fn post(state: &mut State, path: &str, body: &str) -> (u16, Value) {
    let answer = ask(state, Method::POST, path, body);
    (answer.status.as_u16(), serde_json::from_str(&answer.body).unwrap_or(Value::Null))
}

/// The last bet that was taken.
pub(super) fn last(state: &mut State) -> &mut Entry {
    state.ledger.last_mut().expect("a bet was taken")
}

/// Whatever it is, it does not take long.
pub(super) async fn in_time<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(10), what).await?
}
