//! The listener's metrics, for `/metrics` in the OpenMetrics text format.

use crate::{
    ledger::{Did, Outcome},
    realtime::metrics::RealtimeMetrics,
    registration::register,
};
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{sync::Arc, time::Duration};

/// The type of the text that [`Metrics::text`] gives.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the histogram of delivery times, in seconds: up to the limits of all phases.
const BUCKETS_S: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// The values of the label `outcome`.
const OUTCOMES: [&str; 5] = ["delivered", "refused_by_receiver", "timed_out", "not_allowed", "not_reached"];

/// Counts what the listener does.
pub(crate) struct Metrics {
    registry: Registry,
    in_flight: Gauge,
    claims: Counter,
    ledger_failures: Counter,
    stale: Counter,
    /// One counter for each of `OUTCOMES`.
    deliveries: [Counter; OUTCOMES.len()],
    seconds: Histogram,
    /// The counters of the work over Realtime.
    pub(crate) realtime: Arc<RealtimeMetrics>,
}

/// Counts a delivery in flight until the value is dropped.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("purple_flea_listener");
        // The encoder adds `_total` to the name of a counter, and a full stop to a description.
        let in_flight = register(&mut registry, "in_flight", "Deliveries in flight");
        let claims = register(&mut registry, "claims", "Claims that the ledger answered");
        let ledger_failures = register(&mut registry, "ledger_failures", "Calls of the ledger that failed");
        let stale = register(
            &mut registry,
            "stale_reports",
            "Reports that came too late: another claim had the delivery",
        );
        let family: Family<[(&str, &str); 1], Counter> =
            register(&mut registry, "deliveries", "Attempts to deliver, by outcome");
        // Every outcome is there from the start, so that a rate can be computed from its first attempt.
        let deliveries = OUTCOMES.map(|outcome| family.get_or_create_owned(&[("outcome", outcome)]));
        let seconds = Histogram::new(BUCKETS_S);
        registry.register("delivery_seconds", "Time of an attempt to deliver", seconds.clone());
        let realtime = Arc::new(RealtimeMetrics::new(&mut registry));
        Self { registry, in_flight, claims, ledger_failures, stale, deliveries, seconds, realtime }
    }
}

impl Metrics {
    /// Counts a delivery in flight until the value is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts a claim.
    pub(crate) fn claimed(&self) {
        self.claims.inc();
    }

    /// Counts a call of the ledger that failed.
    pub(crate) fn ledger_failed(&self) {
        self.ledger_failures.inc();
    }

    /// Counts reports that came too late.
    pub(crate) fn stale(&self, count: usize) {
        self.stale.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Counts an attempt, and the time that it took.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let name = match (outcome.did, outcome.status, outcome.error) {
            (Did::Delivered, _, _) => "delivered",
            (_, Some(_), _) => "refused_by_receiver",
            (_, None, Some("url_refused" | "address_refused" | "secret_unreadable")) => "not_allowed",
            (_, None, Some(code)) if code.ends_with("timed_out") => "timed_out",
            _ => "not_reached",
        };
        let index = OUTCOMES.iter().position(|known| *known == name);
        if let Some(counter) = index.and_then(|index| self.deliveries.get(index)) {
            counter.inc();
        }
        self.seconds.observe(Duration::from_millis(outcome.ms).as_secs_f64());
    }

    /// Writes all metrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(did: Did, status: Option<u16>, error: Option<&'static str>) -> Outcome {
        let (subscription, token) = (String::new(), String::new());
        Outcome { subscription, event: 1, token, did, status, error, retry_after_s: None, ms: 20 }
    }

    #[test]
    fn every_attempt_counts_under_one_outcome() {
        let metrics = Metrics::default();
        metrics.ended(&outcome(Did::Delivered, Some(204), None));
        metrics.ended(&outcome(Did::Failed, Some(302), Some("redirect")));
        metrics.ended(&outcome(Did::Failed, None, Some("answer_timed_out")));
        metrics.ended(&outcome(Did::Failed, None, Some("address_refused")));
        metrics.ended(&outcome(Did::Failed, None, Some("tls_failed")));
        let text = metrics.text();
        for name in OUTCOMES {
            let line = format!("purple_flea_listener_deliveries_total{{outcome=\"{name}\"}} 1");
            assert!(text.lines().any(|had| had == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("purple_flea_listener_delivery_seconds_count 5"));
        assert!(text.ends_with("# EOF\n"));
    }
}
