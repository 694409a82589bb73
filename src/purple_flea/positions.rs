//! Positions: closes them, and finds those that were closed before. Only the `live` dialect has these routes.

use super::{
    Call, PurpleFlea, body,
    reply::{self, Field},
};
use crate::{
    domain::{
        account::Account,
        failure::{Doubt, Failure},
        position::Closed,
    },
    runtime::Runtime,
};
use serde_json::Value;

/// The refusal of a close for a position that is not open, or not the agent's.
const NOT_OPEN: &str = "position_not_found";

/// The reason of a position that was closed by an earlier call, whose reply may be lost.
const CLOSED_BEFORE: &str = "already_closed";

/// The newest positions in any state. Purple Flea gives at most 50, under 25 KiB.
const ALL_POSITIONS: &str = "/v1/trade/positions?status=all";

/// The newest fills. A hundred are under 30 KiB.
const FILLS: &str = "/v1/trade/history?limit=100";

/// The most seconds between a position's close and the time of its fill. The server writes one after the other,
/// in whole seconds.
const FILL_AFTER_S: u64 = 1;

impl PurpleFlea {
    /// Closes a position, once: Purple Flea closes by the market, so a second call could end another position.
    /// If it says that the position is not open, the function looks whether an earlier call has closed it.
    pub async fn close_position(
        &self,
        position_id: &str,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Closed, Failure> {
        let call = Call {
            final_codes: &[NOT_OPEN],
            ..Call::post(
                "/v1/trade/close".to_owned(),
                body([("position_id", position_id.into())]),
                idempotency_key,
            )
        };
        match self.call(&self.trading, account, call, runtime).await {
            Ok(reply) if reply.identifier(&["status"]).as_deref() == Some("closed") => Ok(Closed {
                position_id: position_id.to_owned(),
                exit_price: reply.amount(&["exit_price"]),
                pnl: reply.amount(&["pnl"]),
                fee: reply.amount(&["fee"]),
                reason: None,
            }),
            Ok(_) => Err(Failure::Unknown(Doubt::Unrecognised)),
            Err(refusal) if refusal.has_code(NOT_OPEN) => {
                self.closed_before(position_id, account, runtime).await?.ok_or(refusal)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Looks for a position among those that are closed. Purple Flea lists a closed position with its profit.
    /// The price and the fee stand in the list of fills, which does not name the position.
    pub async fn closed_before(
        &self,
        position_id: &str,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Option<Closed>, Failure> {
        let positions = self.list(ALL_POSITIONS, "positions", account, runtime).await?;
        let closed =
            |row: &&Value| text(row, "id") == Some(position_id) && text(row, "status") == Some("closed");
        let Some(position) = positions.iter().find(closed) else {
            return Ok(None);
        };
        let fills = self.list(FILLS, "trades", account, runtime).await?;
        let mut fills = fills.iter().filter(|fill| is_close_of(position, fill));
        let fill = match (fills.next(), fills.next()) {
            (Some(fill), None) => Some(fill),
            _ => None,
        };
        Ok(Some(Closed {
            position_id: position_id.to_owned(),
            exit_price: fill.and_then(|fill| fill.amount(&["price"])),
            pnl: position.amount(&["unrealizedPnl", "unrealized_pnl"]),
            fee: fill.and_then(|fill| fill.amount(&["fee"])),
            reason: Some(CLOSED_BEFORE),
        }))
    }

    /// Reads a list of the account's, the newest rows first.
    async fn list(
        &self,
        route: &str,
        name: &str,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Vec<Value>, Failure> {
        let call = Call::get(route.to_owned());
        let reply = self.call(&self.trading, account, call, runtime).await.map_err(Failure::retryable)?;
        match reply {
            Value::Object(mut reply) => match reply.remove(name) {
                Some(Value::Array(rows)) => Ok(rows),
                _ => Err(Failure::NoAnswer(Some(Doubt::Unrecognised))),
            },
            _ => Err(Failure::NoAnswer(Some(Doubt::Unrecognised))),
        }
    }
}

/// Returns whether a fill is that of a position's close: the same market, size, profit and time, and the
/// opposite side.
fn is_close_of(position: &Value, fill: &Value) -> bool {
    let same = |of_position: &str, of_fill: &str| {
        let amount = |row: &Value, name| row.get(name).and_then(reply::amount);
        amount(position, of_position).is_some_and(|one| amount(fill, of_fill) == Some(one))
    };
    let seconds = |row: &Value, name: &str| row.get(name).and_then(Value::as_u64);
    let in_time = seconds(fill, "createdAt")
        .zip(seconds(position, "closedAt"))
        .and_then(|(filled, closed)| filled.checked_sub(closed))
        .is_some_and(|after_s| after_s <= FILL_AFTER_S);
    let opposite = match text(position, "side") {
        Some("long") => text(fill, "side") == Some("sell"),
        Some("short") => text(fill, "side") == Some("buy"),
        _ => false,
    };
    opposite
        && in_time
        && text(position, "coin") == text(fill, "coin")
        && same("sizeUsd", "sizeUsd")
        && same("unrealizedPnl", "realizedPnl")
}

fn text<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}
