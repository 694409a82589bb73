//! Lists an agent's positions and fills, in the `live` dialect. The real server reads open positions from the exchange,
//! and everything else from its own tables, whose columns it shows in camel case.

use super::{
    super::{
        State,
        answer::{Said, ok},
        call::Call,
        money::{cents, plain},
    },
    Fill, Market, Position, Prices, fees, liquidation_price, profit,
};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The most rows of the history: by default, and at all.
const HISTORY_ROWS: (usize, usize) = (50, 200);

/// The most rows of a list of all positions.
const POSITIONS_LIMIT: usize = 50;

/// Serves `GET /v1/trade/positions?status`: the caller's open positions, or with `all` the closed ones too.
pub(in super::super) fn positions(state: &mut State, call: &Call<'_>) -> Said {
    let all = call.request.query_value("status").as_deref() == Some("all");
    let trading = &state.trading;
    let own = trading.positions.iter().enumerate().rev();
    let own = own.filter(|(_, position)| position.agent_id == call.agent_id && (all || !position.closed));
    let shown = |(number, position): (usize, &Position)| {
        let market = Market::of(position.market)?;
        let show = if all { row } else { open_position };
        Some(show(position, market, &trading.prices, number))
    };
    let positions: Vec<Value> = own.filter_map(shown).take(POSITIONS_LIMIT).collect();
    let source = if all { "database" } else { "hyperliquid" };
    ok(json!({"count": positions.len(), "positions": positions, "source": source}))
}

fn open_position(position: &Position, market: Market, prices: &Prices, _: usize) -> Value {
    let Position { position_id, side, size, entry_price, leverage, .. } = position;
    let price = prices.of(market);
    json!({
        "position_id": position_id, "coin": market.coin, "ticker": market.ticker(), "side": side,
        "size": plain(size / entry_price), "size_usd": plain(*size), "entry_price": plain(*entry_price),
        "current_price": plain(price), "leverage": plain(*leverage), "margin_used": plain(cents(*size / *leverage)),
        "liquidation_price": plain(liquidation_price(position)),
        "unrealized_pnl": plain(profit(side, *size, *entry_price, price)), "source": "hyperliquid",
    })
}

/// Shows the row of a position. A closed one's profit is in `unrealizedPnl`, too.
fn row(position: &Position, market: Market, prices: &Prices, number: usize) -> Value {
    let Position { position_id, agent_id, side, size, entry_price, leverage, ended, .. } = position;
    let price = prices.of(market);
    let open = profit(side, *size, *entry_price, price);
    let stored = ended.map(|(gained, _)| gained).unwrap_or_default();
    json!({
        "id": position_id, "agentId": agent_id, "coin": market.coin, "side": side, "sizeUsd": plain(*size),
        "entryPrice": plain(*entry_price), "leverage": plain(*leverage),
        "marginUsed": plain(cents(*size / *leverage)), "liquidationPrice": plain(liquidation_price(position)),
        "unrealizedPnl": plain(stored), "status": if position.closed { "closed" } else { "open" },
        "hlOrderId": (1_001 + number).to_string(), "openedAt": seconds(position.at),
        "closedAt": ended.map(|(_, at)| seconds(at)), "ticker": market.ticker(), "current_price": plain(price),
        "unrealized_pnl": plain(if ended.is_some() { stored } else { open }),
    })
}

/// Serves `GET /v1/trade/history?limit`: the caller's fills, newest first. A close is the opposite side with the exit
/// price and the profit. No row names a position.
pub(in super::super) fn history(state: &mut State, call: &Call<'_>) -> Said {
    let (default, most) = HISTORY_ROWS;
    let asked = call.request.query_value("limit").and_then(|limit| limit.parse().ok());
    let limit = asked.filter(|limit| *limit > 0).unwrap_or(default).min(most);
    let shown = |(number, fill): (usize, &Fill)| {
        json!({
            "id": format!("trd_{:08}", number + 1), "agentId": fill.agent_id, "orderId": fill.order_id, "coin": fill.coin,
            "side": fill.side, "sizeUsd": plain(fill.size), "price": plain(fill.price),
            "fee": plain(fees(fill.size).0), "realizedPnl": plain(fill.profit), "createdAt": seconds(fill.at),
        })
    };
    let fills = state.trading.fills.iter().enumerate().rev();
    let trades: Vec<Value> =
        fills.filter(|(_, fill)| fill.agent_id == call.agent_id).take(limit).map(shown).collect();
    ok(json!({"count": trades.len(), "trades": trades}))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
