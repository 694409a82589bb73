//! Webhooks: the event in a request's body ([`event`]), and the caller's credentials ([`signature`],
//! [`credentials`]). Purple Flea's own webhooks have a signature of their own ([`purple_flea`]).

pub mod credentials;
pub mod event;
pub mod purple_flea;
pub mod signature;
