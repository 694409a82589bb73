//! The function: a deposit's row leads to one bet at Purple Flea and one JSON reply.
//!
//! The crate is a functional core. It has layers, and every import points down:
//!
//! | layer | modules |
//! | --- | --- |
//! | HTTP: routes, credentials, replies | [`mod@http`] |
//! | the worker: claim, execute, settle, look up | [`worker`] |
//! | the execution of each kind of job; the settings | [`jobs`], [`config`] |
//! | the clients of the three other parties, side by side | [`purple_flea`], [`ledger`], [`webhook`] |
//! | plain types and decisions | [`domain`] |
//! | the interface to a host, and small tools | [`runtime`], [`endpoint`], [`gate`], [`json`], [`log`], [`time_budget`] |
//!
//! No module knows a host. A host implements [`runtime::Runtime`]. Only the crate in `component/` uses the SDK.
//!
//! An instance serves many requests at once, and a trap ends all of them. So the lints below refuse every call that could
//! panic.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod config;
pub mod domain;
pub mod endpoint;
pub mod gate;
pub mod http;
pub mod inngest;
pub mod jobs;
pub mod json;
pub mod ledger;
pub mod log;
pub mod purple_flea;
pub mod runtime;
pub mod time_budget;
pub mod webhook;
pub mod worker;
pub mod workflows;
