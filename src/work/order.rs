//! An order that somebody asked for by hand: a position, under its agent's daily limits.

use super::{Means, out_of_time};
use crate::{
    ending::{
        Ending, Wait,
        done::{Asked, Done},
    },
    money::Amount,
    outside::Outside,
    policy::{Decision, Policy, Spent},
    purple_flea::trading::{Direction, Form, Market, Order},
    skip::Skip,
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// What a caller asks for. `asset`, `buy` and `sell`, and `size_usdc` are what the gateway's second page calls
/// `market`, `long` and `short`, and `size`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRow {
    /// For whom.
    pub agent_id: String,
    /// On what.
    #[serde(alias = "asset")]
    pub market: Market,
    /// Which way.
    #[serde(alias = "side", default = "long")]
    pub direction: Direction,
    /// How much, in US dollars.
    #[serde(alias = "size_usdc")]
    pub size: Amount,
}

fn long() -> Direction {
    Direction::Long
}

/// An order and the limits it is judged by.
#[derive(Debug)]
pub struct Case {
    /// For whom.
    pub agent_id: String,
    /// What is to be opened.
    pub order: Order,
    /// The agent's policy, in ledger mode.
    pub policy: Option<Policy>,
    /// What the agent has spent today, where the policy limits that.
    pub spent: Option<Spent>,
}

impl OrderRow {
    /// The work that it asks for.
    pub fn case(self, form: Form, policy: Option<Policy>, spent: Option<Spent>) -> Case {
        let Self { agent_id, market, direction, size } = self;
        Case { agent_id, order: Order { market, direction, size, form }, policy, spent }
    }
}

impl Case {
    /// Opens the position, if the day's limits leave room for it.
    pub async fn run(&self, means: &Means<'_, impl Outside>) -> Ending {
        let Self { agent_id, order, policy, spent } = self;
        if !is_whole_cents(order.size) || order.size <= Amount::ZERO {
            return Ending::skipped(agent_id, Skip::InvalidAmount);
        }
        match policy.as_ref().and_then(|policy| policy.within_the_day(order.size, spent.as_ref())) {
            None => {}
            Some(Decision::Skip(skip)) => return Ending::skipped(agent_id, skip),
            Some(_) => return Ending::waiting(agent_id, Wait::DailyLimitOpen),
        }
        if !means.in_time() {
            return out_of_time(agent_id);
        }
        match means.purple_flea.open(order, means.account, means.bet_key, means.outside).await {
            Ok(fill) => Ending::executed(agent_id, Done::trade(order.clone(), fill)),
            Err(failure) => Ending::failed(agent_id, Asked::from(order), failure),
        }
    }
}

/// Purple Flea's servers take fractions of a cent, and round them in their replies: then nobody's books agree.
pub fn is_whole_cents(amount: Amount) -> bool {
    amount.decimal().checked_mul(Decimal::ONE_HUNDRED).is_some_and(|cents| cents.fract().is_zero())
}
