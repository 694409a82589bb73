//! Trading: opens positions on a market.

use super::{Call, PurpleFlea, body, reply::Field};
use crate::{
    domain::{
        account::{Account, Api},
        amount::Amount,
        failure::{Doubt, Failure},
        order::{Direction, Fill, Form, Order},
    },
    runtime::Runtime,
};
use serde_json::Value;

impl PurpleFlea {
    /// Opens a position, once. No list of Purple Flea's names the call that opened a position, so the function
    /// cannot look it up.
    pub async fn open_position(
        &self,
        order: &Order,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Fill, Failure> {
        let Order { market, direction, size, leverage, form } = order;
        let amount = (*size).into();
        // The gateway's first page documents no side. Every other route demands one.
        let side = match (self.api, form) {
            (Api::Gateway, Form::Trade) => *direction,
            _ => Some(direction.unwrap_or(Direction::DEFAULT)),
        };
        let (service, route, mut body) = match (self.api, form) {
            (Api::Gateway, Form::Trade) => (
                &self.casino,
                "/trade",
                body([
                    ("agent_id", account.name.as_str().into()),
                    ("market", market.name().into()),
                    ("size", amount),
                ]),
            ),
            (Api::Gateway, Form::Order) => (
                &self.trading,
                "/trading/order",
                body([
                    ("asset", market.name().into()),
                    ("size_usdc", amount),
                    ("order_type", "market".into()),
                ]),
            ),
            (Api::Live, _) => (
                &self.trading,
                "/v1/trade/open",
                body([("coin", market.coin().into()), ("size_usd", amount)]),
            ),
        };
        if let Value::Object(body) = &mut body {
            body.extend(side.map(|side| ("side".to_owned(), side.name().into())));
            // The gateway documents no leverage.
            let leverage = leverage.filter(|_| self.api == Api::Live);
            body.extend(leverage.map(|leverage| ("leverage".to_owned(), leverage.times().into())));
        }
        let call = Call {
            final_codes: &["daily_loss_limit_reached"],
            ..Call::post(route.to_owned(), body, idempotency_key)
        };
        let reply = self.call(service, account, call, runtime).await?;
        let position_id = reply.identifier(&["position_id"]);
        let order_id = reply.identifier(&["order_id", "id"]);
        if position_id.is_none() && order_id.is_none() {
            // Purple Flea did something, but the reply names neither position nor order.
            return Err(Failure::Unknown(Doubt::Unrecognised));
        }
        let filled = reply.amount(&["size_usd", "size_usdc", "size"]);
        let filled = filled.filter(|filled| *filled > Amount::ZERO).unwrap_or(*size);
        let told = reply.identifier(&["side"]).as_deref().and_then(Direction::parse);
        Ok(Fill {
            filled,
            direction: side.or(told),
            leverage: reply.amount(&["leverage"]),
            entry_price: reply.amount(&["entry_price", "price"]),
            position_id,
            order_id,
        })
    }
}
