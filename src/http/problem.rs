//! Problems: every failure of a request, as one enum.
//!
//! The reply is RFC 9457 (`application/problem+json`) and says what the caller should do next. Details of our
//! configuration and of the caller's credentials go to the log, never into a reply.

pub mod code;
mod detail;

use super::{refusal::Refusal, response::json_as};
use crate::{
    config::SettingError,
    domain::{
        amount::Amount,
        failure::{Failure, Refusal as PurpleFleasRefusal},
        reference::ReferenceError,
    },
    json::ReadError,
    ledger::rpc::LedgerError,
    purple_flea::history::HistoryError,
    worker::reconcile::ReconcileError,
};
use code::{Code, Row};
use http::{
    HeaderName, HeaderValue, Response,
    header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

/// Retry delay, in seconds, if an operator has to change a setting or a key first. More requests before that
/// help no caller.
const CONFIGURATION_RETRY_S: u64 = 60;

/// Retry delay, in seconds, if Purple Flea was not reached: long enough for a restart.
const NOT_REACHED_RETRY_S: u64 = 10;

/// Retry delay, in seconds, if the ledger was not reached: long enough for a restart of the database.
const LEDGER_RETRY_S: u64 = 5;

/// A failure of a request. [`code::Code`] holds the status of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The body is not JSON.
    InvalidJson(String),
    /// The body is JSON, but not an event that this function reads. The text names the wrong part.
    InvalidEvent(String),
    /// An operator's arguments are missing, or do not belong to the operation. The text is the database's.
    InvalidDetails(String),
    /// Neither an `id` in the row nor a `webhook-id` names the event.
    MissingReference,
    /// The `webhook-id` cannot be a reference.
    InvalidReference,
    /// The body does not name its operation. The text names the expected one.
    MissingOperation(String),
    /// The body names an operation of another path. The text names the expected one.
    OtherOperation(String),
    /// The body broke off, or took too long.
    IncompleteBody,
    /// The body chooses a game, but the ledger's policies decide.
    PolicyInLedger,
    /// There is no valid signature or token. Only the log says which part was wrong.
    Unauthorized(Refusal),
    /// A parameter of the path or of the query is wrong. The text says which form it must have, and repeats nothing.
    InvalidParameter(&'static str),
    /// The query shows a key.
    KeyInQuery,
    /// There is no such event type. The texts are the known ones, if the ledger names them.
    UnknownType(Vec<String>),
    /// The cursor is not one of the caller's.
    CursorInvalid,
    /// Events after the cursor have been deleted. The text is the cursor to go on from.
    CursorTooOld(String),
    /// The cursor was made before a restore. The text is the cursor to go on from.
    CursorOfAnotherGeneration(String),
    /// The API key does not have this scope.
    MissingScope(&'static str),
    /// The tenant has no such record.
    UnknownRecord,
    /// An operator has to confirm a restore before the feed goes on.
    RestoreUnconfirmed,
    /// The caller is known, but its credential does not open this path.
    NotAllowed,
    /// The user may not act for this agent.
    NotYours,
    /// There is no such path.
    NotFound,
    /// The path has another method. The text is the value of `Allow`.
    MethodNotAllowed(&'static str),
    /// The body has more than so many bytes.
    BodyTooLarge(usize),
    /// The body is not declared as `application/json`.
    UnsupportedMediaType,
    /// Settings are missing or wrong.
    NotConfigured(Vec<SettingError>),
    /// The event belongs to a ledger, but the settings name none.
    LedgerNotConfigured,
    /// The ledger gave no usable answer. The function sent nothing to Purple Flea.
    Ledger(LedgerError),
    /// The database refuses the function's key for operators' calls, with this status.
    OperatorKeyRefused(u16),
    /// The ledger has no such deposit.
    UnknownDeposit,
    /// The database has no such agent.
    UnknownAgent,
    /// The database has no such escrow.
    UnknownEscrow,
    /// An operator names a job that does not exist. The text is the database's.
    UnknownJob(String),
    /// Another claim has the job. The number is the seconds to wait.
    InFlight(u64),
    /// The deposit has waited too long.
    TooOld,
    /// An earlier attempt's bet has an unknown outcome, for the ledger's reason.
    Unresolved(String),
    /// The job's state does not allow the operator's request. The text is the database's.
    NotPossible(String),
    /// This database cannot do what the operator requests. The text is the database's.
    NotAvailable(String),
    /// The name belongs to another request.
    ReferenceTaken,
    /// The agent is registered already.
    AlreadyRegistered,
    /// The escrow has ended, or a different end is already requested.
    EscrowNotOpen,
    /// Inngest did not take an event.
    NotForwarded,
    /// Deposits wait because Purple Flea refuses our key or does not know our URL.
    PurpleFleaRefusedUs,
    /// A call to Purple Flea failed.
    Failed(Failure),
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    executed: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purple_flea_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bet: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    escrow_status: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settings: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<&'a str>,
}

impl Problem {
    /// Returns the problem for the code with which the database refuses a request.
    pub fn of_request(refused: &str) -> Option<Self> {
        Some(match refused {
            "unknown_agent" => Self::UnknownAgent,
            "unknown_escrow" => Self::UnknownEscrow,
            "already_registered" => Self::AlreadyRegistered,
            "escrow_not_open" => Self::EscrowNotOpen,
            "reference_taken" => Self::ReferenceTaken,
            "invalid_reference" => Self::InvalidReference,
            _ => return None,
        })
    }

    /// Returns the problem for the code with which the database refuses an operation.
    pub fn of_operation(refused: &str, detail: String) -> Option<Self> {
        Some(match refused {
            "invalid_details" => Self::InvalidDetails(detail),
            "unknown_job" => Self::UnknownJob(detail),
            "not_possible" => Self::NotPossible(detail),
            "not_available" => Self::NotAvailable(detail),
            _ => return None,
        })
    }

    fn typed_code(&self) -> Code {
        match self {
            Self::InvalidJson(_) => Code::InvalidJson,
            Self::InvalidEvent(_) => Code::InvalidEvent,
            Self::InvalidDetails(_) => Code::InvalidDetails,
            Self::MissingReference => Code::MissingReference,
            Self::InvalidReference => Code::InvalidReference,
            Self::MissingOperation(_) => Code::MissingOperation,
            Self::OtherOperation(_) => Code::OtherOperation,
            Self::IncompleteBody => Code::IncompleteBody,
            Self::PolicyInLedger => Code::PolicyInLedger,
            Self::InvalidParameter(_) => Code::InvalidParameter,
            Self::KeyInQuery => Code::KeyInQuery,
            Self::UnknownType(_) => Code::UnknownType,
            Self::CursorInvalid => Code::CursorInvalid,
            Self::CursorTooOld(_) => Code::CursorTooOld,
            Self::CursorOfAnotherGeneration(_) => Code::CursorOfAnotherGeneration,
            Self::MissingScope(_) => Code::MissingScope,
            Self::UnknownRecord => Code::UnknownRecord,
            Self::RestoreUnconfirmed => Code::RestoreUnconfirmed,
            Self::Unauthorized(_) => Code::Unauthorized,
            Self::NotAllowed => Code::NotAllowed,
            Self::NotYours => Code::NotYours,
            Self::NotFound => Code::NotFound,
            Self::MethodNotAllowed(_) => Code::MethodNotAllowed,
            Self::BodyTooLarge(_) => Code::BodyTooLarge,
            Self::UnsupportedMediaType => Code::UnsupportedMediaType,
            Self::NotConfigured(_) => Code::NotConfigured,
            Self::LedgerNotConfigured => Code::LedgerNotConfigured,
            Self::Ledger(error) => ledger_code(error),
            Self::OperatorKeyRefused(_) => Code::OperatorKeyRefused,
            Self::UnknownDeposit => Code::UnknownDeposit,
            Self::UnknownAgent => Code::UnknownAgent,
            Self::UnknownEscrow => Code::UnknownEscrow,
            Self::UnknownJob(_) => Code::UnknownJob,
            Self::InFlight(_) => Code::InFlight,
            Self::TooOld => Code::TooOld,
            Self::Unresolved(_) => Code::OutcomeUnknown,
            Self::NotPossible(_) => Code::NotPossible,
            Self::NotAvailable(_) => Code::NotAvailable,
            Self::ReferenceTaken => Code::ReferenceTaken,
            Self::AlreadyRegistered => Code::AlreadyRegistered,
            Self::EscrowNotOpen => Code::EscrowNotOpen,
            Self::NotForwarded => Code::NotForwarded,
            Self::PurpleFleaRefusedUs => Code::PurpleFleaRefusedUs,
            Self::Failed(failure) => failure_code(failure),
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let retry_after_s = match self {
            Self::MethodNotAllowed(allow) => return Some((ALLOW, HeaderValue::from_static(allow))),
            Self::Unauthorized(_) => return Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::InFlight(seconds) => *seconds,
            Self::NotConfigured(_)
            | Self::LedgerNotConfigured
            | Self::RestoreUnconfirmed
            | Self::PurpleFleaRefusedUs
            | Self::OperatorKeyRefused(_)
            | Self::Ledger(
                LedgerError::RefusedUs(_)
                | LedgerError::TokenRefused(_)
                | LedgerError::Missing
                | LedgerError::Mismatch,
            ) => CONFIGURATION_RETRY_S,
            Self::Ledger(_) | Self::NotForwarded => LEDGER_RETRY_S,
            Self::Failed(failure) => match failure {
                Failure::NotAuthorized { .. } | Failure::NoKey => CONFIGURATION_RETRY_S,
                Failure::NotSent(_) | Failure::NoAnswer(_) => NOT_REACHED_RETRY_S,
                Failure::RateLimited { retry_after_s, .. } => *retry_after_s,
                Failure::Rejected(_) | Failure::TimedOut | Failure::Unknown(_) => return None,
            },
            _ => return None,
        };
        Some((RETRY_AFTER, retry_after_s.into()))
    }

    /// Returns the stable code that the reply and the log share.
    pub fn code(&self) -> &'static str {
        self.typed_code().row().name
    }

    /// Returns the detail that the log adds to the code. No reply holds it.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::InvalidJson(detail)
            | Self::InvalidEvent(detail)
            | Self::InvalidDetails(detail)
            | Self::NotPossible(detail) => Some(detail.clone()),
            Self::OperatorKeyRefused(status) => Some(format!("status_{status}")),
            Self::Unauthorized(refusal) => Some(refusal.name().to_owned()),
            Self::Ledger(error) => Some(error.cause()),
            Self::Unresolved(reason) => Some(reason.clone()),
            Self::NotConfigured(errors) => {
                let names: Vec<&str> = errors.iter().map(|error| error.name).collect();
                Some(names.join(" "))
            }
            Self::Failed(failure) => failure.cause(),
            _ => None,
        }
    }

    /// Makes the reply. It names the reference if the caller was admitted and the reference is known.
    pub fn response(&self, reference: Option<&str>) -> Response<Vec<u8>> {
        let Row { name, status, title, executed, retryable } = self.typed_code().row();
        let none = PurpleFleasRefusal::default();
        let refusal = if let Self::Failed(Failure::Rejected(refusal)) = self { refusal } else { &none };
        let body = Body {
            kind: format!("urn:purple-flea-edge:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            code: name,
            executed,
            retryable,
            reference,
            purple_flea_code: refusal.code.as_deref(),
            max_bet: refusal.max_bet,
            escrow_status: refusal.escrow_status.as_deref(),
            settings: match self {
                Self::NotConfigured(errors) => errors.iter().map(|error| error.name).collect(),
                _ => Vec::new(),
            },
            start: match self {
                Self::CursorTooOld(start) | Self::CursorOfAnotherGeneration(start) => Some(start),
                _ => None,
            },
        };
        let mut response = json_as(status, "application/problem+json", &body);
        response.headers_mut().extend(self.header());
        response
    }
}

fn ledger_code(error: &LedgerError) -> Code {
    match error {
        LedgerError::RefusedUs(_) | LedgerError::TokenRefused(_) => Code::LedgerRefusedUs,
        LedgerError::Missing => Code::LedgerMissing,
        LedgerError::Mismatch => Code::LedgerMismatch,
        LedgerError::Failed(_) | LedgerError::Unreadable => Code::LedgerFailed,
        LedgerError::NotReached(_) | LedgerError::Lost(_) | LedgerError::InTrouble(_) => {
            Code::LedgerNotReached
        }
    }
}

fn failure_code(failure: &Failure) -> Code {
    match failure {
        Failure::Rejected(_) => Code::Rejected,
        Failure::NotAuthorized { own_key: true, .. } => Code::AgentsKeyRefused,
        Failure::NotAuthorized { .. } => Code::PurpleFleaRefusedUs,
        Failure::NoKey => Code::AgentWithoutKey,
        Failure::RateLimited { .. } => Code::RateLimited,
        Failure::NotSent(_) => Code::NotReached,
        Failure::TimedOut => Code::TimedOut,
        Failure::Unknown(_) => Code::OutcomeUnknown,
        Failure::NoAnswer(_) => Code::NoAnswer,
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotJson(detail) => Self::InvalidJson(detail),
            ReadError::NotAnEvent(detail) => Self::InvalidEvent(detail),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Unauthorized(refusal)
    }
}

impl From<ReferenceError> for Problem {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Missing => Self::MissingReference,
            ReferenceError::Malformed => Self::InvalidReference,
            ReferenceError::Mismatch => Self::Unauthorized(Refusal::ReferenceMismatch),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ReconcileError> for Problem {
    fn from(error: ReconcileError) -> Self {
        match error {
            ReconcileError::Ledger(error) => Self::Ledger(error),
            ReconcileError::History(HistoryError::NotAuthorized(status)) => {
                Self::Failed(Failure::NotAuthorized { status, own_key: false })
            }
            ReconcileError::History(HistoryError::Unreadable(cause)) => Self::Failed(Failure::NotSent(cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn a_jobs_log_and_a_requests_reply_use_the_same_codes() {
        let status = StatusCode::FORBIDDEN;
        for failure in [
            Failure::Rejected(PurpleFleasRefusal::default()),
            Failure::NotAuthorized { status, own_key: true },
            Failure::NotAuthorized { status, own_key: false },
            Failure::NoKey,
            Failure::RateLimited { retry_after_s: 1, code: None },
            Failure::NotSent("x"),
            Failure::TimedOut,
            Failure::Unknown(crate::domain::failure::Doubt::Unrecognised),
            Failure::NoAnswer(None),
        ] {
            assert_eq!(Problem::from(failure.clone()).code(), failure.code());
        }
        for error in [
            LedgerError::NotReached("x"),
            LedgerError::Lost("x"),
            LedgerError::InTrouble(503),
            LedgerError::RefusedUs(401),
            LedgerError::Missing,
            LedgerError::Mismatch,
            LedgerError::Failed(String::new()),
            LedgerError::Unreadable,
        ] {
            assert_eq!(Problem::from(error.clone()).code(), error.code());
        }
    }
}
