//! Everything around the functions: the database, Purple Flea, the time, and what must never happen between them.

use super::{
    claims::Claims,
    database::{Database, Reply},
    purple_flea::{self, PurpleFlea},
    schedule::{Schedule, Turn},
};
use http::Request;
use purple_flea_edge::domain::account::Api;
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    time::Duration,
};

/// Most outcomes of one call.
const LOGGED_LIMIT: usize = 100;

pub(super) struct World<'a> {
    pub(super) database: &'a Database,
    pub(super) schedule: Schedule,
    pub(super) purple_flea: PurpleFlea,
    pub(super) claims: Claims,
    pub(super) chance: RefCell<fastrand::Rng>,
    calm: Cell<bool>,
    /// Whether the database's clock ever jumped: then its leases and ours differ.
    jumped: Cell<bool>,
    /// Requests that are still on their way though their senders have given them up.
    late: RefCell<Vec<Late>>,
    /// Bet keys of jobs that a restore has made the database forget.
    pub(super) forgotten: RefCell<HashSet<String>>,
    /// Outcomes that functions have logged because they could not report them.
    logged: RefCell<Vec<Value>>,
    violations: RefCell<Vec<String>>,
    instances: Cell<u64>,
    traced: bool,
}

/// A request that arrives late.
struct Late {
    at: Duration,
    what: LateRequest,
}

enum LateRequest {
    ToLedger { function: String, arguments: String },
    ToPurpleFlea(Request<Vec<u8>>),
}

impl<'a> World<'a> {
    pub(super) fn new(
        database: &'a Database,
        api: Api,
        schedule: Schedule,
        chance: fastrand::Rng,
        traced: bool,
    ) -> Self {
        Self {
            database,
            schedule,
            purple_flea: PurpleFlea::new(api),
            claims: Claims::default(),
            chance: RefCell::new(chance),
            calm: Cell::new(false),
            jumped: Cell::new(false),
            late: RefCell::default(),
            forgotten: RefCell::default(),
            logged: RefCell::default(),
            violations: RefCell::default(),
            instances: Cell::default(),
            traced,
        }
    }

    /// Nothing goes wrong any more, or anything may again.
    pub(super) fn be_calm(&self, calm: bool) {
        self.calm.set(calm);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.get()
    }

    pub(super) fn has_jumped(&self) -> bool {
        self.jumped.get()
    }

    pub(super) fn next_instance(&self) -> u64 {
        self.instances.set(self.instances.get() + 1);
        self.instances.get()
    }

