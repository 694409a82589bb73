//! What happened, counted: for `/metrics`, in the text form that Prometheus reads.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The upper bounds of the classes that replies are counted in, in milliseconds: from a skip to Purple Flea's timeout.
const CLASSES_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 2_000, 10_000];

/// The counters.
#[derive(Default)]
pub struct Metrics {
    connections: AtomicI64,
    in_flight: AtomicI64,
    statuses: [AtomicU64; 6],
    classes: [AtomicU64; CLASSES_MS.len()],
    time_us: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    instances: AtomicI64,
    made: AtomicU64,
    traps: AtomicU64,
}

impl Metrics {
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    pub(crate) fn came_in(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, status: http::StatusCode, time: Duration) {
        self.in_flight.fetch_sub(1, Relaxed);
        if let Some(count) = self.statuses.get(usize::from(status.as_u16() / 100)) {
            count.fetch_add(1, Relaxed);
        }
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.time_us.fetch_add(us, Relaxed);
        let class = CLASSES_MS.iter().position(|class| us <= class.saturating_mul(1000));
        if let Some(count) = class.and_then(|class| self.classes.get(class)) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(crate) fn instance_made(&self) {
        self.made.fetch_add(1, Relaxed);
        self.instances.fetch_add(1, Relaxed);
    }

    pub(crate) fn instance_ended(&self, trapped: bool) {
        self.instances.fetch_sub(1, Relaxed);
        self.traps.fetch_add(u64::from(trapped), Relaxed);
    }

    /// How many instances there are; those that idle end after a second.
    pub fn instances(&self) -> i64 {
        self.instances.load(Relaxed)
    }

    /// All of it as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: String| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        one(
            "purple_flea_connections",
            "gauge",
            "Open inbound connections.",
            self.connections.load(Relaxed).to_string(),
        );
        one(
            "purple_flea_requests_in_flight",
            "gauge",
            "Requests without a reply yet.",
            self.in_flight.load(Relaxed).to_string(),
        );
        one("purple_flea_instances", "gauge", "Instances of the component.", self.instances().to_string());
        one(
            "purple_flea_instances_total",
            "counter",
            "Instances that were made.",
            self.made.load(Relaxed).to_string(),
        );
        one(
            "purple_flea_traps_total",
            "counter",
            "Instances that trapped, with all their requests.",
            self.traps.load(Relaxed).to_string(),
        );
        one("purple_flea_sent_total", "counter", "Outbound requests.", self.sent.load(Relaxed).to_string());
        one(
            "purple_flea_sent_failed_total",
            "counter",
            "Outbound requests without a reply.",
            self.failed.load(Relaxed).to_string(),
        );
        self.replies(&mut text);
        text
    }

    fn replies(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "# HELP purple_flea_replies_total Replies by the first digit of their status.\n# TYPE purple_flea_replies_total counter"
        );
        let mut all = 0_u64;
        for (digit, count) in self.statuses.iter().enumerate().skip(1) {
            let count = count.load(Relaxed);
            all = all.saturating_add(count);
            let _ = writeln!(text, "purple_flea_replies_total{{status=\"{digit}xx\"}} {count}");
        }
        let _ = writeln!(
            text,
            "# HELP purple_flea_reply_seconds Time from a request's head to its reply's.\n# TYPE purple_flea_reply_seconds histogram"
        );
        let mut so_far = 0_u64;
        for (class, count) in CLASSES_MS.iter().zip(&self.classes) {
            so_far = so_far.saturating_add(count.load(Relaxed));
            let (seconds, ms) = (class / 1000, class % 1000);
            let _ = writeln!(text, "purple_flea_reply_seconds_bucket{{le=\"{seconds}.{ms:03}\"}} {so_far}");
        }
        let us = self.time_us.load(Relaxed);
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        let _ = writeln!(
            text,
            "purple_flea_reply_seconds_bucket{{le=\"+Inf\"}} {all}\npurple_flea_reply_seconds_sum {seconds}.{us:06}\npurple_flea_reply_seconds_count {all}"
        );
    }
}
