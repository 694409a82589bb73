//! The reasons why the function refuses a caller.

use crate::{inngest::signing::SignatureError as InngestsError, webhook::signature::SignatureError};

/// The reason why the function does not recognise a caller. Only the log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The caller shows neither a signature nor a bearer token.
    Missing,
    /// A `webhook-*` or `authorization` header occurs twice. Two readers could see two different callers.
    RepeatedHeader,
    /// The `authorization` header does not have the form of a bearer token.
    MalformedHeader,
    /// The signature is not accepted.
    Signature(SignatureError),
    /// The settings do not have the token, and it does not have the form of an owner's token.
    WrongToken,
    /// The token has the form of an owner's token, but owners may not call this route. No query checked it.
    NotForOwners,
    /// The caller shows an API key, which opens the feed alone. No query checked it.
    NotForKeys,
    /// The ledger does not know the API key, or it is revoked.
    KeyRefused,
    /// The database refuses the owner's token.
    TokenRefused,
    /// The settings do not let Inngest call.
    InngestNotConfigured,
    /// Inngest's signature is not accepted.
    Inngest(InngestsError),
    /// The settings have no secret of Purple Flea's webhooks, or its signature is not accepted.
    PurpleFlea,
    /// The `webhook-id` and the row name two different deposits.
    ReferenceMismatch,
}

impl Refusal {
    /// Returns the reason's name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "no_signature",
            Self::RepeatedHeader => "repeated_header",
            Self::MalformedHeader => "malformed_header",
            Self::Signature(error) => match error {
                SignatureError::Missing => "no_signature",
                SignatureError::MalformedHeader => "malformed_header",
                SignatureError::TooOld => "too_old",
                SignatureError::FromTheFuture => "from_the_future",
                SignatureError::WrongSignature => "wrong_signature",
            },
            Self::InngestNotConfigured => "inngest_not_configured",
            Self::Inngest(error) => match error {
                InngestsError::Missing => "no_signature",
                InngestsError::MalformedHeader => "malformed_header",
                InngestsError::TooOld => "too_old",
                InngestsError::FromTheFuture => "from_the_future",
                InngestsError::WrongSignature => "wrong_signature",
            },
            Self::PurpleFlea => "purple_fleas_signature",
            Self::WrongToken => "wrong_token",
            Self::NotForOwners => "not_for_owners",
            Self::NotForKeys => "not_for_keys",
            Self::KeyRefused => "key_refused",
            Self::TokenRefused => "token_refused",
            Self::ReferenceMismatch => "reference_mismatch",
        }
    }
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        Self::Signature(error)
    }
}
