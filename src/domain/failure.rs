//! Failures of a call to Purple Flea, by what each proves: nothing was executed, or the outcome is unknown.

use super::amount::Amount;
use http::StatusCode;

/// Why Purple Flea did not do something, or why its reply does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Purple Flea refused it for good. Nothing was executed.
    Rejected(Refusal),
    /// Purple Flea refused our key or does not know our URL. Nothing was executed. With an agent's own key that is the
    /// agent's trouble alone; with the shared key no other request would fare better.
    NotAuthorized {
        /// The status of the reply.
        status: StatusCode,
        /// Whether the request showed the agent's own key.
        own_key: bool,
    },
    /// There is no key to show: neither the agent's own nor the shared one.
    NoKey,
    /// Too many requests. Nothing was executed.
    RateLimited {
        /// After how many seconds another request makes sense.
        retry_after_s: u64,
        /// Purple Flea's own code for the limit.
        code: Option<String>,
    },
    /// The request was certainly not sent. The text is for the log.
    NotSent(&'static str),
    /// The request was sent, and no answer came in time. Purple Flea may have executed it.
    TimedOut,
    /// The request was sent, and the answer does not tell whether Purple Flea executed it.
    Unknown(Doubt),
    /// Either of the last two, of an operation that Purple Flea does at most once, or that only reads.
    NoAnswer(Option<Doubt>),
}

/// What Purple Flea says about a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Purple Flea's own code for the reason.
    pub code: Option<String>,
    /// The largest bet that Purple Flea would have taken, if its reply names it.
    pub max_bet: Option<Amount>,
    /// The state that the escrow has instead.
    pub escrow_status: Option<String>,
}

/// What keeps us from knowing whether Purple Flea executed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The connection broke before a whole answer came. The text is for the log.
    Broken(&'static str),
    /// The answer has a status that does not prove that nothing was executed.
    Status(StatusCode),
    /// The answer is a success without an outcome that we recognise.
    Unrecognised,
}

impl Failure {
    /// Turns an unknown outcome into one that a worker retries: the operation is one that Purple Flea does at most once
    /// however often it is asked, or one that only reads.
    #[must_use]
    pub fn retryable(self) -> Self {
        match self {
            Self::TimedOut => Self::NoAnswer(None),
            Self::Unknown(doubt) => Self::NoAnswer(Some(doubt)),
            failure => failure,
        }
    }

    /// Makes a refusal for good, with a code of ours.
    pub fn rejected(code: &str) -> Self {
        Self::Rejected(Refusal { code: Some(code.to_owned()), ..Refusal::default() })
    }

    /// Whether Purple Flea refused, or limited, with this code.
    pub fn says(&self, word: &str) -> bool {
        match self {
            Self::Rejected(Refusal { code, .. }) | Self::RateLimited { code, .. } => {
                code.as_deref() == Some(word)
            }
            _ => false,
        }
    }

    /// The stable code that replies, the ledger and the log share.
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

    /// What the log says beyond the code. A caller does not get it.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Rejected(refusal) => refusal.code.clone(),
            Self::NotAuthorized { status, .. } => Some(format!("status_{}", status.as_u16())),
            Self::NotSent(why) => Some((*why).to_owned()),
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
