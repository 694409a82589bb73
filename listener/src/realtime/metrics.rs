//! The counters of the listener's work over Realtime.

use crate::registration::register;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why a message from outside is dropped: the values of the label `reason`.
const REASONS: [&str; 11] = [
    "not_readable",
    "queue_full",
    "unknown_event",
    "unknown_topic",
    "no_object",
    "other_kind",
    "too_large",
    "no_sender",
    "no_topic",
    "no_agent",
    "other",
];

/// The fates of a signal: the values of the label `outcome`.
const SIGNALS: [&str; 4] = ["published", "repeated", "refused", "lost"];

/// The outcomes of a call of the function: the values of the label `outcome`.
const RINGS: [&str; 2] = ["taken", "failed"];

type Labelled<const N: usize> = [(&'static str, Counter); N];

/// Counts what happens over Realtime.
pub(crate) struct RealtimeMetrics {
    sockets: Gauge,
    channels: Gauge,
    joins: Counter,
    refused: Counter,
    disconnects: Counter,
    dropped: Labelled<{ REASONS.len() }>,
    signals: Labelled<{ SIGNALS.len() }>,
    rings: Labelled<{ RINGS.len() }>,
    noted: Counter,
    foreign: Counter,
    ledger_failures: Counter,
}

/// Counts a connected socket until the value is dropped.
pub(crate) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Makes a counter for each value of a label. Every value is there from the start, so that a rate can be computed.
fn labelled<const N: usize>(
    registry: &mut Registry,
    name: &str,
    description: &str,
    label: &'static str,
    values: [&'static str; N],
) -> Labelled<N> {
    let family: Family<[(&str, &str); 1], Counter> = register(registry, name, description);
    values.map(|value| (value, family.get_or_create_owned(&[(label, value)])))
}

fn count<const N: usize>(counters: &Labelled<N>, value: &str) {
    let found = counters.iter().find(|(known, _)| *known == value).or(counters.last());
    if let Some((_, counter)) = found {
        counter.inc();
    }
}

impl RealtimeMetrics {
    /// Registers everything.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        Self {
            sockets: register(registry, "realtime_connected", "Sockets to Realtime that are connected"),
            channels: register(registry, "realtime_channels", "Channels of Realtime that are live"),
            joins: register(registry, "realtime_joins", "Channels that became live"),
            refused: register(registry, "realtime_refused", "Refusals and errors of channels"),
            disconnects: register(
                registry,
                "realtime_disconnects",
                "Sockets that broke, fell silent, or could not be connected",
            ),
            dropped: labelled(
                registry,
                "realtime_dropped",
                "Messages from outside that were dropped",
                "reason",
                REASONS,
            ),
            signals: labelled(registry, "signals", "Signals brought into the database", "outcome", SIGNALS),
            rings: labelled(registry, "rings", "Calls of the function for the doorbell", "outcome", RINGS),
            noted: register(registry, "presence_noted", "Heartbeats noted for agents that are tracked"),
            foreign: register(
                registry,
                "presence_refused",
                "Agents that were tracked and are not the owner's",
            ),
            ledger_failures: register(
                registry,
                "realtime_ledger_failures",
                "Calls of the ledger for Realtime that failed",
            ),
        }
    }

    /// Counts a connected socket until the value is dropped.
    pub(crate) fn connected(&self) -> Connected {
        self.sockets.inc();
        Connected(self.sockets.clone())
    }

    /// Counts the end of a socket, or an attempt to connect that failed.
    pub(crate) fn disconnected(&self) {
        self.disconnects.inc();
    }

    /// Counts the live channels of a socket: `before` until now, `now` from now on.
    pub(crate) fn channels(&self, before: usize, now: usize) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.channels.inc_by(whole(now).saturating_sub(whole(before)));
    }

    /// Counts a channel that became live.
    pub(crate) fn joined(&self) {
        self.joins.inc();
    }

    /// Counts a refusal of a channel.
    pub(crate) fn refused_channel(&self) {
        self.refused.inc();
    }

    /// Counts a message that was dropped.
    pub(crate) fn dropped(&self, reason: &str) {
        count(&self.dropped, reason);
    }

    /// Counts a signal.
    pub(crate) fn signal(&self, outcome: &str) {
        count(&self.signals, outcome);
    }

    /// Counts a call of the function.
    pub(crate) fn rang(&self, taken: bool) {
        count(&self.rings, if taken { "taken" } else { "failed" });
    }

    /// Counts a report of presence.
    pub(crate) fn reported(&self, noted: u64, refused: usize) {
        self.noted.inc_by(noted);
        self.foreign.inc_by(u64::try_from(refused).unwrap_or(u64::MAX));
    }

    /// Counts a call of the ledger that failed.
    pub(crate) fn ledger_failed(&self) {
        self.ledger_failures.inc();
    }
}
