//! The ledger's promises as a model test: the function's own core, natively, and the ledger's own SQL on a real
//! Postgres, between them a world in which everything may go wrong at every step. Random sequences of it; after each
//! one the world calms down, and then no deposit may be forgotten, none bet on twice, and every cent must agree.
//!
//! What happens follows from a seed alone. A sequence that fails prints its own: `MODEL_SEED=<seed> cargo test model`
//! runs that one again. `MODEL_SEQUENCES` is how many there are otherwise.
//!
//! It stands here, and is compiled as a part of the crate's own tests, because a component cannot be linked to.

mod database;
mod purple_flea;
mod world;

use crate::{
    config,
    execute_trade::Later,
    purple_flea::Api,
    router::{self, Body, Memory},
};
use database::Database;
use futures::future::join_all;
use http::{Request, StatusCode};
use std::{
    env,
    time::{Duration, SystemTime},
};
use world::World;

/// How many sequences each dialect gets, where nobody says otherwise.
const SEQUENCES: u64 = 1_000;

/// Most steps of a sequence.
const STEPS: usize = 25;

/// Most rounds until everything is settled, faults over. Each lets two minutes pass.
const CALM_ROUNDS: usize = 40;

const TOKEN: &str = "a-token-for-the-model";

#[test]
fn no_deposit_is_forgotten_or_bet_on_twice_in_the_gateway_dialect() {
    run(Api::Gateway);
}

#[test]
fn no_deposit_is_forgotten_or_bet_on_twice_in_the_live_dialect() {
    run(Api::Live);
}

fn run(api: Api) {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("MODEL_SEED");
    let sequences = if seed.is_some() { 1 } else { number("MODEL_SEQUENCES").unwrap_or(SEQUENCES) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let mut seeds = fastrand::Rng::with_seed(now as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Database::start().await;
        for _ in 0..sequences {
            let seed = seed.unwrap_or_else(|| u64::from(seeds.u32(..)));
            let violations = Sequence::new(&database, api, seed).await.run().await;
            assert!(violations.is_empty(), "{api:?}, MODEL_SEED={seed}:\n{}", violations.join("\n"));
        }
    });
}

/// One sequence.
struct Sequence<'a> {
    world: World<'a>,
    settings: config::Checked,
    chance: fastrand::Rng,
}

impl<'a> Sequence<'a> {
    async fn new(database: &'a Database, api: Api, seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        database.clear().await;
        let after_reply = chance.bool();
        let bets_at_once = chance.u32(1..5);
        let settings = config::check(|name| {
            Some(match name {
                "purple_flea_url" => "https://purple-flea.test".to_owned(),
                "purple_flea_key" => "key".to_owned(),
                "purple_flea_api" => if api == Api::Live { "live" } else { "gateway" }.to_owned(),
                "purple_flea_timeout_ms" => "8000".to_owned(),
                "webhook_token" => TOKEN.to_owned(),
                "supabase_url" => "https://supabase.test".to_owned(),
                "supabase_key" => "key".to_owned(),
                "bets_at_once" => bets_at_once.to_string(),
                "after_reply" => after_reply.to_string(),
                _ => return None,
            })
        });
        let world = World::new(database, api, fastrand::Rng::with_seed(chance.u64(..)));
        Self { world, settings, chance }
    }

    async fn run(mut self) -> Vec<String> {
        for _ in 0..self.chance.usize(5..STEPS) {
            self.step().await;
        }
        self.calm_down().await;
        self.world.judge().await
    }

    async fn step(&mut self) {
        match self.chance.u32(0..100) {
            0..=24 => self.world.database.deposit(&mut self.chance).await,
            // Rung for, doubled, out of order, at the same time.
            25..=54 => {
                let times = if self.chance.u32(0..4) == 0 { self.chance.usize(2..4) } else { 1 };
                let rings: Vec<_> = (0..times).map(|_| self.any_reference()).collect();
                join_all(rings.into_iter().map(|reference| self.ring(reference))).await;
            }
            55..=64 => self.ring(None).await,
            65..=69 => self.reconcile().await,
            70..=84 => {
                let seconds = [1, 5, 31, 61, 110, 300][self.chance.usize(0..6)];
                self.world.pass(Duration::from_secs(seconds)).await;
            }
            85..=87 => self.world.jump(self.chance.i64(-600..600)).await,
            88..=90 => self.world.database.pause(self.chance.bool()).await,
            91..=92 => self.world.refuse_key(self.chance.bool()),
            93..=94 => self.world.database.sweep().await,
            95..=97 => self.world.operate().await,
            _ => self.world.pass(Duration::from_secs(25 * 3_600)).await,
        }
    }

    fn any_reference(&mut self) -> Option<u32> {
        Some(self.chance.u32(1..12))
    }

    /// A doorbell, for a deposit by its number, or a sweeper's.
    async fn ring(&self, number: Option<u32>) {
        let body = match self.world.database.reference(number).await {
            Some(reference) => format!(r#"{{"ledger": true, "reference": "{reference}"}}"#),
            None => r#"{"ledger": true}"#.to_owned(),
        };
        self.post("/execute-trade", body).await;
    }

    async fn reconcile(&self) {
        self.post("/reconcile", r#"{"operation": "reconcile"}"#.to_owned()).await;
    }

    async fn post(&self, path: &str, body: String) {
        let request = Request::post(path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .header("prefer", "respond-async")
            .body(Body::Whole(body.into_bytes()))
            .unwrap();
        let instance = self.world.instance();
        let (settings, memory) = (&self.settings, Memory::empty());
        // When the instance dies, all it was doing is dropped where it stands.
        tokio::select! {
            biased;
            (response, later) = router::respond(settings, &memory, request, &instance) => {
                assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
                if let (Some(later), Ok(settings)) = (later, settings) {
                    tokio::select! {
                        biased;
                        () = Later::run(later, settings, &instance) => {}
                        () = instance.death() => {}
                    }
                }
            }
            () = instance.death() => {}
        }
    }

    /// Nothing goes wrong any more, and time passes until nothing is left to do.
    async fn calm_down(&mut self) {
        self.world.calm();
        self.world.database.pause(false).await;
        for _ in 0..CALM_ROUNDS {
            self.world.pass(Duration::from_secs(120)).await;
            self.world.database.sweep().await;
            self.ring(None).await;
            if self.world.database.settled().await {
                return;
            }
            // Deposits that wait for an unknown bet of their agent's wait for an operator.
            self.world.operate().await;
        }
    }
}
