//! The outcome of a task: executed, skipped for good, waiting, or failed. This module makes the caller's, the
//! ledger's and the log's view of it.

use super::{
    amount::Amount,
    completed::{Attempted, Completed},
    failure::{Failure, Refusal},
    job::State,
    reason::{Hold, RetryReason, SkipReason},
    reference::Reference,
};
use crate::{endpoint::Key, log::Line};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Retry delay, in seconds, if Purple Flea refuses our key or URL. An operator does not change a setting
/// within a minute.
const NOT_AUTHORIZED_RETRY_S: u64 = 60;

/// The outcome of a task.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Purple Flea executed the task.
    Executed {
        /// The agent.
        agent_id: String,
        /// The record of the execution.
        completed: Completed,
        /// A key from the reply. Only the ledger gets it.
        secret: Option<Key>,
    },
    /// The function skips the task for good.
    Skipped {
        /// The agent.
        agent_id: String,
        /// The reason.
        reason: SkipReason,
        /// The balance, if it is the reason.
        balance: Option<Amount>,
        /// The most that the bet could have been, if that is the reason.
        max_bet: Option<Amount>,
    },
    /// The function sends nothing for now.
    Waiting {
        /// The agent, if the job could be read.
        agent_id: Option<String>,
        /// The reason.
        reason: RetryReason,
    },
    /// Purple Flea did not execute the task, or its reply does not prove the outcome.
    Failed {
        /// The agent.
        agent_id: String,
        /// The task that the function attempted.
        attempted: Attempted,
        /// The conclusion from Purple Flea's reply, or from its silence.
        failure: Failure,
    },
}

/// Any outcome but an executed one, as replies and the ledger have it.
#[derive(Serialize, Default)]
struct NotExecutedBody<'a> {
    status: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'static str,
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a str>,
    #[serde(flatten)]
    attempted: Option<&'a Attempted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purple_flea_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bet: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    escrow_status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

impl Outcome {
    /// Makes an executed outcome without a key from the reply.
    pub fn executed(agent_id: &str, completed: Completed) -> Self {
        Self::Executed { agent_id: agent_id.to_owned(), completed, secret: None }
    }

    /// Makes a skipped outcome.
    pub fn skipped(agent_id: &str, reason: SkipReason) -> Self {
        Self::Skipped { agent_id: agent_id.to_owned(), reason, balance: None, max_bet: None }
    }

    /// Makes a waiting outcome.
    pub fn waiting(agent_id: &str, reason: RetryReason) -> Self {
        Self::Waiting { agent_id: Some(agent_id.to_owned()), reason }
    }

    /// Makes the outcome of a deposit that the policy holds back.
    pub fn held(agent_id: &str, hold: Hold) -> Self {
        match hold {
            Hold::Skip(reason) => Self::skipped(agent_id, reason),
            Hold::Retry(reason) => Self::waiting(agent_id, reason),
        }
    }

    /// Makes the outcome of a call that succeeded or failed.
    pub fn of(agent_id: &str, result: Result<Completed, Failure>, attempted: Attempted) -> Self {
        match result {
            Ok(completed) => Self::executed(agent_id, completed),
            Err(failure) => Self::failed(agent_id, attempted, failure),
        }
    }

    /// Makes a failed outcome.
    pub fn failed(agent_id: &str, attempted: Attempted, failure: Failure) -> Self {
        Self::Failed { agent_id: agent_id.to_owned(), attempted, failure }
    }

    /// Returns whether Purple Flea judged the task itself. Other jobs may succeed, so the worker goes on
    /// claiming.
    pub fn favours_claims(&self) -> bool {
        matches!(self, Self::Executed { .. } | Self::Failed { failure: Failure::Rejected(_), .. })
    }

    /// Returns whether other jobs would probably fail for the same reason, so the worker stops claiming.
    pub fn stops_claims(&self) -> bool {
        use Failure::{NotAuthorized, NotSent, RateLimited};
        matches!(
            self,
            Self::Failed {
                failure: NotAuthorized { own_key: false, .. } | NotSent(_) | RateLimited { .. },
                ..
            } | Self::Waiting { reason: RetryReason::OutOfTime, .. }
        )
    }

