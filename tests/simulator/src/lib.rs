//! A simulator of Purple Flea. It has the six services in both dialects, as they were measured (purple-flea.md). It
//! records every bet, escrow and position. Like Purple Flea it ignores idempotency keys: the same request twice makes
//! two bets. A test can make it fail in every way in which a server behind a network fails: once, always or at random.
//!
//! | service | module |
//! | --- | --- |
//! | admission and routes: limits, keys, bodies | `routes`, `limits`, `call` |
//! | registration, keys, balances, the ledger of an account | `accounts`, `statement` |
//! | crash, multiplier, coin-flip and hi-lo, their ceiling, their history, their fairness | `games`, `kelly`, `history`, `house`, `fairness` |
//! | the faucet, the gateway's daily claim | `faucet` |
//! | the casino's daily bonus | `daily` |
//! | escrow | `escrow` |
//! | trading | `trading` |
//! | faults | `server`, `chaos` |

mod accounts;
mod answer;
mod call;
mod chaos;
mod daily;
mod escrow;
mod fairness;
mod faucet;
mod games;
mod history;
mod house;
mod kelly;
mod limits;
mod money;
#[cfg(test)]
mod real_servers;
mod routes;
mod server;
mod statement;
#[cfg(test)]
mod testing;
mod trading;

pub use accounts::Account;
pub use chaos::Chaos;
pub use escrow::Escrow;
pub use limits::Limits;
pub use trading::{Position, Standing, TRADING_KEY};

use anyhow::Result;
use http::StatusCode;
use rust_decimal::Decimal;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

/// The key that opens every service but trading: in `live` the key of [`LIVE_AGENT`], in `gateway` an orchestrator's
/// key that acts for every agent it names.
pub const KEY: &str = "pf_live_simulator_0123456789abcdef";

/// The agent whose account takes the `live` dialect's bets with [`KEY`]. In `live` the key decides on the account.
pub const LIVE_AGENT: &str = "ag_simulator";

/// The most requests that are kept. The simulator forgets the oldest ones first.
const REQUESTS_LIMIT: usize = 20_000;

/// A running simulator. Ends when it is dropped.
pub struct PurpleFlea {
    /// Its URL, without a slash at the end.
    pub url: String,
    shared: Shared,
    _server: JoinSet<()>,
}

/// A bet that the simulator executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bet {
    /// Its id.
    pub bet_id: String,
    /// The agent that made it.
    pub agent_id: String,
    /// `crash`, `coin-flip`, `multiplier` or `hi-lo`.
    pub game: &'static str,
    /// The stake.
    pub wager: Decimal,
    /// Whether the agent won.
    pub won: bool,
    /// The payout that the account got, the stake included; 0 for a loss. A `live` reply reports it in whole cents.
    pub payout: Decimal,
    /// The multiplier at which a crash game ended.
    pub crash_point: Option<Decimal>,
    /// The caller's `Idempotency-Key`. The simulator ignores it, as the real server does.
    pub idempotency_key: Option<String>,
    /// The caller's `client_seed`, in the `live` dialect, if the caller chose one.
    pub client_seed: Option<String>,
    /// Whether it left a row in the history. The history shows only bets of the `live` dialect.
    pub in_history: bool,
    /// When the simulator executed it.
    pub at: SystemTime,
}

impl Bet {
    /// Gives the caller's key of the bet: the `client_seed`, or else the `Idempotency-Key`.
    pub fn key(&self) -> Option<&str> {
        self.client_seed.as_deref().or(self.idempotency_key.as_deref())
    }
}

/// A request as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Its path.
    pub path: String,
    /// Its query, without the question mark.
    pub query: String,
    /// Its headers.
    pub headers: http::HeaderMap,
    /// Its body.
    pub body: String,
}

/// A fault.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Whether the simulator executes the request before the fault.
    pub after_the_bet: bool,
    /// The kind of the fault.
    pub how: How,
}

