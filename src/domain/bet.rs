//! Bets: the games, a caller's choice for one call, a bet and its outcome.

use super::{
    amount::Amount,
    order::{Direction, Market},
};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// Digits after the point of a cash-out. Purple Flea's crash point has two as well.
const HUNDREDTHS: u32 = 2;

/// Highest payout of a coin-flip per dollar. Purple Flea's pages say 1.95 to 1.99; two is a safe bound.
const COIN_FLIP_HIGHEST_PAYOUT: Decimal = Decimal::TWO;

/// Highest payout of hi-lo per dollar: the cap of Purple Flea's multiplier.
const HI_LO_HIGHEST_PAYOUT: Decimal = Decimal::from_parts(12, 0, 0, false, 0);

/// The probability of a win by which Purple Flea's `live` servers limit a coin-flip.
const COIN_FLIP_WINS: Decimal = Decimal::from_parts(5, 0, 0, false, 1);

/// The probability by which they limit hi-lo. They take the same one for every first card.
const HI_LO_WINS: Decimal = Decimal::from_parts(46, 0, 0, false, 2);

/// The probability by which they limit crash, times the cash-out: one without the house's edge.
const CRASH_WINS: Decimal = Decimal::from_parts(995, 0, 0, false, 3);

/// The game that a deposit can lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GameName {
    /// Crash: a multiplier climbs until it crashes. The bet wins if the multiplier passes the cash-out first.
    Crash,
    /// Coin-flip: heads or tails.
    CoinFlip,
    /// Hi-lo: whether the second card is higher or lower than the first.
    HiLo,
    /// A position on a market, in place of a game.
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
    /// Returns the side's name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heads => "heads",
            Self::Tails => "tails",
        }
    }
}

/// The guess of a hi-lo bet: how the second card compares with the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Guess {
    /// The second card is higher.
    #[default]
    Higher,
    /// The second card is lower.
    Lower,
}

impl Guess {
    /// Returns the guess' name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        }
    }
}

/// The multiplier at which a crash bet cashes out: 1.01 to 100, with at most two digits after the point.
/// Purple Flea's crash point has two digits as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CashoutAt(Amount);

impl CashoutAt {
    /// Makes a cash-out. Returns `None` outside 1.01 to 100, or for a fraction of a hundredth.
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

/// A game with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Game {
    /// Crash, with its cash-out.
    Crash(CashoutAt),
    /// Coin-flip, with its side.
    CoinFlip(Side),
    /// Hi-lo, with its guess.
    HiLo(Guess),
}

impl Game {
    /// Returns the game's name.
    pub fn name(self) -> GameName {
        match self {
            Self::Crash(_) => GameName::Crash,
            Self::CoinFlip(_) => GameName::CoinFlip,
            Self::HiLo(_) => GameName::HiLo,
        }
    }

    /// Returns the highest payout of a one-dollar bet, in US dollars.
    pub fn highest_payout_per_dollar(self) -> Decimal {
        match self {
            Self::Crash(CashoutAt(at)) => at.decimal(),
            Self::CoinFlip(_) => COIN_FLIP_HIGHEST_PAYOUT,
            Self::HiLo(_) => HI_LO_HIGHEST_PAYOUT,
        }
    }

    /// Returns the value times the probability of a win by which Purple Flea's `live` servers limit the game;
    /// `None` if the product does not fit a decimal. The division comes last, so it alone is inexact.
    pub fn times_win_probability(self, value: Decimal) -> Option<Decimal> {
        match self {
            Self::Crash(CashoutAt(at)) => value.checked_mul(CRASH_WINS)?.checked_div(at.decimal()),
            Self::CoinFlip(_) => value.checked_mul(COIN_FLIP_WINS),
            Self::HiLo(_) => value.checked_mul(HI_LO_WINS),
        }
    }
}

/// A bet for the function to place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bet {
    /// The agent that bets.
    pub agent_id: String,
    /// The game, with its parameters.
    pub game: Game,
    /// The wager, in US dollars and whole cents.
    pub wager: Amount,
}

/// A caller's request for a bet.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BetRow {
    /// The agent that bets.
    pub agent_id: String,
    /// The game.
    pub game: GameName,
    /// The side of a coin-flip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<Side>,
    /// The cash-out of a crash bet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cashout_at: Option<CashoutAt>,
    /// The guess of a hi-lo bet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guess: Option<Guess>,
    /// The wager, in US dollars.
    pub wager: Amount,
}

impl BetRow {
    /// Returns the game with its parameter. Returns `None` unless the row has the game's own parameter and no other,
    /// so that a row of one game never becomes a bet on another.
    pub fn game(&self) -> Option<Game> {
        match (self.game, self.side, self.cashout_at, self.guess) {
            (GameName::CoinFlip, Some(side), None, None) => Some(Game::CoinFlip(side)),
            (GameName::Crash, None, Some(cashout_at), None) => Some(Game::Crash(cashout_at)),
            (GameName::HiLo, None, None, Some(guess)) => Some(Game::HiLo(guess)),
            _ => None,
        }
    }
}

/// The outcome of a bet that Purple Flea accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BetOutcome {
    /// Whether the bet was won.
    pub won: bool,
    /// The payout in US dollars, stake included: 0 for a loss. `None` for a win whose reply names no payout.
    pub payout: Option<Amount>,
    /// Purple Flea's id of the bet.
    pub bet_id: Option<String>,
    /// The multiplier at which the game crashed, for a crash bet whose reply names it.
    pub crash_point: Option<Amount>,
    /// The balance after the bet, in US dollars, if the reply names that of the agent's own account.
    pub balance: Option<Amount>,
    /// The data that verifies the bet later.
    pub proof: Option<Proof>,
}

/// Returns the payout of a bet that was won. The `live` servers credit the wager times the multiplier, and
/// report it in cents. A product that differs from the reported payout by more than a cent contradicts the
/// reply; then the reported payout counts.
pub fn payout(
    reported: Option<Amount>,
    wager: Option<Amount>,
    multiplier: Option<Decimal>,
) -> Option<Amount> {
    let credited = wager.zip(multiplier).and_then(|(wager, multiplier)| wager.times(multiplier));
    let agrees = |credited: &Amount| reported.is_none_or(|reported| reported.agrees_to_the_cent(*credited));
    credited.filter(agrees).or(reported)
}

/// The data with which `scripts/verify-fairness` verifies a bet of the `live` dialect, once Purple Flea
/// reveals the server seed. Each value is as Purple Flea wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// SHA-256 of the server seed, in hexadecimal digits.
    pub server_seed_hash: String,
    /// The client seed, which is the job's idempotency key.
    pub client_seed: String,
    /// The number of the bet among the seed's bets.
    pub nonce: serde_json::Number,
    /// HMAC-SHA256 of `client_seed:nonce` under the seed, in hexadecimal digits.
    pub result_hash: String,
}

/// A caller's choice of game for one call. A signature covers it. A choice never changes a limit or the
/// pause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The game.
    pub game: Option<GameName>,
    /// The cash-out of a crash bet.
    pub cashout_at: Option<CashoutAt>,
    /// The side of a coin-flip.
    pub side: Option<Side>,
    /// The guess of a hi-lo bet.
    pub guess: Option<Guess>,
    /// The market of a trade.
    pub market: Option<Market>,
    /// The direction of a trade.
    pub direction: Option<Direction>,
}
