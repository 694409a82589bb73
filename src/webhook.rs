//! The caller: the event that its body holds ([`event`]), and the credentials that it shows ([`signature`],
//! [`credentials`]).

pub mod credentials;
pub mod event;
pub mod signature;
