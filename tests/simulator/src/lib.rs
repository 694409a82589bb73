//! A simulator of Purple Flea: its six services in both dialects, by what was measured of the real ones (purple-flea.md),
//! and every bet, escrow and position that it took. It has no idempotency either: the same request twice is two bets.
//! It can be told to misbehave in every way that a server behind a network does, once, always or by chance.
//!
//! | service | module |
//! | --- | --- |
//! | who answers what, and what stands before it: limits, keys, bodies | `routes`, `limits`, `call` |
//! | registration, keys, balances | `accounts` |
//! | crash and coin-flip, their ceiling, their history, their fairness | `games`, `kelly`, `history`, `house`, `fairness` |
//! | the faucet | `faucet` |
//! | escrow | `escrow` |
//! | trading | `trading` |
//! | faults | `server`, `chaos` |

mod accounts;
mod answer;
mod call;
mod chaos;
mod escrow;
mod fairness;
mod faucet;
mod games;
mod history;
mod house;
mod kelly;
mod limits;
mod money;
mod routes;
mod server;
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

/// The key that works everywhere but at trading: in `live` it is [`LIVE_AGENT`]'s, in `gateway` an orchestrator's, which
/// acts for every agent that it names.
pub const KEY: &str = "pf_live_simulator_0123456789abcdef";

/// Whose account the `live` dialect's bets with [`KEY`] are on: there the key decides.
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
    /// What was paid, the stake included, in whole cents as it was told; 0 for a loss. In `live` the account gets what it is
    /// before rounding.
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

/// A way to misbehave.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Whether the bet is executed, or whatever else was asked for is done all the same, before anything goes wrong.
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
    /// The right answer, whose proof has a nonce that no database holds.
    OddNumber,
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
    /// What its account was paid: in `live` not rounded.
    exact_payout: Decimal,
    proof: house::Proof,
}

#[derive(Default)]
struct State {
    accounts: accounts::Accounts,
    ledger: Vec<Entry>,
    house: house::House,
    faucet: faucet::Faucet,
    escrows: escrow::Escrows,
    trading: trading::Trading,
    gate: limits::Gate,
    /// How far its clock is ahead of this machine's.
    clock_ahead: Duration,
    requests: VecDeque<Request>,
    next: VecDeque<Fault>,
    always: Option<Fault>,
    chaos: Option<chaos::Dice>,
    forget: usize,
    delay: Option<Duration>,
}

impl PurpleFlea {
    /// Starts a simulator with one account, [`LIVE_AGENT`]'s, and nothing on it.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Shared { state: Arc::default(), requests: watch::channel(0).0 };
        let mut tasks = JoinSet::new();
        tasks.spawn(server::accept(listener, shared.clone()));
        Ok(Self { url, shared, _server: tasks })
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

    /// How long each reply to a bet, or to whatever else moves money, waits before it is sent. The bet is taken before.
    pub fn delay(&self, delay: Option<Duration>) {
        self.shared.state().delay = delay;
    }

    /// Moves its clock forward: escrows time out, windows of limits end, the next day's claims are due. What happens from
    /// then on has that time.
    pub fn advance(&self, by: Duration) {
        self.shared.state().clock_ahead += by;
    }

    /// Its state, with everything done that was due.
    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.state();
        state.settle();
        state
    }
}

impl State {
    /// The simulator's time.
    fn now(&self) -> SystemTime {
        SystemTime::now() + self.clock_ahead
    }

    /// Does what time alone brings about.
    fn settle(&mut self) {
        self.finish_claims();
        self.refund_timed_out();
    }

    /// A bet by its name, which is its number.
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
