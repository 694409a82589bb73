//! The explanation of each problem, for the caller.

use super::Problem;
use crate::{domain::failure::Failure, ledger::rpc::LedgerError};

impl Problem {
    /// Returns the sentences that tell the caller what to do next.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::InvalidJson(detail)
            | Self::InvalidEvent(detail)
            | Self::InvalidDetails(detail)
            | Self::UnknownJob(detail)
            | Self::NotPossible(detail)
            | Self::NotAvailable(detail) => detail.clone(),
            Self::MissingOperation(expected) => {
                format!(
                    "Add `operation` to the body: {expected}. A signature covers the body and not the path."
                )
            }
            Self::OtherOperation(expected) => {
                format!("On this path `operation` must be: {expected}. Nothing was executed.")
            }
            Self::MissingScope(scope) => {
                format!(
                    "This path needs a key with the scope `{scope}`. Make a key that has it with create_api_key()."
                )
            }
            Self::UnknownType(known) if !known.is_empty() => {
                format!("{UNKNOWN_TYPE} The known types are: {}.", known.join(", "))
            }
            Self::NotConfigured(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                format!("{}. Set this and send the same event again.", errors.join("; "))
            }
            Self::BodyTooLarge(limit_bytes) => format!("A body may have at most {limit_bytes} bytes."),
            problem => problem.fixed_detail().to_owned(),
        }
    }

    /// Returns the detail of a problem whose detail is always the same; empty for the others.
    fn fixed_detail(&self) -> &'static str {
        match self {
            Self::InvalidJson(_)
            | Self::InvalidEvent(_)
            | Self::InvalidDetails(_)
            | Self::UnknownJob(_)
            | Self::NotPossible(_)
            | Self::NotAvailable(_)
            | Self::MissingOperation(_)
            | Self::OtherOperation(_)
            | Self::MissingScope(_)
            | Self::BodyTooLarge(_)
            | Self::NotConfigured(_) => "",
            Self::InvalidParameter(detail) => detail,
            Self::KeyInQuery => KEY_IN_QUERY,
            Self::UnknownType(_) => UNKNOWN_TYPE,
            Self::CursorInvalid => {
                "A cursor is valid for the tenant that got it, exactly as it was given. Leave `after` out to begin with the oldest event, or send `after=latest`."
            }
            Self::CursorTooOld(_) => {
                "Events are kept for 30 days. Read the records that you need, and go on with the cursor `start` as `after`."
            }
            Self::CursorOfAnotherGeneration(_) => {
                "Events that you have seen may not have happened in the restored database. Read the records that you need, and go on with the cursor `start` as `after`."
            }
            Self::UnknownRecord => "The tenant of this key has no record of this kind with this id.",
            Self::RestoreUnconfirmed => {
                "The database was restored, and an operator has to confirm it. Ask again after Retry-After, with the same cursor."
            }
            Self::MissingReference => "The body names no reference. Send a `webhook-id` header.",
            Self::InvalidReference => INVALID_REFERENCE,
            Self::IncompleteBody => "Send the whole body within 10 seconds.",
            Self::Unauthorized(_) => UNAUTHORIZED,
            Self::NotAllowed => {
                "This credential opens other paths. Operators' paths need an operator's token. An operator's token opens no other path."
            }
            Self::NotYours => {
                "An owner's token is valid for the owner's agents, and for the escrows that these agents send."
            }
            Self::NotFound => "docs/openapi.json lists the paths: /execute-trade, /health and others.",
            Self::MethodNotAllowed(_) => "Use the method that the Allow header names.",
            Self::UnsupportedMediaType => "Send `content-type: application/json`.",
            Self::UnknownAgent | Self::UnknownEscrow => {
                "The database has no such agent or escrow. Nothing was executed."
            }
            Self::ReferenceTaken => {
                "An earlier request has this `webhook-id` and other arguments. Nothing was executed; choose another."
            }
            Self::AlreadyRegistered => {
                "The vault already has the agent's key. Nothing was executed: another registration would lock the agent out of its account."
            }
            Self::EscrowNotOpen => {
                "The escrow has ended, or a different end is already requested. Nothing was executed; its row says more."
            }
            Self::LedgerNotConfigured => {
                "The event belongs to a ledger, and this function has no ledger settings. Configure the ledger; the deposit waits there."
            }
            Self::PolicyInLedger => {
                "In ledger mode the policies are in the database. Nothing was executed; leave `policy` out."
            }
            Self::UnknownDeposit => {
                "Only a row of wallet_changes that was inserted after the ledger was set up has a job. Nothing was executed."
            }
            Self::InFlight(_) => {
                "This call executed nothing. Send the same request after Retry-After to learn the outcome."
            }
            Self::TooOld => "Nothing was executed. The deposit has expired, so no worker will execute it.",
            Self::OperatorKeyRefused(_) => {
                "It refuses supabase_operator_key (or supabase_key, if that is empty), or the role may not call operate(). Nothing was changed."
            }
            Self::Ledger(error) => ledger_detail(error),
            Self::Unresolved(_) => {
                "A bet may have been made, and the ledger will make no other. A worker looks it up if Purple Flea has a history; otherwise an operator must."
            }
            Self::NotForwarded => {
                "Inngest was not reached, or refuses `inngest_event_key`. Send the same event again."
            }
            Self::PurpleFleaRefusedUs => REFUSED_US,
            Self::Failed(failure) => failure_detail(failure),
        }
    }
}

