//! The record of an executed task, as replies and the ledger have it, and the record of an attempt that did
//! not succeed.

use super::{
    account::Credit,
    amount::Amount,
    bet::{Bet, BetOutcome, CashoutAt, Game, GameName, Guess, Proof, Side},
    escrow::Escrow,
    order::{Direction, Fill, Form, Market, Order},
    policy::Stake,
    position::Closed,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// The record of an executed task, as replies and the ledger have it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Completed {
    /// A bet.
    Bet(Box<PlacedBet>),
    /// A position.
    Trade(OpenedTrade),
    /// A new account.
    Registration {
        /// The agent's name at Purple Flea.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<String>,
        /// The agent's own referral code.
        #[serde(skip_serializing_if = "Option::is_none")]
        referral_code: Option<String>,
        /// The referral code that the registration carried: that of the agent that brought this one in.
        #[serde(skip_serializing_if = "Option::is_none")]
        referred_by: Option<String>,
    },
    /// A faucet claim.
    Faucet(Credit),
    /// A balance that Purple Flea reported.
    Balance {
        /// The balance, in US dollars.
        balance: Amount,
    },
    /// An escrow that Purple Flea made or ended.
    Escrow(Escrow),
    /// A position that Purple Flea closed.
    Close(Closed),
}

/// A bet and its outcome.
#[derive(Debug, Clone, Serialize)]
pub struct PlacedBet {
    game: GameName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cashout_at: Option<CashoutAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guess: Option<Guess>,
    wager: Amount,
    outcome: &'static str,
    payout: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash_point: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bet_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// A position that was opened.
#[derive(Debug, Clone, Serialize)]
pub struct OpenedTrade {
    market: Market,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<Direction>,
    size: Amount,
    /// The amount that counts against daily limits: the filled amount.
    wager: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    leverage: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_price: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
}

/// The task that the function attempted.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Attempted {
    /// A bet.
    Bet {
        /// The game.
        game: GameName,
        /// The wager, in US dollars.
        wager: Amount,
    },
    /// A position.
    Trade {
        /// The market.
        market: Market,
        /// The direction, if it was chosen.
        #[serde(skip_serializing_if = "Option::is_none")]
        direction: Option<Direction>,
        /// The size, in US dollars.
        size: Amount,
    },
    /// Any other task. The job's reference names it.
    Other {},
}

#[derive(Serialize)]
struct ExecutedBody<'a> {
    status: &'static str,
    reference: &'a str,
    agent_id: &'a str,
    #[serde(flatten)]
    completed: &'a Completed,
}

impl Completed {
    /// Makes the record of a bet and its outcome. `reason` says that a look-up found the bet.
    pub fn bet(bet: &Bet, outcome: &BetOutcome, reason: Option<&'static str>) -> Self {
        let (cashout_at, side, guess) = match bet.game {
            Game::Crash(cashout_at) => (Some(cashout_at), None, None),
            Game::CoinFlip(side) => (None, Some(side), None),
            Game::HiLo(guess) => (None, None, Some(guess)),
        };
        Self::Bet(Box::new(PlacedBet {
            game: bet.game.name(),
            cashout_at,
            side,
            guess,
            wager: bet.wager,
            outcome: if outcome.won { "win" } else { "loss" },
            payout: outcome.payout,
            crash_point: outcome.crash_point,
            bet_id: outcome.bet_id.clone(),
            balance: outcome.balance,
            proof: outcome.proof.clone(),
            reason,
        }))
    }

    /// Makes the record of a position, as ordered and as filled.
    pub fn trade(order: Order, fill: Fill) -> Self {
        Self::Trade(OpenedTrade {
            market: order.market,
            direction: fill.direction,
            size: order.size,
            wager: fill.filled,
            leverage: fill.leverage,
            entry_price: fill.entry_price,
            position_id: fill.position_id,
            order_id: fill.order_id,
        })
    }

    /// Returns the complete result as JSON.
    pub fn body(&self, agent_id: &str, reference: &str) -> Box<RawValue> {
        to_raw_value(&ExecutedBody { status: "executed", reference, agent_id, completed: self })
            // All keys are strings and all values are of known types, so this always serialises.
            .unwrap_or_default()
    }

    /// Returns the decision's name in the log.
    pub fn decision(&self) -> &'static str {
        match self {
            Self::Bet(_) => "bet",
            Self::Trade(_) => "trade",
            Self::Registration { .. } => "registration",
            Self::Faucet(_) => "faucet",
            Self::Balance { .. } => "balance",
            Self::Escrow(_) => "escrow",
            Self::Close(_) => "close",
        }
    }

    /// Returns `win` or `loss` for a bet, `None` for any other task.
    pub fn bet_result(&self) -> Option<&'static str> {
        match self {
            Self::Bet(bet) => Some(bet.outcome),
            _ => None,
        }
    }
}

impl Attempted {
    /// Returns the decision's name in the log, if the task has one.
    pub fn decision(&self) -> Option<&'static str> {
        match self {
            Self::Bet { .. } => Some("bet"),
            Self::Trade { .. } => Some("trade"),
            Self::Other {} => None,
        }
    }
}

impl From<&Stake> for Attempted {
    fn from(stake: &Stake) -> Self {
        match stake {
            Stake::Bet(bet) => bet.into(),
            Stake::Order(order) => order.into(),
        }
    }
}

impl From<&Bet> for Attempted {
    fn from(bet: &Bet) -> Self {
        Self::Bet { game: bet.game.name(), wager: bet.wager }
    }
}

impl From<&Order> for Attempted {
    fn from(Order { market, direction, size, leverage: _, form: Form::Trade | Form::Order }: &Order) -> Self {
        Self::Trade { market: market.clone(), direction: *direction, size: *size }
    }
}
