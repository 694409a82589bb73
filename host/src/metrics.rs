//! The host's metrics, for `/metrics` in Prometheus' text format.

use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// The type of the text that [`Metrics::text`] gives.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Upper bounds of the histogram of reply times, in seconds: from a skipped row to Purple Flea's timeout.
const REPLY_BUCKETS_S: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// The values of the label `status`, by the first digit of the status.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts what the host does, for all threads together.
pub struct Metrics {
    registry: Registry,
    connections: Gauge,
    timed_out: Counter,
    refused: Counter,
    in_flight: Gauge,
    instances: Gauge,
    instances_made: Counter,
    traps: Counter,
    cut_off: Counter,
    sent_in_flight: Gauge,
    sent: Counter,
    sent_failed: Counter,
    /// One counter for each of `STATUS_CLASSES`.
    replies: [Counter; STATUS_CLASSES.len()],
    reply_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("purple_flea");
        // The encoder adds `_total` to the name of a counter, and a full stop to a description.
        Self {
            connections: register(&mut registry, "connections", "Open inbound connections"),
            timed_out: register(
                &mut registry,
                "connections_timed_out",
                "Inbound connections whose caller sent no whole request head in time, or idled",
            ),
            refused: register(
                &mut registry,
                "requests_refused",
                "Requests that were not passed on to the component: no Host header, or a target that is no path",
            ),
            in_flight: register(&mut registry, "requests_in_flight", "Requests without a reply yet"),
            instances: register(&mut registry, "instances", "Instances of the component"),
            instances_made: register(&mut registry, "instances", "Instances that were made"),
            traps: register(&mut registry, "traps", "Instances that trapped, with all their requests"),
            cut_off: register(
                &mut registry,
                "cut_off",
                "Instances that the host ended in the middle of their work, because their time was over",
            ),
            sent_in_flight: register(
                &mut registry,
                "sent_in_flight",
                "Outbound requests without a reply yet",
            ),
            sent: register(&mut registry, "sent", "Outbound requests"),
            sent_failed: register(&mut registry, "sent_failed", "Outbound requests without a reply"),
            replies: register_replies(&mut registry),
            reply_seconds: register_reply_seconds(&mut registry),
            registry,
        }
    }
}

/// Registers a metric that begins at zero.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, description: &str) -> M {
    let metric = M::default();
    registry.register(name, description, metric.clone());
    metric
}

/// Registers the counters of replies. Every class is there from the start, so that a rate can be computed from its first
/// reply.
fn register_replies(registry: &mut Registry) -> [Counter; STATUS_CLASSES.len()] {
    let replies: Family<[(&str, &str); 1], Counter> =
        register(registry, "replies", "Replies by the first digit of their status");
    STATUS_CLASSES.map(|class| replies.get_or_create_owned(&[("status", class)]))
}

fn register_reply_seconds(registry: &mut Registry) -> Histogram {
    let histogram = Histogram::new(REPLY_BUCKETS_S);
    registry.register("reply_seconds", "Time from a request's head to its reply's", histogram.clone());
    histogram
}

/// Counts a connection or a request for as long as it exists.
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts an outbound request until it has a reply: for the whole host, and for the instance that sends it.
pub(crate) struct Unanswered {
    _host: Counted,
    instance: Arc<AtomicUsize>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.instance.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    /// Counts an open inbound connection until the value is dropped.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// Counts a connection that the host closed because its caller took too long.
    pub(crate) fn timed_out(&self) {
        self.timed_out.inc();
    }

