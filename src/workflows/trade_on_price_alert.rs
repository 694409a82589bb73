//! A price alert leads to one order of 10 USDC.

use super::{
    Host, agent,
    data::{self, Price, object},
    log_trade,
    money::{self, Money},
};
use crate::{
    domain::{
        amount::Amount,
        job::RequestKind,
        order::{Direction, Market},
    },
    inngest::{
        run::{Run, StepError, Stop},
        workflow::{Trigger, Workflow},
    },
    runtime::Runtime,
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const ID: &str = "trade-on-price-alert";

/// The size of the order, and the least balance for it, in USDC.
const SIZE_USDC: u32 = 10;

/// The data of `purple-flea/price.alert`.
#[derive(Deserialize)]
struct Alert {
    asset: Market,
    price: Price,
    direction: Direction,
}

/// The order, as the memo and the run's result have it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Placed {
    /// The job.
    pub(super) reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position_id: Option<String>,
}

impl Placed {
    /// Returns Purple Flea's id of the order or, without one, of the position.
    pub(super) fn id(&self) -> Option<&str> {
        self.order_id.as_deref().or(self.position_id.as_deref())
    }
}

pub(super) fn workflow<'a, R: Runtime>() -> Workflow<Host<'a, R>> {
    Workflow {
        id: ID,
        name: "Trade on a price alert",
        triggers: vec![Trigger::event("purple-flea/price.alert")],
        retries: 3,
        concurrency: Some(1),
        finish: None,
        has_money_steps: true,
        run: |run, host| Box::pin(go(run, host)),
    }
}

async fn go(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Value, Stop> {
    let Alert { asset, price, direction } = data::read(run)?;
    let balance = run.step("check-balance", async || check_balance(host).await).await?;
    if balance.decimal() < Decimal::from(SIZE_USDC) {
        return Ok(json!({ "skipped": true, "reason": "insufficient balance" }));
    }
    let order = json!({
        "agent_id": agent::id(host)?,
        "market": asset.name(),
        "direction": direction,
        "size": SIZE_USDC,
    });
    let money = Money {
        workflow: ID,
        step: "place-order",
        kind: RequestKind::Order,
        details: order,
        subject: None,
    };
    let placed: Placed = run.step("place-order", async || money::done(run, host, money).await).await?;
    let result = object([
        ("order_id", placed.id().into()),
        ("asset", asset.name().into()),
        ("direction", direction.name().into()),
        ("price", price.number().into()),
    ]);
    if let Some(log) = &host.settings.workflows.log {
        run.step("log-trade", async || log_trade::post(log, &placed.reference, &result, host.runtime).await)
            .await?;
    }
    Ok(result)
}

async fn check_balance(host: &Host<'_, impl Runtime>) -> Result<Amount, StepError> {
    let account = agent::account(host).await?;
    host.settings.purple_flea.balance(&account, host.runtime).await.map_err(agent::of_reading)
}
