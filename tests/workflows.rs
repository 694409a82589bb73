//! The workflows, driven by Inngest: whatever is lost, repeated, rerun or late, an event moves money once.

mod bad_input;
mod claims_and_bets;
mod escrow;
mod forwarding;
mod orders;
mod setup;