/// A kind of fault.
#[derive(Debug, Clone)]
pub enum How {
    /// The simulator sends this answer to any request.
    Answer {
        /// The answer's status.
        status: StatusCode,
        /// The answer's headers, with a `content-type` if the answer is to have one.
        headers: Vec<(&'static str, String)>,
        /// The answer's body.
        body: String,
    },
    /// The simulator never answers.
    Hang,
    /// The simulator resets the connection instead of an answer.
    Reset,
    /// The simulator sends the right answer, a byte a second.
    Drip,
    /// The simulator sends the headers and half of the body, then closes the connection.
    BreakOff,
    /// The simulator sends the headers and half of the body, then nothing more.
    Stall,
    /// The simulator sends the right answer, with a nonce in its proof that no database can hold.
    OddNumber,
}

impl How {
    /// Makes an answer with a JSON body.
    pub fn answer(status: u16, body: &str) -> Self {
        Self::Answer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.to_owned(),
        }
    }
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    requests: watch::Sender<usize>,
}

/// A bet, with the fields that only the history shows.
struct Entry {
    bet: Bet,
    live: bool,
    multiplier: Decimal,
    proof: house::Proof,
}

#[derive(Default)]
struct State {
    accounts: accounts::Accounts,
    ledger: Vec<Entry>,
    house: house::House,
    faucet: faucet::Faucet,
    daily: daily::Daily,
    escrows: escrow::Escrows,
    trading: trading::Trading,
    gate: limits::Gate,
    /// How far the simulator's clock is ahead of this machine's.
    clock_ahead: Duration,
    requests: VecDeque<Request>,
    next: VecDeque<Fault>,
    always: Option<Fault>,
    chaos: Option<chaos::Dice>,
    forget: usize,
    delay: Option<Duration>,
}

impl PurpleFlea {
    /// Starts a simulator with one account, [`LIVE_AGENT`]'s, with a balance of 0.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Shared { state: Arc::default(), requests: watch::channel(0).0 };
        let mut tasks = JoinSet::new();
        tasks.spawn(server::accept(listener, shared.clone()));
        Ok(Self { url, shared, _server: tasks })
    }

    /// Lists every executed bet, in order.
    pub fn bets(&self) -> Vec<Bet> {
        self.shared.state().ledger.iter().map(|entry| entry.bet.clone()).collect()
    }

    /// Lists every request in order, or only the last ones if there were very many.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.iter().cloned().collect()
    }

    /// Waits until `count` requests have arrived. It has no limit: the caller must limit it.
    pub async fn reached(&self, count: usize) {
        let mut requests = self.shared.requests.subscribe();
        // The sender lives as long as `self`.
        let _ = requests.wait_for(|seen| *seen >= count).await;
    }

    /// Plans the fault of one request. Faults that were planned earlier come first.
    pub fn misbehave_once(&self, fault: Fault) {
        self.shared.state().next.push_back(fault);
    }

    /// Sets a fault for all requests, until the next call; `None` ends it.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.shared.state().always = fault;
    }

    /// Sets random faults, for requests without another fault; `None` ends them. Each call starts the seed again.
    pub fn misbehave_at_random(&self, chaos: Option<Chaos>) {
        self.shared.state().chaos = chaos.map(chaos::Dice::new);
    }

    /// Leaves the next executed bet out of the history, independent of its reply. The real server has been seen to do
    /// that.
    pub fn forget_once(&self) {
        self.shared.state().forget += 1;
    }

    /// Sets how long each reply waits to a bet, or to another request that moves money. The simulator executes the
    /// request before.
    pub fn delay(&self, delay: Option<Duration>) {
        self.shared.state().delay = delay;
    }

    /// Moves the simulator's clock forward. Escrows time out, rate limits' windows end, and daily claims become due.
    /// Later events have the new time.
    pub fn advance(&self, by: Duration) {
        self.shared.state().clock_ahead += by;
    }

    /// Gives the state, after all effects that are due.
    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.state();
        state.settle();
        state
    }
}

impl State {
    /// Gives the simulator's time.
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.clock_ahead
    }

    /// Executes all effects that are due by now.
    fn settle(&mut self) {
        self.finish_claims();
        self.refund_timed_out();
    }

    /// Finds a bet by its id, which is its number.
    fn bet(&self, bet_id: &str) -> Option<&Entry> {
        let number: usize = bet_id.strip_prefix("bet_")?.parse().ok()?;
        self.ledger.get(number.checked_sub(1)?).filter(|entry| entry.bet.bet_id == bet_id)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
