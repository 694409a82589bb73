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

/// Every path and its route.
pub const PATHS: [(&str, Route); 16] = [
    ("/", Route::ExecuteTrade),
    ("/execute-trade", Route::ExecuteTrade),
    ("/functions/v1/execute-trade", Route::ExecuteTrade),
    ("/register", Route::RequestJob(RequestKind::Registration)),
    ("/faucet", Route::RequestJob(RequestKind::Faucet)),
    ("/faucet/daily", Route::RequestJob(RequestKind::DailyClaim)),
    ("/balance", Route::RequestJob(RequestKind::Balance)),
    ("/trade", Route::RequestJob(RequestKind::Trade)),
    ("/order", Route::RequestJob(RequestKind::Order)),
    ("/escrow", Route::RequestJob(RequestKind::Escrow)),
    ("/escrow/release", Route::RequestJob(RequestKind::EscrowRelease)),
    ("/escrow/cancel", Route::RequestJob(RequestKind::EscrowCancel)),
    ("/reconcile", Route::Reconcile),
    ("/operator/status", Route::OperatorStatus),
    ("/operator", Route::Operate),
    ("/health", Route::Health),
];

impl Route {
    /// The route of a path.
    pub fn of(path: &str) -> Option<Self> {
        PATHS.into_iter().find(|(known, _)| *known == path).map(|(_, route)| route)
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
