//! Agent tasks: registration, faucet claims and balance. Purple Flea performs each at most once, or only
//! reads, so a worker may retry each.

use super::{Context, Request, Task};
use crate::{
    domain::{
        account::{AccountKey, Api, Credit, DefaultAgent, check_wallet_address},
        completed::{Attempted, Completed},
        deposit::check_agent_id,
        failure::Failure,
        job::Subject,
        outcome::{Outcome, SkipFacts},
        reason::SkipReason,
    },
    json::{self, ReadError, refuse},
    purple_flea::accounts::Registered,
    runtime::Runtime,
};
use serde::Deserialize;
use serde_json::json;

/// An action on an agent's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTask {
    /// The agent.
    pub agent_id: String,
    /// The action.
    pub action: AgentAction,
}

/// The action of an [`AgentTask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAction {
    /// Register the agent.
    Register {
        /// The referral code of the agent that brought this one in.
        referral_code: Option<String>,
    },
    /// Claim the faucet's first credit.
    ClaimFaucet {
        /// The referral code of the agent that brought this one in.
        referral_code: Option<String>,
        /// Whether the account is fresh: the function registered it, and the ledger has no credit of the faucet.
        fresh: bool,
        /// Seconds until the faucet accepts a claim from our address, if it has refused one.
        wait_s: Option<u64>,
    },
    /// Make the daily claim.
    ClaimDaily {
        /// The address of the agent's wallet.
        wallet_address: Option<String>,
        /// Whether the answer to a claim was lost, and the ledger has no claim of the last 24 hours.
        fresh: bool,
    },
    /// Read the balance.
    ReadBalance,
}

/// A caller's request about an agent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentRow {
    agent_id: Option<String>,
}

/// A caller's request for the daily claim.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DailyClaimRow {
    agent_id: Option<String>,
    wallet_address: Option<String>,
}

/// Reads a caller's request about an agent. `default` is the agent of a request that names none.
pub(super) fn read(body: &[u8], default: &DefaultAgent, action: AgentAction) -> Result<Request, ReadError> {
    let row: AgentRow = json::arguments(body)?;
    request(row.agent_id, default, action)
}

/// Reads a caller's request for the daily claim.
pub(super) fn read_daily_claim(
    body: &[u8],
    default: &DefaultAgent,
    with_ledger: bool,
) -> Result<Request, ReadError> {
    let row: DailyClaimRow = json::arguments(body)?;
    if with_ledger && row.wallet_address.is_some() {
        return refuse("in ledger mode the agent's row holds its `wallet_address`");
    }
    let named = row.wallet_address.map(check_wallet_address).transpose()?;
    let wallet_address = named.or_else(|| default.wallet_address.clone());
    request(row.agent_id, default, AgentAction::ClaimDaily { wallet_address, fresh: false })
}

fn request(
    agent_id: Option<String>,
    default: &DefaultAgent,
    action: AgentAction,
) -> Result<Request, ReadError> {
    let Some(agent_id) = agent_id.or_else(|| default.id.clone()) else {
        return refuse("`agent_id` is missing");
    };
    let agent_id = check_agent_id(agent_id)?;
    let details = json!({ "agent_id": agent_id });
    let task = Some(Task::Agent(AgentTask { agent_id: agent_id.clone(), action }));
    Ok(Request { subject: Subject::Agent(agent_id), details, task })
}

/// Executes the task.
pub(super) async fn execute(task: &AgentTask, context: &Context<'_, impl Runtime>) -> Outcome {
    let AgentTask { agent_id, action } = task;
    if let Some(outcome) = context.out_of_time(agent_id) {
        return outcome;
    }
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let result = match action {
        AgentAction::Register { referral_code } => {
            return register(agent_id, referral_code.as_deref(), context).await;
        }
        AgentAction::ClaimFaucet { referral_code, fresh, wait_s } => {
            let code = referral_code.as_deref();
            let credit =
                purple_flea.claim_faucet(account, code, *fresh, *wait_s, idempotency_key, runtime).await;
            credit.map(Completed::Faucet)
        }
        AgentAction::ClaimDaily { .. }
            if purple_flea.api == Api::Live && matches!(account.key, AccountKey::Shared) =>
        {
            return Outcome::skipped(agent_id, SkipReason::NoDailyClaim);
        }
        AgentAction::ClaimDaily { wallet_address, fresh } => {
            return claim_daily(agent_id, wallet_address.as_deref(), *fresh, context)
                .await
                .unwrap_or_else(|failure| Outcome::failed(agent_id, Attempted::Other {}, failure));
        }
        AgentAction::ReadBalance => {
            purple_flea.balance(account, runtime).await.map(|balance| Completed::Balance { balance })
        }
    };
    Outcome::of(agent_id, result, Attempted::Other {})
}

/// Makes the daily claim, if Purple Flea says that it is due. `fresh` says that the credit of the last 24 hours is
/// not recorded: the claim's answer may have been lost.
async fn claim_daily(
    agent_id: &str,
    wallet_address: Option<&str>,
    fresh: bool,
    context: &Context<'_, impl Runtime>,
) -> Result<Outcome, Failure> {
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    let mut status = purple_flea.daily_status(account, runtime).await?;
    if status.can_claim {
        if let Some(outcome) = context.out_of_time(agent_id) {
            return Ok(outcome);
        }
        let made = purple_flea.claim_daily(account, wallet_address, idempotency_key, runtime).await?;
        if let Some(credit) = made {
            return Ok(Outcome::executed(agent_id, Completed::Faucet(credit)));
        }
        // Another client of the account has claimed since.
        status = purple_flea.daily_status(account, runtime).await?;
    }
    let next_eligible_at = status.next_eligible_at;
    let found = if fresh { purple_flea.find_daily_credit(account, runtime).await? } else { None };
    Ok(match found {
        Some(credit) => Outcome::executed(agent_id, Completed::Faucet(Credit { next_eligible_at, ..credit })),
        None => Outcome::Skipped {
            agent_id: agent_id.to_owned(),
            reason: SkipReason::NotEligibleYet,
            facts: SkipFacts { next_eligible_at, ..SkipFacts::default() },
        },
    })
}

/// Registers the agent. The new key stays apart from the result, so no log and no job holds it.
async fn register(
    agent_id: &str,
    referral_code: Option<&str>,
    context: &Context<'_, impl Runtime>,
) -> Outcome {
    let Context { purple_flea, account, idempotency_key, runtime, .. } = *context;
    if matches!(account.key, AccountKey::Own(_)) {
        // The agent already has a key. Registering again would lock us out of its account.
        return Outcome::skipped(agent_id, SkipReason::KeyIsThere);
    }
    let registered: Result<Registered, Failure> =
        purple_flea.register(account, referral_code, idempotency_key, runtime).await;
    match registered {
        Ok(Registered { account, referral_code: own_code, key }) => Outcome::Executed {
            agent_id: agent_id.to_owned(),
            completed: Completed::Registration {
                account,
                referral_code: own_code,
                referred_by: referral_code.map(str::to_owned),
            },
            secret: Some(key),
        },
        Err(failure) => Outcome::failed(agent_id, Attempted::Other {}, failure),
    }
}
