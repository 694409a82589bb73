//! Trading: positions on markets whose prices do not move (purple-flea.md, section 4). No balance here moves by them: the
//! real ones are on each agent's own wallet.

use super::{
    LIVE_AGENT, PurpleFlea, State,
    answer::{Answer, Said, iso, ok, refuse},
    call::{Api, Call},
    money::{cents, number, plain},
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{collections::HashMap, time::SystemTime};

/// The key that trading takes in the `live` dialect, on [`LIVE_AGENT`]'s account. The casino's are no good there.
pub const TRADING_KEY: &str = "sk_trade_simulator_0123456789abcdef";

/// What is traded: name, kind, price, the digits that an amount of it may have, the highest leverage.
const MARKETS: [(&str, &str, u32, u32, u32); 6] = [
    ("BTC", "crypto", 65_536, 5, 50),
    ("ETH", "crypto", 3_200, 4, 50),
    ("SOL", "crypto", 160, 2, 20),
    ("TSLA", "stock", 250, 3, 10),
    ("NVDA", "stock", 128, 3, 10),
    ("GOLD", "commodity", 2_048, 4, 20),
];

/// What a market's name may end in, in the gateway.
const QUOTES: [&str; 6] = ["-PERP", "-USDC", "-USDT", "-USD", "/USDC", "/USD"];

/// The least that the exchange fills, in dollars. The documents name no number.
const SMALLEST: Decimal = Decimal::ONE;

/// The most that a free account opens, in dollars.
const LARGEST: Decimal = Decimal::from_parts(10_000, 0, 0, false, 0);

/// The leverage where nobody says one, and the most that a free account gets.
const LEVERAGE: (Decimal, Decimal) = (Decimal::from_parts(5, 0, 0, false, 0), Decimal::TEN);

/// What the exchange and Purple Flea take of a position, and at which part of its value it is liquidated before its
/// margin is gone. Such that the documented example comes out.
const FEES: (Decimal, Decimal) =
    (Decimal::from_parts(35, 0, 0, false, 5), Decimal::from_parts(2, 0, 0, false, 4));
const MAINTENANCE: Decimal = Decimal::from_parts(5, 0, 0, false, 3);

/// A position that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Its name.
    pub position_id: String,
    /// Its order's name.
    pub order_id: String,
    /// Whose it is. An order in the gateway that names nobody is [`LIVE_AGENT`]'s, with everybody's key.
    pub agent_id: String,
    /// The market, without its quote: `BTC`.
    pub market: &'static str,
    /// `long` or `short`.
    pub side: &'static str,
    /// How much was asked for, in dollars.
    pub asked: Decimal,
    /// How much was filled. In `live` that is a little more or less.
    pub size: Decimal,
    /// At what price.
    pub entry_price: Decimal,
    /// Whether it was closed.
    pub closed: bool,
    /// The caller's `Idempotency-Key`, which the simulator ignores as the real one does.
    pub idempotency_key: Option<String>,
    /// When it was opened.
    pub at: SystemTime,
    leverage: Decimal,
}

/// How an account stands with the exchange, in the `live` dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// It may trade.
    #[default]
    Good,
    /// It has no wallet: `wallet_not_configured`.
    NoWallet,
    /// It has lost too much today: `daily_loss_limit_reached`.
    LossLimit,
}

/// All positions, in order, and whose key is what.
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

/// A market, as it is traded.
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
        let found = MARKETS.into_iter().find(|(coin, ..)| *coin == name);
        found.map(|(coin, category, price, digits, max_leverage)| Self {
            coin,
            category,
            price: price.into(),
            digits,
            max_leverage,
        })
    }

    /// What is filled of so many dollars: as much as the amount's digits can say.
    fn filled(self, size: Decimal) -> Decimal {
        cents((size / self.price).round_dp(self.digits) * self.price)
    }
}

/// What is wanted.
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

/// `POST /v1/trade/open {coin, side, size_usd, leverage?}`.
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
    let market = body["coin"].as_str().and_then(Market::of).ok_or_else(|| trade_failed("Unknown market"))?;
    let filled = market.filled(asked);
    if asked < SMALLEST || filled <= Decimal::ZERO {
        return Err(trade_failed("Order is too small"));
    }
    let leverage = leverage.min(most).min(market.max_leverage.into());
    let opened = state.open(call, &Order { market, side, asked, filled, leverage }).clone();
    let number = state.trading.positions.len();
    ok(live_json(&opened, market, number))
}

/// Whatever the exchange says, or does not: all of it is this (purple-flea.md, section 4).
fn trade_failed(message: &str) -> Answer {
    refuse(400, "trade_failed", message)
}

fn size(given: &Value) -> Result<Decimal, Answer> {
    let size = number(given).filter(|size| *size > Decimal::ZERO);
    size.ok_or_else(|| refuse(400, "invalid_size", "the size must be a positive number"))
}

/// What is taken of so many dollars: in all, by the exchange, by Purple Flea.
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

