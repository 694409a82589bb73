//! What comes in: whether it is signed ([`signature`]), what it says ([`body`], [`event`]) and what it is called ([`mod@reference`]).

pub mod body;
pub mod event;
pub mod reference;
pub mod signature;
