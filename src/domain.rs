//! The domain: plain types for deposits, bets, orders, positions, escrows, jobs and outcomes, and the policy that
//! decides. No module here knows a client, a database or a host.

pub mod account;
pub mod amount;
pub mod api_key;
pub mod bet;
pub mod completed;
pub mod deposit;
pub mod escrow;
pub mod failure;
pub mod job;
pub mod order;
pub mod outcome;
pub mod policy;
pub mod position;
pub mod reason;
pub mod reference;