/// `POST /v1/trade/close {position_id}`: at the price that it was opened at.
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

/// `GET /v1/trade/positions`: the caller's open ones.
pub(super) fn list(state: &mut State, call: &Call<'_>) -> Said {
    let all = state.trading.positions.iter().zip(1..);
    let open = all.filter(|(position, _)| position.agent_id == call.agent_id && !position.closed);
    let shown = |(position, number): (&Position, usize)| {
        Market::of(position.market).map(|market| live_json(position, market, number))
    };
    let positions: Vec<Value> = open.filter_map(shown).collect();
    ok(json!({"count": positions.len(), "positions": positions}))
}

/// `POST /trade {agent_id, market, size, side?}`: the specification's first page.
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

/// `POST /trading/order {agent_id?, asset, side, size_usdc, order_type}`: its second.
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

/// The market as the caller calls it, and what is filled: in the gateway just what is asked for.
fn gateway_order<'a>(
    call: &'a Call<'_>,
    market: &str,
    how_much: &str,
    side: Option<&'static str>,
) -> Result<(&'a str, Order), Answer> {
    debug_assert!(call.api == Api::Gateway);
    let name = call.text(market).unwrap_or_default();
    let coin = QUOTES.iter().find_map(|quote| name.strip_suffix(quote)).unwrap_or(name);
    let market = Market::of(coin).ok_or_else(|| refuse(400, "unknown_market", "no such market"))?;
    let side = side.ok_or_else(|| refuse(400, "invalid_side", "no such side"))?;
    let asked = size(&call.body[how_much])?;
    Ok((name, Order { market, side, asked, filled: asked, leverage: Decimal::ONE }))
}

impl PurpleFlea {
    /// Every position that was opened, in order, by either dialect.
    pub fn positions(&self) -> Vec<Position> {
        self.shared.state().trading.positions.clone()
    }

    /// Gives an agent a key of its own for trading, in the `live` dialect.
    pub fn trading_key(&self, agent_id: &str) -> String {
        let key = format!("sk_trade_of_{agent_id}");
        self.shared.state().trading.keys.insert(key.clone(), agent_id.to_owned());
        key
    }

