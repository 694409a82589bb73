//! One instance of the function, and the way from it to the ledger and to Purple Flea. Each step of that way can go wrong,
//! before it is done and after.

use super::{
    claims::InstanceId,
    database::{self, Connection},
    purple_flea,
    world::{World, field},
};
use http::Request;
use purple_flea_edge::{
    log::Line,
    runtime::{Answer, Limits, Runtime, SendError},
};
use std::{
    cell::{Cell, RefCell},
    future::pending,
    time::{Duration, SystemTime},
};
use tokio::{sync::Notify, task::JoinHandle};

/// How often something goes wrong with a step, of a hundred.
const FAULTS_PERCENT: u32 = 18;

/// How often the next try of a claim fails as well whose answer got lost, of a hundred: an outage lasts.
const OUTAGE_PERCENT: u32 = 70;

/// How often a call waits for others before it is made, at most.
const PAUSES: u32 = 3;

/// The longest ordinary exchange with Purple Flea, in milliseconds.
const EXCHANGE_MS: u64 = 300;

/// How long at most a request is under way whose sender has given it up, in seconds: less than the ledger waits before it
/// looks anything up.
pub(super) const LATE_S: u64 = 60;

/// For how long a stalled claim stands still if nothing comes for it, by the machine's clock.
const STALL: Duration = Duration::from_millis(30);

/// How long a call takes to get to where it waits for a lock, by the machine's clock.
pub(super) const TO_THE_LOCK: Duration = Duration::from_millis(2);

/// The ledger's host. Purple Flea's is any other.
pub(super) const LEDGER_HOST: &str = "supabase.test";

/// What goes wrong with one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It is proven not to have left.
    NotSent,
    /// It gets lost on the way there.
    LostBefore,
    /// Its answer gets lost.
    LostAfter,
    /// It arrives only after so many seconds. Its sender has given it up by then.
    Late(u64),
    /// Its answer takes so many seconds.
    Slow(u64),
    /// A claim gets stuck in the database, and its connection breaks.
    Stalls,
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
    id: InstanceId,
    chance: RefCell<fastrand::Rng>,
    died: Notify,
    /// Until when it stands still.
    frozen_until: Cell<Duration>,
    /// The claim whose last try got lost.
    lost_claim: RefCell<String>,
    stalled: RefCell<Option<Stalled>>,
    /// Whether it is the only one that runs: only then may a claim get stuck with locks that others need.
    alone: bool,
}

/// A claim that is stuck in the database.
struct Stalled {
    token: String,
    /// Lets it go on.
    release: tokio::sync::oneshot::Sender<()>,
    claim: JoinHandle<database::Reply>,
}

impl<'a> Instance<'a> {
    pub(super) fn new(world: &'a World<'a>, alone: bool) -> Self {
        Self {
            world,
            id: world.next_instance(),
            chance: RefCell::new(world.fork()),
            died: Notify::new(),
            frozen_until: Cell::default(),
            lost_claim: RefCell::default(),
            stalled: RefCell::default(),
            alone,
        }
    }

    /// Ends when the instance dies.
    pub(super) async fn death(&self) {
        self.died.notified().await;
    }

    /// Waits for what is stuck in the database.
    pub(super) async fn clean_up(&self) {
        let stalled = self.stalled.borrow_mut().take();
        if let Some(Stalled { release, claim, .. }) = stalled {
            let _turn = self.world.schedule.turn_beside(0).await;
            let _ = release.send(());
            self.world.check_reply("claim_jobs", &claim.await.unwrap());
        }
    }

    async fn die<T>(&self) -> T {
        self.world.trace(|| format!("#{} dies", self.id));
        self.died.notify_one();
        pending().await
    }

    fn fault(&self, function: Option<&str>, claim: &str) -> Fault {
        let mut chance = self.chance.borrow_mut();
        if self.world.is_calm() {
            return Fault::None;
        }
        let goes_on = !claim.is_empty() && *self.lost_claim.borrow() == claim;
        let stuck = self.stalled.borrow().as_ref().is_some_and(|stalled| stalled.token == claim);
        if stuck {
            // Mostly it is given up, and that gets through.
            let tried_again = function == Some("claim_jobs") && chance.u32(0..4) > 0;
            return if tried_again { Fault::NotSent } else { Fault::None };
        }
        if chance.u32(0..100) >= if goes_on { OUTAGE_PERCENT } else { FAULTS_PERCENT } {
            return Fault::None;
        }
        if function == Some("claim_jobs") && self.stalled.borrow().is_none() && chance.u32(0..4) == 0 {
            return Fault::Stalls;
        }
        match chance.u32(0..if goes_on { 4 } else { 12 }) {
            0 => Fault::LostBefore,
            1 => Fault::LostAfter,
            2 => Fault::Late(chance.u64(1..=LATE_S)),
            3 | 4 => Fault::NotSent,
            5 => Fault::DiesBefore,
            6 => Fault::DiesAfter,
            7 | 8 => Fault::Slow(chance.u64(1..12)),
            n => Fault::Freezes([3, 25, 40][usize::try_from(n).unwrap() % 3]),
        }
    }

