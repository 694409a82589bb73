//! Agent tasks: registration, faucet claims and balance. Purple Flea performs each at most once, or only
//! reads, so a worker may retry each.

use super::{Context, Request, Task};
use crate::{
    domain::{
        account::{AccountKey, Api},
        completed::{Attempted, Completed},
        deposit::check_agent_id,
        failure::Failure,
        job::Subject,
        outcome::Outcome,
        reason::SkipReason,
    },
    json::{self, ReadError},
    purple_flea::accounts::Registered,
    runtime::Runtime,
};
use serde::{Deserialize, Serialize};
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
        /// Whether the account is fresh: the function registered it, and it has received nothing since.
        fresh: bool,
    },
    /// Make the faucet's daily claim.
    ClaimDaily,
    /// Read the balance.
    ReadBalance,
}

/// A caller's request about an agent.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct AgentRow {
    agent_id: String,
}

/// Reads a caller's request about an agent.
pub(super) fn read(body: &[u8], action: AgentAction) -> Result<Request, ReadError> {
    let row: AgentRow = json::arguments(body)?;
    let (agent_id, details) = (check_agent_id(row.agent_id.clone())?, json!(row));
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
        AgentAction::ClaimFaucet { referral_code, fresh } => {
            let code = referral_code.as_deref();
            let credit = purple_flea.claim_faucet(account, code, *fresh, idempotency_key, runtime).await;
            credit.map(Completed::Faucet)
        }
        AgentAction::ClaimDaily if purple_flea.api == Api::Live => {
            return Outcome::skipped(agent_id, SkipReason::NoDailyClaim);
        }
        AgentAction::ClaimDaily => {
            purple_flea.claim_daily(account, idempotency_key, runtime).await.map(Completed::Faucet)
        }
        AgentAction::ReadBalance => {
            purple_flea.balance(account, runtime).await.map(|balance| Completed::Balance { balance })
        }
    };
    Outcome::of(agent_id, result, Attempted::Other {})
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
