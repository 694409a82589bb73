//! An event leads to one order with its own market, direction and size.

use super::{
    Host, agent,
    data::{self, object},
    money::{self, Money},
    trade_on_price_alert::Placed,
};
use crate::{
    domain::{
        amount::Amount,
        job::RequestKind,
        order::{Direction, Market},
    },
    inngest::{
        run::{Run, Stop},
        workflow::{Trigger, Workflow},
    },
    runtime::Runtime,
};
use serde::Deserialize;
use serde_json::{Value, json};

const ID: &str = "trade-trigger";

/// The data of `purple-flea/trade.trigger`. The names of a price alert and of an order are accepted, too.
#[derive(Deserialize)]
struct Trade {
    #[serde(alias = "asset")]
    market: Market,
    #[serde(alias = "side")]
    direction: Direction,
    #[serde(alias = "size_usdc")]
    size: Amount,
}

pub(super) fn workflow<'a, R: Runtime>() -> Workflow<Host<'a, R>> {
    Workflow {
        id: ID,
        name: "Trade on a trigger",
        triggers: vec![Trigger::event("purple-flea/trade.trigger")],
        retries: 3,
        concurrency: Some(1),
        finish: None,
        has_money_steps: true,
        run: |run, host| Box::pin(go(run, host)),
    }
}

async fn go(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Value, Stop> {
    let Trade { market, direction, size } = data::read(run)?;
    if size <= Amount::ZERO || !size.is_whole_cents() {
        return data::refuse("`size` must be whole cents, 0.01 or more");
    }
    let money = Money {
        workflow: ID,
        step: "place-order",
        kind: RequestKind::Order,
        details: json!({
            "agent_id": agent::id(host)?,
            "market": market.name(),
            "direction": direction,
            "size": size,
        }),
        subject: None,
    };
    let placed: Placed = run.step("place-order", async || money::done(run, host, money).await).await?;
    Ok(object([
        ("order_id", placed.id().into()),
        ("market", market.name().into()),
        ("direction", direction.name().into()),
        ("size", size.into()),
    ]))
}
