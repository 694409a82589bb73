//! Orders: positions on a market, and the row that requests one.

use super::amount::Amount;
use serde::{Deserialize, Deserializer, Serialize, de};

/// Longest name of a market, in bytes.
const MARKET_LIMIT_BYTES: usize = 20;

/// Suffixes, in any case, that a market's name may have after the coin. The `live` dialect uses the coin alone.
const QUOTES: [&str; 6] = ["-PERP", "-USD", "-USDC", "/USDC", "/USD", "-USDT"];

/// A market: `BTC`, `ETH-USD`, `TSLA`. 1 to 20 of `A-Z a-z 0-9 . _ : / -`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Market(String);

impl Market {
    /// Makes a market from its name. Returns `None` if the name has another form.
    pub fn parse(name: &str) -> Option<Self> {
        let plain = (1..=MARKET_LIMIT_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b));
        plain.then(|| Self(name.to_owned()))
    }

    /// Returns the name as the caller wrote it.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Returns the coin alone, as the `live` dialect names a market.
    pub fn coin(&self) -> &str {
        QUOTES
            .iter()
            .find_map(|quote| {
                let (coin, end) = self.0.split_at_checked(self.0.len().checked_sub(quote.len())?)?;
                end.eq_ignore_ascii_case(quote).then_some(coin)
            })
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

/// The direction of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The position gains if the price rises.
    #[serde(alias = "buy")]
    Long,
    /// The position gains if the price falls.
    #[serde(alias = "sell")]
    Short,
}

impl Direction {
    /// The direction of a position for which nobody chose one, where Purple Flea demands one.
    pub const DEFAULT: Self = Self::Long;

    /// Reads a direction from the name that a reply gives it.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Long, Self::Short].into_iter().find(|direction| direction.name() == name)
    }

    /// Returns the direction's name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Long => "long",
            Self::Short => "short",
        }
    }
}

/// The leverage of a position: a whole number from 1 to 50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Leverage(u64);

impl Leverage {
    /// The highest leverage that Purple Flea grants any account.
    const MAX: u64 = 50;

    /// Makes a leverage. Returns `None` outside 1 to 50.
    pub fn new(times: u64) -> Option<Self> {
        (1..=Self::MAX).contains(&times).then_some(Self(times))
    }

    /// Returns the leverage as a number.
    pub fn times(self) -> u64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Leverage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("leverage must be a whole number from 1 to 50"))
    }
}

/// The gateway's route for a position: its two pages document two routes. The `live` dialect has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `POST /trade`.
    Trade,
    /// `POST /trading/order`.
    Order,
}

/// A position to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The market.
    pub market: Market,
    /// The direction, if the caller or the policy chose one.
    pub direction: Option<Direction>,
    /// The size, in US dollars and whole cents.
    pub size: Amount,
    /// The leverage, if the caller or the policy chose one.
    pub leverage: Option<Leverage>,
    /// The route of the gateway.
    pub form: Form,
}

/// A position that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// The filled amount, in US dollars. The real exchange fills a little more or less than the order's size.
    pub filled: Amount,
    /// The direction that was sent, or else the one that Purple Flea reports.
    pub direction: Option<Direction>,
    /// The leverage that Purple Flea used, if it reports it.
    pub leverage: Option<Amount>,
    /// The price, if Purple Flea reports it.
    pub entry_price: Option<Amount>,
    /// Purple Flea's id of the position.
    pub position_id: Option<String>,
    /// Purple Flea's id of the order.
    pub order_id: Option<String>,
}

/// A caller's request for a position. The gateway's second page calls `market` `asset`, `direction` `side`, and
/// `size` `size_usdc`. The function accepts all names, and `buy` and `sell` as directions.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRow {
    /// The agent that the position is for.
    pub agent_id: String,
    /// The market.
    #[serde(alias = "asset")]
    pub market: Market,
    /// The direction, if the caller chose one.
    #[serde(alias = "side", skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The size, in US dollars.
    #[serde(alias = "size_usdc")]
    pub size: Amount,
    /// The leverage, if the caller chose one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leverage: Option<Leverage>,
}

impl OrderRow {
    /// Returns the order that the row requests.
    pub fn order(self, form: Form) -> Order {
        let Self { market, direction, size, leverage, .. } = self;
        Order { market, direction, size, leverage, form }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_markets_name_is_short_and_the_live_dialect_uses_its_coin_alone() {
        for (name, coin) in [
            ("BTC", "BTC"),
            ("BTC-USD", "BTC"),
            ("ETH-PERP", "ETH"),
            ("SOL/USDC", "SOL"),
            ("eth-usd", "eth"),
            ("btc-Perp", "btc"),
            ("-USD", "-USD"),
            ("xyz:TSLA", "xyz:TSLA"),
        ] {
            assert_eq!(Market::parse(name).unwrap().coin(), coin);
        }
        for name in ["", "BTC USD", "<b>", "ABCDEFGHIJKLMNOPQRSTU", "É"] {
            assert_eq!(Market::parse(name), None);
        }
    }

    #[test]
    fn a_leverage_is_a_whole_number_from_1_to_50() {
        for (text, times) in [("1", Some(1)), ("50", Some(50)), ("0", None), ("51", None), ("-1", None)] {
            assert_eq!(serde_json::from_str::<Leverage>(text).ok().map(Leverage::times), times, "{text}");
        }
        for text in ["2.5", "\"2\"", "null", "1e1"] {
            assert!(serde_json::from_str::<Leverage>(text).is_err(), "{text}");
        }
    }
}
