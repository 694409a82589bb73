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

impl PurpleFlea {
    /// Opens a position, once. Purple Flea has no history of positions in which the function could look it
    /// up.
    pub async fn open_position(
        &self,
        order: &Order,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Fill, Failure> {
        let Order { market, direction, size, form } = order;
        let (agent_id, amount) = (account.name.as_str().into(), (*size).into());
        let (service, route, body) = match (self.api, form) {
            (Api::Gateway, Form::Trade) => (
                &self.casino,
                "/trade",
                body([
                    ("agent_id", agent_id),
                    ("market", market.name().into()),
                    ("size", amount),
                    ("side", direction.name().into()),
                ]),
            ),
            (Api::Gateway, Form::Order) => (
                &self.trading,
                "/trading/order",
                body([
                    ("agent_id", agent_id),
                    ("asset", market.name().into()),
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
        Ok(Fill { filled, entry_price: reply.amount(&["entry_price", "price"]), position_id, order_id })
    }
}

fn bought_or_sold(direction: Direction) -> &'static str {
    match direction {
        Direction::Long => "buy",
        Direction::Short => "sell",
    }
}
