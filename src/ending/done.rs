//! What was done, as replies and the ledger have it; and, of what was not, what had been asked.

use crate::{
    game::{CashoutAt, Game, GameName, Side},
    money::Amount,
    policy::Bet,
    purple_flea::{
        escrow::Escrow,
        faucet::Credit,
        games::{Outcome, Proof},
        trading::{Direction, Fill, Form, Market, Order},
    },
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// What was done. As replies and the ledger have it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Done {
    /// A bet was made.
    Bet(PlayedBet),
    /// A position was opened.
    Trade(OpenedTrade),
    /// An account was made.
    Registration {
        /// What Purple Flea calls the agent.
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<String>,
        /// The agent's own referral code.
        #[serde(skip_serializing_if = "Option::is_none")]
        referral_code: Option<String>,
    },
    /// The faucet gave.
    Faucet(Credit),
    /// The balance was looked at.
    Balance {
        /// What the account holds, in US dollars.
        balance: Amount,
    },
    /// An escrow was made, or ended.
    Escrow(Escrow),
}

/// A bet that was made, and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct PlayedBet {
    game: GameName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cashout_at: Option<CashoutAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<Side>,
    wager: Amount,
    pub(super) outcome: &'static str,
    payout: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash_point: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bet_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// A position that was opened.
#[derive(Debug, Clone, Serialize)]
pub struct OpenedTrade {
    market: Market,
    direction: Direction,
    size: Amount,
    /// What it counts as against daily limits: what was filled.
    wager: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_price: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
}

/// What was to be done, of what was not.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Asked {
    /// A bet.
    Bet {
        /// On what.
        game: GameName,
        /// With how much.
        wager: Amount,
    },
    /// A position.
    Trade {
        /// On what.
        market: Market,
        /// Which way.
        direction: Direction,
        /// How much of it.
        size: Amount,
    },
    /// Anything else: its reference says it all.
    Other {},
}

#[derive(Serialize)]
struct ExecutedBody<'a> {
    status: &'static str,
    reference: &'a str,
    agent_id: &'a str,
    #[serde(flatten)]
    done: &'a Done,
}

impl Done {
    /// A bet and its outcome; with a `reason` where that is not simply that it was made.
    pub fn bet(bet: &Bet, outcome: &Outcome, reason: Option<&'static str>) -> Self {
        let (cashout_at, side) = match bet.game {
            Game::Crash(cashout_at) => (Some(cashout_at), None),
            Game::CoinFlip(side) => (None, Some(side)),
        };
        Self::Bet(PlayedBet {
            game: bet.game.name(),
            cashout_at,
            side,
            wager: bet.wager,
            outcome: if outcome.won { "win" } else { "loss" },
            payout: outcome.payout,
            crash_point: outcome.crash_point,
            bet_id: outcome.bet_id.clone(),
            proof: outcome.proof.clone(),
            reason,
        })
    }

    /// A position as it was asked for and filled.
    pub fn trade(order: Order, fill: Fill) -> Self {
        Self::Trade(OpenedTrade {
            market: order.market,
            direction: order.direction,
            size: order.size,
            wager: fill.filled,
            entry_price: fill.entry_price,
            position_id: fill.position_id,
            order_id: fill.order_id,
        })
    }

    /// All there is to say about it, as JSON.
    pub fn body(&self, agent_id: &str, reference: &str) -> Box<RawValue> {
        to_raw_value(&ExecutedBody { status: "executed", reference, agent_id, done: self })
            // Nothing that is written here can fail to be JSON.
            .unwrap_or_default()
    }

    /// Its name in the log.
    pub fn decision(&self) -> &'static str {
        match self {
            Self::Bet(_) => "bet",
            Self::Trade(_) => "trade",
            Self::Registration { .. } => "registration",
            Self::Faucet(_) => "faucet",
            Self::Balance { .. } => "balance",
            Self::Escrow(_) => "escrow",
        }
    }
}

impl From<&Bet> for Asked {
    fn from(bet: &Bet) -> Self {
        Self::Bet { game: bet.game.name(), wager: bet.wager }
    }
}

impl From<&Order> for Asked {
    fn from(Order { market, direction, size, form: Form::Trade | Form::Order }: &Order) -> Self {
        Self::Trade { market: market.clone(), direction: *direction, size: *size }
    }
}
