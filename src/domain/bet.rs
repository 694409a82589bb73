//! Bets: the games, the choice that a caller may make for one call, a bet and its outcome.

use super::{
    amount::Amount,
    order::{Direction, Market},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// Digits after the point of a cash-out: the crash point itself is a number of hundredths.
const HUNDREDTHS: u32 = 2;

/// The most that a won coin-flip pays per dollar. Purple Flea's pages say 1.95 to 1.99; two is the bound.
const COIN_FLIP_PAYS_AT_MOST: Decimal = Decimal::TWO;

/// What a deposit can be bet on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GameName {
    /// A multiplier climbs until it crashes; won when it passes the cash-out first.
    Crash,
    /// Heads or tails.
    CoinFlip,
    /// No game: a position on a market.
    Trade,
}

/// A side of the coin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Heads.
    Heads,
    /// Tails.
    Tails,
}

impl Side {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heads => "heads",
            Self::Tails => "tails",
        }
    }
}

/// The multiplier at which a crash bet cashes out: 1.01 to 100, at most two digits after the point (the crash
/// point itself is a number of hundredths).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CashoutAt(Amount);

impl CashoutAt {
    /// A cash-out; `None` outside 1.01 to 100, or with a fraction of a hundredth.
    pub fn new(amount: Amount) -> Option<Self> {
        let value = amount.decimal().normalize();
        let lowest = Decimal::from_parts(101, 0, 0, false, HUNDREDTHS);
        let inside = value >= lowest && value <= Decimal::ONE_HUNDRED && value.scale() <= HUNDREDTHS;
        Amount::new(value).ok().filter(|_| inside).map(Self)
    }
}

impl From<CashoutAt> for Value {
    fn from(CashoutAt(amount): CashoutAt) -> Self {
        amount.into()
    }
}

impl<'de> Deserialize<'de> for CashoutAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Amount::deserialize(deserializer)?).ok_or_else(|| {
            de::Error::custom(
                "cashout_at must lie within 1.01 and 100, with at most 2 digits after the point",
            )
        })
    }
}

/// A game with what it needs to be played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Game {
    /// Crash, cashing out at a multiplier.
    Crash(CashoutAt),
    /// Coin-flip on a side.
    CoinFlip(Side),
}

impl Game {
    /// Its name.
    pub fn name(self) -> GameName {
        match self {
            Self::Crash(_) => GameName::Crash,
            Self::CoinFlip(_) => GameName::CoinFlip,
        }
    }

    /// The most that a dollar on it can pay.
    pub fn pays_at_most(self) -> Decimal {
        match self {
            Self::Crash(CashoutAt(at)) => at.decimal(),
            Self::CoinFlip(_) => COIN_FLIP_PAYS_AT_MOST,
        }
    }
}

/// A bet that the function is to place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bet {
    /// The agent whose deposit it is.
    pub agent_id: String,
    /// The game, with its parameters.
    pub game: Game,
    /// The wager, in US dollars and whole cents.
    pub wager: Amount,
}

/// The outcome of a bet that Purple Flea took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BetOutcome {
    /// Whether the bet was won.
    pub won: bool,
    /// The payout, stake included: 0 for a loss, `None` for a win whose reply names none.
    pub payout: Option<Amount>,
    /// Purple Flea's id of the bet.
    pub bet_id: Option<String>,
    /// The multiplier at which the game crashed, for a crash bet whose reply names it.
    pub crash_point: Option<Amount>,
    /// The data that a person can check the bet by later.
    pub proof: Option<Proof>,
}

/// The data that `scripts/verify-fairness` checks a bet of the `live` dialect by, once Purple Flea reveals the server
/// seed. As Purple Flea wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The commitment to the seed that decided: SHA-256, in hexadecimal digits.
    pub server_seed_hash: String,
    /// Our part of the seed: the idempotency key.
    pub client_seed: String,
    /// The number of the bet among the seed's bets.
    pub nonce: serde_json::Number,
    /// HMAC-SHA256 of `client_seed:nonce` under the seed, in hexadecimal digits.
    pub result_hash: String,
}

/// What a caller may choose for one call, under its signature: never a limit, never the pause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The game.
    pub game: Option<GameName>,
    /// The cash-out of a crash bet.
    pub cashout_at: Option<CashoutAt>,
    /// The side of a coin-flip.
    pub side: Option<Side>,
    /// The market of a trade.
    pub market: Option<Market>,
    /// Which way a trade goes.
    pub direction: Option<Direction>,
}
