//! Serves trading: positions on markets with constant prices (purple-flea.md, section 4). Trades move no balance here,
//! because the real ones are paid from each agent's own wallet.

use super::{
    LIVE_AGENT, PurpleFlea, State,
    answer::{Answer, Said, iso, ok, refuse},
    call::Call,
    money::{cents, number, plain},
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{collections::HashMap, time::SystemTime};

/// The trading key of the `live` dialect, on [`LIVE_AGENT`]'s account. Trading refuses the casino's keys there.
pub const TRADING_KEY: &str = "sk_trade_simulator_0123456789abcdef";

/// The markets: name, kind, price, digits of an amount, highest leverage.
const MARKETS: [(&str, &str, u32, u32, u32); 6] = [
    ("BTC", "crypto", 65_536, 5, 50),
    ("ETH", "crypto", 3_200, 4, 50),
    ("SOL", "crypto", 160, 2, 20),
    ("TSLA", "stock", 250, 3, 10),
    ("NVDA", "stock", 128, 3, 10),
    ("GOLD", "commodity", 2_048, 4, 20),
];

/// Endings that a market's name may have in the gateway.
const QUOTES: [&str; 6] = ["-PERP", "-USDC", "-USDT", "-USD", "/USDC", "/USD"];

/// The least order that the exchange fills, in dollars. The documentation names no number.
const SMALLEST: Decimal = Decimal::ONE;

/// The largest order of a free account, in dollars.
const LARGEST: Decimal = Decimal::from_parts(10_000, 0, 0, false, 0);

/// The leverage by default, and the highest of a free account.
const LEVERAGE: (Decimal, Decimal) = (Decimal::from_parts(5, 0, 0, false, 0), Decimal::TEN);

/// The fees of the exchange and of Purple Flea, as parts of a position's value. `MAINTENANCE` is the part of the value
/// that is left of the margin when the exchange liquidates. With these numbers the documented example comes out.
const FEES: (Decimal, Decimal) =
    (Decimal::from_parts(35, 0, 0, false, 5), Decimal::from_parts(2, 0, 0, false, 4));
const MAINTENANCE: Decimal = Decimal::from_parts(5, 0, 0, false, 3);

/// A position that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Its id.
    pub position_id: String,
    /// Its order's id.
    pub order_id: String,
    /// The agent that owns it. If an order in the gateway has the shared key and names no agent, the owner is
    /// [`LIVE_AGENT`].
    pub agent_id: String,
    /// The market, without its quote: `BTC`.
    pub market: &'static str,
    /// `long` or `short`.
    pub side: &'static str,
    /// The size that the caller asked for, in dollars.
    pub asked: Decimal,
    /// The size that was filled. In `live` it is a little more or less.
    pub size: Decimal,
    /// The price at which it was opened.
    pub entry_price: Decimal,
    /// Whether it was closed.
    pub closed: bool,
    /// The caller's `Idempotency-Key`. The simulator ignores it, as the real server does.
    pub idempotency_key: Option<String>,
    /// When it was opened.
    pub at: SystemTime,
    leverage: Decimal,
}

/// An account's standing with the exchange, in the `live` dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// The account may trade.
    #[default]
    Good,
    /// The account has no wallet: `wallet_not_configured`.
    NoWallet,
    /// The account has lost too much today: `daily_loss_limit_reached`.
    LossLimit,
}

/// All positions, in order, and the owners of the keys.
pub(super) struct Trading {
    positions: Vec<Position>,
    keys: HashMap<String, String>,
    standing: Standing,
}

impl Default for Trading {
    fn default() -> Self {
        let keys = HashMap::from([(TRADING_KEY.to_owned(), LIVE_AGENT.to_owned())]);
        Self { positions: Vec::new(), keys, standing: Standing::Good }
    }
}

impl Trading {
    pub(super) fn owner_of(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }
}

/// A market.
#[derive(Clone, Copy)]
struct Market {
    coin: &'static str,
    category: &'static str,
    price: Decimal,
    digits: u32,
    max_leverage: u32,
}

impl Market {
    fn of(name: &str) -> Option<Self> {
        let found = MARKETS.into_iter().find(|(coin, ..)| coin.eq_ignore_ascii_case(name));
        found.map(|(coin, category, price, digits, max_leverage)| Self {
            coin,
            category,
            price: price.into(),
            digits,
            max_leverage,
        })
    }

    /// Computes the filled part of an order: as close as the amount's digits allow.
    fn filled(self, size: Decimal) -> Decimal {
        cents((size / self.price).round_dp(self.digits) * self.price)
    }
}

