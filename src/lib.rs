//! A deposit's row comes in, one bet goes to Purple Flea, one JSON reply goes out.
//!
//! The crate is a functional core. It has five floors, and every import points down:
//!
//! | floor | modules |
//! | --- | --- |
//! | the way in and out: routes, credentials, replies | [`mod@http`] |
//! | the loop of a ledger's worker: claim, execute, settle, look up | [`worker`] |
//! | how each kind of job is executed; the settings | [`jobs`], [`config`] |
//! | the three outside parties, side by side | [`purple_flea`], [`ledger`], [`webhook`] |
//! | the terms of the trade, as plain types and decisions | [`domain`] |
//! | what a host provides, and small tools | [`runtime`], [`endpoint`], [`json`], [`log`], [`time_budget`] |
//!
//! No module knows a host: a host comes in through [`runtime::Runtime`]. The crate in `component/` is the one place that
//! knows the SDK.
//!
//! An instance serves many requests at once, and a trap kills all of them. So no code here panics: the lints below refuse
//! every call that could.

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
pub mod http;
pub mod jobs;
pub mod json;
pub mod ledger;
pub mod log;
pub mod purple_flea;
pub mod runtime;
pub mod time_budget;
pub mod webhook;
pub mod worker;
