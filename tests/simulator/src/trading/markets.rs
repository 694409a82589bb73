//! Lists the markets, finds them by their names, and prices them.

use super::super::{
    PurpleFlea,
    money::{cents, double, reported},
};
use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
use std::collections::HashMap;

/// The markets: canonical name, kind, price, digits of an amount, highest leverage. Markets of stocks and commodities
/// are on the exchange's second book, with the prefix `xyz:`.
const MARKETS: [(&str, &str, u32, u32, u32); 7] = [
    ("BTC", "crypto", 65_536, 5, 50),
    ("ETH", "crypto", 3_200, 4, 50),
    ("SOL", "crypto", 160, 2, 20),
    ("ZEC", "crypto", 64, 2, 3),
    ("xyz:TSLA", "stocks", 250, 3, 10),
    ("xyz:NVDA", "stocks", 128, 3, 10),
    ("xyz:GOLD", "commodities", 2_048, 4, 20),
];

/// The prefix of the second book's markets. A caller may leave it out.
const SECOND_BOOK: &str = "xyz:";

/// A market.
#[derive(Clone, Copy)]
pub(super) struct Market {
    /// The canonical name: `BTC`, `xyz:TSLA`.
    pub(super) coin: &'static str,
    pub(super) category: &'static str,
    digits: u32,
    pub(super) max_leverage: u32,
}

impl Market {
    /// Finds a market by its name in any case, with the prefix of the second book or without it.
    pub(super) fn of(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let short = lower.replace(SECOND_BOOK, "");
        let is = |coin: &str| {
            let coin = coin.to_ascii_lowercase();
            coin == lower || coin.trim_start_matches(SECOND_BOOK) == short
        };
        let found = MARKETS.into_iter().find(|(coin, ..)| is(coin));
        found.map(|(coin, category, _, digits, max_leverage)| Self { coin, category, digits, max_leverage })
    }

    /// Gives the name without the prefix of the second book.
    pub(super) fn ticker(self) -> &'static str {
        self.coin.trim_start_matches(SECOND_BOOK)
    }

    pub(super) fn dex(self) -> &'static str {
        if self.coin.starts_with(SECOND_BOOK) { "xyz" } else { "main" }
    }

    /// Gives the smallest amount, in units of the market.
    pub(super) fn smallest(self) -> Decimal {
        Decimal::new(1, self.digits)
    }

    /// Computes the filled part of an order in dollars: as close as the amount's digits allow.
    pub(super) fn filled(self, size: Decimal, price: Decimal) -> Decimal {
        cents((size / price).round_dp_with_strategy(self.digits, MidpointAwayFromZero) * price)
    }
}

/// The prices that differ from those of the table.
#[derive(Default)]
pub(super) struct Prices(HashMap<&'static str, Decimal>);

impl Prices {
    pub(super) fn of(&self, market: Market) -> Decimal {
        let first = MARKETS.into_iter().find(|(coin, ..)| *coin == market.coin);
        let first = first.map(|(_, _, price, ..)| Decimal::from(price)).unwrap_or_default();
        self.0.get(market.coin).copied().unwrap_or(first)
    }

    pub(super) fn set(&mut self, name: &str, price: Decimal) {
        if let Some(market) = Market::of(name) {
            self.0.insert(market.coin, price);
        }
    }
}

/// Computes a closed position's profit in dollars, without its fees. The leverage does not multiply it.
pub(super) fn profit(side: &str, size: Decimal, entry: Decimal, exit: Decimal) -> Decimal {
    let gained = size * (exit - entry) / entry;
    rounded(if side == "long" { gained } else { -gained })
}

/// Computes the price's change in percent. It is the same for both sides.
pub(super) fn change_percent(entry: Decimal, exit: Decimal) -> Decimal {
    rounded((exit - entry) / entry * Decimal::ONE_HUNDRED)
}

/// Rounds to cents as the released servers do, which is half a cent up, below zero too.
fn rounded(value: Decimal) -> Decimal {
    reported(double(value))
}

impl PurpleFlea {
    /// Sets a market's price. Later orders open and close at it. A price of 0 is none.
    pub fn set_price(&self, market: &str, price: Decimal) {
        self.shared.state().trading.prices.set(market, price);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_market_is_found_in_any_case_and_with_or_without_its_books_prefix() {
        for (name, coin) in [
            ("BTC", "BTC"),
            ("btc", "BTC"),
            ("xyz:btc", "BTC"),
            ("TSLA", "xyz:TSLA"),
            ("xyz:TSLA", "xyz:TSLA"),
            ("XYZ:tsla", "xyz:TSLA"),
        ] {
            assert_eq!(Market::of(name).map(|market| market.coin), Some(coin), "{name}");
        }
        for name in ["eth-usd", "BTC-PERP", "", "xyz:", "DOGE"] {
            assert!(Market::of(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_profit_follows_the_price_and_the_side_but_not_the_leverage() {
        let number = |text: &str| text.parse::<Decimal>().unwrap();
        let (size, entry) = (number("100.27"), number("65536"));
        for (side, exit, profit_in_dollars) in
            [("long", "72089.6", "10.03"), ("short", "72089.6", "-10.03"), ("long", "65536", "0.00")]
        {
            assert_eq!(
                profit(side, size, entry, number(exit)).to_string(),
                profit_in_dollars,
                "{side} {exit}"
            );
        }
        assert_eq!(change_percent(entry, number("72089.6")).to_string(), "10.00");
    }
}
