//! How a piece of work ended: done, left for good, left for now, or failed; and what there is to say about each, to the
//! caller, to the ledger and to the log.

pub mod done;

use crate::{
    ledger::job::State,
    log::Line,
    money::Amount,
    problem::{Problem, json},
    purple_flea::reply::{Failure, Refusal},
    skip::Skip,
    upstream::Key,
    webhook::reference::Reference,
};
use done::{Asked, Done};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// After how many seconds a deposit is looked at again that only an open bet keeps from its own. The database does so
/// as soon as that bet is known; this is for the day's end.
const OPEN_LIMIT_RETRY_S: u64 = 900;

/// After how many seconds a job is looked at again that we could not read, or whose escrow nobody knows of: somebody has
/// to do something first.
const UNREADABLE_RETRY_S: u64 = 300;

/// After how many seconds the balance is asked for again: a window of Purple Flea's.
const BALANCE_RETRY_S: u64 = 60;

/// After how many seconds what our key or URL keeps us from is tried again: asking within a minute changes no setting.
const NOT_AUTHORIZED_RETRY_S: u64 = 60;

/// How a piece of work ended.
#[derive(Debug, Clone)]
pub enum Ending {
    /// It was done.
    Executed {
        /// For whom.
        agent_id: String,
        /// What was done.
        done: Done,
        /// A key that came with it, for the ledger alone.
        secret: Option<Key>,
    },
    /// Nothing is done, for good.
    Skipped {
        /// For whom.
        agent_id: String,
        /// Why.
        skip: Skip,
        /// What the wallet held, where that is why.
        balance: Option<Amount>,
    },
    /// Nothing was sent, for now.
    Waiting {
        /// For whom, where that could be read.
        agent_id: Option<String>,
        /// Why.
        wait: Wait,
    },
    /// It was to be done, and was not, or nobody knows.
    Failed {
        /// For whom.
        agent_id: String,
        /// What was to be done.
        asked: Asked,
        /// What Purple Flea, or its silence, proves.
        failure: Failure,
    },
}

/// Why nothing was sent for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Bets are paused.
    Paused,
    /// A daily limit holds, unless bets of unknown outcome turn out not to have been made.
    DailyLimitOpen,
    /// What was to be sent could have outlived its lease.
    OutOfTime,
    /// Purple Flea did not say what the wallet holds.
    BalanceNotKnown,
    /// The escrow that is to end is not made yet.
    EscrowNotMade,
    /// The ledger's row or policy is nothing that this version can read.
    Unreadable,
}

impl Wait {
    /// Its name in replies, logs and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::DailyLimitOpen => "daily_limit_open",
            Self::OutOfTime => "out_of_time",
            Self::BalanceNotKnown => "balance_not_known",
            Self::EscrowNotMade => "escrow_not_made",
            Self::Unreadable => "unreadable_job",
        }
    }

    fn retry_after_s(self) -> u64 {
        match self {
            Self::Paused | Self::OutOfTime => 0,
            Self::DailyLimitOpen => OPEN_LIMIT_RETRY_S,
            Self::BalanceNotKnown => BALANCE_RETRY_S,
            Self::EscrowNotMade | Self::Unreadable => UNREADABLE_RETRY_S,
        }
    }
}

#[derive(Serialize, Default)]
struct NotDoneBody<'a> {
    status: &'static str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'static str,
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a str>,
    #[serde(flatten)]
    asked: Option<&'a Asked>,
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

impl Ending {
    /// It was done, and nothing came with it.
    pub fn executed(agent_id: &str, done: Done) -> Self {
        Self::Executed { agent_id: agent_id.to_owned(), done, secret: None }
    }

    /// It is left for good.
    pub fn skipped(agent_id: &str, skip: Skip) -> Self {
        Self::Skipped { agent_id: agent_id.to_owned(), skip, balance: None }
    }

    /// It is left for now.
    pub fn waiting(agent_id: &str, wait: Wait) -> Self {
        Self::Waiting { agent_id: Some(agent_id.to_owned()), wait }
    }

    /// It was not done, or nobody knows.
    pub fn failed(agent_id: &str, asked: Asked, failure: Failure) -> Self {
        Self::Failed { agent_id: agent_id.to_owned(), asked, failure }
    }

    /// Whether Purple Flea took or refused the thing itself: then others may fare as well.
    pub fn encourages(&self) -> bool {
        matches!(self, Self::Executed { .. } | Self::Failed { failure: Failure::Rejected(_), .. })
    }

