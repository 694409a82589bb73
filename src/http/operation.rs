//! Reads the operation that a body names.
//!
//! A signature covers the body and not the path, so the body has to name the operation. Otherwise an attacker
//! could send a signed request to another path.

use super::{problem::Problem, route::Route};
use crate::json::{self, ReadError};
use serde::Deserialize;
use std::borrow::Cow;

/// The operations of `POST /operator`.
pub const OPERATOR_OPERATIONS: [&str; 10] = [
    "history",
    "retry_job",
    "release_job",
    "close_job",
    "record_bet",
    "record_trade",
    "record_escrow",
    "confirm_restore",
    "declare_restore",
    "release_restored",
];

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    operation: Option<Cow<'a, str>>,
}

/// Returns the operation that a body names, if it names one.
pub fn of(body: &[u8]) -> Result<Option<Cow<'_, str>>, ReadError> {
    let Named { operation } = json::read(body)?;
    Ok(operation)
}

/// Refuses a body that does not name its route's operation. Notifications and rows need not name one.
pub fn check(route: Route, body: &[u8]) -> Result<(), Problem> {
    match (route, of(body)?.as_deref()) {
        (Route::ExecuteTrade, None) => Ok(()),
        (Route::Operate, Some(operation)) if OPERATOR_OPERATIONS.contains(&operation) => Ok(()),
        (Route::Operate, named) => Err(problem(named, OPERATOR_OPERATIONS.join(", "))),
        (_, Some(operation)) if operation == route.name() => Ok(()),
        (_, named) => Err(problem(named, route.name().to_owned())),
    }
}

fn problem(named: Option<&str>, expected: String) -> Problem {
    if named.is_some() { Problem::OtherOperation(expected) } else { Problem::MissingOperation(expected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_at_most_one_operation_as_text() {
        for (body, operation) in [
            (r#"{"operation": "trade", "size": 1}"#, Some("trade")),
            (r#"{"oper\u0061tion": "tr\u0061de"}"#, Some("trade")),
            (r#"{"operation": null}"#, None),
            (r#"{"record": {"operation": "trade"}}"#, None),
        ] {
            assert_eq!(of(body.as_bytes()).unwrap().as_deref(), operation, "{body}");
        }
        for body in [
            r#"{"operation": 7}"#,
            r#"{"operation": ["trade"]}"#,
            r#"{"operation": "trade", "operation": "trade"}"#,
            r#"{"operation": "trade", "oper\u0061tion": "escrow"}"#,
            r#"["trade"]"#,
        ] {
            assert!(of(body.as_bytes()).is_err(), "{body}");
        }
    }
}
