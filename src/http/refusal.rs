//! Reasons to turn a caller away.

use crate::webhook::signature::SignatureError;

/// Why a caller was not recognised. For the log only: the reply never tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The caller shows neither a signature nor a bearer token.
    Missing,
    /// A `webhook-*` or `authorization` header stands twice, so that two readers could see two callers.
    RepeatedHeader,
    /// An `authorization` header is no bearer's.
    MalformedHeader,
    /// The signature is not accepted.
    Signature(SignatureError),
    /// No token of ours, and nothing that could be a user's.
    WrongToken,
    /// A user's token, perhaps, on a route that users' tokens do not open. It was not checked.
    NotForOwners,
    /// The database refuses the user's token.
    TokenRefused,
    /// The `webhook-id` and the row name two different deposits.
    ReferenceMismatch,
}

impl Refusal {
    /// The name in the log.
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
            Self::WrongToken => "wrong_token",
            Self::NotForOwners => "not_for_owners",
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
