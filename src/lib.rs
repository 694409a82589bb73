//! One deposit row in, one bet at Purple Flea, one JSON reply out.
//!
//! The crate is a functional core with a thin shell. Data flows one way, a module a step:
//!
//! | step | module |
//! | --- | --- |
//! | in: the route, the method, the size, the content type | [`router`] |
//! | verify: who calls | [`webhook::signature`] |
//! | read: what happened | [`webhook::event`] |
//! | name: what it is called | [`webhook::reference`] |
//! | claim: in ledger mode, what is due | [`drain`], [`ledger`] |
//! | decide: bet or skip, and how much | [`trade`], [`policy`], on a [`game`] |
//! | call: Purple Flea, and what its reply proves | [`purple_flea`] |
//! | settle: in ledger mode, what became of it; and look up what nobody knows | [`drain`], [`reconcile`] |
//! | out: the reply, and the log | [`execute_trade`], [`problem`], [`log`] |
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

pub mod config;
pub mod drain;
pub mod execute_trade;
pub mod game;
pub mod health;
pub mod ledger;
pub mod log;
pub mod money;
pub mod outside;
pub mod policy;
pub mod problem;
pub mod purple_flea;
pub mod reconcile;
pub mod router;
pub mod trade;
pub mod upstream;
pub mod webhook;

#[cfg(target_family = "wasm")]
mod component;

#[cfg(test)]
#[path = "../tests/model/mod.rs"]
mod model;