    /// How everybody stands with the exchange, in the `live` dialect.
    pub fn trading_standing(&self, standing: Standing) {
        self.shared.state().trading.standing = standing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::purple_flea::{
        KEY,
        testing::{as_agent, funded, post, send},
    };
    use http::Method;

    const OPEN: &str = "/v1/trade/open";
    const CLOSE: &str = "/v1/trade/close";
    const BTC: &str = r#"{"coin":"BTC","side":"long","size_usd":100}"#;

    fn ask(state: &mut State, path: &str, body: &str) -> (u16, Value) {
        as_agent(state, TRADING_KEY, Method::POST, path, body)
    }

    #[test]
    fn the_documented_position_comes_out_to_the_cent() {
        let mut state = funded();
        let (status, reply) = ask(&mut state, OPEN, BTC);
        assert_eq!(status, 200, "{reply}");
        for (name, value) in [
            ("size_usd", "100.27"),
            ("entry_price", "65536"),
            ("leverage", "5"),
            ("max_leverage", "50"),
            ("margin_used", "20.05"),
            ("liquidation_price", "52756.48"),
            ("fee", "0.06"),
            ("status", "\"open\""),
        ] {
            assert_eq!(reply[name].to_string(), value, "{name}");
        }
        assert_eq!(reply["fee_breakdown"].to_string(), r#"{"hyperliquid":0.04,"purple_flea_builder":0.02}"#);
        let position = &state.trading.positions[0];
        assert_eq!(
            (position.agent_id.as_str(), position.market, position.asked),
            (LIVE_AGENT, "BTC", 100.into())
        );
        assert_eq!(state.accounts.balance(LIVE_AGENT), 1_000.into(), "no balance moves by it");
        ask(&mut state, OPEN, BTC);
        assert_eq!(state.trading.positions.len(), 2, "asked twice it opens two");
    }

    #[test]
    fn a_position_is_closed_once_and_by_its_owner() {
        let mut state = funded();
        let (_, opened) =
            ask(&mut state, OPEN, r#"{"coin":"ETH","side":"short","size_usd":20,"leverage":25}"#);
        assert_eq!(opened["leverage"].to_string(), "10");
        let body = json!({"position_id": opened["position_id"]}).to_string();
        state.trading.keys.insert("other".to_owned(), "ag_other".to_owned());
        assert_eq!(as_agent(&mut state, "other", Method::POST, CLOSE, &body).0, 404);
        let list = |state: &mut State| {
            as_agent(state, TRADING_KEY, Method::GET, "/v1/trade/positions", "").1["count"].clone()
        };
        assert_eq!(list(&mut state), 1);
        let (status, closed) = ask(&mut state, CLOSE, &body);
        assert_eq!(
            (status, &closed["status"], &closed["exit_price"]),
            (200, &json!("closed"), &opened["entry_price"])
        );
        assert_eq!(list(&mut state), 0);
        let (status, again) = ask(&mut state, CLOSE, &body);
        assert_eq!((status, &again["error"]), (404, &json!("position_not_found")));
        assert_eq!(ask(&mut state, CLOSE, "{}").1["error"], "invalid_request");
    }

    #[test]
    fn live_refusals_are_the_documented_ones_and_open_nothing() {
        let mut state = funded();
        for (body, error) in [
            ("{", "invalid_json"),
            ("{}", "invalid_request"),
            (r#"{"coin":"BTC","side":"long"}"#, "invalid_request"),
            (r#"{"coin":"BTC","side":"buy","size_usd":100}"#, "invalid_side"),
            (r#"{"coin":"BTC","side":"long","size_usd":"100"}"#, "invalid_size"),
            (r#"{"coin":"BTC","side":"long","size_usd":0}"#, "invalid_size"),
            (r#"{"coin":"BTC","side":"long","size_usd":100,"leverage":0.5}"#, "invalid_leverage"),
            (r#"{"coin":"BTC","side":"long","size_usd":10000.01}"#, "position_too_large"),
            (r#"{"coin":"BTC-USD","side":"long","size_usd":100}"#, "trade_failed"),
            (r#"{"coin":"BTC","side":"long","size_usd":0.99}"#, "trade_failed"),
        ] {
            let (status, reply) = ask(&mut state, OPEN, body);
            assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
        }
        assert_eq!(ask(&mut state, OPEN, "null").0, 500);
        for (standing, status, error) in [
            (Standing::NoWallet, 400, "wallet_not_configured"),
            (Standing::LossLimit, 403, "daily_loss_limit_reached"),
        ] {
            state.trading.standing = standing;
            let (refused, reply) = ask(&mut state, OPEN, BTC);
            assert_eq!((refused, &reply["error"]), (status, &json!(error)));
        }
        assert!(state.trading.positions.is_empty());
    }

    #[test]
    fn the_casinos_keys_are_no_good_for_live_trading_and_tradings_are_for_nothing_else() {
        let mut state = funded();
        let own = state.accounts.give_key("agent-001", "sk_live_");
        for key in [KEY, own.as_str()] {
            let (status, reply) = as_agent(&mut state, key, Method::POST, OPEN, BTC);
            assert_eq!((status, &reply["error"]), (401, &json!("invalid_key")));
        }
        assert_eq!(as_agent(&mut state, "", Method::POST, OPEN, BTC).1["error"], "unauthorized");
        let flip = r#"{"side":"heads","amount":1}"#;
        assert_eq!(ask(&mut state, "/api/v1/games/coin-flip", flip).0, 401);
        assert_eq!(ask(&mut state, "/escrow/create", "{}").0, 401);
    }

    #[test]
    fn the_gateways_two_pages_fill_what_is_asked_for() {
        let mut state = funded();
        let body = r#"{"agent_id":"agent-001","market":"BTC-USD","size":25.5}"#;
        let (status, traded) =
            send(&mut state, Method::POST, "/trade", body, &[("idempotency-key", "trade-7")]);
        assert_eq!((status, &traded["status"], &traded["side"]), (200, &json!("open"), &json!("long")));
        assert_eq!((&traded["market"], traded["size"].to_string()), (&json!("BTC-USD"), "25.5".to_owned()));
        let body = r#"{"asset":"ETH","side":"sell","size_usdc":10,"order_type":"market"}"#;
        let (status, ordered) = post(&mut state, "/trading/order", body);
        assert_eq!((status, &ordered["status"], &ordered["side"]), (200, &json!("filled"), &json!("sell")));
        let [first, second] = &state.trading.positions[..] else { panic!() };
        assert_eq!(
            (first.agent_id.as_str(), first.idempotency_key.as_deref()),
            ("agent-001", Some("trade-7"))
        );
        assert_eq!((second.agent_id.as_str(), second.side), (LIVE_AGENT, "short"));
        assert_ne!(traded["id"], ordered["id"]);
    }

    #[test]
    fn the_gateway_says_which_market_or_side_it_does_not_know() {
        let mut state = funded();
        for (path, body, error) in [
            ("/trade", r#"{"market":"DOGE","size":1}"#, "unknown_market"),
            ("/trade", r#"{"size":1}"#, "unknown_market"),
            ("/trade", r#"{"market":"BTC","size":1,"side":"buy"}"#, "invalid_side"),
            ("/trade", r#"{"market":"BTC","size":"1"}"#, "invalid_size"),
            ("/trade", "{", "invalid_json"),
            ("/trading/order", r#"{"asset":"BTC","side":"long","size_usdc":1}"#, "invalid_side"),
            ("/trading/order", r#"{"asset":"BTC","side":"buy","order_type":"stop"}"#, "invalid_order_type"),
        ] {
            let (status, reply) = post(&mut state, path, body);
            assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
        }
        assert!(state.trading.positions.is_empty());
    }
}
