//! Everything around the functions: the database, Purple Flea, the time, and the record of violations between them.

use super::{
    claims::Claims,
    database::{Database, Reply},
    parts::{Part, RequestId},
    purple_flea::{self, PurpleFlea},
    record::{Record, Violation},
    schedule::{Schedule, Turn},
};
use http::Request;
use purple_flea_edge::domain::account::Api;
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    env,
    rc::Rc,
    time::Duration,
};

/// Most outcomes that one call of the ledger records.
const LOGGED_LIMIT: usize = 100;

pub(super) struct World<'a> {
    pub(super) database: &'a Database,
    pub(super) schedule: Schedule,
    pub(super) purple_flea: PurpleFlea,
    pub(super) claims: Claims,
    pub(super) record: Rc<Record>,
    /// The chance of the current step.
    chance: RefCell<fastrand::Rng>,
    /// The current part of the story.
    chapter: RefCell<String>,
    /// The current step, and how many requests and deposits it has had.
    step: Cell<usize>,
    requests: Cell<usize>,
    deposits: Cell<usize>,
    calm: Cell<bool>,
    /// Whether the clock of the database ever jumped: then its leases differ from the model's.
    jumped: Cell<bool>,
    /// Requests that are still on their way though their senders have given them up.
    late: RefCell<Vec<Late>>,
    /// Idempotency keys of jobs that a restore has made the database forget.
    pub(super) forgotten: RefCell<HashSet<String>>,
    /// Outcomes that functions have logged because no report got through.
    logged: RefCell<Vec<Value>>,
    traced: bool,
}

/// A request that arrives late.
struct Late {
    at: Duration,
    request: LateRequest,
}

enum LateRequest {
    ToLedger { function: String, arguments: String },
    ToPurpleFlea { request: Box<Request<Vec<u8>>>, failure: Part, chance: fastrand::Rng },
}

impl<'a> World<'a> {
    pub(super) fn new(database: &'a Database, api: Api, schedule: Schedule, record: Rc<Record>) -> Self {
        Self {
            database,
            schedule,
            purple_flea: PurpleFlea::new(api),
            claims: Claims::default(),
            record,
            chance: RefCell::new(fastrand::Rng::with_seed(0)),
            chapter: RefCell::new("beginning".to_owned()),
            step: Cell::default(),
            requests: Cell::default(),
            deposits: Cell::default(),
            calm: Cell::new(false),
            jumped: Cell::new(false),
            late: RefCell::default(),
            forgotten: RefCell::default(),
            logged: RefCell::default(),
            traced: env::var_os("MODEL_TRACE").is_some(),
        }
    }

    pub(super) fn begin_step(&self, step: usize, chance: fastrand::Rng) {
        self.begin_chapter(format!("step {step}"));
        self.chance.replace(chance);
        self.step.set(step);
        self.requests.set(0);
        self.deposits.set(0);
    }

    /// Begins a part of the story: a step, or the end.
    pub(super) fn begin_chapter(&self, chapter: String) {
        self.trace(|| chapter.clone());
        self.chapter.replace(chapter);
    }

    /// Names the next request of the step.
    pub(super) fn next_request(&self) -> RequestId {
        let place = self.requests.replace(self.requests.get() + 1);
        RequestId { step: self.step.get(), place }
    }

    /// Names the next deposit of the step.
    pub(super) fn next_deposit(&self) -> Part {
        let place = self.deposits.replace(self.deposits.get() + 1);
        Part::Deposit(self.step.get(), place)
    }

    /// Ends the faults, or lets them happen again.
    pub(super) fn be_calm(&self, calm: bool) {
        self.calm.set(calm);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.get()
    }

    /// Tells whether a fault or failure happens that chance has chosen.
    pub(super) fn allows(&self, part: Part) -> bool {
        !self.is_calm() && self.record.keeps(part)
    }

    pub(super) fn has_jumped(&self) -> bool {
        self.jumped.get()
    }

    /// Records that a promise was broken.
    pub(super) fn accuse(&self, promise: &'static str, about: impl Into<String>) {
        self.note(Violation::new(promise, about));
    }

    pub(super) fn note(&self, violation: Violation) {
        self.tell(format!("VIOLATION {violation}"));
        self.record.accuse(violation);
    }

