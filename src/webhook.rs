//! What comes in: who sent it ([`signature`]), what it says ([`event`]) and what it is called ([`mod@reference`]).

pub mod event;
pub mod reference;
pub mod signature;
