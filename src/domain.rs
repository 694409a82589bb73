//! The terms of the trade, as plain types: what a deposit, a bet, an order, an escrow, a job and an outcome are, and
//! the policy that decides. Nothing here knows a client, a database or a host.

pub mod account;
pub mod amount;
pub mod bet;
pub mod completed;
pub mod deposit;
pub mod escrow;
pub mod failure;
pub mod job;
pub mod order;
pub mod outcome;
pub mod policy;
pub mod reason;
pub mod reference;
