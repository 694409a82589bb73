//! Webhooks: the event in a request's body ([`event`]), and the caller's credentials ([`signature`],
//! [`credentials`]).

pub mod credentials;
pub mod event;
pub mod signature;
