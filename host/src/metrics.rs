//! What happened, counted: for `/metrics`, in the text form that Prometheus reads.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// The upper bounds of the classes that replies are counted in, in milliseconds: from a skip to Purple Flea's timeout.
const CLASSES_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 2_000, 10_000];

/// The counters.
#[derive(Default)]
pub struct Metrics {
    connections: AtomicI64,
    timed_out: AtomicU64,
    refused: AtomicU64,
    in_flight: AtomicI64,
    statuses: [AtomicU64; 6],
    classes: [AtomicU64; CLASSES_MS.len()],
    time_us: AtomicU64,
    sent: AtomicU64,
    unanswered: AtomicI64,
    failed: AtomicU64,
    instances: AtomicI64,
    made: AtomicU64,
    traps: AtomicU64,
    cut_off: AtomicU64,
}

/// Counts a connection or a request for as long as it is there.
pub(crate) struct Counted<'a>(&'a AtomicI64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicI64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Counts an outbound request until it has a reply, for all instances and for its own.
pub(crate) struct UnderWay {
    metrics: Arc<Metrics>,
    instance: Arc<AtomicUsize>,
}

impl UnderWay {
    pub(crate) fn new(metrics: &Arc<Metrics>, instance: &Arc<AtomicUsize>) -> Self {
        metrics.unanswered.fetch_add(1, Relaxed);
        instance.fetch_add(1, Relaxed);
        Self { metrics: metrics.clone(), instance: instance.clone() }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.metrics.unanswered.fetch_sub(1, Relaxed);
        self.instance.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub(crate) fn connection(&self) -> Counted<'_> {
        Counted::new(&self.connections)
    }

    pub(crate) fn timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn request(&self) -> Counted<'_> {
        Counted::new(&self.in_flight)
    }

    pub(crate) fn answered(&self, status: http::StatusCode, time: Duration) {
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

    /// Counts a new instance, and gives its number.
    pub(crate) fn instance_made(&self) -> u64 {
        self.instances.fetch_add(1, Relaxed);
        self.made.fetch_add(1, Relaxed).saturating_add(1)
    }

    pub(crate) fn cut_off(&self) {
        self.cut_off.fetch_add(1, Relaxed);
    }

    pub(crate) fn instance_ended(&self, trapped: bool) {
        self.instances.fetch_sub(1, Relaxed);
        self.traps.fetch_add(u64::from(trapped), Relaxed);
    }

    /// How many instances there are; those that idle end after a second.
    pub fn instances(&self) -> i64 {
        self.instances.load(Relaxed)
    }

    /// What is under way, in words.
    pub fn under_way(&self) -> String {
        format!(
            "requests without a reply: {} from callers, {} to others; instances: {}",
            self.in_flight.load(Relaxed),
            self.unanswered.load(Relaxed),
            self.instances()
        )
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
            "purple_flea_connections_timed_out_total",
            "counter",
            "Inbound connections whose caller sent no whole request head in time, or idled.",
            self.timed_out.load(Relaxed).to_string(),
        );
        one(
            "purple_flea_requests_refused_total",
            "counter",
            "Requests that were not passed on to the component: no Host header, or a target that is no path.",
            self.refused.load(Relaxed).to_string(),
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
        one(
            "purple_flea_cut_off_total",
            "counter",
            "Instances that were ended in the middle of their work, because their time was over.",
            self.cut_off.load(Relaxed).to_string(),
        );
        one(
            "purple_flea_sent_in_flight",
            "gauge",
            "Outbound requests without a reply yet.",
            self.unanswered.load(Relaxed).to_string(),
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