    /// Whether it speaks for the next one's not faring better.
    pub fn discourages(&self) -> bool {
        use Failure::{NotAuthorized, NotSent, RateLimited};
        matches!(
            self,
            Self::Failed {
                failure: NotAuthorized { own_key: false, .. } | NotSent(_) | RateLimited { .. },
                ..
            } | Self::Waiting { wait: Wait::OutOfTime, .. }
        )
    }

    /// The state that it leads a claimed job to.
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

    /// A key that came with it.
    pub fn secret(&self) -> Option<&Key> {
        match self {
            Self::Executed { secret, .. } => secret.as_ref(),
            _ => None,
        }
    }

    /// All there is to say about it, as JSON: what the ledger keeps, and what a success is answered with.
    pub fn body(&self, reference: &Reference) -> Box<RawValue> {
        let reference = reference.as_str();
        match self {
            Self::Executed { agent_id, done, .. } => done.body(agent_id, reference),
            Self::Skipped { agent_id, skip, balance } => raw(&NotDoneBody {
                status: "skipped",
                reason: skip.name(),
                detail: skip.detail(),
                reference,
                agent_id: Some(agent_id),
                balance: *balance,
                ..NotDoneBody::default()
            }),
            Self::Waiting { agent_id, wait } => raw(&NotDoneBody {
                status: "waiting",
                reason: wait.name(),
                detail: "Nothing was executed.",
                reference,
                agent_id: agent_id.as_deref(),
                retry_after_s: Some(wait.retry_after_s()),
                ..NotDoneBody::default()
            }),
            Self::Failed { agent_id, asked, failure } => failed_body(agent_id, asked, failure, reference),
        }
    }

    /// The reply to whoever asked for it.
    pub fn response(self, reference: &Reference) -> Result<Response<Vec<u8>>, Problem> {
        match self {
            Self::Failed { failure, .. } => Err(failure.into()),
            ending => Ok(json(StatusCode::OK, "application/json", &ending.body(reference))),
        }
    }

    /// Tells the log.
    pub fn note(&self, line: &mut Line) {
        match self {
            Self::Executed { agent_id, done, .. } => {
                line.agent = Some(agent_id.clone());
                line.decision = Some(done.decision());
                line.outcome = match done {
                    Done::Bet(bet) => Some(bet.outcome),
                    _ => None,
                };
            }
            Self::Skipped { agent_id, skip, .. } => {
                line.agent = Some(agent_id.clone());
                line.decision = Some(skip.name());
            }
            Self::Waiting { agent_id, wait } => {
                line.agent.clone_from(agent_id);
                line.decision = Some(wait.name());
            }
            Self::Failed { agent_id, asked, failure } => {
                line.agent = Some(agent_id.clone());
                line.decision = match asked {
                    Asked::Bet { .. } => Some("bet"),
                    Asked::Trade { .. } => Some("trade"),
                    Asked::Other {} => None,
                };
                let problem = Problem::from(failure.clone());
                line.code = Some(problem.code());
                line.cause = problem.cause();
            }
        }
    }
}

fn failed_body(agent_id: &str, asked: &Asked, failure: &Failure, reference: &str) -> Box<RawValue> {
    let problem = Problem::from(failure.clone());
    let none = Refusal::default();
    let (status, reason, refusal) = match failure {
        Failure::Rejected(refusal) => ("rejected", refusal.code.as_deref().unwrap_or("rejected"), refusal),
        Failure::TimedOut | Failure::Unknown(_) => ("unknown", problem.code(), &none),
        _ => ("waiting", problem.code(), &none),
    };
    let limit = match failure {
        Failure::RateLimited { code, .. } => code.as_deref(),
        _ => None,
    };
    raw(&NotDoneBody {
        status,
        reason,
        reference,
        agent_id: Some(agent_id),
        asked: Some(asked),
        purple_flea_code: refusal.code.as_deref().or(limit),
        max_bet: refusal.max_bet,
        escrow_status: refusal.escrow_status.as_deref(),
        cause: problem.cause().filter(|_| refusal.code.is_none()),
        retry_after_s: match failure {
            Failure::RateLimited { retry_after_s, .. } => Some(*retry_after_s),
            Failure::NotAuthorized { .. } | Failure::NoKey => Some(NOT_AUTHORIZED_RETRY_S),
            _ => None,
        },
        ..NotDoneBody::default()
    })
}

fn raw(body: &impl Serialize) -> Box<RawValue> {
    // Nothing that is written here can fail to be JSON.
    to_raw_value(body).unwrap_or_default()
}
