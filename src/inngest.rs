//! Inngest: a service that drives durable workflows. It calls a function again and again, keeps the results of its steps, and
//! does the waiting, the scheduling and the retries.
//!
//! This is an outside party like Purple Flea or the ledger, and knows neither of them. The workflows are in
//! [`crate::workflows`].

pub mod answer;
pub mod call;
pub mod client;
pub mod event;
pub mod introspection;
pub mod memo;
pub mod op;
pub mod run;
pub mod signing;
pub mod stop;
pub mod workflow;

use crate::endpoint::{BaseUrl, Key};
use http::{HeaderName, HeaderValue};
use signing::SigningKey;

/// The name of our app at Inngest. Runs that are under way are lost to an app that changes its name.
pub const APP: &str = "purple-flea";

/// Our name and version, as every message to Inngest has them. Without it Inngest does not take an answer.
pub const SDK: &str = concat!("purple-flea-edge:v", env!("CARGO_PKG_VERSION"));

/// The name of the host's interface.
pub const FRAMEWORK: &str = "wasi-http";

/// The header with [`SDK`].
pub const SDK_HEADER: HeaderName = HeaderName::from_static("x-inngest-sdk");

/// The header with the kind of the server that asks for a registration: `dev` or `cloud`.
pub const SERVER_KIND: HeaderName = HeaderName::from_static("x-inngest-server-kind");

/// The header with the environment.
const ENV: HeaderName = HeaderName::from_static("x-inngest-env");

/// Inngest, as the settings describe it.
#[derive(Debug, Clone)]
pub struct Inngest {
    /// Whether the server is a development server on this machine, which signs nothing.
    pub is_dev: bool,
    /// The signing keys: the current one, and the one before it during a rotation.
    pub keys: Vec<SigningKey>,
    /// The key for sending events.
    pub event_key: Option<Key>,
    /// Where the function registers.
    pub api: BaseUrl,
    /// Where the function sends events.
    pub events: BaseUrl,
    /// The URL under which Inngest reaches the function. It is set where Inngest may call.
    pub serve_url: Option<String>,
    /// The environment at Inngest.
    pub env: Option<HeaderValue>,
}

impl Inngest {
    /// Returns whether Inngest may call the function. With an event key alone the function only sends events.
    pub fn may_call(&self) -> bool {
        self.is_dev || !self.keys.is_empty()
    }
}
