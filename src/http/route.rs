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
    /// Records that an agent is there.
    Heartbeat,
    /// Publishes a signal of an agent.
    Signals,
    /// Looks up bets of unknown outcome.
    Reconcile,
    /// Shows the ledger's status to an operator.
    OperatorStatus,
    /// Performs an operator's operation.
    Operate,
    /// Gives a tenant the events of its feed.
    Events,
    /// Gives a tenant the record that an event is about.
    Record,
    /// Runs and registers the workflows that Inngest drives.
    Inngest,
    /// Accepts Purple Flea's own webhooks.
    PurpleFleaWebhook,
    /// Reports whether the function can work.
    Health,
}

/// Largest request body of most routes, in bytes. A row is under 1 KiB; pg_net and the dashboard's webhooks stay far below
/// the limit.
pub const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Largest body of a call of Inngest's, in bytes: the memos of all steps. For more, Inngest sends the call without them.
pub const CALL_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// The first part of every path of [`Route::Record`].
const RECORDS: &str = "/records/";

/// The paths that do not request a job, and their routes. A part in braces stands for any part.
const PATHS: [(&str, Route); 13] = [
    ("/", Route::ExecuteTrade),
    ("/execute-trade", Route::ExecuteTrade),
    ("/functions/v1/execute-trade", Route::ExecuteTrade),
    ("/heartbeat", Route::Heartbeat),
    ("/signals", Route::Signals),
    ("/reconcile", Route::Reconcile),
    ("/operator/status", Route::OperatorStatus),
    ("/operator", Route::Operate),
    ("/events", Route::Events),
    ("/records/{kind}/{id}", Route::Record),
    ("/api/inngest", Route::Inngest),
    ("/webhooks/purple-flea", Route::PurpleFleaWebhook),
    ("/health", Route::Health),
];

/// Returns every path and its route.
pub fn paths() -> impl Iterator<Item = (&'static str, Route)> {
    let requests = RequestKind::ALL.into_iter().map(|kind| (kind.path(), Route::RequestJob(kind)));
    PATHS.into_iter().chain(requests)
}

/// Returns the kind and the id of a path of [`Route::Record`], as they are encoded.
pub fn record_of(path: &str) -> Option<(&str, &str)> {
    let (kind, id) = path.strip_prefix(RECORDS)?.split_once('/')?;
    let is_name = !kind.is_empty() && !id.is_empty() && !id.contains('/');
    is_name.then_some((kind, id))
}

impl Route {
    /// Returns the route of a path.
    pub fn of(path: &str) -> Option<Self> {
        if record_of(path).is_some() {
            return Some(Self::Record);
        }
        paths().find(|(known, _)| *known == path).map(|(_, route)| route)
    }

    /// Returns the methods, as the value of an `Allow` header. Monitors ask for the health with HEAD; the host leaves the
    /// body of that reply out.
    pub fn allow(self) -> &'static str {
        match self {
            Self::ExecuteTrade
            | Self::RequestJob(_)
            | Self::Heartbeat
            | Self::Signals
            | Self::Reconcile
            | Self::Operate
            | Self::PurpleFleaWebhook => "POST",
            Self::OperatorStatus | Self::Events | Self::Record => "GET",
            Self::Inngest => "GET, PUT, POST",
            Self::Health => "GET, HEAD",
        }
    }

    /// Returns whether the route has a method.
    pub fn has(self, method: &Method) -> bool {
        self.allow().split(", ").any(|known| known == method.as_str())
    }

    /// Returns the size of the largest request body, in bytes.
    pub fn body_limit_bytes(self) -> usize {
        if self == Self::Inngest { CALL_LIMIT_BYTES } else { BODY_LIMIT_BYTES }
    }

    /// Returns whether the route is open to a tenant's API keys alone.
    pub fn is_of_the_feed(self) -> bool {
        matches!(self, Self::Events | Self::Record)
    }

    /// Returns the name in the log. A body for the route names it as its operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExecuteTrade => "execute_trade",
            Self::RequestJob(kind) => kind.name(),
            Self::Heartbeat => "heartbeat",
            Self::Signals => "publish_signal",
            Self::Reconcile => "reconcile",
            Self::OperatorStatus => "operator_status",
            Self::Operate => "operator",
            Self::Events => "events",
            Self::Record => "record",
            Self::Inngest => "inngest",
            Self::PurpleFleaWebhook => "purple_flea_webhook",
            Self::Health => "health",
        }
    }
}
