//! Orders: positions on a market, and the row that asks for one.

use super::amount::Amount;
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

    /// The name, as the caller wrote it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The coin alone, as the `live` dialect names a market.
    pub fn coin(&self) -> &str {
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
    pub fn name(self) -> &'static str {
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

/// A caller's request for a position. `asset`, `buy` and `sell`, and `size_usdc` are the names that the gateway's
/// second page has for `market`, `long` and `short`, and `size`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRow {
    /// The agent that the position is for.
    pub agent_id: String,
    /// The market.
    #[serde(alias = "asset")]
    pub market: Market,
    /// The direction; `long` if the row names none.
    #[serde(alias = "side", default = "long")]
    pub direction: Direction,
    /// The size, in US dollars.
    #[serde(alias = "size_usdc")]
    pub size: Amount,
}

fn long() -> Direction {
    Direction::Long
}

impl OrderRow {
    /// The order that the row asks for.
    pub fn order(self, form: Form) -> Order {
        let Self { market, direction, size, .. } = self;
        Order { market, direction, size, form }
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
