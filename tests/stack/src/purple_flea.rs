//! A simulator of Purple Flea: accounts, balances and a ledger of every bet it took, in both dialects of the two games.
//! It has no idempotency either: the same request twice is two bets. It can be told to misbehave in every way that a
//! server behind a network does, once, always or by chance.

mod chaos;
mod games;
mod history;
mod house;
mod server;
#[cfg(test)]
mod testing;

pub use chaos::Chaos;

use crate::http1;
use anyhow::Result;
use http::StatusCode;
use rust_decimal::Decimal;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{sync::watch, task::JoinSet};

/// The key that it takes.
pub const KEY: &str = "pf_live_simulator_0123456789abcdef";

/// Whose account the `live` dialect's bets are on: there the key decides, and we have one.
pub const LIVE_AGENT: &str = "ag_simulator";

/// Most requests that are kept; of more, the oldest are forgotten.
const REQUESTS_LIMIT: usize = 20_000;

/// A running simulator. Ends when it is dropped.
pub struct PurpleFlea {
    /// Its URL, without a slash at the end.
    pub url: String,
    shared: Shared,
    _server: JoinSet<()>,
}

/// A bet that it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bet {
    /// Its own name for the bet.
    pub bet_id: String,
    /// Whose bet.
    pub agent_id: String,
    /// `crash` or `coin-flip`.
    pub game: &'static str,
    /// What was staked.
    pub wager: Decimal,
    /// Whether it was won.
    pub won: bool,
    /// What was paid, the stake included; 0 for a loss.
    pub payout: Decimal,
    /// Where the multiplier crashed, for a crash bet.
    pub crash_point: Option<Decimal>,
    /// The caller's `Idempotency-Key`, which the simulator ignores as the real one does.
    pub idempotency_key: Option<String>,
    /// The caller's `client_seed`, in the `live` dialect, if it chose one.
    pub client_seed: Option<String>,
    /// Whether it left a row in the history, which shows those of the `live` dialect.
    pub in_history: bool,
    /// When it was taken.
    pub at: SystemTime,
}

impl Bet {
    /// What its caller calls it.
    pub fn bet_key(&self) -> Option<&str> {
        self.client_seed.as_deref().or(self.idempotency_key.as_deref())
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
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

/// A way to misbehave.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Whether the bet is executed all the same, before anything goes wrong.
    pub after_the_bet: bool,
    /// What goes wrong.
    pub how: How,
}

/// What can go wrong.
#[derive(Debug, Clone)]
pub enum How {
    /// This answer, whatever was asked.
    Answer {
        /// Its status.
        status: StatusCode,
        /// Its headers, `content-type` among them if it is to have one.
        headers: Vec<(&'static str, String)>,
        /// Its body.
        body: String,
    },
    /// No answer, ever.
    Hang,
    /// The connection is reset instead of an answer.
    Reset,
    /// The right answer, a byte a second.
    Drip,
    /// The head of the right answer and half of its body; then the connection closes.
    BreakOff,
    /// The head of the right answer and half of its body; then nothing.
    Stall,
}

impl How {
    /// An answer with a JSON body.
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

/// A bet, and what only the history tells of it.
struct Entry {
    bet: Bet,
    live: bool,
    multiplier: Decimal,
    proof: house::Proof,
}

#[derive(Default)]
struct State {
    balances: HashMap<String, Decimal>,
    ledger: Vec<Entry>,
    requests: VecDeque<Request>,
    next: VecDeque<Fault>,
    always: Option<Fault>,
    chaos: Option<chaos::Dice>,
    forget: usize,
    delay: Option<Duration>,
    house: house::House,
}

impl PurpleFlea {
    /// Starts a simulator without accounts.
    pub async fn start() -> Result<Self> {
        let (listener, url) = http1::listen().await?;
        let shared = Shared { state: Arc::default(), requests: watch::channel(0).0 };
        let mut tasks = JoinSet::new();
        tasks.spawn(server::accept(listener, shared.clone()));
        Ok(Self { url, shared, _server: tasks })
    }

    /// Pays into an agent's account, which is opened if there is none.
    pub fn fund(&self, agent_id: &str, amount: Decimal) {
        *self.shared.state().balances.entry(agent_id.to_owned()).or_default() += amount;
    }

    /// What an agent's account holds.
    pub fn balance(&self, agent_id: &str) -> Decimal {
        self.shared.state().balances.get(agent_id).copied().unwrap_or_default()
    }

    /// Every bet it took, in order.
    pub fn bets(&self) -> Vec<Bet> {
        self.shared.state().ledger.iter().map(|entry| entry.bet.clone()).collect()
    }

    /// Every request that reached it, in order; of very many, the last ones.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.iter().cloned().collect()
    }

    /// Waits until so many requests have reached it. Waits for ever: bound it from outside.
    pub async fn reached(&self, count: usize) {
        let mut requests = self.shared.requests.subscribe();
        // The sender lives as long as `self`.
        let _ = requests.wait_for(|seen| *seen >= count).await;
    }

    /// Misbehaves once, after whatever was asked for before.
    pub fn misbehave_once(&self, fault: Fault) {
        self.shared.state().next.push_back(fault);
    }

    /// Misbehaves until told otherwise, or no longer.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.shared.state().always = fault;
    }

    /// Misbehaves by chance, wherever nothing else is asked for; or no longer. Starts the seed over.
    pub fn misbehave_at_random(&self, chaos: Option<Chaos>) {
        self.shared.state().chaos = chaos.map(chaos::Dice::new);
    }

    /// Leaves no row in the history of the next bet that it takes, whatever its reply is: the real one has
    /// been seen to do that.
    pub fn forget_once(&self) {
        self.shared.state().forget += 1;
    }

    /// How long each reply to a bet waits before it is sent. The bet is taken before.
    pub fn delay(&self, delay: Option<Duration>) {
        self.shared.state().delay = delay;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
