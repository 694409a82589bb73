//! One deposit row in, one bet at Purple Flea, one JSON reply out.
//!
//! The crate is a functional core with a thin shell. Data flows one way, a module a step:
//!
//! | step | module |
//! | --- | --- |
//! | in: the route, the method, the size, the content type | [`router`] |
//! | admit: which caller may call which route | [`admission`], [`webhook::signature`] |
//! | check: the operation that the body names is the route's | [`operation`] |
//! | read: what happened | [`webhook::event`] |
//! | name: what it is called | [`webhook::reference`] |
//! | claim: in ledger mode, what is due | [`drain`], [`ledger`] |
//! | decide: do it or leave it, and how much | [`work`], a module a kind; [`policy`], [`game`]; [`skip`] says why not |
//! | call: Purple Flea, a module a service, and what its reply proves | [`purple_flea`] |
//! | settle: in ledger mode, what became of it; and look up what nobody knows | [`drain`], [`reconcile`] |
//! | out: the reply, and the log | [`ending`], [`execute_trade`], [`by_hand`], [`operator`], [`health`], [`problem`], [`log`] |
//!
//! Nothing in these modules knows a host: what they need from it comes in through [`outside::Outside`]. The
//! one file that knows the SDK is `component.rs`, which is compiled for WebAssembly only; the rest is tested
//! natively.
//!
//! An instance serves many requests at once and a trap kills all of them, so nothing here panics: the lints
//! below refuse whatever could.

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

pub mod admission;
pub mod by_hand;
pub mod config;
pub mod drain;
pub mod ending;
pub mod execute_trade;
pub mod game;
pub mod health;
pub mod ledger;
pub mod log;
pub mod money;
pub mod object;
pub mod operation;
pub mod operator;
pub mod outside;
pub mod policy;
pub mod problem;
pub mod purple_flea;
pub mod reconcile;
pub mod report;
pub mod router;
pub mod skip;
pub mod time_budget;
pub mod upstream;
pub mod webhook;
pub mod work;
