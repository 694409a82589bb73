//! One instance of the function, and the way from it to the ledger and to Purple Flea. Each message may meet a fault, before
//! the other side has done its part and after.

use super::{
    claims::InstanceId,
    database::{self, Connection},
    faults::{Circumstances, Fault},
    parts::{self, MessageId, Part},
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
    collections::HashMap,
    future::pending,
    time::{Duration, SystemTime},
};
use tokio::{sync::Notify, task::JoinHandle};

/// How often a message waits for others at most before it leaves.
const PAUSES: u32 = 3;

/// The longest ordinary exchange with Purple Flea, in milliseconds.
const EXCHANGE_MS: u64 = 300;

/// How long a claim is stuck if nothing comes for it, by the machine's clock.
const STALL: Duration = Duration::from_millis(30);

/// How long a call takes to reach the lock that it waits for, by the machine's clock.
pub(super) const TO_THE_LOCK: Duration = Duration::from_millis(2);

/// The ledger's host. Purple Flea's is any other.
pub(super) const LEDGER_HOST: &str = "supabase.test";

/// One instance of the function.
pub(super) struct Instance<'a> {
    world: &'a World<'a>,
    id: InstanceId,
    seed: u64,
    /// How many messages of each kind the instance has sent.
    messages: RefCell<HashMap<usize, usize>>,
    /// The function's own chance.
    chance: RefCell<fastrand::Rng>,
    died: Notify,
    /// The end of its freeze.
    frozen_until: Cell<Duration>,
    /// The token of the claim whose last try got lost.
    lost_claim: RefCell<String>,
    stalled: RefCell<Option<Stalled>>,
    /// Whether no other instance runs: only then may a claim get stuck with locks that others need.
    alone: bool,
}

/// A message that is under way.
struct Message {
    id: MessageId,
    chance: RefCell<fastrand::Rng>,
}

/// A claim that is stuck in the database.
struct Stalled {
    token: String,
    /// Lets the claim go on.
    release: tokio::sync::oneshot::Sender<()>,
    claim: JoinHandle<database::Reply>,
}

