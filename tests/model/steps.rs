//! The steps of a sequence.

use super::{
    Sequence, TOKEN,
    instance::{Instance, LATE_S},
    people, restore,
    restore::{Copy, Way},
};
use futures::future::{join, join_all};
use http::{Request, StatusCode};
use purple_flea_edge::{
    config,
    http::{
        dispatch::AfterReply,
        router::{self, Body, Memory},
    },
    time_budget,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Most rounds until everything is settled, faults over. Each lets two minutes pass.
const CALM_ROUNDS: usize = 45;

/// Most rounds of notifications until no more come, in calm.
const NOTIFIED_ROUNDS: usize = 8;

/// For how long a watch is relied on at most after its last claim: twice the longest linger, and a second.
const LONGEST_WATCH: Duration = Duration::from_secs(7);

/// A request to a function.
#[derive(Clone)]
pub(super) struct Post {
    path: &'static str,
    /// What the body says that it asks for; empty where it need not.
    operation: &'static str,
    body: Value,
    webhook_id: Option<String>,
}

impl Sequence<'_> {
    pub(super) async fn step(&mut self) {
        if self.restores && self.chance.u32(0..8) == 0 {
            return self.restore().await;
        }
        match self.chance.u32(0..100) {
            0..=15 => {
                let sql = self.a_deposit();
                self.world.run(&sql).await;
            }
            // Rung for, doubled, out of order, at the same time, while others deposit.
            16..=42 => {
                let times = if self.chance.u32(0..3) == 0 { self.chance.usize(2..4) } else { 1 };
                self.ring(times).await;
            }
            43..=48 => self.by_hand().await,
            49..=51 => self.newcomer().await,
            52..=57 => self.ask_for_an_escrow().await,
            58..=62 => self.post(Post::asking("/reconcile", "reconcile", json!({})), true).await,
            63..=76 => {
                let seconds = [1, 5, 31, 61, 110, 300][self.chance.usize(0..6)];
                self.world.pass(Duration::from_secs(seconds));
            }
            77..=79 if !self.restores => {
                let seconds = self.chance.i64(-600..600);
                self.world.jump(seconds).await;
            }
            77..=82 => self.pause().await,
            83..=84 => {
                let refuse = self.chance.bool();
                self.world.purple_flea.refuse_key(refuse);
            }
            85..=87 => people::sweep(&self.world).await,
            88..=90 => people::operate(&self.world).await,
            91 => people::record_logged(&self.world).await,
            92..=95 => self.nothing_relied_on_is_forgotten().await,
            96 => self.health().await,
            _ => self.world.pass(Duration::from_secs(25 * 3_600)),
        }
    }

    /// Doorbells, for deposits by their numbers, by what the database has posted, or a sweeper's.
    async fn ring(&mut self, times: usize) {
        let mut posts = Vec::new();
        for _ in 0..times {
            posts.push(self.a_ring().await);
        }
        let deposits = if self.chance.bool() { self.chance.usize(1..3) } else { 0 };
        let deposits = self.plan_deposits(deposits);
        let alone = times == 1 && deposits.is_empty();
        let posts = posts.into_iter().map(|(function, post)| self.post_to(function, post, alone));
        join(join_all(posts), self.deposit_meanwhile(deposits)).await;
    }

    async fn a_ring(&mut self) -> (usize, Post) {
        let body = match self.chance.u32(0..4) {
            0 => None,
            1 => self.world.a_notification().await.map(|body| serde_json::from_str(&body).unwrap()),
            _ => {
                let sql = format!(
                    "select reference from purple_flea.jobs where kind = 'deposit' order by wallet_change_id offset {} limit 1",
                    self.chance.u32(0..12)
                );
                let reference = self.world.texts(&sql).await.pop();
                reference.map(|reference| json!({ "ledger": true, "reference": reference }))
            }
        };
        (self.any_function(), Post::notifying(body.unwrap_or_else(|| json!({ "ledger": true }))))
    }

    /// Something is asked for by hand, perhaps twice under one name, perhaps at the same time.
    async fn by_hand(&mut self) {
        let (agent, other) = (self.any_agent(), self.any_agent());
        let size = self.chance.u32(1..20);
        let (path, operation, body) = match self.chance.u32(0..9) {
            0 => (
                "/trade",
                "trade",
                json!({ "agent_id": agent, "market": "BTC-USD", "direction": "long", "size": size }),
            ),
            1 => (
                "/order",
                "order",
                json!({ "agent_id": agent, "market": "ETH-USD", "direction": "short", "size": size }),
            ),
            2 => ("/register", "registration", json!({ "agent_id": agent })),
            3 => ("/faucet", "faucet", json!({ "agent_id": agent })),
            4 => ("/faucet/daily", "daily_claim", json!({ "agent_id": agent })),
            5 => ("/balance", "balance", json!({ "agent_id": agent })),
            6 => ("/escrow", "escrow", json!({ "sender_id": agent, "receiver_id": other, "amount": size })),
            7 => ("/escrow/release", "escrow_release", json!({ "escrow_id": self.chance.u32(1..4) })),
            _ => ("/escrow/cancel", "escrow_cancel", json!({ "escrow_id": self.chance.u32(1..4) })),
        };
        let webhook_id = Some(format!("hand-{}", self.chance.u32(1..8)));
        let post = Post { webhook_id, ..Post::asking(path, operation, body) };
        if self.chance.u32(0..3) == 0 {
            let (one, other) = (self.any_function(), self.any_function());
            join(self.post_to(one, post.clone(), false), self.post_to(other, post, false)).await;
        } else {
            self.post(post, true).await;
        }
    }

    /// With nothing going wrong, each deposit is either rung for or seen by the function that waits for it: none needs the
    /// sweeper.
    async fn nothing_relied_on_is_forgotten(&mut self) {
        // (When the database's clock was set back, the watch of a function that is gone lasts as much longer.)
        let excused = self.world.claims.is_unconfirmed() || self.world.has_jumped();
        if excused || self.world.purple_flea.refuses_key() {
            return;
        }
        self.world.be_calm(true);
        // What is late arrives first, and the watch of a function that is gone runs out: those that relied on it wait for the
        // sweeper.
        self.world.pass(Duration::from_secs(LATE_S));
        drop(self.world.turn().await);
        self.world.pass(LONGEST_WATCH);
        let before = self
            .world
            .texts("select coalesce(max(id), 0)::text from public.wallet_changes")
            .await
            .pop()
            .unwrap();
        self.world.take_notifications().await;
        let (deposits, times) = (self.chance.usize(1..4), self.chance.usize(1..3));
        let functions: Vec<usize> = (0..times).map(|_| self.any_function()).collect();
        let deposits = self.plan_deposits(deposits);
        let rings = functions
            .into_iter()
            .map(|function| self.post_to(function, Post::notifying(json!({ "ledger": true })), false));
        join(join_all(rings), self.deposit_meanwhile(deposits)).await;
        for _ in 0..NOTIFIED_ROUNDS {
            let notified = self.world.take_notifications().await;
            if notified.is_empty() {
                break;
            }
            for body in notified {
                let post = Post::notifying(serde_json::from_str(&body).unwrap());
                self.post(post, false).await;
            }
        }
        let forgotten = format!(
            "select j.reference from purple_flea.jobs j join purple_flea.effective_policies e using (agent_id) \
             where j.state = 'pending' and j.attempts = 0 and j.wallet_change_id > {before} and not e.paused \
             and not exists (select from purple_flea.rate_stops) \
             and not exists (select from purple_flea.jobs b where b.agent_id = j.agent_id and b.state = 'claimed') \
             and (select count(*) from purple_flea.rate_slots) < 30"
        );
        for reference in self.world.texts(&forgotten).await {
            self.world.accuse(format!("{reference}: neither rung for nor seen by the function that waits"));
        }
        self.world.be_calm(false);
    }

    /// The ledger says whether it waits for an operator's word.
    async fn health(&mut self) {
        let (status, body) = self.world.call("ledger_health", "{}").await;
        let says = body.contains("restore_unconfirmed");
        if status == 200 && says != self.world.claims.is_unconfirmed() {
            self.world.accuse(format!("the health says otherwise: {body}"));
        }
    }

    /// A copy is taken, or gone back to; later an operator confirms that.
    async fn restore(&mut self) {
        if self.world.claims.is_unconfirmed() {
            return restore::confirm(&self.world, false, self.let_go).await;
        }
        let Some(copy) = self.copy.take() else {
            if self.chance.u32(0..4) == 0 {
                return restore::fail_over(&self.world).await;
            }
            self.copy = Some(Copy::take(&self.world, self.newcomers).await);
            return;
        };
        (self.newcomers, self.let_go) = (copy.newcomers, copy.let_go);
        let way = if self.chance.bool() { Way::InPlace } else { Way::Snapshot };
        if self.chance.bool() {
            return copy.restore(way, &self.world).await;
        }
        // In the middle of bets.
        let (function, post) = self.a_ring().await;
        let after = Duration::from_millis(self.chance.u64(0..500));
        let restored = async {
            self.world.schedule.sleep(after).await;
            copy.restore(way, &self.world).await;
        };
        join(self.post_to(function, post, false), restored).await;
    }

    /// What must hold whenever no function runs.
    pub(super) async fn look_after_the_step(&mut self) {
        if self.world.claims.take_newly_abandoned() {
            let taken = "select j.reference from purple_flea.jobs j join purple_flea.abandoned_claims c using (token) \
                         where j.state = 'claimed' and not exists (select from purple_flea.job_troubles t where t.reference = j.reference)";
            for reference in self.world.texts(taken).await {
                self.world.accuse(format!("{reference}: claimed under a token that was abandoned"));
            }
        }
    }

    fn any_function(&mut self) -> usize {
        self.chance.usize(0..self.functions.len())
    }

    async fn post(&mut self, post: Post, alone: bool) {
        let function = self.any_function();
        self.post_to(function, post, alone).await;
    }

    /// Posts to a function, and lets it do what it does until it is done, dies, or its host ends it.
    async fn post_to(&self, function: usize, post: Post, alone: bool) {
        let settings = &self.functions[function];
        let instance = Instance::new(&self.world, alone);
        self.world.trace(|| format!("post to {function}: {} {}", post.path, post.body));
        tokio::select! {
            biased;
            () = run(settings, post.request(), &instance) => {}
            () = instance.death() => {}
            () = self.world.schedule.sleep(Duration::from_secs(time_budget::HOST_LIFE_S)) => {}
        }
        instance.clean_up().await;
    }

    /// Nothing goes wrong any more, and time passes until nothing is left to do.
    pub(super) async fn calm_down(&mut self) {
        self.world.be_calm(true);
        self.world.purple_flea.refuse_key(false);
        if self.world.claims.is_unconfirmed() {
            restore::confirm(&self.world, false, self.let_go).await;
        }
        self.world
            .run("select model.pause(p.agent_id, false) from purple_flea.trade_policies p where p.paused")
            .await;
        for _ in 0..CALM_ROUNDS {
            self.world.pass(Duration::from_secs(120));
            people::sweep(&self.world).await;
            people::register_by_hand(&self.world).await;
            self.post(Post::notifying(json!({ "ledger": true })), false).await;
            let open = "select reference from purple_flea.jobs where state in ('pending', 'claimed') \
                        or (state = 'unknown' and reason not in ('not_found', 'no_history')) limit 1";
            if self.world.texts(open).await.is_empty() {
                return;
            }
            // Deposits that wait for an unknown bet of their agent's wait for an operator.
            people::operate(&self.world).await;
        }
    }
}

/// What a function does about a request: it answers, and goes on.
async fn run(settings: &config::Checked, request: Request<Body>, instance: &Instance<'_>) {
    let (response, later) = router::respond(settings, &Memory::empty(), request, instance).await;
    assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    if let (Some(later), Ok(settings)) = (later, settings) {
        AfterReply::run(later, settings, instance).await;
    }
}

impl Post {
    fn notifying(body: Value) -> Self {
        Self { path: "/execute-trade", operation: "", body, webhook_id: None }
    }

    fn asking(path: &'static str, operation: &'static str, body: Value) -> Self {
        Self { path, operation, body, webhook_id: None }
    }

    fn request(&self) -> Request<Body> {
        let mut body = self.body.clone();
        if !self.operation.is_empty() {
            body["operation"] = self.operation.into();
        }
        let mut request = Request::post(self.path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .header("prefer", "respond-async");
        if let Some(id) = &self.webhook_id {
            request = request.header("webhook-id", id);
        }
        request.body(Body::Whole(body.to_string().into_bytes())).unwrap()
    }
}
