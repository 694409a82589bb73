//! Failures of a call to Purple Flea, by what each proves: nothing was executed, or the outcome is unknown.

use super::amount::Amount;
use http::StatusCode;

/// The faucet's code for an address that has claimed today.
pub const ONE_CLAIM_A_DAY: &str = "ip_rate_limited";

/// The reason why Purple Flea did not execute a task, or why its reply does not prove the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Purple Flea refused the request for good. Nothing was executed.
    Rejected(Refusal),
    /// Purple Flea refused our key, or does not know our URL. Nothing was executed. An agent's own key
    /// affects that agent alone; the shared key affects all agents.
    NotAuthorized {
        /// The status of the reply.
        status: StatusCode,
        /// Whether the request showed the agent's own key.
        own_key: bool,
    },
    /// The function has no key to show: neither the agent's own nor the shared one.
    NoKey,
    /// Purple Flea refused the request because of a rate limit. Nothing was executed.
    RateLimited {
        /// Seconds until Purple Flea accepts another request.
        retry_after_s: u64,
        /// Purple Flea's own code for the limit.
        code: Option<String>,
    },
    /// The request was certainly not sent. The text goes to the log.
    NotSent(&'static str),
    /// The request was sent, and no answer came in time. Purple Flea may have executed it.
    TimedOut,
    /// The request was sent, and the answer does not prove whether Purple Flea executed it.
    Unknown(Doubt),
    /// Either of the last two, for a retryable operation: Purple Flea performs it at most once, or it only
    /// reads.
    NoAnswer(Option<Doubt>),
}

/// The details of a refusal by Purple Flea.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Purple Flea's own code for the reason.
    pub code: Option<String>,
    /// The largest bet that Purple Flea would accept, in US dollars, if its reply names one.
    pub max_bet: Option<Amount>,
    /// The state of the escrow, if Purple Flea refused to end it.
    pub escrow_status: Option<String>,
}

/// The reason why the outcome of a sent request is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The connection broke before a complete answer arrived. The text goes to the log.
    Broken(&'static str),
    /// The answer has a status that does not prove that nothing was executed.
    Status(StatusCode),
    /// The answer is a success whose outcome the function does not recognise.
    Unrecognised,
}

impl Failure {
    /// Turns an unknown outcome into one that a worker retries. Callers use it for operations that Purple
    /// Flea performs at most once, and for reads.
    #[must_use]
    pub fn retryable(self) -> Self {
        match self {
            Self::TimedOut => Self::NoAnswer(None),
            Self::Unknown(doubt) => Self::NoAnswer(Some(doubt)),
            failure => failure,
        }
    }

    /// Makes a final refusal with one of the function's own codes.
    pub fn rejected(code: &str) -> Self {
        Self::Rejected(Refusal { code: Some(code.to_owned()), ..Refusal::default() })
    }

    /// Returns whether Purple Flea refused or limited the request with this code.
    pub fn has_code(&self, expected: &str) -> bool {
        match self {
            Self::Rejected(Refusal { code, .. }) | Self::RateLimited { code, .. } => {
                code.as_deref() == Some(expected)
            }
            _ => false,
        }
    }

    /// Returns the stable code that replies, the ledger and the log share.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::NotAuthorized { own_key: true, .. } => "agents_key_refused",
            Self::NotAuthorized { .. } => "purple_flea_refused_us",
            Self::NoKey => "agent_without_key",
            Self::RateLimited { .. } => "rate_limited",
            Self::NotSent(_) => "not_reached",
            Self::TimedOut => "timed_out",
            Self::Unknown(_) => "outcome_unknown",
            Self::NoAnswer(_) => "no_answer",
        }
    }

    /// Returns the detail that the log adds to the code. No reply holds it.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Rejected(refusal) => refusal.code.clone(),
            Self::NotAuthorized { status, .. } => Some(format!("status_{}", status.as_u16())),
            Self::NotSent(cause) => Some((*cause).to_owned()),
            Self::Unknown(doubt) | Self::NoAnswer(Some(doubt)) => Some(doubt.cause()),
            Self::NoAnswer(None) => Some("timed_out".to_owned()),
            Self::NoKey | Self::RateLimited { .. } | Self::TimedOut => None,
        }
    }
}

impl Doubt {
    fn cause(self) -> String {
        match self {
            Self::Broken(how) => how.to_owned(),
            Self::Status(status) => format!("status_{}", status.as_u16()),
            Self::Unrecognised => "unrecognised_reply".to_owned(),
        }
    }
}
