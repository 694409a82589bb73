//! The routes: their paths, methods and names.

use crate::domain::job::RequestKind;
use http::Method;

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Accepts notifications and rows.
    ExecuteTrade,
    /// Accepts a request for a job of a kind.
    RequestJob(RequestKind),
    /// Looks up bets of unknown outcome.
    Reconcile,
    /// Shows the ledger's status to an operator.
    OperatorStatus,
    /// Performs an operator's operation.
    Operate,
    /// Reports whether the function can work.
    Health,
}

/// The paths that do not request a job, and their routes.
const PATHS: [(&str, Route); 7] = [
    ("/", Route::ExecuteTrade),
    ("/execute-trade", Route::ExecuteTrade),
    ("/functions/v1/execute-trade", Route::ExecuteTrade),
    ("/reconcile", Route::Reconcile),
    ("/operator/status", Route::OperatorStatus),
    ("/operator", Route::Operate),
    ("/health", Route::Health),
];

/// Returns every path and its route.
pub fn paths() -> impl Iterator<Item = (&'static str, Route)> {
    let requests = RequestKind::ALL.into_iter().map(|kind| (kind.path(), Route::RequestJob(kind)));
    PATHS.into_iter().chain(requests)
}

impl Route {
    /// Returns the route of a path.
    pub fn of(path: &str) -> Option<Self> {
        paths().find(|(known, _)| *known == path).map(|(_, route)| route)
    }

    /// Returns the method, and the value of an `Allow` header.
    pub fn method(self) -> (Method, &'static str) {
        match self {
            Self::ExecuteTrade | Self::RequestJob(_) | Self::Reconcile | Self::Operate => {
                (Method::POST, "POST")
            }
            Self::OperatorStatus => (Method::GET, "GET"),
            Self::Health => (Method::GET, "GET, HEAD"),
        }
    }

    /// Returns whether the route has a method. Monitors ask for the health with HEAD; the host leaves the body
    /// of that reply out.
    pub fn has(self, method: &Method) -> bool {
        *method == self.method().0 || (self == Self::Health && method == Method::HEAD)
    }

    /// Returns the name in the log. A body for the route names it as its operation.
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