    /// Counts a request that the host refused.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// Counts a request without a reply until the value is dropped.
    pub(crate) fn request(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// Counts a reply, and the time that it took.
    pub(crate) fn replied(&self, status: http::StatusCode, time: Duration) {
        let class = usize::from(status.as_u16() / 100).checked_sub(1);
        if let Some(count) = class.and_then(|class| self.replies.get(class)) {
            count.inc();
        }
        self.reply_seconds.observe(time.as_secs_f64());
    }

    /// Counts an outbound request.
    pub(crate) fn sent(&self) {
        self.sent.inc();
    }

    /// Counts an outbound request without a reply until the value is dropped. `instance` counts those of one instance.
    pub(crate) fn unanswered(&self, instance: &Arc<AtomicUsize>) -> Unanswered {
        instance.fetch_add(1, Relaxed);
        Unanswered { _host: Counted::new(&self.sent_in_flight), instance: instance.clone() }
    }

    /// Counts an outbound request that ended without a reply.
    pub(crate) fn send_failed(&self) {
        self.sent_failed.inc();
    }

    /// Counts a new instance, and gives its number, from one.
    pub(crate) fn instance_made(&self) -> u64 {
        self.instances.inc();
        self.instances_made.inc().saturating_add(1)
    }

    /// Counts an instance that the host ended in the middle of its work.
    pub(crate) fn cut_off(&self) {
        self.cut_off.inc();
    }

    /// Counts the end of an instance.
    pub(crate) fn instance_ended(&self, trapped: bool) {
        self.instances.dec();
        self.traps.inc_by(u64::from(trapped));
    }

    /// Counts the instances that exist. An idle instance ends after a second.
    pub fn instances(&self) -> i64 {
        self.instances.get()
    }

    /// Describes the work in progress in one line, for a log.
    pub fn in_progress(&self) -> String {
        format!(
            "requests without a reply: {} from callers, {} to others; instances: {}",
            self.in_flight.get(),
            self.sent_in_flight.get(),
            self.instances()
        )
    }

    /// Writes all metrics in the text format that Prometheus reads (version 0.0.4).
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn every_metric_has_the_name_that_dashboards_and_alerts_use() {
        let text = Metrics::default().text();
        let declared = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect::<Vec<_>>();
        assert_eq!(
            declared,
            [
                "purple_flea_connections gauge",
                "purple_flea_connections_timed_out_total counter",
                "purple_flea_requests_refused_total counter",
                "purple_flea_requests_in_flight gauge",
                "purple_flea_instances gauge",
                "purple_flea_instances_total counter",
                "purple_flea_traps_total counter",
                "purple_flea_cut_off_total counter",
                "purple_flea_sent_in_flight gauge",
                "purple_flea_sent_total counter",
                "purple_flea_sent_failed_total counter",
                "purple_flea_replies_total counter",
                "purple_flea_reply_seconds histogram",
            ]
        );
    }

    #[test]
    fn a_reply_counts_in_its_class_and_in_every_bucket_that_holds_its_time() {
        let metrics = Metrics::default();
        metrics.replied(StatusCode::OK, Duration::from_millis(2));
        metrics.replied(StatusCode::SERVICE_UNAVAILABLE, Duration::from_millis(2001));
        let text = metrics.text();
        for line in [
            "purple_flea_replies_total{status=\"1xx\"} 0",
            "purple_flea_replies_total{status=\"2xx\"} 1",
            "purple_flea_replies_total{status=\"3xx\"} 0",
            "purple_flea_replies_total{status=\"4xx\"} 0",
            "purple_flea_replies_total{status=\"5xx\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.001\"} 0",
            "purple_flea_reply_seconds_bucket{le=\"0.002\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.005\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.01\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.025\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.05\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.1\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"0.5\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"2\"} 1",
            "purple_flea_reply_seconds_bucket{le=\"10\"} 2",
            "purple_flea_reply_seconds_bucket{le=\"+Inf\"} 2",
            "purple_flea_reply_seconds_count 2",
        ] {
            assert!(text.lines().any(|had| had == line), "{line} is not in\n{text}");
        }
        let sum = text.lines().find_map(|line| line.strip_prefix("purple_flea_reply_seconds_sum "));
        let sum: f64 = sum.expect("no sum").parse().expect("the sum is a number");
        assert!((sum - 2.003).abs() < 1e-9, "the sum of binary doubles is {sum}");
    }

    #[test]
    fn a_gauge_falls_again_when_the_request_that_it_counts_has_ended() {
        let (metrics, instance) = (Metrics::default(), Arc::new(AtomicUsize::new(0)));
        let (request, sent) = (metrics.request(), metrics.unanswered(&instance));
        assert!(metrics.in_progress().starts_with("requests without a reply: 1 from callers, 1 to others"));
        assert_eq!(instance.load(Relaxed), 1);
        drop((request, sent));
        assert!(metrics.in_progress().starts_with("requests without a reply: 0 from callers, 0 to others"));
        assert_eq!(instance.load(Relaxed), 0);
    }
}
