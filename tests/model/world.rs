//! Everything around the function: the way to the ledger and to Purple Flea, and the time. Each step of it can go
//! wrong, before it is done and after.

use super::{
    database::{self, Database},
    purple_flea::{self, PurpleFlea},
};
use crate::{
    log::Line,
    outside::{Answer, Limits, Outside, SendError},
    purple_flea::Api,
};
use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::pending,
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;

/// How often something goes wrong with a step, of a hundred.
const FAULTS_PERCENT: u32 = 22;

pub(super) struct World<'a> {
    pub(super) database: &'a Database,
    purple_flea: PurpleFlea,
    clock: Cell<Duration>,
    chance: RefCell<fastrand::Rng>,
    calm: Cell<bool>,
    /// Whether the database's clock ever jumped: then its leases and ours differ.
    jumped: Cell<bool>,
    /// Until when each bet's lease holds at least, by our clock.
    leases: RefCell<HashMap<String, Duration>>,
    violations: RefCell<Vec<String>>,
}

/// What goes wrong with one step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It is proven not to have left.
    NotSent,
    /// It gets lost on the way there.
    LostBefore,
    /// Its answer gets lost.
    LostAfter,
    /// The instance dies before.
    DiesBefore,
    /// The instance dies after.
    DiesAfter,
    /// The instance stands still for so many seconds, and then finds its answer there.
    Freezes(u64),
}

/// One instance of the function.
pub(super) struct Instance<'a> {
    world: &'a World<'a>,
    died: Notify,
}

impl<'a> World<'a> {
    pub(super) fn new(database: &'a Database, api: Api, chance: fastrand::Rng) -> Self {
        Self {
            database,
            purple_flea: PurpleFlea::new(api),
            clock: Cell::new(Duration::from_secs(1_000)),
            chance: RefCell::new(chance),
            calm: Cell::new(false),
            jumped: Cell::new(false),
            leases: RefCell::default(),
            violations: RefCell::default(),
        }
    }

    pub(super) fn instance(&'a self) -> Instance<'a> {
        Instance { world: self, died: Notify::new() }
    }

    pub(super) fn calm(&self) {
        self.calm.set(true);
        self.refuse_key(false);
    }

    pub(super) fn refuse_key(&self, refuse: bool) {
        self.purple_flea.refuse_key(refuse);
    }

    /// Time passes, for everybody.
    pub(super) async fn pass(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
        self.purple_flea.pass(time);
        self.database.shift(i64::try_from(time.as_millis()).unwrap()).await;
    }

    /// The database's clock alone is set, forwards or backwards.
    pub(super) async fn jump(&self, seconds: i64) {
        self.jumped.set(true);
        self.database.shift(seconds * 1_000).await;
    }

    /// An operator looks unknown jobs up by hand, where their claimants cannot be at work any more, and releases what
    /// is not there. After a jump of the clock nobody can tell, and nothing is released.
    pub(super) async fn operate(&self) {
        for (reference, bet_key) in self.database.unknown_jobs().await {
            match self.purple_flea.bet(&bet_key) {
                Some(bet) => self.database.record(&reference, &bet).await,
                None if self.jumped.get() => self.database.close(&reference).await,
                None => self.database.release(&reference).await,
            }
        }
    }

    pub(super) async fn judge(&self) -> Vec<String> {
        let mut violations = self.violations.borrow().clone();
        violations.extend(self.database.compare(&self.purple_flea).await);
        violations
    }

    fn fault(&self) -> Fault {
        let mut chance = self.chance.borrow_mut();
        if self.calm.get() || chance.u32(0..100) >= FAULTS_PERCENT {
            return Fault::None;
        }
        match chance.u32(0..7) {
            0 => Fault::NotSent,
            1 => Fault::LostBefore,
            2 => Fault::LostAfter,
            3 => Fault::DiesBefore,
            4 => Fault::DiesAfter,
            n => Fault::Freezes([3, 25, 40][usize::try_from(n).unwrap() % 3]),
        }
    }

    /// Remembers the leases that a claim got, from when it arrived.
    fn note_leases(&self, arrived: Duration, reply: &str) {
        let reply: Value = serde_json::from_str(reply).unwrap();
        let lease = Duration::from_millis(reply["lease_ms"].as_u64().unwrap_or(0));
        for job in reply["jobs"].as_array().unwrap() {
            self.leases.borrow_mut().insert(job["bet_key"].as_str().unwrap().to_owned(), arrived + lease);
        }
    }

    /// No bet may be sent that could outlive its lease. (One that stands still on its way can: it makes its job
    /// unknown, and the last claimant's late answer counts.)
    fn check_lease(&self, bet_key: &str, timeout: Duration) {
        let lease = self.leases.borrow().get(bet_key).copied().unwrap_or_default();
        if self.clock.get() + timeout > lease {
            self.violations
                .borrow_mut()
                .push(format!("{bet_key}: its bet was sent and could outlive its lease"));
        }
    }
}

impl Instance<'_> {
    /// Ends when the instance dies.
    pub(super) async fn death(&self) {
        self.died.notified().await;
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        pending().await
    }

    async fn deliver(&self, request: &http::Request<Vec<u8>>) -> Answer {
        let body = String::from_utf8(request.body().clone()).unwrap();
        let (status, headers, body) = if request.uri().host() == Some("supabase.test") {
            let function = request.uri().path().rsplit('/').next().unwrap();
            let arrived = self.world.clock.get();
            let reply = self.world.database.call(function, &body).await;
            if function == "claim_jobs" {
                self.world.note_leases(arrived, &reply);
            }
            (200, None, reply)
        } else {
            let mut chance = fastrand::Rng::with_seed(self.world.chance.borrow_mut().u64(..));
            self.world.purple_flea.answer(request, &body, &mut chance, self.world.calm.get())
        };
        let mut response = http::Response::builder().status(status);
        if let Some((name, value)) = headers {
            response = response.header(name, value);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        Answer { head, body: body.into_bytes(), whole: true }
    }
}

impl Outside for Instance<'_> {
    async fn send(&self, request: http::Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
        if let Some(bet_key) = purple_flea::bet_key(&request) {
            self.world.check_lease(&bet_key, limits.timeout);
        }
        let fault = self.world.fault();
        match fault {
            Fault::NotSent => return Err(SendError::NotSent("model")),
            Fault::DiesBefore => return self.die().await,
            Fault::LostBefore => {
                self.world.pass(limits.timeout).await;
                return Err(SendError::TimedOut);
            }
            _ => {}
        }
        let answer = self.deliver(&request).await;
        match fault {
            Fault::DiesAfter => self.die().await,
            Fault::LostAfter => Err(SendError::Broken("model")),
            Fault::Freezes(seconds) => {
                self.world.pass(Duration::from_secs(seconds)).await;
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    fn now(&self) -> SystemTime {
        database::wall_clock(self.world.clock.get())
    }

    fn monotonic(&self) -> Duration {
        self.world.clock.get()
    }

    async fn sleep(&self, time: Duration) {
        // Whatever else can go on does so first.
        tokio::task::yield_now().await;
        self.world.pass(time).await;
    }

    fn random(&self) -> u128 {
        self.world.chance.borrow_mut().u128(..)
    }

    fn log(&self, _: &Line) {}
}