    /// Returns the state that the outcome leads a claimed job to.
    pub fn state(&self) -> State {
        match self {
            Self::Executed { .. } => State::Executed,
            Self::Skipped { .. } => State::Skipped,
            Self::Waiting { .. } => State::Pending,
            Self::Failed { failure, .. } => match failure {
                Failure::Rejected(_) => State::Rejected,
                Failure::NotAuthorized { .. }
                | Failure::NoKey
                | Failure::RateLimited { .. }
                | Failure::NotSent(_)
                | Failure::NoAnswer(_) => State::Pending,
                Failure::TimedOut | Failure::Unknown(_) => State::Unknown,
            },
        }
    }

    /// Returns the key from the reply, if there is one.
    pub fn secret(&self) -> Option<&Key> {
        match self {
            Self::Executed { secret, .. } => secret.as_ref(),
            _ => None,
        }
    }

    /// Returns the complete outcome as JSON. The ledger keeps it, and a caller gets it as a reply.
    pub fn body(&self, reference: &Reference) -> Box<RawValue> {
        let reference = reference.as_str();
        match self {
            Self::Executed { agent_id, completed, .. } => completed.body(agent_id, reference),
            Self::Skipped { agent_id, reason, balance, max_bet } => raw(&NotExecutedBody {
                status: "skipped",
                reason: reason.name(),
                detail: reason.detail(),
                reference,
                agent_id: Some(agent_id),
                max_bet: *max_bet,
                balance: *balance,
                ..NotExecutedBody::default()
            }),
            Self::Waiting { agent_id, reason } => raw(&NotExecutedBody {
                status: "waiting",
                reason: reason.name(),
                detail: "Nothing was executed.",
                reference,
                agent_id: agent_id.as_deref(),
                retry_after_s: Some(reason.retry_after_s()),
                ..NotExecutedBody::default()
            }),
            Self::Failed { agent_id, attempted, failure } => {
                failed_body(agent_id, attempted, failure, reference)
            }
        }
    }

    /// Writes the outcome to a log line.
    pub fn write_to(&self, line: &mut Line) {
        match self {
            Self::Executed { agent_id, completed, .. } => {
                line.agent = Some(agent_id.clone());
                line.decision = Some(completed.decision());
                line.outcome = completed.bet_result();
            }
            Self::Skipped { agent_id, reason, max_bet, .. } => {
                line.agent = Some(agent_id.clone());
                line.decision = Some(reason.name());
                line.cause = max_bet.map(|max_bet| format!("max_bet {max_bet}"));
            }
            Self::Waiting { agent_id, reason } => {
                line.agent.clone_from(agent_id);
                line.decision = Some(reason.name());
            }
            Self::Failed { agent_id, attempted, failure } => {
                line.agent = Some(agent_id.clone());
                line.decision = attempted.decision();
                line.code = Some(failure.code());
                line.cause = failure.cause();
            }
        }
    }
}

fn failed_body(agent_id: &str, attempted: &Attempted, failure: &Failure, reference: &str) -> Box<RawValue> {
    let none = Refusal::default();
    let (status, reason, refusal) = match failure {
        Failure::Rejected(refusal) => {
            ("rejected", refusal.code.as_deref().unwrap_or(failure.code()), refusal)
        }
        Failure::TimedOut | Failure::Unknown(_) => ("unknown", failure.code(), &none),
        _ => ("waiting", failure.code(), &none),
    };
    let limit = match failure {
        Failure::RateLimited { code, .. } => code.as_deref(),
        _ => None,
    };
    raw(&NotExecutedBody {
        status,
        reason,
        reference,
        agent_id: Some(agent_id),
        attempted: Some(attempted),
        purple_flea_code: refusal.code.as_deref().or(limit),
        max_bet: refusal.max_bet,
        escrow_status: refusal.escrow_status.as_deref(),
        cause: failure.cause().filter(|_| refusal.code.is_none()),
        retry_after_s: match failure {
            Failure::RateLimited { retry_after_s, .. } => Some(*retry_after_s),
            Failure::NotAuthorized { .. } | Failure::NoKey => Some(NOT_AUTHORIZED_RETRY_S),
            _ => None,
        },
        ..NotExecutedBody::default()
    })
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    // All keys are strings and all values are of known types, so this always serialises.
    to_raw_value(body).unwrap_or_default()
}
