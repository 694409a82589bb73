//! Inngest: a service that drives durable workflows. It calls a function again and again, keeps the results of its steps, and
//! does the waiting, the scheduling and the retries.
//!
//! This is an outside party like Purple Flea or the ledger, and knows neither of them. The workflows are in
//! [`crate::workflows`].

pub mod call;
pub mod event;
pub mod memo;
pub mod op;
pub mod run;
pub mod workflow;

/// The name of our app at Inngest. Runs that are under way are lost to an app that changes its name.
pub const APP: &str = "purple-flea";
