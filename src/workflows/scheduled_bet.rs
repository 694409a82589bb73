//! One coin-flip at the times of a setting. The event's id is the time, so a time has one bet.

use super::{
    Host, agent,
    data::object,
    money::{self, Money},
};
use crate::{
    config::{ScheduledBet, Settings},
    domain::{amount::Amount, job::RequestKind},
    inngest::{
        run::{Run, StepError, Stop},
        workflow::{Trigger, Workflow},
    },
    runtime::Runtime,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const ID: &str = "scheduled-bet";

/// The bet, as the memo and the run's result have it.
#[derive(Debug, Serialize, Deserialize)]
struct Placed {
    #[serde(default)]
    bet_id: Option<String>,
    outcome: String,
    wager: Amount,
    #[serde(default)]
    payout: Option<Amount>,
}

/// Returns the workflow, if the settings name a time.
pub(super) fn workflow<'a, R: Runtime>(settings: &Settings) -> Option<Workflow<Host<'a, R>>> {
    let bet = settings.workflows.bet.as_ref()?;
    Some(Workflow {
        id: ID,
        name: "Scheduled bet",
        triggers: vec![Trigger::cron(bet.cron.clone())],
        retries: 3,
        concurrency: Some(1),
        finish: None,
        has_money_steps: true,
        run: |run, host| Box::pin(go(run, host)),
    })
}

async fn go(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Value, Stop> {
    let placed: Placed = run.step("place-bet", async || place(run, host).await).await?;
    Ok(object([
        ("bet_id", placed.bet_id.into()),
        ("outcome", placed.outcome.into()),
        ("wager", placed.wager.into()),
        ("payout", placed.payout.map_or(Value::Null, Into::into)),
    ]))
}

async fn place(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Placed, StepError> {
    let bet = host.settings.workflows.bet.as_ref();
    let ScheduledBet { side, wager, .. } =
        bet.ok_or_else(|| StepError::last("no_bet", "`inngest_bet_cron` is not set any more"))?;
    let details =
        json!({ "agent_id": agent::id(host)?, "game": "coin-flip", "side": side.name(), "wager": wager });
    let money = Money { workflow: ID, step: "place-bet", kind: RequestKind::Bet, details, subject: None };
    money::done(run, host, money).await
}
