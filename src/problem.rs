//! Everything that can go wrong with a request, as one enum: what the caller is told, and what to do next. The
//! reply is RFC 9457 (`application/problem+json`). Details of our own side and of the caller's credentials go to
//! the log, never here.

mod detail;

use crate::{
    admission::Refusal,
    config::SettingError,
    ledger::rpc::LedgerError,
    money::Amount,
    purple_flea::reply::{Doubt, Failure, Refusal as PurpleFleasRefusal},
    webhook::{body::ReadError, reference::ReferenceError},
};
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

/// After how many seconds a caller may ask again when our settings, or Purple Flea's mind about our key, have to
/// change first: somebody has to do something, and asking more often helps nobody.
const CONFIGURATION_RETRY_S: u64 = 60;

/// After how many seconds a caller may ask again when Purple Flea was not reached: long enough for a restart.
const NOT_REACHED_RETRY_S: u64 = 10;

/// After how many seconds a caller may ask the ledger again: long enough for a database's restart.
const LEDGER_RETRY_S: u64 = 5;

/// What went wrong. Each variant's text starts with the status that it produces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// 400: the body is not JSON.
    InvalidJson(String),
    /// 400: JSON, but not an event that this function reads. The text says which part is wrong.
    InvalidEvent(String),
    /// 400: nothing to call the event by: no `id` in the row, no `webhook-id`.
    MissingReference,
    /// 400: a `webhook-id` that cannot serve as a reference.
    InvalidReference,
    /// 400: the body does not name its operation; what it must be.
    MissingOperation(String),
    /// 400: the body names an operation that is not this path's; what it must be.
    OtherOperation(String),
    /// 400: arguments that do not belong to an operator's operation, or are missing. The text is the database's.
    InvalidDetails(String),
    /// 400: the body broke off, or took more than its time.
    IncompleteBody,
    /// 401: no valid signature or token. The reply does not say which part was wrong; the log does.
    Unauthorized(Refusal),
    /// 403: the caller is known, and its credential does not open this path.
    NotAllowed,
    /// 403: the user may not act for this agent.
    NotYours,
    /// 404: no such path.
    NotFound,
    /// 405: the path exists, the method does not; `Allow` names the one that does.
    MethodNotAllowed(&'static str),
    /// 413: a body of more than 64 KiB.
    BodyTooLarge,
    /// 415: not `application/json`.
    UnsupportedMediaType,
    /// 422: Purple Flea refused the bet for good.
    Rejected(PurpleFleasRefusal),
    /// 422: there is nobody, or nothing, that it could be done for.
    NoSuch(&'static str),
    /// 422: an operator names a job that is not there. The text is the database's.
    UnknownJob(String),
    /// 409: an operator asks for what the job's state does not allow. The text is the database's.
    NotPossible(String),
    /// 409: an operator asks for what this database cannot do yet. The text is the database's.
    NotAvailable(String),
    /// 409: it is at odds with what was asked for before.
    AtOdds(&'static str),
    /// 503: the agent has no key of its own yet, or Purple Flea refuses it.
    AgentsKey(Option<StatusCode>),
    /// 503: it was sent and may have been done, and does no harm when it is asked for again.
    NoAnswer(Option<Doubt>),
    /// 503: settings are missing or wrong.
    NotConfigured(Vec<SettingError>),
    /// 503: a ledger's doorbell, and no ledger in our settings.
    LedgerNotConfigured,
    /// 503: Purple Flea refuses our key or does not know our URL.
    PurpleFleaRefusedUs(Option<StatusCode>),
    /// 503: the bet was certainly not sent.
    NotReached(&'static str),
    /// 503: too many requests; the seconds to wait.
    RateLimited(u64),
    /// 400: a choice of game, where the ledger's policies decide.
    PolicyInLedger,
    /// 404: the ledger has no such deposit.
    UnknownDeposit,
    /// 409: somebody else is at it; the seconds to wait.
    InFlight(u64),
    /// 422: the deposit had waited too long when its turn came.
    TooOld,
    /// 502: an earlier attempt's bet was sent, or may have been, and nobody knows its outcome; the ledger's reason.
    Unresolved(String),
    /// 503: the ledger gave no answer that can be used. Nothing was sent to Purple Flea.
    Ledger(LedgerError),
    /// 503: the database refuses the function's key for operators' calls.
    OperatorKeyRefused(u16),
    /// 502: the bet was sent, and nothing says whether it was executed.
    OutcomeUnknown(Doubt),
    /// 504: the bet was sent, and no answer came in time.
    TimedOut,
}

/// One row of the design's table: the constant part of a problem.
struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    executed: &'static str,
    retryable: bool,
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
}

impl Problem {
    fn kind(&self) -> Kind {
        let no = |status, code, title, retryable| Kind { status, code, title, executed: "no", retryable };
        let unknown =
            |status, title, code| Kind { status, code, title, executed: "unknown", retryable: false };
        use StatusCode as S;
        match self {
            Self::InvalidJson(_) => no(S::BAD_REQUEST, "invalid_json", "The body is not JSON", false),
            Self::InvalidEvent(_) => no(S::BAD_REQUEST, "invalid_event", "The body is not an event", false),
            Self::MissingReference => no(S::BAD_REQUEST, "missing_reference", "The event has no name", false),
            Self::InvalidReference => {
                no(S::BAD_REQUEST, "invalid_reference", "The event's name cannot be used", false)
            }
            Self::MissingOperation(_) => {
                no(S::BAD_REQUEST, "missing_operation", "The body does not say what it asks for", false)
            }
            Self::OtherOperation(_) => {
                no(S::BAD_REQUEST, "other_operation", "The body asks for something else", false)
            }
            Self::InvalidDetails(_) => {
                no(S::BAD_REQUEST, "invalid_details", "The operation's arguments are wrong", false)
            }
            Self::IncompleteBody => {
                no(S::BAD_REQUEST, "incomplete_body", "The body did not arrive whole", true)
            }
            Self::Unauthorized(_) => no(S::UNAUTHORIZED, "unauthorized", "The caller is not known", false),
            Self::NotAllowed => no(S::FORBIDDEN, "not_allowed", "The caller may not call this path", false),
            Self::NotYours => no(S::FORBIDDEN, "not_yours", "The agent is another user's", false),
            Self::NotFound => no(S::NOT_FOUND, "not_found", "There is nothing at this path", false),
            Self::MethodNotAllowed(_) => {
                no(S::METHOD_NOT_ALLOWED, "method_not_allowed", "The path has another method", false)
            }
            Self::BodyTooLarge => no(S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large", false),
            Self::UnsupportedMediaType => no(
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body is not declared as JSON",
                false,
            ),
            Self::Rejected(_) => no(S::UNPROCESSABLE_ENTITY, "rejected", "Purple Flea refused it", false),
            Self::NoSuch(code) => no(S::UNPROCESSABLE_ENTITY, code, "There is no such thing", false),
            Self::UnknownJob(_) => {
                no(S::UNPROCESSABLE_ENTITY, "unknown_job", "The ledger has no such job", false)
            }
            Self::NotPossible(_) => {
                no(S::CONFLICT, "not_possible", "The job's state does not allow it", false)
            }
            Self::NotAvailable(_) => {
                no(S::CONFLICT, "not_available", "The database cannot do this yet", false)
            }
            Self::AtOdds(code) => no(S::CONFLICT, code, "It was asked for otherwise before", false),
            Self::AgentsKey(None) => {
                no(S::SERVICE_UNAVAILABLE, "agent_without_key", "The agent has no key", true)
            }
            Self::AgentsKey(Some(_)) => {
                no(S::SERVICE_UNAVAILABLE, "agents_key_refused", "The agent's key is refused", true)
            }
            Self::NoAnswer(_) => {
                let unknown = unknown(S::SERVICE_UNAVAILABLE, "Purple Flea gave no answer", "no_answer");
                Kind { retryable: true, ..unknown }
            }
            Self::NotConfigured(_) => {
                no(S::SERVICE_UNAVAILABLE, "not_configured", "The function is not configured", true)
            }
            Self::LedgerNotConfigured => {
                no(S::SERVICE_UNAVAILABLE, "ledger_not_configured", "The function has no ledger", true)
            }
            Self::PurpleFleaRefusedUs(_) => no(
                S::SERVICE_UNAVAILABLE,
                "purple_flea_refused_us",
                "Purple Flea does not know this function",
                true,
            ),
            Self::NotReached(_) => {
                no(S::SERVICE_UNAVAILABLE, "not_reached", "Purple Flea was not reached", true)
            }
            Self::RateLimited(_) => {
                no(S::SERVICE_UNAVAILABLE, "rate_limited", "Purple Flea asks to wait", true)
            }
            Self::PolicyInLedger => {
                no(S::BAD_REQUEST, "policy_in_ledger", "The ledger decides what is played", false)
            }
            Self::UnknownDeposit => {
                no(S::NOT_FOUND, "unknown_deposit", "The ledger has no such deposit", false)
            }
            Self::InFlight(_) => no(S::CONFLICT, "in_flight", "The deposit is being executed", true),
            Self::TooOld => no(S::UNPROCESSABLE_ENTITY, "too_old", "The deposit has waited too long", false),
            Self::Ledger(LedgerError::RefusedUs(_)) => {
                no(S::SERVICE_UNAVAILABLE, "ledger_refused_us", "The ledger refuses this function", true)
            }
            Self::Ledger(LedgerError::Missing) => {
                no(S::SERVICE_UNAVAILABLE, "ledger_missing", "The database has no ledger", true)
            }
            Self::Ledger(LedgerError::Mismatch) => {
                no(S::SERVICE_UNAVAILABLE, "ledger_mismatch", "Ledger and function do not fit", true)
            }
            Self::Ledger(LedgerError::Failed(_) | LedgerError::Unreadable) => {
                no(S::SERVICE_UNAVAILABLE, "ledger_failed", "The ledger cannot be used", true)
            }
            Self::Ledger(_) => {
                no(S::SERVICE_UNAVAILABLE, "ledger_not_reached", "The ledger was not reached", true)
            }
            Self::OperatorKeyRefused(_) => no(
                S::SERVICE_UNAVAILABLE,
                "operator_key_refused",
                "The ledger refuses the key for operators",
                true,
            ),
            Self::Unresolved(_) => {
                unknown(S::BAD_GATEWAY, "Nobody knows whether the bet was made", "outcome_unknown")
            }
            Self::OutcomeUnknown(_) => {
                unknown(S::BAD_GATEWAY, "Nobody knows whether the bet was made", "outcome_unknown")
            }
            Self::TimedOut => unknown(S::GATEWAY_TIMEOUT, "Purple Flea did not answer in time", "timed_out"),
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::MethodNotAllowed(allow) => Some((ALLOW, HeaderValue::from_static(allow))),
            Self::Unauthorized(_) => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::NotConfigured(_)
            | Self::LedgerNotConfigured
            | Self::PurpleFleaRefusedUs(_)
            | Self::AgentsKey(_)
            | Self::OperatorKeyRefused(_)
            | Self::Ledger(LedgerError::RefusedUs(_) | LedgerError::Missing | LedgerError::Mismatch) => {
                Some((RETRY_AFTER, CONFIGURATION_RETRY_S.into()))
            }
            Self::Ledger(_) => Some((RETRY_AFTER, LEDGER_RETRY_S.into())),
            Self::NotReached(_) | Self::NoAnswer(_) => Some((RETRY_AFTER, NOT_REACHED_RETRY_S.into())),
            Self::RateLimited(seconds) | Self::InFlight(seconds) => Some((RETRY_AFTER, (*seconds).into())),
            _ => None,
        }
    }

    /// Its stable code, which the reply and the log share.
    pub fn code(&self) -> &'static str {
        self.kind().code
    }

    /// What the log says beyond the code, and the caller is not told.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::InvalidJson(detail)
            | Self::InvalidEvent(detail)
            | Self::InvalidDetails(detail)
            | Self::NotPossible(detail) => Some(detail.clone()),
            Self::OperatorKeyRefused(status) => Some(format!("status_{status}")),
            Self::Unauthorized(refusal) => Some(refusal.name().to_owned()),
            Self::Rejected(refusal) => refusal.code.clone(),
            Self::PurpleFleaRefusedUs(Some(status))
            | Self::AgentsKey(Some(status))
            | Self::NoAnswer(Some(Doubt::Status(status)))
            | Self::OutcomeUnknown(Doubt::Status(status)) => Some(format!("status_{}", status.as_u16())),
            Self::Ledger(error) => Some(error.cause()),
            Self::Unresolved(reason) => Some(reason.clone()),
            Self::NotReached(why)
            | Self::NoAnswer(Some(Doubt::Broken(why)))
            | Self::OutcomeUnknown(Doubt::Broken(why)) => Some((*why).to_owned()),
            Self::NoAnswer(None) => Some("timed_out".to_owned()),
            Self::NoAnswer(Some(Doubt::Unrecognised)) | Self::OutcomeUnknown(Doubt::Unrecognised) => {
                Some("unrecognised_reply".to_owned())
            }
            Self::NotConfigured(errors) => {
                let names: Vec<&str> = errors.iter().map(|error| error.name).collect();
                Some(names.join(" "))
            }
            _ => None,
        }
    }

    /// The reply, with the event's reference where the caller was let in and it is known.
    pub fn response(&self, reference: Option<&str>) -> Response<Vec<u8>> {
        let kind = self.kind();
        let none = PurpleFleasRefusal::default();
        let refusal = if let Self::Rejected(refusal) = self { refusal } else { &none };
        let body = Body {
            kind: format!("urn:purple-flea-edge:problem:{}", kind.code),
            title: kind.title,
            status: kind.status.as_u16(),
            detail: self.detail(),
            code: kind.code,
            executed: kind.executed,
            retryable: kind.retryable,
            reference,
            purple_flea_code: refusal.code.as_deref(),
            max_bet: refusal.max_bet,
            escrow_status: refusal.escrow_status.as_deref(),
            settings: match self {
                Self::NotConfigured(errors) => errors.iter().map(|error| error.name).collect(),
                _ => Vec::new(),
            },
        };
        let mut response = json(kind.status, "application/problem+json", &body);
        response.headers_mut().extend(self.header());
        response
    }
}

/// A JSON reply with its length: without it head and body leave in two writes, and a keep-alive caller waits
/// 40 ms for the second on a host that leaves Nagle's algorithm on.
pub fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Vec<u8>> {
    // Nothing that is written here can fail to be JSON: no map with other keys than strings, no foreign types.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, length.into());
    response
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
        match failure {
            Failure::Rejected(refusal) => Self::Rejected(refusal),
            Failure::NotAuthorized { status, own_key: true } => Self::AgentsKey(Some(status)),
            Failure::NotAuthorized { status, .. } => Self::PurpleFleaRefusedUs(Some(status)),
            Failure::NoKey => Self::AgentsKey(None),
            Failure::NoAnswer(doubt) => Self::NoAnswer(doubt),
            Failure::RateLimited { retry_after_s, .. } => Self::RateLimited(retry_after_s),
            Failure::NotSent(why) => Self::NotReached(why),
            Failure::TimedOut => Self::TimedOut,
            Failure::Unknown(doubt) => Self::OutcomeUnknown(doubt),
        }
    }
}
