//! Keeps the world's knowledge of claims: how long the lease of each job holds at least, the token under which an instance holds a
//! job, the tokens that were abandoned, and the function that long-polls.

use super::{parts::RequestId, record::Violation};
use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    time::Duration,
};

/// How long the database lets a watch last after a claim, beside its linger: the way from one call to the next takes time.
const WATCH_GRACE: Duration = Duration::from_secs(1);

/// The kinds that stake money.
const STAKES: [&str; 5] = ["deposit", "trade", "order", "bet", "escrow"];

/// An instance, by the request that it runs for.
pub(super) type InstanceId = RequestId;

#[derive(Default)]
pub(super) struct Claims {
    /// The earliest end of each job's lease, by the model's clock.
    leases: RefCell<HashMap<String, Duration>>,
    /// The tokens under which instances hold jobs.
    held: RefCell<HashMap<(InstanceId, String), String>>,
    abandoned: RefCell<HashSet<String>>,
    newly_abandoned: Cell<bool>,
    watch: RefCell<Option<Watch>>,
    /// Whether the database waits for an operator to confirm a restore.
    unconfirmed: Cell<bool>,
}

/// A function that waits for the next job.
struct Watch {
    watcher: String,
    until: Duration,
}

impl Claims {
    /// Takes in the answer to a claim. Gives the promises that the answer breaks.
    pub(super) fn note_answer(
        &self,
        instance: InstanceId,
        (arrived, now): (Duration, Duration),
        asked: &str,
        reply: &str,
    ) -> Vec<Violation> {
        let (asked, reply): (Value, Value) =
            (serde_json::from_str(asked).unwrap(), serde_json::from_str(reply).unwrap());
        let token = reply["token"].as_str().unwrap();
        let lease = Duration::from_millis(reply["lease_ms"].as_u64().unwrap_or(0));
        let mut wrong = Vec::new();
        for job in reply["jobs"].as_array().unwrap() {
            let idempotency_key = job["idempotency_key"].as_str().unwrap().to_owned();
            if self.unconfirmed.get() && STAKES.contains(&job["kind"].as_str().unwrap()) {
                let promise = "a stake is handed out before an operator confirms the restore";
                wrong.push(Violation::new(promise, &*idempotency_key));
            }
            self.leases.borrow_mut().insert(idempotency_key.clone(), arrived + lease);
            self.held.borrow_mut().insert((instance, idempotency_key), token.to_owned());
        }
        if reply["watching"] == true {
            let watcher = asked["watcher"].as_str().unwrap().to_owned();
            let linger = Duration::from_millis(asked["linger_ms"].as_u64().unwrap());
            let mut watch = self.watch.borrow_mut();
            if watch.as_ref().is_some_and(|other| other.watcher != watcher && other.until > now) {
                wrong.push(Violation::new("two functions keep the watch at once", &*watcher));
            }
            *watch = Some(Watch { watcher, until: arrived + WATCH_GRACE + linger });
        }
        wrong
    }

    /// Abandons a claim: from now on no instance may send anything under its token.
    pub(super) fn abandon(&self, token: &str) {
        self.abandoned.borrow_mut().insert(token.to_owned());
        self.newly_abandoned.set(true);
    }

    /// Expects that a claim may have come after it was abandoned.
    pub(super) fn look_for_abandoned(&self) {
        self.newly_abandoned.set(true);
    }

    /// Tells whether a claim was abandoned since the last call of this.
    pub(super) fn take_newly_abandoned(&self) -> bool {
        self.newly_abandoned.take()
    }

    /// Ends a function's watch, as far as the model relies on it.
    pub(super) fn end_watch(&self, watcher: &str) {
        self.watch.borrow_mut().take_if(|watch| watch.watcher == watcher);
    }

    /// Forgets the watch: the database knows of none any more, or not for how long one lasts.
    pub(super) fn forget_watch(&self) {
        *self.watch.borrow_mut() = None;
    }

    /// Expects no watch and no stake from a database that was restored.
    pub(super) fn await_confirmation(&self) {
        self.forget_watch();
        self.unconfirmed.set(true);
    }

    pub(super) fn confirm(&self) {
        self.unconfirmed.set(false);
    }

    pub(super) fn is_unconfirmed(&self) -> bool {
        self.unconfirmed.get()
    }

    /// Gives the promise that an instance breaks if it sends a request now that ends at `ends` at the latest.
    ///
    /// No request may outlive its lease. (A request can that stands still on its way: its job becomes unknown, and the late
    /// answer to the last claimant counts.)
    pub(super) fn check(
        &self,
        instance: InstanceId,
        idempotency_key: &str,
        ends: Duration,
    ) -> Option<Violation> {
        let Some(token) = self.held.borrow().get(&(instance, idempotency_key.to_owned())).cloned() else {
            return Some(Violation::new("an instance sends a job that it never claimed", idempotency_key));
        };
        if self.abandoned.borrow().contains(&token) {
            return Some(Violation::new(
                "an instance sends a job under a token that was abandoned",
                idempotency_key,
            ));
        }
        let lease = self.leases.borrow().get(idempotency_key).copied().unwrap_or_default();
        (ends > lease)
            .then(|| Violation::new("an instance sends a job that could outlive its lease", idempotency_key))
    }
}
