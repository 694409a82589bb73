//! Serves trading: positions on markets whose prices a test sets (purple-flea.md, section 4). Trades move no balance
//! here, because the real ones are paid from each agent's own wallet.

mod lists;
mod markets;

use super::{
    LIVE_AGENT, PurpleFlea, State,
    answer::{Answer, Said, ok, refuse, refuse_with},
    call::Call,
    money::{cents, is_falsy, number, plain},
};
pub(super) use lists::{history, positions};
use markets::{Market, Prices, change_percent, profit};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{collections::HashMap, time::SystemTime};

/// The trading key of the `live` dialect, on [`LIVE_AGENT`]'s account. Trading refuses the casino's keys there.
pub const TRADING_KEY: &str = "sk_trade_simulator_0123456789abcdef";

/// Endings that a market's name may have in the gateway.
const QUOTES: [&str; 6] = ["-perp", "-usdc", "-usdt", "-usd", "/usdc", "/usd"];

/// The least order that the exchange takes, in dollars. The documentation names no number.
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
    /// The market's canonical name, without its quote: `BTC`, `xyz:TSLA`.
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
    /// The profit, without the fees, and the time of its close.
    ended: Option<(Decimal, SystemTime)>,
}

/// An order that was filled: a row of the history.
struct Fill {
    order_id: String,
    agent_id: String,
    coin: &'static str,
    side: &'static str,
    size: Decimal,
    price: Decimal,
    profit: Decimal,
    at: SystemTime,
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

/// All positions and fills, in order, and the owners of the keys.
pub(super) struct Trading {
    positions: Vec<Position>,
    fills: Vec<Fill>,
    keys: HashMap<String, String>,
    standing: Standing,
    prices: Prices,
}

impl Default for Trading {
    fn default() -> Self {
        let keys = HashMap::from([(TRADING_KEY.to_owned(), LIVE_AGENT.to_owned())]);
        Self {
            positions: Vec::new(),
            fills: Vec::new(),
            keys,
            standing: Standing::Good,
            prices: Prices::default(),
        }
    }
}

impl Trading {
    pub(super) fn owner_of(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
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
        let price = self.trading.prices.of(order.market);
        let position = Position {
            position_id: format!("pos_{number:08}"),
            order_id: format!("ord_{number:08}"),
            agent_id: agent_id.to_owned(),
            market: order.market.coin,
            side: order.side,
            asked: order.asked,
            size: order.filled,
            entry_price: price,
            closed: false,
            idempotency_key: call.idempotency_key(),
            at: self.now(),
            leverage: order.leverage,
            ended: None,
        };
        let side = if order.side == "long" { "buy" } else { "sell" };
        self.trading.fills.push(Fill::of(
            &position,
            position.order_id.clone(),
            side,
            price,
            Decimal::ZERO,
            position.at,
        ));
        self.trading.positions.push(position);
        &self.trading.positions[number - 1]
    }
}

impl Fill {
    fn of(
        position: &Position,
        order_id: String,
        side: &'static str,
        price: Decimal,
        profit: Decimal,
        at: SystemTime,
    ) -> Self {
        let Position { agent_id, market, size, .. } = position;
        Self { order_id, agent_id: agent_id.clone(), coin: market, side, size: *size, price, profit, at }
    }
}

/// Serves `POST /v1/trade/open {coin, side, size_usd, leverage?}`. The tier caps the leverage without a word; the
/// market's maximum refuses it.
pub(super) fn open(state: &mut State, call: &Call<'_>) -> Said {
    let body = &call.body;
    if ["coin", "side", "size_usd"].iter().any(|name| is_falsy(&body[name])) {
        return Err(refuse(400, "invalid_request", "Provide coin, side (long/short), size_usd"));
    }
    let asked = size(&body["size_usd"])?;
    let side = ["long", "short"].into_iter().find(|side| body["side"] == *side);
    let side = side.ok_or_else(|| refuse(400, "invalid_side", "side must be 'long' or 'short'"))?;
    let (default, most) = LEVERAGE;
    let leverage = if body["leverage"].is_null() { Some(default) } else { number(&body["leverage"]) };
    let leverage = leverage.filter(|leverage| *leverage >= Decimal::ONE);
    let leverage =
        leverage.ok_or_else(|| refuse(400, "invalid_leverage", "leverage must be a number >= 1"))?;
    if asked > LARGEST {
        let more = json!({ "max_position_usd": plain(LARGEST) });
        return Err(refuse_with(400, "position_too_large", "Max position size is $10000", more));
    }
    state.trading.standing.check()?;
    let order = order_of(state, &body["coin"], side, asked, leverage.min(most))?;
    let market = order.market;
    let opened = state.open(call, &order).clone();
    ok(opened_json(&opened, market, state.trading.positions.len()))
}

/// Checks an order as the server does before it sends the order to the exchange.
fn order_of(
    state: &State,
    coin: &Value,
    side: &'static str,
    asked: Decimal,
    leverage: Decimal,
) -> Result<Order, Answer> {
    let name = coin.as_str().ok_or_else(|| trade_failed("coin.toUpperCase is not a function"))?;
    let unknown = || trade_failed(&format!("Market not found: {}", name.to_ascii_uppercase()));
    let market = Market::of(name).ok_or_else(unknown)?;
    let price = state.trading.prices.of(market);
    if price <= Decimal::ZERO {
        return Err(trade_failed(&format!("No price available for {}", market.coin)));
    }
    if leverage > market.max_leverage.into() {
        return Err(trade_failed(&format!("Max leverage for {} is {}x", market.coin, market.max_leverage)));
    }
    let filled = market.filled(asked, price);
    if filled <= Decimal::ZERO {
        let least = market.smallest();
        let message = format!("Position size too small for {} (min size: {least} units)", market.coin);
        return Err(trade_failed(&message));
    }
    if asked < SMALLEST {
        return Err(trade_failed("Order error: the order is below the exchange's minimum"));
    }
    Ok(Order { market, side, asked, filled, leverage })
}

impl Standing {
    fn check(self) -> Result<(), Answer> {
        match self {
            Self::Good => Ok(()),
            Self::LossLimit => Err(refuse(403, "daily_loss_limit_reached", "Daily loss limit reached")),
            Self::NoWallet => Err(no_wallet()),
        }
    }
}

fn no_wallet() -> Answer {
    refuse(400, "wallet_not_configured", "Hyperliquid wallet not configured")
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

/// Computes the price at which the exchange liquidates a position.
fn liquidation_price(Position { side, entry_price, leverage, .. }: &Position) -> Decimal {
    let away = Decimal::ONE / leverage - MAINTENANCE;
    let factor = if *side == "long" { Decimal::ONE - away } else { Decimal::ONE + away };
    cents(*entry_price * factor)
}

fn opened_json(position: &Position, market: Market, number: usize) -> Value {
    let Position { position_id, order_id, side, size, entry_price, leverage, .. } = position;
    let (fee, exchange, builder) = fees(*size);
    json!({
        "position_id": position_id, "order_id": order_id, "coin": market.coin, "ticker": market.ticker(),
        "category": market.category, "dex": market.dex(), "side": side, "size_usd": plain(*size),
        "entry_price": plain(*entry_price), "leverage": plain(*leverage), "max_leverage": market.max_leverage,
        "margin_used": plain(cents(*size / *leverage)), "liquidation_price": plain(liquidation_price(position)),
        "fee": plain(fee),
        "fee_breakdown": {"hyperliquid": plain(exchange), "purple_flea_builder": plain(builder)},
        "hl_order_id": 1_000 + number, "execution": "simulated", "status": "open",
    })
}

/// Serves `POST /v1/trade/close {position_id}`: closes one of the caller's positions at the market's price.
pub(super) fn close(state: &mut State, call: &Call<'_>) -> Said {
    let id = &call.body["position_id"];
    if is_falsy(id) {
        return Err(refuse(400, "provide position_id", ""));
    }
    let (now, standing, number) = (state.now(), state.trading.standing, state.trading.positions.len());
    let Trading { positions, fills, prices, .. } = &mut state.trading;
    let open = |position: &&mut Position| {
        *id == position.position_id && position.agent_id == call.agent_id && !position.closed
    };
    let position = positions.iter_mut().find(open);
    let position = position.ok_or_else(|| refuse(404, "position_not_found", ""))?;
    let market = Market::of(position.market).filter(|_| standing != Standing::NoWallet);
    let market = market.ok_or_else(no_wallet)?;
    let (entry, exit) = (position.entry_price, prices.of(market));
    let gained = profit(position.side, position.size, entry, exit);
    position.closed = true;
    position.ended = Some((gained, now));
    let side = if position.side == "long" { "sell" } else { "buy" };
    fills.push(Fill::of(position, format!("ord_close_{}", position.position_id), side, exit, gained, now));
    let (fee, ..) = fees(position.size);
    ok(json!({
        "position_id": position.position_id, "coin": market.coin, "ticker": market.ticker(), "side": position.side,
        "entry_price": plain(entry), "exit_price": plain(exit), "size_usd": plain(position.size),
        "leverage": plain(position.leverage), "pnl": plain(gained),
        "pnl_percent": plain(change_percent(entry, exit)), "fee": plain(fee), "hl_order_id": 2_000 + number,
        "execution": "simulated", "status": "closed",
    }))
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

/// Serves `POST /trading/order {asset, side, size_usdc, order_type}`, from its second page.
pub(super) fn order(state: &mut State, call: &Call<'_>) -> Said {
    let side = ["long", "short"].into_iter().find(|side| call.body["side"] == *side);
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
    let lower = name.to_ascii_lowercase();
    let coin = QUOTES.iter().find_map(|quote| lower.strip_suffix(quote)).unwrap_or(&lower);
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