/// A checked order.
struct Order {
    market: Market,
    side: &'static str,
    asked: Decimal,
    filled: Decimal,
    leverage: Decimal,
}

impl State {
    fn open(&mut self, call: &Call<'_>, order: &Order) -> &Position {
        let number = self.trading.positions.len() + 1;
        let agent_id = if call.agent_id.is_empty() { LIVE_AGENT } else { &call.agent_id };
        let position = Position {
            position_id: format!("pos_{number:08}"),
            order_id: format!("ord_{number:08}"),
            agent_id: agent_id.to_owned(),
            market: order.market.coin,
            side: order.side,
            asked: order.asked,
            size: order.filled,
            entry_price: order.market.price,
            closed: false,
            idempotency_key: call.idempotency_key(),
            at: self.now(),
            leverage: order.leverage,
        };
        self.trading.positions.push(position);
        &self.trading.positions[number - 1]
    }
}

/// Serves `POST /v1/trade/open {coin, side, size_usd, leverage?}`.
pub(super) fn open(state: &mut State, call: &Call<'_>) -> Said {
    let body = &call.body;
    if ["coin", "side", "size_usd"].iter().any(|name| body[name].is_null()) {
        return Err(refuse(400, "invalid_request", "coin, side and size_usd are required"));
    }
    let side = ["long", "short"].into_iter().find(|side| body["side"] == *side);
    let side = side.ok_or_else(|| refuse(400, "invalid_side", "side must be long or short"))?;
    let asked = size(&body["size_usd"])?;
    let (default, most) = LEVERAGE;
    let leverage = if body["leverage"].is_null() { Some(default) } else { number(&body["leverage"]) };
    let leverage = leverage.filter(|leverage| *leverage >= Decimal::ONE);
    let leverage = leverage.ok_or_else(|| refuse(400, "invalid_leverage", "leverage must be 1 or more"))?;
    if asked > LARGEST {
        return Err(refuse(400, "position_too_large", "Maximum position on free is $10000"));
    }
    match state.trading.standing {
        Standing::Good => {}
        Standing::NoWallet => return Err(refuse(400, "wallet_not_configured", "no wallet")),
        Standing::LossLimit => return Err(refuse(403, "daily_loss_limit_reached", "enough for today")),
    }
    let market =
        body["coin"].as_str().and_then(Market::of).ok_or_else(|| trade_failed("Market not found"))?;
    let filled = market.filled(asked);
    if asked < SMALLEST || filled <= Decimal::ZERO {
        return Err(trade_failed("Position size too small"));
    }
    let leverage = leverage.min(most).min(market.max_leverage.into());
    let opened = state.open(call, &Order { market, side, asked, filled, leverage }).clone();
    let number = state.trading.positions.len();
    ok(live_json(&opened, market, number))
}

/// Makes the one refusal that Purple Flea gives for every failure of the exchange (purple-flea.md, section 4).
fn trade_failed(message: &str) -> Answer {
    refuse(400, "trade_failed", message)
}

fn size(given: &Value) -> Result<Decimal, Answer> {
    let size = number(given).filter(|size| *size > Decimal::ZERO);
    size.ok_or_else(|| refuse(400, "invalid_size", "the size must be a positive number"))
}

/// Computes the fees of a size: the sum, the exchange's, Purple Flea's.
fn fees(size: Decimal) -> (Decimal, Decimal, Decimal) {
    let (exchange, builder) = FEES;
    (cents(size * (exchange + builder)), cents(size * exchange), cents(size * builder))
}

fn live_json(position: &Position, market: Market, number: usize) -> Value {
    let Position { position_id, order_id, side, size, entry_price, leverage, .. } = position;
    let away = Decimal::ONE / leverage - MAINTENANCE;
    let liquidated = if *side == "long" { Decimal::ONE - away } else { Decimal::ONE + away };
    let (fee, exchange, builder) = fees(*size);
    json!({
        "position_id": position_id, "order_id": order_id, "coin": market.coin, "ticker": market.coin,
        "category": market.category, "dex": "main", "side": side, "size_usd": plain(*size),
        "entry_price": plain(*entry_price), "leverage": plain(*leverage), "max_leverage": market.max_leverage,
        "margin_used": plain(cents(*size / *leverage)), "liquidation_price": plain(cents(*entry_price * liquidated)),
        "fee": plain(fee),
        "fee_breakdown": {"hyperliquid": plain(exchange), "purple_flea_builder": plain(builder)},
        "hl_order_id": 1_000 + number, "execution": "simulated",
        "status": if position.closed { "closed" } else { "open" }, "opened_at": iso(position.at),
    })
}

