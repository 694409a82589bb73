//! The loop: claim what is due, deliver it side by side, report what became of it.

use crate::{
    deliver::{self, Sender},
    ledger::{CLAIM_LIMIT, Claim, Delivery, Did, Ledger, Outcome},
    log::{Level, Line},
    metrics::Metrics,
};
use purple_flea_edge::ledger::rpc::LedgerError;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{sleep, timeout},
};

/// Least time between two claims. A claim may find that another listener holds what is due.
const CLAIM_PAUSE: Duration = Duration::from_millis(10);

/// The first wait after a call of the ledger that failed; each wait doubles it.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// The longest of these waits.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Most outcomes of one report.
const REPORT_LIMIT: usize = 100;

/// Attempts to report outcomes. The waits between them are about 30 s: then most leases are over, and the deliveries
/// come again.
const REPORT_ATTEMPTS: u32 = 8;

/// What the loop and its tasks share.
pub(crate) struct Work {
    pub(crate) ledger: Ledger,
    pub(crate) sender: Arc<Sender>,
    pub(crate) metrics: Arc<Metrics>,
    /// A place for each delivery in flight.
    pub(crate) places: Arc<Semaphore>,
    /// How often the loop looks while nothing is due.
    pub(crate) poll: Duration,
    /// Tells the loop that more is due.
    pub(crate) due: Notify,
}

impl Work {
    /// Claims and delivers until `stop` is true. Outcomes go to the reporter.
    pub(crate) async fn claim_until(
        self: &Arc<Self>,
        mut stop: watch::Receiver<bool>,
        report: mpsc::UnboundedSender<Outcome>,
    ) {
        let mut retry = RETRY_FIRST;
        while !*stop.borrow() {
            let wait = match self.claim_once(&stop, &report).await {
                Ok(more) => {
                    retry = RETRY_FIRST;
                    if more { CLAIM_PAUSE } else { self.poll }
                }
                Err(error) => {
                    self.tell_of_failure("claim", &error);
                    let wait = retry;
                    retry = retry.saturating_mul(2).min(RETRY_MAX);
                    wait
                }
            };
            sleep(CLAIM_PAUSE).await;
            tokio::select! {
                _ = sleep(wait) => {}
                () = self.due.notified() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Waits for a free place, claims once, and begins what it got. Gives whether more is due.
    async fn claim_once(
        self: &Arc<Self>,
        stop: &watch::Receiver<bool>,
        report: &mpsc::UnboundedSender<Outcome>,
    ) -> Result<bool, LedgerError> {
        let mut stopping = stop.clone();
        tokio::select! {
            free = self.places.acquire() => drop(free),
            _ = stopping.wait_for(|stop| *stop) => return Ok(false),
        }
        // Only this loop takes places, so as many stay free.
        let free = self.places.available_permits().min(CLAIM_LIMIT);
        let claim = self.ledger.claim(free).await?;
        self.metrics.claimed();
        if claim.state != "ok" {
            let mut line = Line::new(Level::Warn, "claim");
            line.code = Some(&claim.state);
            line.print();
        }
        let more = claim.more;
        self.begin(claim, *stop.borrow(), report);
        Ok(more)
    }

    fn begin(self: &Arc<Self>, claim: Claim, stopped: bool, report: &mpsc::UnboundedSender<Outcome>) {
        let needed = deliver::OVERHEAD.saturating_add(self.sender.answer_timeout);
        let late = claim.ends.saturating_duration_since(Instant::now()) < needed;
        for delivery in claim.deliveries {
            let place = self.places.clone().try_acquire_owned();
            match place {
                Ok(place) if !late && !stopped => {
                    tokio::spawn(self.clone().deliver(delivery, place, report.clone()));
                }
                _ => {
                    let _ = report.send(deliver::outcome(&delivery, Did::NotSent));
                }
            }
        }
    }

    async fn deliver(
        self: Arc<Self>,
        delivery: Delivery,
        place: OwnedSemaphorePermit,
        report: mpsc::UnboundedSender<Outcome>,
    ) {
        let in_flight = self.metrics.in_flight();
        let outcome = self.sender.deliver(&delivery).await;
        drop(in_flight);
        self.metrics.ended(&outcome);
        tell(&delivery, &outcome);
        let _ = report.send(outcome);
        drop(place);
    }

    /// Reports outcomes until every task that could send one has ended.
    pub(crate) async fn report_all(self: Arc<Self>, mut outcomes: mpsc::UnboundedReceiver<Outcome>) {
        let mut batch = Vec::new();
        while outcomes.recv_many(&mut batch, REPORT_LIMIT).await > 0 {
            self.report(&batch).await;
            batch.clear();
        }
    }

    async fn report(&self, batch: &[Outcome]) {
        let mut wait = RETRY_FIRST;
        for attempt in 1..=REPORT_ATTEMPTS {
            match self.ledger.settle(batch).await {
                Ok(settled) => {
                    self.metrics.stale(settled.stale);
                    if settled.due {
                        self.due.notify_one();
                    }
                    return;
                }
                Err(error) => self.tell_of_failure("settle", &error),
            }
            if attempt < REPORT_ATTEMPTS {
                sleep(wait).await;
                wait = wait.saturating_mul(2).min(RETRY_MAX);
            }
        }
        let mut line = Line::new(Level::Error, "settle");
        (line.code, line.deliveries) = (Some("outcomes_lost"), Some(batch.len()));
        line.print();
    }

    fn tell_of_failure(&self, call: &'static str, error: &LedgerError) {
        self.metrics.ledger_failed();
        let level = if error.may_pass() { Level::Warn } else { Level::Error };
        let mut line = Line::new(level, call);
        (line.code, line.cause) = (Some(error.code()), Some(error.cause()));
        line.print();
    }

    /// Waits until nothing is in flight, at most `grace`. Gives how many deliveries are cut off.
    pub(crate) async fn drain(&self, most: u32, grace: Duration) -> usize {
        match timeout(grace, self.places.acquire_many(most)).await {
            Ok(_) => 0,
            Err(_) => {
                usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(self.places.available_permits())
            }
        }
    }
}

fn tell(delivery: &Delivery, outcome: &Outcome) {
    let level = if outcome.did == Did::Delivered { Level::Info } else { Level::Warn };
    let mut line = Line::new(level, "delivery");
    line.subscription = Some(&delivery.subscription);
    line.webhook_id = Some(&delivery.webhook_id);
    line.attempt = Some(delivery.attempt);
    (line.status, line.code, line.ms) = (outcome.status, outcome.error, Some(outcome.ms));
    line.print();
}