    /// Others go on first, so many times as chance has it.
    async fn let_others_go_on(&self) {
        let times = self.chance.borrow_mut().u32(0..=PAUSES);
        for _ in 0..times {
            self.world.schedule.step_aside().await;
        }
    }

    /// While an instance stands still nothing in it goes on.
    async fn thaw(&self) {
        while let Some(left) =
            self.frozen_until.get().checked_sub(self.monotonic()).filter(|left| !left.is_zero())
        {
            self.world.schedule.sleep(left).await;
        }
    }

    async fn deliver(&self, request: &Request<Vec<u8>>, function: Option<&str>) -> Answer {
        let (status, headers, body) = match function {
            Some(function) => {
                let body = std::str::from_utf8(request.body()).unwrap();
                let (status, body) = self.call(function, body).await;
                (status, None, body)
            }
            None => {
                let time = Duration::from_millis(self.chance.borrow_mut().u64(0..EXCHANGE_MS));
                self.world.schedule.sleep(time / 2).await;
                let mut chance = fastrand::Rng::with_seed(self.chance.borrow_mut().u64(..));
                let now = self.world.schedule.now();
                let answer = self.world.purple_flea.answer(request, now, &mut chance, self.world.is_calm());
                self.world.trace(|| format!("#{} {} -> {} {}", self.id, request.uri(), answer.0, answer.2));
                self.world.schedule.sleep(time / 2).await;
                answer
            }
        };
        let mut response = http::Response::builder().status(status);
        if let Some((name, value)) = headers {
            response = response.header(name, value);
        }
        let (head, ()) = response.body(()).unwrap().into_parts();
        Answer { head, body: body.into_bytes(), whole: true }
    }

    /// Calls a function of the ledger's.
    async fn call(&self, function: &str, arguments: &str) -> database::Reply {
        let world = self.world;
        world.trace(|| format!("#{} {function} {arguments}", self.id));
        if let Some(stalled) = self.take_stalled(arguments) {
            return self.call_beside(stalled, function, arguments).await;
        }
        let arrived = world.schedule.now();
        if function == "await_jobs" {
            return self.await_jobs(arguments).await;
        }
        let reply = world.call(function, arguments).await;
        if function == "claim_jobs" && reply.0 == 200 {
            self.take_in(arrived, arguments, &reply.1);
        }
        reply
    }

    fn take_in(&self, arrived: Duration, arguments: &str, reply: &str) {
        let times = (arrived, self.world.schedule.now());
        for wrong in self.world.claims.note_answer(self.id, times, arguments, reply) {
            self.world.accuse(wrong);
        }
    }

    /// Waits for a job as long as it is asked to, on the world's clock; then the database looks once more, and ends the watch.
    async fn await_jobs(&self, arguments: &str) -> database::Reply {
        let mut arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
        let most = arguments["wait_ms"].as_u64().unwrap();
        let waits = self.chance.borrow_mut().u64(0..=most);
        self.world.schedule.sleep(Duration::from_millis(waits)).await;
        arguments["wait_ms"] = 0.into();
        self.world.call("await_jobs", &arguments.to_string()).await
    }

    fn take_stalled(&self, arguments: &str) -> Option<Stalled> {
        let mut stalled = self.stalled.borrow_mut();
        let token = field(arguments, "claim");
        if stalled.as_ref().is_some_and(|stalled| stalled.token == token) { stalled.take() } else { None }
    }

