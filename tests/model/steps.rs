//! The steps of a sequence, and its end.

use super::{
    Sequence,
    faults::LATE_S,
    people,
    requests::Post,
    restore,
    restore::{Copy, Way},
};
use futures::future::{join, join_all};
use serde_json::json;
use std::time::Duration;

/// Most rounds until no job is open, after the faults end. Each round lets two minutes pass.
const CALM_ROUNDS: usize = 45;

/// Most rounds of notifications until no more come, while nothing goes wrong.
const NOTIFIED_ROUNDS: usize = 8;

/// The longest time for which the trigger relies on a watch after the last claim: twice the longest linger, and a second.
const LONGEST_WATCH: Duration = Duration::from_secs(7);

impl Sequence<'_> {
    pub(super) async fn step(&mut self) {
        if self.restores && self.chance.u32(0..8) == 0 {
            return self.restore().await;
        }
        match self.chance.u32(0..100) {
            0..=15 => {
                if let Some(sql) = self.a_deposit() {
                    self.world.run(&sql).await;
                }
            }
            // Notifications come, twice, in any order, at the same time, and while depositors insert rows.
            16..=42 => {
                let times = if self.chance.u32(0..3) == 0 { self.chance.usize(2..4) } else { 1 };
                self.notify(times).await;
            }
            43..=48 => self.request_job().await,
            49..=51 => self.newcomer().await,
            52..=57 => self.ask_for_an_escrow().await,
            58..=62 => self.post(Post::asking("/reconcile", "reconcile", json!({})), true).await,
            63..=76 => {
                let seconds = [1, 5, 31, 61, 110, 300][self.chance.usize(0..6)];
                self.pass(seconds);
            }
            77..=79 if !self.restores => {
                let seconds = self.chance.i64(-600..600);
                self.world.tell(format!("the clock of the database jumps by {seconds} s"));
                self.world.jump(seconds).await;
            }
            77..=82 => self.pause().await,
            83..=84 => {
                let refuse = self.chance.bool();
                self.world.tell(format!(
                    "Purple Flea {} the keys from now on",
                    if refuse { "refuses" } else { "takes" }
                ));
                self.world.purple_flea.refuse_keys(refuse);
            }
            85..=87 => {
                self.world.tell("the sweeper runs");
                people::sweep(&self.world).await;
            }
            88..=90 => {
                self.world.tell("an operator looks the unknown jobs up");
                people::operate(&self.world).await;
            }
            91 => {
                self.world.tell("an operator records the outcomes that functions have logged");
                people::record_logged(&self.world).await;
            }
            92..=95 => self.expect_no_deposit_to_need_the_sweeper().await,
            96 => self.health().await,
            _ => self.pass(25 * 3_600),
        }
    }

    fn pass(&self, seconds: u64) {
        self.world.tell(format!("{seconds} s pass"));
        self.world.pass(Duration::from_secs(seconds));
    }

    /// Sends notifications, each for a deposit by its number, as the database has posted it, or for no deposit by name.
    async fn notify(&mut self, times: usize) {
        let mut posts = Vec::new();
        for _ in 0..times {
            posts.push(self.a_notification().await);
        }
        let deposits = if self.chance.bool() { self.chance.usize(1..3) } else { 0 };
        let alone = times == 1 && deposits == 0;
        let deposits = self.plan_deposits(deposits);
        let posts = posts.into_iter().map(|(function, post)| self.post_to(function, post, alone));
        join(join_all(posts), self.deposit_meanwhile(deposits)).await;
    }

    async fn a_notification(&mut self) -> (usize, Post) {
        let body = match self.chance.u32(0..4) {
            0 => None,
            1 => self.world.a_notification().await.map(|body| serde_json::from_str(&body).unwrap()),
            _ => {
                let sql = format!(
                    "select reference from purple_flea.jobs where kind = 'deposit' \
                     order by wallet_change_id offset {} limit 1",
                    self.chance.u32(0..12)
                );
                let reference = self.world.texts(&sql).await.pop();
                reference.map(|reference| json!({ "ledger": true, "reference": reference }))
            }
        };
        (self.any_function(), Post::notifying(body.unwrap_or_else(|| json!({ "ledger": true }))))
    }

    /// Asks for a job through one of the paths, perhaps twice under one name, perhaps at the same time.
    async fn request_job(&mut self) {
        let (agent, other) = (self.any_agent(), self.any_agent());
        let size = self.chance.u32(1..20);
        let (path, operation, body) = match self.chance.u32(0..13) {
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
            8 => ("/escrow/cancel", "escrow_cancel", json!({ "escrow_id": self.chance.u32(1..4) })),
            9 => ("/escrow/complete", "escrow_complete", json!({ "escrow_id": self.chance.u32(1..4) })),
            11 => (
                "/bet",
                "bet",
                json!({ "agent_id": agent, "game": "coin-flip", "side": "heads", "wager": size }),
            ),
            10 => ("/escrow/dispute", "escrow_dispute", json!({ "escrow_id": self.chance.u32(1..4) })),
            _ => ("/escrow/status", "escrow_status", json!({ "escrow_id": self.chance.u32(1..4) })),
        };
        let id = format!("request-{}", self.chance.u32(1..8));
        let post = Post::asking(path, operation, body).with_id(id);
        if self.chance.u32(0..3) == 0 {
            let (one, other) = (self.any_function(), self.any_function());
            join(self.post_to(one, post.clone(), false), self.post_to(other, post, false)).await;
        } else {
            self.post(post, true).await;
        }
    }

    /// Checks that no deposit needs the sweeper while nothing goes wrong: the trigger notifies a function of each one, or a
    /// function that long-polls sees it.
    async fn expect_no_deposit_to_need_the_sweeper(&mut self) {
        // (After the clock of the database was set back, the watch of a function that is gone lasts as much longer.)
        let excused = self.world.claims.is_unconfirmed() || self.world.has_jumped();
        if excused || self.world.purple_flea.refuses_keys() {
            return;
        }
        self.world.tell("nothing goes wrong, and functions long-poll while depositors insert rows");
        self.world.be_calm(true);
        self.let_watches_end().await;
        let newest = "select coalesce(max(id), 0)::text from public.wallet_changes";
        let before = self.world.texts(newest).await.pop().unwrap();
        self.world.take_notifications().await;
        let (deposits, times) = (self.chance.usize(1..4), self.chance.usize(1..3));
        let functions: Vec<usize> = (0..times).map(|_| self.any_function()).collect();
        let deposits = self.plan_deposits(deposits);
        let posts = functions
            .into_iter()
            .map(|function| self.post_to(function, Post::notifying(json!({ "ledger": true })), false));
        join(join_all(posts), self.deposit_meanwhile(deposits)).await;
        for _ in 0..NOTIFIED_ROUNDS {
            let notified = self.world.take_notifications().await;
            if notified.is_empty() {
                break;
            }
            for body in notified {
                self.post_calmly(Post::notifying(serde_json::from_str(&body).unwrap())).await;
            }
        }
        let forgotten = format!(
            "select j.reference from purple_flea.jobs j \
             join purple_flea.effective_policies e using (agent_id) \
             where j.state = 'pending' and j.attempts = 0 and j.wallet_change_id > {before} \
             and not e.paused \
             and not exists (select from purple_flea.rate_stops) \
             and not exists (select from purple_flea.jobs b where b.agent_id = j.agent_id \
             and b.state = 'claimed') \
             and (select count(*) from purple_flea.rate_slots) < 30"
        );
        for reference in self.world.texts(&forgotten).await {
            self.world.accuse("a deposit waits for the sweeper, and no function knows of it", reference);
        }
        self.world.be_calm(false);
    }

    /// Lets late requests arrive, and then the watch of a function that is gone run out. Deposits that relied on that watch
    /// wait for the sweeper.
    async fn let_watches_end(&self) {
        self.world.pass(Duration::from_secs(LATE_S));
        drop(self.world.turn().await);
        self.world.pass(LONGEST_WATCH);
    }

    /// Checks that the health of the ledger tells whether it waits for an operator's confirmation.
    async fn health(&mut self) {
        self.world.tell("an operator asks for the health of the ledger");
        let (status, body) = self.world.call("ledger_health", "{}").await;
        let says = body.contains("restore_unconfirmed");
        if status == 200 && says != self.world.claims.is_unconfirmed() {
            self.world.accuse("the health is wrong about a restore", body);
        }
    }

    /// Takes a copy, goes back to the copy, or confirms that as an operator.
    async fn restore(&mut self) {
        if self.world.claims.is_unconfirmed() {
            self.world.tell("an operator confirms the restore");
            return restore::confirm(&self.world, false, self.let_go).await;
        }
        let Some(copy) = self.copy.take() else {
            if self.chance.u32(0..4) == 0 {
                self.world.tell("the database fails over, and loses nothing");
                return restore::fail_over(&self.world).await;
            }
            self.world.tell("an operator takes a copy of the database");
            self.copy = Some(Copy::take(&self.world, self.newcomers).await);
            return;
        };
        (self.newcomers, self.let_go) = (copy.newcomers, copy.let_go);
        let way = if self.chance.bool() { Way::InPlace } else { Way::Snapshot };
        self.world.tell(format!("an operator restores the copy of the database ({way})"));
        if self.chance.bool() {
            return copy.restore(way, &self.world).await;
        }
        // In the middle of bets.
        let (function, post) = self.a_notification().await;
        let after = Duration::from_millis(self.chance.u64(0..500));
        let restored = async {
            self.world.schedule.sleep(after).await;
            copy.restore(way, &self.world).await;
        };
        join(self.post_to(function, post, false), restored).await;
    }

    /// Checks, while no function runs, that no job is claimed under a token that was abandoned.
    pub(super) async fn check_abandoned_claims(&mut self) {
        if self.world.claims.take_newly_abandoned() {
            let taken = "select j.reference from purple_flea.jobs j \
                         join purple_flea.abandoned_claims c using (token) \
                         where j.state = 'claimed' and not exists (\
                         select from purple_flea.job_troubles t where t.reference = j.reference)";
            for reference in self.world.texts(taken).await {
                self.world.accuse("a job is claimed under a token that was abandoned", reference);
            }
        }
    }

    /// Ends the faults, and lets time pass until no job is open.
    pub(super) async fn calm_down(&mut self) {
        self.world.begin_chapter("end".to_owned());
        self.world.tell("nothing goes wrong from now on, and time passes until no job is open");
        self.world.be_calm(true);
        self.world.purple_flea.refuse_keys(false);
        if self.world.claims.is_unconfirmed() {
            restore::confirm(&self.world, false, self.let_go).await;
        }
        self.world
            .run("select model.pause(p.agent_id, false) from purple_flea.trade_policies p where p.paused")
            .await;
        for _ in 0..CALM_ROUNDS {
            self.world.pass(Duration::from_secs(120));
            people::sweep(&self.world).await;
            people::register_again(&self.world).await;
            self.post_calmly(Post::notifying(json!({ "ledger": true }))).await;
            let open = "select reference from purple_flea.jobs \
                        where state in ('pending', 'claimed') \
                        or (state = 'unknown' and reason not in ('not_found', 'no_history')) limit 1";
            if self.world.texts(open).await.is_empty() {
                return;
            }
            // A deposit waits for an operator if its agent has an unknown bet.
            people::operate(&self.world).await;
        }
    }
}