impl<'a> Instance<'a> {
    pub(super) fn new(world: &'a World<'a>, id: InstanceId, seed: u64, alone: bool) -> Self {
        Self {
            world,
            id,
            seed,
            messages: RefCell::default(),
            chance: RefCell::new(parts::chance(seed, &[id.step, id.place])),
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

    /// Waits for a claim that is stuck in the database.
    pub(super) async fn clean_up(&self) {
        let stalled = self.stalled.borrow_mut().take();
        if let Some(Stalled { release, claim, .. }) = stalled {
            let _turn = self.world.schedule.turn_beside(0).await;
            let _ = release.send(());
            self.world.check_reply("claim_jobs", &claim.await.unwrap());
        }
    }

    /// Names the instance in a trace.
    fn name(&self) -> Part {
        Part::Request(self.id)
    }

    /// Names the next message of a kind, and gives it chance of its own.
    fn next_message(&self, kind: &str) -> Message {
        let kind = parts::message_kind(kind);
        let mut messages = self.messages.borrow_mut();
        let count = messages.entry(kind).or_default();
        let place = std::mem::replace(count, *count + 1);
        let chance = parts::chance(self.seed, &[self.id.step, self.id.place, kind, place]);
        Message { id: MessageId { request: self.id, kind, place }, chance: RefCell::new(chance) }
    }

    async fn die<T>(&self) -> T {
        self.world.trace(|| format!("{} dies", self.name()));
        self.died.notify_one();
        pending().await
    }

    /// Chooses a fault for a message, unless the run leaves this fault out.
    fn fault(&self, message: &Message, function: Option<&str>, claim: &str, path: &str) -> Fault {
        let circumstances = Circumstances {
            is_claim: function == Some("claim_jobs"),
            in_outage: !claim.is_empty() && *self.lost_claim.borrow() == claim,
            is_stuck: self.stalled.borrow().as_ref().is_some_and(|stalled| stalled.token == claim),
            any_stuck: self.stalled.borrow().is_some(),
        };
        let fault = circumstances.fault(&mut message.chance.borrow_mut());
        let part = Part::Fault(message.id);
        if fault == Fault::None || !self.world.allows(part) {
            return Fault::None;
        }
        self.world.tell(format!("{fault}: {path} ({part})"));
        fault
    }

    /// Lets others go on first, as often as chance has it.
    async fn let_others_go_on(&self, message: &Message) {
        let times = message.chance.borrow_mut().u32(0..=PAUSES);
        for _ in 0..times {
            self.world.schedule.step_aside().await;
        }
    }

    /// Waits until the instance is no longer frozen: nothing in a frozen instance goes on.
    async fn thaw(&self) {
        while let Some(left) =
            self.frozen_until.get().checked_sub(self.monotonic()).filter(|left| !left.is_zero())
        {
            self.world.schedule.sleep(left).await;
        }
    }

    async fn deliver(&self, message: &Message, request: &Request<Vec<u8>>, function: Option<&str>) -> Answer {
        let (status, headers, body) = match function {
            Some(function) => {
                let body = std::str::from_utf8(request.body()).unwrap();
                let (status, body) = self.call(message, function, body).await;
                (status, None, body)
            }
            None => {
                let time = Duration::from_millis(message.chance.borrow_mut().u64(0..EXCHANGE_MS));
                self.world.schedule.sleep(time / 2).await;
                let mut chance = message.chance.borrow_mut().fork();
                let now = self.world.schedule.now();
                let answer = self.world.answer(request, now, Part::Failure(message.id), &mut chance);
                self.world
                    .trace(|| format!("{} {} -> {} {}", self.name(), request.uri(), answer.0, answer.2));
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

    /// Calls a function of the ledger.
    async fn call(&self, message: &Message, function: &str, arguments: &str) -> database::Reply {
        let world = self.world;
        world.trace(|| format!("{} {function} {arguments}", self.name()));
        if let Some(stalled) = self.take_stalled(arguments) {
            return self.call_beside(stalled, function, arguments).await;
        }
        let arrived = world.schedule.now();
        if function == "await_jobs" {
            return self.await_jobs(message, arguments).await;
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
            self.world.note(wrong);
        }
    }

    /// Waits for a job as long as the function asks, by the model's clock. Then the database looks once more, and ends the
    /// watch.
    async fn await_jobs(&self, message: &Message, arguments: &str) -> database::Reply {
        let mut arguments: serde_json::Value = serde_json::from_str(arguments).unwrap();
        let most = arguments["wait_ms"].as_u64().unwrap();
        let waits = message.chance.borrow_mut().u64(0..=most);
        self.world.schedule.sleep(Duration::from_millis(waits)).await;
        arguments["wait_ms"] = 0.into();
        self.world.call("await_jobs", &arguments.to_string()).await
    }

    fn take_stalled(&self, arguments: &str) -> Option<Stalled> {
        let mut stalled = self.stalled.borrow_mut();
        let token = field(arguments, "claim");
        if stalled.as_ref().is_some_and(|stalled| stalled.token == token) { stalled.take() } else { None }
    }

    /// Lets a claim get stuck: before it has its own lock, or after it has looked whether it was abandoned. In the later place
    /// it keeps others waiting, too.
    async fn stall(&self, message: &Message, arguments: &str) {
        let token = field(arguments, "claim");
        let late = self.alone && message.chance.borrow_mut().u32(0..4) > 0;
        self.world.trace(|| format!("{} claim_jobs {arguments} gets stuck ({late})", self.name()));
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

    /// Calls a function for a claim that is stuck, and lets the claim go on while the call is under way.
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
        match (function, purple_flea::idempotency_key(&request)) {
            (Some("abandon_claim"), _) => world.claims.abandon(&claim),
            // Even if the request fails, the function no longer relies on the watch.
            (Some("await_jobs" | "end_watch"), _) => world.claims.end_watch(&field(&arguments, "watcher")),
            (None, Some(idempotency_key)) => {
                let ends = self.monotonic() + limits.timeout;
                if let Some(wrong) = world.claims.check(self.id, &idempotency_key, ends) {
                    world.note(wrong);
                }
            }
            _ => {}
        }
        let message = self.next_message(function.unwrap_or_else(|| purple_flea::operation(&request)));
        self.let_others_go_on(&message).await;
        let fault = self.fault(&message, function, &claim, &path);
        if !claim.is_empty() {
            *self.lost_claim.borrow_mut() = if fault.loses_the_answer() { claim } else { String::new() };
        }
        match fault {
            Fault::NotSent => return Err(SendError::NotSent("model")),
            Fault::DiesBefore => return self.die().await,
            // (A wait that arrives later ends at most its own watch.)
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
                    None => {
                        let chance = message.chance.borrow_mut().fork();
                        world.send_late_to_purple_flea(request, Part::Failure(message.id), chance, time);
                    }
                }
                world.schedule.sleep(limits.timeout).await;
                return Err(SendError::TimedOut);
            }
            Fault::Stalls => {
                self.stall(&message, &arguments).await;
                return Err(SendError::Broken("model"));
            }
            _ => {}
        }
        let answer = self.deliver(&message, &request, function).await;
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
