//! What comes in: who sent it ([`signature`]) and what it says ([`event`]).

pub mod event;
pub mod signature;
