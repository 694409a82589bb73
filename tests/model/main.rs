//! The ledger's promises as a model test: the function's own core, natively, and the ledger's own SQL on a real
//! Postgres, between them a world in which everything may go wrong at every step. Random sequences of it; after each
//! one the world calms down, and then no deposit may be forgotten, none bet on twice, and every cent must agree.
//!
//! What happens follows from a seed, as far as the database allows: half of the sequences have one call of the database at a
//! time. A sequence that fails prints its seed. Settings, as variables of the environment:
//!
//! | variable | what it does |
//! | --- | --- |
//! | `MODEL_SEED` | runs the sequence of this seed alone |
//! | `MODEL_TRACE` | set to anything: tells what happens |
//! | `MODEL_SEQUENCES` | how many sequences each dialect gets |
//! | `MODEL_RESTORES_PERCENT` | in how many of them, of a hundred, the database is restored |
//!
//! | what | where |
//! | --- | --- |
//! | a sequence, its steps and its end | here, [`steps`], [`people`] |
//! | whose turn it is, and what time it is | [`schedule`] |
//! | one instance of the function, and what goes wrong on its way | [`instance`] |
//! | the database, and a copy of it to go back to | [`database`], [`restore`], `model.sql` |
//! | Purple Flea and its books | [`purple_flea`], [`books`] |
//! | what must never happen, and what must hold in the end | [`world`], [`claims`], [`verdict`] |

mod books;
mod claims;
mod database;
mod instance;
mod people;
mod purple_flea;
mod restore;
mod schedule;
mod steps;
mod verdict;
mod world;

use database::Database;
use purple_flea_edge::{config, domain::account::Api};
use restore::Copy;
use schedule::Schedule;
use std::{env, time::SystemTime};
use world::World;

/// How many sequences each dialect gets unless `MODEL_SEQUENCES` says otherwise: about a minute on two cores.
const SEQUENCES: u64 = 100;

/// Most steps of a sequence.
const STEPS: usize = 25;

/// How often a database is restored in a sequence, of a hundred: it takes time.
const RESTORES_PERCENT: u32 = 15;

/// How many functions there are. Each has settings of its own.
const FUNCTIONS: usize = 2;

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
    functions: Vec<config::Checked>,
    chance: fastrand::Rng,
    /// Whether the database is restored in it.
    restores: bool,
    copy: Option<Copy>,
    /// Whether a pause had ended between the copy that was gone back to and the restore.
    let_go: bool,
    /// How many agents have come.
    newcomers: u32,
}

impl<'a> Sequence<'a> {
    async fn new(database: &'a Database, api: Api, seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        database.clear(chance.f64()).await;
        let at_once = if chance.bool() { 1 } else { 3 };
        let schedule = Schedule::new(at_once, chance.fork());
        let traced = env::var_os("MODEL_TRACE").is_some();
        let world = World::new(database, api, schedule, chance.fork(), traced);
        let functions = (0..FUNCTIONS).map(|_| settings(api, &mut chance)).collect();
        let percent =
            env::var("MODEL_RESTORES_PERCENT").map_or(RESTORES_PERCENT, |text| text.parse().unwrap());
        let restores = chance.u32(0..100) < percent;
        Self { world, functions, chance, restores, copy: None, let_go: false, newcomers: 0 }
    }

    async fn run(mut self) -> Vec<String> {
        let schedule = self.world.schedule.clone();
        schedule
            .drive(async {
                self.begin().await;
                for _ in 0..self.chance.usize(5..STEPS) {
                    self.step().await;
                    self.look_after_the_step().await;
                }
                self.calm_down().await;
                verdict::judge(&self.world).await
            })
            .await
    }
}

/// A function's settings.
fn settings(api: Api, chance: &mut fastrand::Rng) -> config::Checked {
    let (after_reply, bets_at_once) = (chance.bool(), chance.u32(1..5));
    let linger_ms = if chance.bool() { chance.u32(1..=3_000) } else { 0 };
    config::check(|name| {
        Some(match name {
            "purple_flea_url" => "https://purple-flea.test".to_owned(),
            "purple_flea_key" => purple_flea::KEY.to_owned(),
            "purple_flea_api" => if api == Api::Live { "live" } else { "gateway" }.to_owned(),
            "purple_flea_timeout_ms" => "8000".to_owned(),
            "webhook_token" => TOKEN.to_owned(),
            "supabase_url" => format!("https://{}", instance::LEDGER_HOST),
            "supabase_key" => "key".to_owned(),
            "bets_at_once" => bets_at_once.to_string(),
            "after_reply" => after_reply.to_string(),
            "linger_ms" => linger_ms.to_string(),
            _ => return None,
        })
    })
}