    /// Adds a line to the story of the run.
    pub(super) fn tell(&self, line: impl Into<String>) {
        let line = line.into();
        self.trace(|| line.clone());
        self.record.tell(format!("{}: {line}", self.chapter.borrow()));
    }

    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:>9.3} {}", self.schedule.now().as_secs_f64(), line());
        }
    }

    /// Waits for a turn at the database, whose clock is then the functions' own.
    pub(super) async fn turn(&self) -> Turn {
        let mut turn = self.schedule.turn(false).await;
        self.catch_up().await;
        turn.share();
        turn
    }

    /// Waits for a turn while nothing else is under way in the database.
    pub(super) async fn turn_alone(&self) -> Turn {
        let turn = self.schedule.turn(true).await;
        self.catch_up().await;
        turn
    }

    async fn catch_up(&self) {
        self.database.wait_for_abandoned_calls().await;
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

    /// Checks that the ledger refuses a call only for a reason that passes: the caller tries that one again.
    pub(super) fn check_reply(&self, function: &str, (status, body): &Reply) {
        self.trace(|| format!("  {function} -> {status} {body}"));
        if !matches!(status, 200 | 500) {
            self.accuse("the ledger refuses a call", format!("{function}: {status} {body}"));
        }
    }

    /// Lets a request to the ledger arrive only after this time. Its caller has given it up.
    pub(super) fn send_late_to_ledger(&self, function: &str, arguments: &str, time: Duration) {
        let (function, arguments) = (function.to_owned(), arguments.to_owned());
        self.send_late(LateRequest::ToLedger { function, arguments }, time);
    }

    /// Lets a request to Purple Flea arrive only after this time. `failure` names the failure that it may meet there.
    pub(super) fn send_late_to_purple_flea(
        &self,
        request: Request<Vec<u8>>,
        failure: Part,
        chance: fastrand::Rng,
        time: Duration,
    ) {
        let request = Box::new(request);
        self.send_late(LateRequest::ToPurpleFlea { request, failure, chance }, time);
    }

    fn send_late(&self, request: LateRequest, time: Duration) {
        let at = self.schedule.now() + time;
        self.late.borrow_mut().push(Late { at, request });
    }

    /// Tells whether a late request of a job may still arrive at Purple Flea.
    pub(super) fn is_on_its_way(&self, idempotency_key: &str) -> bool {
        self.late.borrow().iter().any(|late| match &late.request {
            LateRequest::ToPurpleFlea { request, .. } => {
                purple_flea::idempotency_key(request).as_deref() == Some(idempotency_key)
            }
            LateRequest::ToLedger { .. } => false,
        })
    }

    /// Delivers the late requests whose time has come.
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
                Some(Late { request: LateRequest::ToLedger { function, arguments }, .. }) => {
                    let reply = self.database.lend().await.call(&function, &arguments).await;
                    self.tell(format!("a late call of {function} arrives"));
                    self.check_reply(&function, &reply);
                    self.claims.look_for_abandoned();
                }
                Some(Late { request: LateRequest::ToPurpleFlea { request, failure, mut chance }, at }) => {
                    self.tell(format!("a late request for {} arrives", request.uri().path()));
                    self.answer(&request, at, failure, &mut chance);
                }
            }
        }
    }

    /// Lets Purple Flea answer a request, unless it fails in a way of its own.
    pub(super) fn answer(
        &self,
        request: &Request<Vec<u8>>,
        at: Duration,
        failure: Part,
        chance: &mut fastrand::Rng,
    ) -> purple_flea::Reply {
        let allows = |words: &str| {
            let allowed = self.allows(failure);
            if allowed {
                self.tell(format!("Purple Flea {words}: {} ({failure})", request.uri().path()));
            }
            allowed
        };
        self.purple_flea.answer(request, at, chance, &allows)
    }

    /// Takes in an outcome that a function logs.
    pub(super) fn log(&self, reference: &str, token: &str, state: &str, result: &str) {
        let result: Value = serde_json::from_str(result).unwrap();
        let outcome = json!({ "reference": reference, "token": token, "state": state, "result": result });
        self.trace(|| format!("logged {outcome}"));
        self.logged.borrow_mut().push(outcome);
    }

    /// Takes logged outcomes that are not recorded yet, as many as one call takes.
    pub(super) fn take_logged(&self) -> Vec<Value> {
        let mut logged = self.logged.borrow_mut();
        let count = logged.len().min(LOGGED_LIMIT);
        logged.drain(..count).collect()
    }

    /// Lets time pass for all.
    pub(super) fn pass(&self, time: Duration) {
        self.trace(|| format!("pass {time:?}"));
        self.schedule.pass(time);
    }

    /// Sets the clock of the database alone, forwards or backwards.
    pub(super) async fn jump(&self, seconds: i64) {
        self.trace(|| format!("jump {seconds} s"));
        self.jumped.set(true);
        self.purple_flea.forget_times();
        let _turn = self.turn_alone().await;
        self.claims.forget_watch();
        self.database.shift(seconds * 1_000).await;
    }

    /// Gives the first column of a query's rows, as texts.
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

    /// Gives one of the notifications that the database has posted: perhaps late, perhaps again.
    pub(super) async fn a_notification(&self) -> Option<String> {
        let sent = self.texts("select body::text from net.sent order by id").await;
        let place = self.chance.borrow_mut().usize(0..sent.len().max(1));
        sent.into_iter().nth(place)
    }

    /// Takes all notifications that have not been taken yet.
    pub(super) async fn take_notifications(&self) -> Vec<String> {
        self.texts(
            "with taken as (delete from net.sent s where true returning s.id, s.body) \
             select body::text from taken order by id",
        )
        .await
    }
}

/// Gives the text of a field of a JSON object.
pub(super) fn field(object: &str, name: &str) -> String {
    let object: Value = serde_json::from_str(object).unwrap();
    object[name].as_str().unwrap_or_default().to_owned()
}