/// Serves `POST /v1/trade/close {position_id}`: closes at the price of opening.
pub(super) fn close(state: &mut State, call: &Call<'_>) -> Said {
    let id = call.text("position_id");
    let id = id.ok_or_else(|| refuse(400, "invalid_request", "position_id is required"))?;
    let number = state.trading.positions.len();
    let open = |position: &&mut Position| {
        position.position_id == id && position.agent_id == call.agent_id && !position.closed
    };
    let position = state.trading.positions.iter_mut().find(open);
    let position = position.ok_or_else(|| refuse(404, "position_not_found", "no such open position"))?;
    position.closed = true;
    let (fee, ..) = fees(position.size);
    ok(json!({
        "position_id": position.position_id, "coin": position.market, "side": position.side,
        "size_usd": plain(position.size), "entry_price": plain(position.entry_price),
        "exit_price": plain(position.entry_price), "pnl": 0, "pnl_percent": 0, "fee": plain(fee),
        "hl_order_id": 2_000 + number, "status": "closed",
    }))
}

/// Serves `GET /v1/trade/positions`: the caller's open positions.
pub(super) fn list(state: &mut State, call: &Call<'_>) -> Said {
    let all = state.trading.positions.iter().zip(1..);
    let open = all.filter(|(position, _)| position.agent_id == call.agent_id && !position.closed);
    let shown = |(position, number): (&Position, usize)| {
        Market::of(position.market).map(|market| live_json(position, market, number))
    };
    let positions: Vec<Value> = open.filter_map(shown).collect();
    ok(json!({"count": positions.len(), "positions": positions}))
}

/// Serves `POST /trade {agent_id, market, size, side?}`, from the specification's first page.
pub(super) fn trade(state: &mut State, call: &Call<'_>) -> Said {
    let side = match &call.body["side"] {
        Value::Null => Some("long"),
        side => ["long", "short"].into_iter().find(|known| side == known),
    };
    let (market, order) = gateway_order(call, "market", "size", side)?;
    let opened = state.open(call, &order);
    ok(json!({
        "id": opened.position_id, "agent_id": opened.agent_id, "market": market, "side": opened.side,
        "size": plain(opened.size), "entry_price": plain(opened.entry_price), "status": "open",
    }))
}

/// Serves `POST /trading/order {agent_id?, asset, side, size_usdc, order_type}`, from its second page.
pub(super) fn order(state: &mut State, call: &Call<'_>) -> Said {
    let sides = [("buy", "long"), ("sell", "short")];
    let side = sides.into_iter().find_map(|(word, side)| (call.body["side"] == word).then_some(side));
    let order_type = call.text("order_type").unwrap_or("market");
    if !matches!(order_type, "market" | "limit") {
        return Err(refuse(400, "invalid_order_type", "order_type must be market or limit"));
    }
    let (asset, order) = gateway_order(call, "asset", "size_usdc", side)?;
    let opened = state.open(call, &order);
    ok(json!({
        "id": opened.order_id, "asset": asset, "side": call.body["side"], "size_usdc": plain(opened.size),
        "price": plain(opened.entry_price), "status": "filled",
    }))
}

/// Reads the market's name in the caller's form, and the order. The gateway fills exactly the size that the caller
/// asked for.
fn gateway_order<'a>(
    call: &'a Call<'_>,
    market: &str,
    how_much: &str,
    side: Option<&'static str>,
) -> Result<(&'a str, Order), Answer> {
    let name = call.text(market).unwrap_or_default();
    let coin = QUOTES.iter().find_map(|quote| name.strip_suffix(quote)).unwrap_or(name);
    let market = Market::of(coin).ok_or_else(|| refuse(400, "unknown_market", "no such market"))?;
    let side = side.ok_or_else(|| refuse(400, "invalid_side", "no such side"))?;
    let asked = size(&call.body[how_much])?;
    Ok((name, Order { market, side, asked, filled: asked, leverage: Decimal::ONE }))
}

impl PurpleFlea {
    /// Lists every opened position of both dialects, in order.
    pub fn positions(&self) -> Vec<Position> {
        self.shared.state().trading.positions.clone()
    }

    /// Gives an agent a trading key of its own, in the `live` dialect.
    pub fn trading_key(&self, agent_id: &str) -> String {
        let key = format!("sk_trade_of_{agent_id}");
        self.shared.state().trading.keys.insert(key.clone(), agent_id.to_owned());
        key
    }

    /// Sets every agent's standing with the exchange, in the `live` dialect.
    pub fn trading_standing(&self, standing: Standing) {
        self.shared.state().trading.standing = standing;
    }
}

#[cfg(test)]
mod tests;
