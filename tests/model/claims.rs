//! What the world knows of claims: how long each bet's lease holds at least, under which token an instance holds it, which
//! tokens were given up, and which function keeps the watch.

use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    time::Duration,
};

/// For how long after a claim the database lets a watch stand beside its linger: for the way from one call to the next.
const WATCH_GRACE: Duration = Duration::from_secs(1);

/// The kinds that stake money.
const STAKES: [&str; 4] = ["deposit", "trade", "order", "escrow"];

/// A number for each instance.
pub(super) type InstanceId = u64;

#[derive(Default)]
pub(super) struct Claims {
    /// Until when each bet's lease holds at least, by our clock.
    leases: RefCell<HashMap<String, Duration>>,
    /// Under which token an instance holds a bet.
    held: RefCell<HashMap<(InstanceId, String), String>>,
    abandoned: RefCell<HashSet<String>>,
    newly_abandoned: Cell<bool>,
    watch: RefCell<Option<Watch>>,
    /// Whether the database waits for an operator's word on a restore.
    unconfirmed: Cell<bool>,
}

/// The function that waits for the next job.
struct Watch {
    watcher: String,
    until: Duration,
}

impl Claims {
    /// Takes in what a claim was answered. Gives what is wrong with it.
    pub(super) fn note_answer(
        &self,
        instance: InstanceId,
        (arrived, now): (Duration, Duration),
        asked: &str,
        reply: &str,
    ) -> Vec<String> {
        let (asked, reply): (Value, Value) =
            (serde_json::from_str(asked).unwrap(), serde_json::from_str(reply).unwrap());
        let token = reply["token"].as_str().unwrap();
        let lease = Duration::from_millis(reply["lease_ms"].as_u64().unwrap_or(0));
        let mut wrong = Vec::new();
        for job in reply["jobs"].as_array().unwrap() {
            let bet_key = job["idempotency_key"].as_str().unwrap().to_owned();
            if self.unconfirmed.get() && STAKES.contains(&job["kind"].as_str().unwrap()) {
                wrong.push(format!("{bet_key}: handed out though no operator has confirmed the restore"));
            }
            self.leases.borrow_mut().insert(bet_key.clone(), arrived + lease);
            self.held.borrow_mut().insert((instance, bet_key), token.to_owned());
        }
        if reply["watching"] == true {
            let watcher = asked["watcher"].as_str().unwrap().to_owned();
            let linger = Duration::from_millis(asked["linger_ms"].as_u64().unwrap());
            let mut watch = self.watch.borrow_mut();
            if watch.as_ref().is_some_and(|other| other.watcher != watcher && other.until > now) {
                wrong.push("two functions keep the watch at once".to_owned());
            }
            *watch = Some(Watch { watcher, until: arrived + WATCH_GRACE + linger });
        }
        wrong
    }

    /// A claim is given up: from now on nothing may be sent under its token.
    pub(super) fn abandon(&self, token: &str) {
        self.abandoned.borrow_mut().insert(token.to_owned());
        self.newly_abandoned.set(true);
    }

    /// A claim may have come that was given up before.
    pub(super) fn look_for_abandoned(&self) {
        self.newly_abandoned.set(true);
    }

    /// Whether a claim was given up since this was last asked.
    pub(super) fn take_newly_abandoned(&self) -> bool {
        self.newly_abandoned.take()
    }

    /// A function's watch may be over.
    pub(super) fn end_watch(&self, watcher: &str) {
        self.watch.borrow_mut().take_if(|watch| watch.watcher == watcher);
    }

    /// The database does not know of any watch any more, or for how long one lasts.
    pub(super) fn forget_watch(&self) {
        *self.watch.borrow_mut() = None;
    }

    /// The database is restored: it knows of no watch, and hands out no stake.
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

    /// What is wrong with an instance's sending something now that may take so long.
    ///
    /// Nothing may be sent that could outlive its lease. (What stands still on its way can: it makes its job unknown, and the
    /// last claimant's late answer counts.)
    pub(super) fn check(&self, instance: InstanceId, bet_key: &str, ends: Duration) -> Option<String> {
        let Some(token) = self.held.borrow().get(&(instance, bet_key.to_owned())).cloned() else {
            return Some(format!("{bet_key}: sent by an instance that never claimed it"));
        };
        if self.abandoned.borrow().contains(&token) {
            return Some(format!("{bet_key}: sent under a token that was abandoned"));
        }
        let lease = self.leases.borrow().get(bet_key).copied().unwrap_or_default();
        (ends > lease).then(|| format!("{bet_key}: sent, and could outlive its lease"))
    }
}
