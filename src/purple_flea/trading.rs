//! Trading: a position that is opened on a market.

use super::{
    Account, Api, Call, PurpleFlea, body,
    reply::{Doubt, Failure, Field},
};
use crate::{money::Amount, outside::Outside};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest name of a market, in bytes.
const MARKET_LIMIT_BYTES: usize = 20;

/// What a market's name may end in beside the coin: the `live` dialect has the coin alone.
const QUOTES: [&str; 6] = ["-PERP", "-USD", "-USDC", "/USDC", "/USD", "-USDT"];

/// A market: `BTC`, `ETH-USD`, `TSLA`. 1 to 20 of `A-Z a-z 0-9 . _ : / -`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Market(String);

impl Market {
    /// A market by its name; `None` where it cannot be one.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = (1..=MARKET_LIMIT_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b));
        plain.then(|| Self(name.to_owned()))
    }

    /// What the `live` dialect calls it.
    fn coin(&self) -> &str {
        QUOTES
            .iter()
            .find_map(|quote| self.0.strip_suffix(quote))
            .filter(|coin| !coin.is_empty())
            .unwrap_or(&self.0)
    }
}

impl<'de> Deserialize<'de> for Market {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("market must be 1 to 20 characters of A-Z a-z 0-9 . _ : / -"))
    }
}

/// Which way a position pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// When the price rises.
    #[serde(alias = "buy")]
    Long,
    /// When it falls.
    #[serde(alias = "sell")]
    Short,
}

impl Direction {
    /// Its name in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Short => "short",
        }
    }
}

/// How the gateway is asked: its two pages have two routes. The `live` dialect has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `POST /trade`.
    Trade,
    /// `POST /trading/order`.
    Order,
}

/// A position that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// On what.
    pub market: Market,
    /// Which way.
    pub direction: Direction,
    /// How much, in US dollars and whole cents.
    pub size: Amount,
    /// How it is asked for.
    pub form: Form,
}

/// A position that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// How much of it, in US dollars; the real exchange fills a little more or less than was asked for.
    pub filled: Amount,
    /// At what price, where that is told.
    pub entry_price: Option<Amount>,
    /// Purple Flea's name for the position.
    pub position_id: Option<String>,
    /// And for the order.
    pub order_id: Option<String>,
}

impl PurpleFlea {
    /// Opens a position, once. There is no history in which it could be found by our name for it.
    pub async fn open(
        &self,
        order: &Order,
        account: &Account,
        bet_key: &str,
        outside: &impl Outside,
    ) -> Result<Fill, Failure> {
        let Order { market, direction, size, form } = order;
        let (agent_id, amount) = (account.name.as_str().into(), (*size).into());
        let (service, route, body) = match (self.api, form) {
            (Api::Gateway, Form::Trade) => (
                &self.casino,
                "/trade",
                body([
                    ("agent_id", agent_id),
                    ("market", market.0.as_str().into()),
                    ("size", amount),
                    ("side", direction.name().into()),
                ]),
            ),
            (Api::Gateway, Form::Order) => (
                &self.trading,
                "/trading/order",
                body([
                    ("agent_id", agent_id),
                    ("asset", market.0.as_str().into()),
                    ("side", bought_or_sold(*direction).into()),
                    ("size_usdc", amount),
                    ("order_type", "market".into()),
                ]),
            ),
            (Api::Live, _) => (
                &self.trading,
                "/v1/trade/open",
                body([
                    ("coin", market.coin().into()),
                    ("side", direction.name().into()),
                    ("size_usd", amount),
                ]),
            ),
        };
        let call =
            Call { finals: &["daily_loss_limit_reached"], ..Call::post(route.to_owned(), body, bet_key) };
        let reply = self.call(service, account, call, outside).await?;
        let position_id = reply.word(&["position_id"]);
        let order_id = reply.word(&["order_id", "id"]);
        if position_id.is_none() && order_id.is_none() {
            // Something was done, and nothing says what.
            return Err(Failure::Unknown(Doubt::Unrecognised));
        }
        let filled = reply.amount(&["size_usd", "size_usdc", "size"]);
        let filled = filled.filter(|filled| *filled > Amount::ZERO).unwrap_or(*size);
        Ok(Fill { filled, entry_price: reply.amount(&["entry_price", "price"]), position_id, order_id })
    }
}

fn bought_or_sold(direction: Direction) -> &'static str {
    match direction {
        Direction::Long => "buy",
        Direction::Short => "sell",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_market_has_a_plain_short_name_and_the_live_dialect_its_coin_alone() {
        for (name, coin) in [
            ("BTC", "BTC"),
            ("BTC-USD", "BTC"),
            ("ETH-PERP", "ETH"),
            ("SOL/USDC", "SOL"),
            ("-USD", "-USD"),
            ("xyz:TSLA", "xyz:TSLA"),
        ] {
            assert_eq!(Market::parse(name).unwrap().coin(), coin);
        }
        for name in ["", "BTC USD", "<b>", "ABCDEFGHIJKLMNOPQRSTU", "É"] {
            assert_eq!(Market::parse(name), None);
        }
    }
}
