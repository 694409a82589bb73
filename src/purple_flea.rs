//! What goes out: one bet as an HTTP request, in either of Purple Flea's two dialects; [`reply`] says what comes back,
//! [`history`] what was bet before.
//!
//! Purple Flea has no idempotency: the same request twice moves money twice. So a request is sent once, and
//! whatever its fate, the result says one of three things: executed, certainly not executed, or unknown.

pub mod history;
pub mod reply;

use crate::{
    game::Game,
    outside::{Limits, Outside},
    policy::Bet,
    upstream::{BaseUrl, Key},
};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reply::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// The header that carries our bet key. Purple Flea ignores it today; an operator can find a bet by it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Most that is read of a reply to a bet, in bytes. Game replies are under 1 KiB.
const REPLY_LIMIT_BYTES: usize = 64 * 1024;

/// Purple Flea, as the settings describe it.
#[derive(Debug, Clone)]
pub struct PurpleFlea {
    /// Where it is.
    pub url: BaseUrl,
    /// Our key there.
    pub key: Key,
    /// Which dialect it speaks.
    pub api: Api,
    /// How long one exchange may take.
    pub timeout: Duration,
}

/// A dialect of Purple Flea's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The paths and fields of the public documentation: `/casino/crash`, `wager`, `cashout_at`.
    Gateway,
    /// What the released servers answer: `/api/v1/games/crash`, `amount`, `cash_out_at`, and a bet history in which
    /// a bet is found by its `client_seed`. The key decides who bets.
    Live,
}

impl PurpleFlea {
    /// Makes one bet, once. `bet_key` is what it can be found by: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    pub async fn play(&self, bet: &Bet, bet_key: &str, outside: &impl Outside) -> Result<Outcome, Failure> {
        let Some(request) = self.request(bet, bet_key) else {
            return Err(Failure::NotSent("request_not_built"));
        };
        let limits = Limits { timeout: self.timeout, reply_bytes: REPLY_LIMIT_BYTES };
        reply::read(bet, &outside.send(request, limits).await?)
    }

    fn request(&self, bet: &Bet, bet_key: &str) -> Option<http::Request<Vec<u8>>> {
        let Bet { agent_id, wager, .. } = bet;
        let (route, body) = match (self.api, bet.game) {
            (Api::Gateway, Game::Crash(cashout_at)) => {
                ("/casino/crash", json!({"agent_id": agent_id, "wager": wager, "cashout_at": cashout_at}))
            }
            (Api::Gateway, Game::CoinFlip(side)) => {
                ("/casino/coin-flip", json!({"agent_id": agent_id, "wager": wager, "side": side}))
            }
            (Api::Live, Game::Crash(cashout_at)) => (
                "/api/v1/games/crash",
                json!({"amount": wager, "cash_out_at": cashout_at, "client_seed": bet_key}),
            ),
            (Api::Live, Game::CoinFlip(side)) => {
                ("/api/v1/games/coin-flip", json!({"amount": wager, "side": side, "client_seed": bet_key}))
            }
        };
        let body = serde_json::to_vec(&body).ok()?;
        http::Request::post(self.url.join(route)?)
            .header(AUTHORIZATION, self.key.bearer())
            .header(CONTENT_TYPE, "application/json")
            // With its length known, head and body leave in one piece on every host.
            .header(CONTENT_LENGTH, body.len())
            .header(ACCEPT, "application/json")
            .header(IDEMPOTENCY_KEY, bet_key)
            .body(body)
            .ok()
    }
}