    /// A claim gets stuck: before it has its own lock, or later, when it has looked whether it was abandoned. The later place
    /// keeps others waiting, too.
    async fn stall(&self, arguments: &str) {
        let token = field(arguments, "claim");
        let late = self.alone && self.chance.borrow_mut().u32(0..4) > 0;
        self.world.trace(|| format!("#{} claim_jobs {arguments} gets stuck ({late})", self.id));
        let _turn = self.world.turn_alone().await;
        let lock = if late {
            "lock table purple_flea.trade_policies in access exclusive mode".to_owned()
        } else {
            format!("select pg_advisory_xact_lock(hashtextextended('purple_flea:{token}', 1))")
        };
        let holder: Connection = self.world.database.connect().await;
        holder.run(&format!("begin; {lock}")).await;
        let claim = self.world.database.lend().await.call_beside("claim_jobs", arguments);
        let (release, released) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(STALL, released).await;
            holder.run("rollback").await;
        });
        tokio::time::sleep(TO_THE_LOCK).await;
        *self.stalled.borrow_mut() = Some(Stalled { token, release, claim });
    }

    /// Calls a function for a claim that is stuck, and lets that one go on while it is under way.
    async fn call_beside(&self, stalled: Stalled, function: &str, arguments: &str) -> database::Reply {
        let world = self.world;
        let _turn = world.turn_alone().await;
        let arrived = world.schedule.now();
        let call = world.database.lend().await.call_beside(function, arguments);
        tokio::time::sleep(TO_THE_LOCK).await;
        let _ = stalled.release.send(());
        let (claimed, reply) = (stalled.claim.await.unwrap(), call.await.unwrap());
        world.check_reply("claim_jobs", &claimed);
        world.check_reply(function, &reply);
        if function == "claim_jobs" && reply.0 == 200 {
            self.take_in(arrived, arguments, &reply.1);
        }
        reply
    }
}

impl Runtime for Instance<'_> {
    async fn send(&self, request: Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
        let world = self.world;
        let path = request.uri().path().to_owned();
        let function = (request.uri().host() == Some(LEDGER_HOST)).then(|| path.rsplit('/').next().unwrap());
        let arguments =
            function.map(|_| String::from_utf8(request.body().clone()).unwrap()).unwrap_or_default();
        let claim = function.map(|_| field(&arguments, "claim")).unwrap_or_default();
        match (function, purple_flea::bet_key(&request)) {
            (Some("abandon_claim"), _) => world.claims.abandon(&claim),
            // Whatever becomes of the request, the function does not rely on the watch any more.
            (Some("await_jobs" | "end_watch"), _) => world.claims.end_watch(&field(&arguments, "watcher")),
            (None, Some(bet_key)) => {
                let ends = self.monotonic() + limits.timeout;
                if let Some(wrong) = world.claims.check(self.id, &bet_key, ends) {
                    world.accuse(wrong);
                }
            }
            _ => {}
        }
        self.let_others_go_on().await;
        let fault = self.fault(function, &claim);
        if fault != Fault::None {
            world.trace(|| format!("#{} {path}: {fault:?}", self.id));
        }
        if !claim.is_empty() {
            let lost = !matches!(fault, Fault::None | Fault::Slow(_) | Fault::Freezes(_));
            *self.lost_claim.borrow_mut() = if lost { claim } else { String::new() };
        }
        match fault {
            Fault::NotSent => return Err(SendError::NotSent("model")),
            Fault::DiesBefore => return self.die().await,
            // (A wait that comes later ends its own watch at most.)
            Fault::Late(_) if function == Some("await_jobs") => {
                world.schedule.sleep(limits.timeout).await;
                return Err(SendError::TimedOut);
            }
            Fault::LostBefore => {
                world.schedule.sleep(limits.timeout).await;
                return Err(SendError::TimedOut);
            }
            Fault::Late(seconds) => {
                let time = Duration::from_secs(seconds);
                match function {
                    Some(function) => world.send_late_to_ledger(function, &arguments, time),
                    None => world.send_late_to_purple_flea(request, time),
                }
                world.schedule.sleep(limits.timeout).await;
                return Err(SendError::TimedOut);
            }
            Fault::Stalls => {
                self.stall(&arguments).await;
                return Err(SendError::Broken("model"));
            }
            _ => {}
        }
        let answer = self.deliver(&request, function).await;
        match fault {
            Fault::DiesAfter => return self.die().await,
            Fault::LostAfter => return Err(SendError::Broken("model")),
            Fault::Slow(seconds) => {
                let time = Duration::from_secs(seconds).min(limits.timeout);
                world.schedule.sleep(time).await;
                if time == limits.timeout {
                    return Err(SendError::TimedOut);
                }
            }
            Fault::Freezes(seconds) => self.frozen_until.set(self.monotonic() + Duration::from_secs(seconds)),
            _ => {}
        }
        self.thaw().await;
        Ok(answer)
    }

    fn now(&self) -> SystemTime {
        database::wall_clock(self.world.schedule.now())
    }

    fn monotonic(&self) -> Duration {
        self.world.schedule.now()
    }

    async fn sleep(&self, time: Duration) {
        self.world.schedule.sleep(time).await;
        self.thaw().await;
    }

    fn random(&self) -> u128 {
        self.chance.borrow_mut().u128(..)
    }

    fn log(&self, line: &Line) {
        let recorded = line.code.is_none();
        if let (false, Some(reference), Some(token), Some(state)) =
            (recorded, &line.reference, &line.token, line.state)
        {
            self.world.log(reference, token, state, line.result.as_ref().map_or("{}", |result| result.get()));
        }
    }
}
