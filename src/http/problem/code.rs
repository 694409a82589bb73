//! The codes of problems: the status of each reply, its title, and the conclusion that a caller may draw. The
//! table has one row a code.

use http::StatusCode;

/// The constant part of a problem.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The code in the reply and in the log.
    pub name: &'static str,
    /// The status of the reply.
    pub status: StatusCode,
    /// The title, for people.
    pub title: &'static str,
    /// `no` if nothing was executed, `unknown` if Purple Flea may have executed the request.
    pub executed: &'static str,
    /// Whether the same request may be sent again.
    pub retryable: bool,
}

macro_rules! codes {
    ($($code:ident, $name:literal, $status:ident, $executed:literal, $retryable:literal, $title:literal;)*) => {
        /// A code of a problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $code,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$code,)*];

            /// Returns the code's row of the table.
            pub fn row(self) -> Row {
                match self {
                    $(Self::$code => Row {
                        name: $name,
                        status: StatusCode::$status,
                        title: $title,
                        executed: $executed,
                        retryable: $retryable,
                    },)*
                }
            }
        }
    };
}

codes! {
    InvalidJson, "invalid_json", BAD_REQUEST, "no", false, "The body is not JSON";
    InvalidEvent, "invalid_event", BAD_REQUEST, "no", false, "The body is not an event";
    InvalidDetails, "invalid_details", BAD_REQUEST, "no", false, "The operation's arguments are wrong";
    MissingReference, "missing_reference", BAD_REQUEST, "no", false, "The request has no reference";
    InvalidReference, "invalid_reference", BAD_REQUEST, "no", false, "The reference is not valid";
    MissingOperation, "missing_operation", BAD_REQUEST, "no", false, "The body names no operation";
    OtherOperation, "other_operation", BAD_REQUEST, "no", false, "The body names another operation";
    IncompleteBody, "incomplete_body", BAD_REQUEST, "no", true, "The body is incomplete";
    PolicyInLedger, "policy_in_ledger", BAD_REQUEST, "no", false, "The ledger decides the game";
    InvalidParameter, "invalid_parameter", BAD_REQUEST, "no", false, "A parameter is not valid";
    KeyInQuery, "key_in_query", BAD_REQUEST, "no", false, "The query shows a key";
    UnknownType, "unknown_type", BAD_REQUEST, "no", false, "There is no such event type";
    CursorInvalid, "cursor_invalid", BAD_REQUEST, "no", false, "The cursor is not valid";
    Unauthorized, "unauthorized", UNAUTHORIZED, "no", false, "The caller is not known";
    NotAllowed, "not_allowed", FORBIDDEN, "no", false, "The caller may not call this path";
    NotYours, "not_yours", FORBIDDEN, "no", false, "The agent is another user's";
    MissingScope, "missing_scope", FORBIDDEN, "no", false, "The key does not have the scope";
    NotFound, "not_found", NOT_FOUND, "no", false, "The path does not exist";
    UnknownRecord, "unknown_record", NOT_FOUND, "no", false, "The tenant has no such record";
    UnknownDeposit, "unknown_deposit", NOT_FOUND, "no", false, "The ledger has no such deposit";
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "no", false, "The path has a different method";
    InFlight, "in_flight", CONFLICT, "no", true, "A worker is executing the deposit";
    NotPossible, "not_possible", CONFLICT, "no", false, "The job's state does not allow it";
    NotAvailable, "not_available", CONFLICT, "no", false, "The database cannot do this yet";
    ReferenceTaken, "reference_taken", CONFLICT, "no", false, "The reference belongs to another request";
    AlreadyRegistered, "already_registered", CONFLICT, "no", false, "The agent is registered already";
    EscrowNotOpen, "escrow_not_open", CONFLICT, "no", false, "The escrow is not open";
    CursorTooOld, "cursor_too_old", GONE, "no", false, "Events after the cursor have been deleted";
    CursorOfAnotherGeneration, "cursor_of_another_generation", GONE, "no", false, "The database was restored after the cursor was made";
    BodyTooLarge, "body_too_large", PAYLOAD_TOO_LARGE, "no", false, "The body is too large";
    UnsupportedMediaType, "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "no", false, "The body is not declared as JSON";
    Rejected, "rejected", UNPROCESSABLE_ENTITY, "no", false, "Purple Flea refused the request";
    UnknownAgent, "unknown_agent", UNPROCESSABLE_ENTITY, "no", false, "There is no such agent";
    UnknownEscrow, "unknown_escrow", UNPROCESSABLE_ENTITY, "no", false, "There is no such escrow";
    UnknownJob, "unknown_job", UNPROCESSABLE_ENTITY, "no", false, "The ledger has no such job";
    TooOld, "too_old", UNPROCESSABLE_ENTITY, "no", false, "The deposit has waited too long";
    NotConfigured, "not_configured", SERVICE_UNAVAILABLE, "no", true, "The function is not configured";
    LedgerNotConfigured, "ledger_not_configured", SERVICE_UNAVAILABLE, "no", true, "The function has no ledger";
    RestoreUnconfirmed, "restore_unconfirmed", SERVICE_UNAVAILABLE, "no", true, "A restore waits for its confirmation";
    LedgerRefusedUs, "ledger_refused_us", SERVICE_UNAVAILABLE, "no", true, "The ledger refuses this function";
    LedgerMissing, "ledger_missing", SERVICE_UNAVAILABLE, "no", true, "The database has no ledger";
    LedgerMismatch, "ledger_mismatch", SERVICE_UNAVAILABLE, "no", true, "Ledger and function are of incompatible releases";
    LedgerFailed, "ledger_failed", SERVICE_UNAVAILABLE, "no", true, "The ledger cannot be used";
    LedgerNotReached, "ledger_not_reached", SERVICE_UNAVAILABLE, "no", true, "The ledger was not reached";
    NotForwarded, "not_forwarded", SERVICE_UNAVAILABLE, "no", true, "Inngest did not take the event";
    OperatorKeyRefused, "operator_key_refused", SERVICE_UNAVAILABLE, "no", true, "The ledger refuses the key for operators";
    AgentWithoutKey, "agent_without_key", SERVICE_UNAVAILABLE, "no", true, "The agent has no key";
    AgentsKeyRefused, "agents_key_refused", SERVICE_UNAVAILABLE, "no", true, "Purple Flea refuses the agent's key";
    PurpleFleaRefusedUs, "purple_flea_refused_us", SERVICE_UNAVAILABLE, "no", true, "Purple Flea does not know this function";
    NotReached, "not_reached", SERVICE_UNAVAILABLE, "no", true, "Purple Flea was not reached";
    RateLimited, "rate_limited", SERVICE_UNAVAILABLE, "no", true, "A rate limit of Purple Flea is reached";
    NoAnswer, "no_answer", SERVICE_UNAVAILABLE, "unknown", true, "Purple Flea gave no answer";
    OutcomeUnknown, "outcome_unknown", BAD_GATEWAY, "unknown", false, "Purple Flea may have made the bet";
    TimedOut, "timed_out", GATEWAY_TIMEOUT, "unknown", false, "Purple Flea did not answer in time";
}
