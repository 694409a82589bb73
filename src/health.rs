//! Whether the function could do its work: `GET /health`.

use crate::{config::Settings, problem::json};
use http::{Response, StatusCode};
use serde::Serialize;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    mode: &'static str,
    paused: bool,
}

/// 200 when the settings are complete. (When they are not, the router's 503 names what is missing.)
pub fn healthy(settings: &Settings) -> Response<Vec<u8>> {
    let health = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        mode: "standalone",
        paused: settings.policy.paused,
    };
    json(StatusCode::OK, "application/json", &health)
}
