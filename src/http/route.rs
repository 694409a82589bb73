//! The routes: their paths, their methods, their names.

use crate::domain::job::RequestKind;
use http::Method;

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Takes notifications and rows.
    ExecuteTrade,
    /// Takes a request for a job of a kind.
    RequestJob(RequestKind),
    /// Looks up bets of unknown outcome.
    Reconcile,
    /// Shows an operator the ledger.
    OperatorStatus,
    /// Does what an operator asks for.
    Operate,
    /// Tells whether the function could do its work.
    Health,
}

/// Every path that is not a request's, and its route.
const PATHS: [(&str, Route); 7] = [
    ("/", Route::ExecuteTrade),
    ("/execute-trade", Route::ExecuteTrade),
    ("/functions/v1/execute-trade", Route::ExecuteTrade),
    ("/reconcile", Route::Reconcile),
    ("/operator/status", Route::OperatorStatus),
    ("/operator", Route::Operate),
    ("/health", Route::Health),
];

/// Every path and its route.
pub fn paths() -> impl Iterator<Item = (&'static str, Route)> {
    let requests = RequestKind::ALL.into_iter().map(|kind| (kind.path(), Route::RequestJob(kind)));
    PATHS.into_iter().chain(requests)
}

impl Route {
    /// The route of a path.
    pub fn of(path: &str) -> Option<Self> {
        paths().find(|(known, _)| *known == path).map(|(_, route)| route)
    }

    /// The method, and the same as the value of an `Allow` header.
    pub fn method(self) -> (Method, &'static str) {
        match self {
            Self::ExecuteTrade | Self::RequestJob(_) | Self::Reconcile | Self::Operate => {
                (Method::POST, "POST")
            }
            Self::OperatorStatus | Self::Health => (Method::GET, "GET"),
        }
    }

    /// The name in the log, which is also the operation that a body for the route names.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExecuteTrade => "execute_trade",
            Self::RequestJob(kind) => kind.name(),
            Self::Reconcile => "reconcile",
            Self::OperatorStatus => "operator_status",
            Self::Operate => "operator",
            Self::Health => "health",
        }
    }
}