    /// Something happened that never may.
    pub(super) fn accuse(&self, what: String) {
        self.trace(|| format!("VIOLATION {what}"));
        self.violations.borrow_mut().push(what);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>9.3} {}", self.schedule.now().as_secs_f64(), what());
        }
    }

    /// Waits for a turn at the database, whose clock is then the functions' own.
    pub(super) async fn turn(&self) -> Turn {
        let mut turn = self.schedule.turn(false).await;
        self.catch_up().await;
        turn.share();
        turn
    }

    /// The same, and nothing else is under way in the database meanwhile.
    pub(super) async fn turn_alone(&self) -> Turn {
        let turn = self.schedule.turn(true).await;
        self.catch_up().await;
        turn
    }

    async fn catch_up(&self) {
        self.database.wait_for_those_left().await;
        let passed = self.schedule.take_unshifted();
        if !passed.is_zero() {
            self.database.shift(i64::try_from(passed.as_millis()).unwrap()).await;
        }
        self.deliver_late().await;
    }

    /// Calls the ledger in a turn of the caller's.
    pub(super) async fn call(&self, function: &str, arguments: &str) -> Reply {
        let turn = self.turn().await;
        let reply = self.database.lend().await.call(function, arguments).await;
        drop(turn);
        self.check_reply(function, &reply);
        reply
    }

    /// What the ledger may refuse at any time is asked for again; anything else it never refuses.
    pub(super) fn check_reply(&self, function: &str, (status, body): &Reply) {
        self.trace(|| format!("  {function} -> {status} {body}"));
        if !matches!(status, 200 | 500) {
            self.accuse(format!("{function}: {status} {body}"));
        }
    }

    /// A request of the ledger arrives only after so long. Its caller has given it up.
    pub(super) fn send_late_to_ledger(&self, function: &str, arguments: &str, time: Duration) {
        let (function, arguments) = (function.to_owned(), arguments.to_owned());
        self.send_late(LateRequest::ToLedger { function, arguments }, time);
    }

    /// The same to Purple Flea.
    pub(super) fn send_late_to_purple_flea(&self, request: Request<Vec<u8>>, time: Duration) {
        self.send_late(LateRequest::ToPurpleFlea(request), time);
    }

    fn send_late(&self, what: LateRequest, time: Duration) {
        let at = self.schedule.now() + time;
        self.late.borrow_mut().push(Late { at, what });
    }

    /// What was late arrives, if it is its time.
    async fn deliver_late(&self) {
        loop {
            let now = self.schedule.now();
            let due = {
                let mut late = self.late.borrow_mut();
                let place = late.iter().position(|late| late.at <= now);
                place.map(|place| late.remove(place))
            };
            match due {
                None => return,
                Some(Late { what: LateRequest::ToLedger { function, arguments }, .. }) => {
                    let reply = self.database.lend().await.call(&function, &arguments).await;
                    self.trace(|| format!("late {function} {arguments}"));
                    self.check_reply(&function, &reply);
                    self.claims.look_for_abandoned();
                }
                Some(Late { what: LateRequest::ToPurpleFlea(request), at }) => {
                    self.trace(|| format!("late {}", purple_flea::bet_key(&request).unwrap_or_default()));
                    let mut chance = self.fork();
                    self.purple_flea.answer(&request, at, &mut chance, self.is_calm());
                }
            }
        }
    }

    /// Chance of its own for a part of what happens.
    pub(super) fn fork(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.chance.borrow_mut().u64(..))
    }

    /// A function logs an outcome.
    pub(super) fn log(&self, reference: &str, token: &str, state: &str, result: &str) {
        let result: Value = serde_json::from_str(result).unwrap();
        let outcome = json!({ "reference": reference, "token": token, "state": state, "result": result });
        self.trace(|| format!("logged {outcome}"));
        self.logged.borrow_mut().push(outcome);
    }

    /// What was logged and is not recorded yet; no more than one call takes.
    pub(super) fn take_logged(&self) -> Vec<Value> {
        let mut logged = self.logged.borrow_mut();
        let count = logged.len().min(LOGGED_LIMIT);
        logged.drain(..count).collect()
    }

    /// Time passes, for all.
    pub(super) fn pass(&self, time: Duration) {
        self.trace(|| format!("pass {time:?}"));
        self.schedule.pass(time);
    }

    /// The database's clock alone is set, forwards or backwards.
    pub(super) async fn jump(&self, seconds: i64) {
        self.trace(|| format!("jump {seconds} s"));
        self.jumped.set(true);
        self.purple_flea.forget_times();
        let _turn = self.turn_alone().await;
        self.claims.forget_watch();
        self.database.shift(seconds * 1_000).await;
    }

    /// Rows of a query of the model's, as texts.
    pub(super) async fn texts(&self, sql: &str) -> Vec<String> {
        let _turn = self.turn().await;
        let rows = self.database.rows(sql, &[]).await;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Runs statements of an operator's, or of the model's.
    pub(super) async fn run(&self, sql: &str) {
        self.trace(|| format!("run {sql}"));
        let _turn = self.turn().await;
        self.database.run(sql).await;
    }

    /// Delivers one of the notifications that the database has posted: perhaps late, perhaps again.
    pub(super) async fn a_notification(&self) -> Option<String> {
        let sent = self.texts("select body::text from net.sent order by id").await;
        let place = self.chance.borrow_mut().usize(0..sent.len().max(1));
        sent.into_iter().nth(place)
    }

    /// Takes all notifications that have not been taken yet.
    pub(super) async fn take_notifications(&self) -> Vec<String> {
        self.texts("with taken as (delete from net.sent s where true returning s.id, s.body) select body::text from taken order by id")
            .await
    }
}

/// The text of a field of a JSON object.
pub(super) fn field(object: &str, name: &str) -> String {
    let object: Value = serde_json::from_str(object).unwrap();
    object[name].as_str().unwrap_or_default().to_owned()
}
