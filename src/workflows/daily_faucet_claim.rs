//! Every morning the agent makes its daily claim: at the gateway's faucet, or at the live casino.

use super::{
    Host, agent,
    data::object,
    money::{self, Money, NotDone, Settled},
};
use crate::{
    domain::{amount::Amount, job::RequestKind},
    inngest::{
        run::{Run, StepError, Stop},
        workflow::{Trigger, Workflow},
    },
    runtime::Runtime,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const ID: &str = "daily-faucet-claim";

/// The code of a claim that is not due yet. Another client of the account has claimed since the status was read.
const NOT_ELIGIBLE_YET: &str = "not_eligible_yet";

/// The standing of the account, as the memo has it.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    can_claim: bool,
    next_eligible: Option<String>,
}

/// The claim, as the memo has it.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    claimed: bool,
    amount_usdc: Option<Amount>,
    tx_hash: Option<String>,
    next_eligible: Option<String>,
}

/// The claim, as the job has it.
#[derive(Deserialize)]
struct Credited {
    #[serde(default)]
    credited: Option<Amount>,
    #[serde(default)]
    tx_hash: Option<String>,
}

pub(super) fn workflow<'a, R: Runtime>() -> Workflow<Host<'a, R>> {
    Workflow {
        id: ID,
        name: "Daily faucet claim",
        triggers: vec![Trigger::cron("0 9 * * *")],
        retries: 2,
        concurrency: None,
        finish: None,
        has_money_steps: true,
        run: |run, host| Box::pin(go(run, host)),
    }
}

async fn go(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Value, Stop> {
    let standing: Standing = run.step("check-faucet-status", async || check_status(host).await).await?;
    if !standing.can_claim {
        return Ok(not_claimed(standing.next_eligible));
    }
    let claim: Claim = run.step("claim-faucet", async || claim(run, host).await).await?;
    if !claim.claimed {
        return Ok(not_claimed(claim.next_eligible));
    }
    let new_balance: Amount = run.step("fetch-balance", async || fetch_balance(host).await).await?;
    Ok(json!({
        "claimed": true,
        "amount_usdc": claim.amount_usdc,
        "tx_hash": claim.tx_hash,
        "new_balance": new_balance,
    }))
}

fn not_claimed(next_eligible: Option<String>) -> Value {
    json!({ "claimed": false, "next_eligible": next_eligible })
}

async fn check_status(host: &Host<'_, impl Runtime>) -> Result<Standing, StepError> {
    let account = agent::account(host).await?;
    let status = host.settings.purple_flea.daily_status(&account, host.runtime).await;
    let status = status.map_err(agent::of_reading)?;
    Ok(Standing { can_claim: status.can_claim, next_eligible: status.next_eligible_at })
}

async fn claim(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Claim, StepError> {
    let details = object([
        ("agent_id", agent::id(host)?.into()),
        ("wallet_address", host.settings.workflows.agent.wallet_address.as_deref().into()),
    ]);
    let kind = RequestKind::DailyClaim;
    let money = Money { workflow: ID, step: "claim-faucet", kind, details, subject: None };
    match money::execute(run, host, money).await? {
        Settled::Done(Credited { credited, tx_hash }) => {
            Ok(Claim { claimed: true, amount_usdc: credited, tx_hash, next_eligible: None })
        }
        Settled::NotDone(NotDone { reason, next_eligible_at, .. }) if reason == NOT_ELIGIBLE_YET => {
            let next_eligible = next_eligible_at;
            Ok(Claim { claimed: false, amount_usdc: None, tx_hash: None, next_eligible })
        }
        Settled::NotDone(why) => Err(why.into_error()),
    }
}

async fn fetch_balance(host: &Host<'_, impl Runtime>) -> Result<Amount, StepError> {
    let account = agent::account(host).await?;
    host.settings.purple_flea.balance(&account, host.runtime).await.map_err(agent::of_reading)
}
