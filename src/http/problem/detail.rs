//! What a caller is told about a problem, in words.

use super::Problem;
use crate::{domain::failure::Failure, ledger::rpc::LedgerError};

impl Problem {
    /// Says what the caller should do next.
    pub(super) fn detail(&self) -> String {
        let text = match self {
            Self::InvalidJson(detail)
            | Self::InvalidEvent(detail)
            | Self::InvalidDetails(detail)
            | Self::UnknownJob(detail)
            | Self::NotPossible(detail)
            | Self::NotAvailable(detail) => return detail.clone(),
            Self::MissingOperation(expected) => {
                return format!(
                    "Add `operation` to the body: {expected}. A signature covers the body and not the path."
                );
            }
            Self::OtherOperation(expected) => {
                return format!("On this path `operation` must be: {expected}. Nothing was executed.");
            }
            Self::NotConfigured(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                return format!("{}. Set this and send the same event again.", errors.join("; "));
            }
            Self::MissingReference => "The row has no `id`, so a `webhook-id` header must name the event.",
            Self::InvalidReference => {
                "`webhook-id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : - (by hand with a ledger at most 47, and not the name of a row's own job)."
            }
            Self::IncompleteBody => "Send the whole body within 10 seconds.",
            Self::Unauthorized(_) => {
                "Sign the request with Standard Webhooks (webhook-id, webhook-timestamp, webhook-signature), or show a bearer token that opens this path."
            }
            Self::NotAllowed => {
                "This credential opens other paths. Operators' paths need an operator's token, and that opens no other."
            }
            Self::NotYours => {
                "A user's token is good for the agents that the user owns, and for the escrows that those send."
            }
            Self::NotFound => {
                "The README and docs/openapi.json have the paths: /execute-trade, /health and others."
            }
            Self::MethodNotAllowed(_) => "Use the method that the Allow header names.",
            Self::BodyTooLarge => "A body may have at most 65536 bytes.",
            Self::UnsupportedMediaType => "Send `content-type: application/json`.",
            Self::UnknownAgent | Self::UnknownEscrow => {
                "The database has no such agent or escrow. Nothing was executed."
            }
            Self::ReferenceTaken => {
                "Something else was asked for under this `webhook-id` before. Nothing was executed; choose another."
            }
            Self::AlreadyRegistered => {
                "The agent's key is in the vault already. Nothing was executed: another registration would put its account out of reach."
            }
            Self::EscrowNotOpen => {
                "The escrow has ended, or is already to end otherwise. Nothing was executed; its row says more."
            }
            Self::LedgerNotConfigured => {
                "The event belongs to a ledger, and a function without the ledger's settings never bets on one. Configure the ledger; the deposit waits there."
            }
            Self::PolicyInLedger => {
                "With a ledger the policies stand in the database. Nothing was executed; leave `policy` out."
            }
            Self::UnknownDeposit => {
                "Only a row of wallet_changes that was inserted after the ledger was set up has a job. Nothing was executed."
            }
            Self::InFlight(_) => "Nothing was executed twice. Ask again after Retry-After for its outcome.",
            Self::TooOld => "Nothing was executed, and nothing will be: nobody expects a bet on it any more.",
            Self::Ledger(LedgerError::RefusedUs(_)) => {
                "It refuses supabase_key, or the role has no right to the functions. Nothing was executed; the deposit waits."
            }
            Self::OperatorKeyRefused(_) => {
                "It refuses supabase_operator_key (or supabase_key, where that is empty), or the role may not call operate(). Nothing was done."
            }
            Self::Ledger(LedgerError::Missing) => {
                "Apply the SQL with scripts/migrate. Nothing was executed; the deposit waits."
            }
            Self::Ledger(LedgerError::Mismatch) => {
                "The database's SQL and the function are of releases that do not work together. Nothing was executed; bring the older one up to date (scripts/migrate first, then the function)."
            }
            Self::Ledger(_) => {
                "Nothing was executed. The deposit waits in the ledger and is tried again by itself."
            }
            Self::Unresolved(_) => {
                "A bet may have been made, and the ledger will make no other. It is looked up where Purple Flea has a history; otherwise an operator has to."
            }
            Self::PurpleFleaRefusedUs => REFUSED_US,
            Self::Failed(failure) => failed(failure),
        };
        text.to_owned()
    }
}

const REFUSED_US: &str = "Purple Flea refuses the key, or does not know the URL, that this function is configured with. Nothing was executed; correct the settings and send the same event again.";

fn failed(failure: &Failure) -> &'static str {
    match failure {
        Failure::Rejected(_) => {
            "Purple Flea refused it for good and executed nothing. Purple Flea would refuse the same request again."
        }
        Failure::NotAuthorized { own_key: true, .. } | Failure::NoKey => {
            "The agent's row names a key of its own. The vault does not have that key yet, or Purple Flea refuses it. Nothing was executed; register the agent or correct the secret."
        }
        Failure::NotAuthorized { .. } => REFUSED_US,
        Failure::NotSent(_) => "The function did not send the bet. Send the same event again.",
        Failure::RateLimited { .. } => {
            "Purple Flea did not execute it. Send the same event again after Retry-After."
        }
        Failure::NoAnswer(_) => {
            "Purple Flea may have done it. It does it at most once, so another request does no harm."
        }
        Failure::TimedOut | Failure::Unknown(_) => {
            "The function sent the bet, and Purple Flea may have executed it. Do not send the event again before you have looked the bet up at Purple Flea: that could bet twice."
        }
    }
}