fn ledger_detail(error: &LedgerError) -> &'static str {
    match error {
        LedgerError::RefusedUs(_) | LedgerError::TokenRefused(_) => {
            "It refuses supabase_key, or the role may not call its functions. Nothing was executed; the deposit waits."
        }
        LedgerError::Missing => {
            "Apply the SQL with scripts/migrate. Nothing was executed; the deposit waits."
        }
        LedgerError::Mismatch => {
            "The database's SQL and the function are of incompatible releases. Nothing was executed; upgrade the older one (scripts/migrate first, then the function)."
        }
        _ => "Nothing was executed. The deposit waits in the ledger, and a worker executes it later.",
    }
}

const KEY_IN_QUERY: &str = "Targets of requests are written to logs. Send the key as `Authorization: Bearer ek_…` alone, and revoke a key that was in a query.";

const UNKNOWN_TYPE: &str =
    "`types` must be event types, separated by commas; docs/asyncapi.json describes each.";

const INVALID_REFERENCE: &str = "`webhook-id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -. In ledger mode a requested job's reference has at most 47, and must not be the reference of a row's job.";

const UNAUTHORIZED: &str = "Sign the request with Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature), or show a bearer token that opens this path.";

const REFUSED_US: &str = "Purple Flea refuses the key, or does not know the URL, that this function is configured with. Nothing was executed; correct the settings and send the same event again.";

fn failure_detail(failure: &Failure) -> &'static str {
    match failure {
        Failure::Rejected(_) => {
            "Purple Flea refused the request for good and executed nothing. Purple Flea would refuse the same request again."
        }
        Failure::NotAuthorized { own_key: true, .. } | Failure::NoKey => {
            "The agent's row names a key of its own. The vault does not have that key yet, or Purple Flea refuses it. Nothing was executed; register the agent or correct the secret."
        }
        Failure::NotAuthorized { .. } => REFUSED_US,
        Failure::NotSent(_) => "The function did not send the request. Send the same event again.",
        Failure::RateLimited { .. } => {
            "Purple Flea did not execute the request. Send the same event again after Retry-After."
        }
        Failure::NoAnswer(_) => {
            "Purple Flea may have executed the request. Purple Flea executes it at most once, so you may send it again."
        }
        Failure::TimedOut | Failure::Unknown(_) => {
            "The function sent the bet, and Purple Flea may have executed it. Look the bet up at Purple Flea before you send the event again: a second bet could follow."
        }
    }
}
