//! A sequence: a plan, and the run of it.

use super::{
    database::Database,
    instance,
    parts::{self, Part, Parts},
    purple_flea,
    record::{Record, Violation},
    restore::Copy,
    schedule::Schedule,
    variable, verdict,
    world::World,
};
use futures_util::FutureExt;
use purple_flea_edge::{config, domain::account::Api};
use std::{panic::AssertUnwindSafe, rc::Rc, time::Duration};
use tokio::time::timeout;

/// Most steps of a sequence.
const STEPS: usize = 25;

/// How many of a hundred sequences restore the database: a restore takes time.
const RESTORES_PERCENT: u32 = 15;

/// How many calls of the database may be under way at once, in half of the sequences.
const CALLS_AT_ONCE: usize = 3;

/// How many functions there are. Each has settings of its own.
const FUNCTIONS: usize = 2;

/// The longest run, in seconds, by the machine's clock. A run takes less than a second on an idle machine.
const LONGEST_RUN_S: u64 = 60;

/// The violations of runs that leave no database to run a smaller sequence on: one that was ended at that limit, and one
/// whose database ended.
pub(super) const ENDLESS: &str = "the sequence does not end";
pub(super) const NO_DATABASE: &str = "the database ended during the sequence";

pub(super) const TOKEN: &str = "a-token-for-the-model";

/// Determines a sequence.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) api: Api,
    pub(super) seed: u64,
    /// The parts that may happen; `None` for all.
    pub(super) kept: Option<Parts>,
}

/// One run of a sequence.
pub(super) struct Sequence<'a> {
    pub(super) world: World<'a>,
    pub(super) functions: Vec<config::Checked>,
    pub(super) seed: u64,
    /// The chance of the current step.
    pub(super) chance: fastrand::Rng,
    /// Whether steps may restore the database.
    pub(super) restores: bool,
    pub(super) copy: Option<Copy>,
    /// Whether a pause had ended between the copy and the restore.
    pub(super) let_go: bool,
    /// The agents that the sequence began with.
    pub(super) agents: Vec<&'static str>,
    /// How many agents have come.
    pub(super) newcomers: u32,
}

impl Plan {
    /// Runs the sequence. A panic counts as a violation, and so does a run that does not end.
    pub(super) async fn run(&self, database: &Database) -> Rc<Record> {
        let record = Rc::new(Record::new(self.kept.clone()));
        // A run is a large future: on the heap it leaves the stack to the functions.
        let run = Box::pin(async { Sequence::new(database, self, record.clone()).await.run().await });
        match timeout(Duration::from_secs(LONGEST_RUN_S), AssertUnwindSafe(run).catch_unwind()).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let promise = if database.is_closed() { NO_DATABASE } else { "the sequence panicked" };
                record.accuse(Violation::new(promise, text.unwrap_or("no text")));
            }
            Err(_) => record.accuse(Violation::new(ENDLESS, database.activity().await)),
        }
        record
    }
}

impl<'a> Sequence<'a> {
    async fn new(database: &'a Database, plan: &Plan, record: Rc<Record>) -> Self {
        let mut chance = fastrand::Rng::with_seed(plan.seed);
        database.clear(chance.f64()).await;
        let concurrent = chance.bool() && record.keeps(Part::Concurrency);
        let schedule = Schedule::new(if concurrent { CALLS_AT_ONCE } else { 1 }, chance.fork());
        let functions = (0..FUNCTIONS).map(|_| settings(plan.api, &mut chance)).collect();
        let percent = variable("MODEL_RESTORES_PERCENT").unwrap_or(RESTORES_PERCENT);
        let restores = chance.u32(0..100) < percent;
        let world = World::new(database, plan.api, schedule, record);
        Self {
            world,
            functions,
            seed: plan.seed,
            chance,
            restores,
            copy: None,
            let_go: false,
            agents: Vec::new(),
            newcomers: 0,
        }
    }

    async fn run(mut self) {
        let schedule = self.world.schedule.clone();
        schedule
            .drive(async {
                self.begin().await;
                let steps = self.chance.usize(5..STEPS);
                for step in 0..steps {
                    if self.world.record.keeps(Part::Step(step)) {
                        self.begin_step(step);
                        self.step().await;
                        self.check_abandoned_claims().await;
                    }
                }
                self.begin_step(steps);
                self.calm_down().await;
                verdict::judge(&self.world).await;
            })
            .await;
    }

    /// Gives the step chance of its own, so that it stays the same if other steps are left out.
    fn begin_step(&mut self, step: usize) {
        self.chance = parts::chance(self.seed, &[step]);
        self.world.schedule.set_chance(self.chance.fork());
        self.world.begin_step(step, self.chance.fork());
    }
}

/// Gives the settings of a function.
fn settings(api: Api, chance: &mut fastrand::Rng) -> config::Checked {
    let (after_reply, bets_at_once) = (chance.bool(), chance.u32(1..5));
    let linger_ms = if chance.bool() { chance.u32(1..=3_000) } else { 0 };
    config::check(|name| {
        Some(match name {
            "purple_flea_url" => "https://purple-flea.test".to_owned(),
            "purple_flea_key" => purple_flea::SHARED_KEY.to_owned(),
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
