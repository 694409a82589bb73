//! Tests the ledger's promises with random sequences. The real core of the function runs natively, the real SQL runs on a
//! Postgres of its own, and the world between them may fail at every step. After a sequence the world calms down. Then the
//! ledger has forgotten no deposit and placed no bet twice, and its amounts agree with Purple Flea's books to the cent.
//!
//! A sequence follows from a seed, as far as the database allows: half of the sequences make one call of the database at a
//! time. If a sequence breaks a promise, the test looks for a small part of the sequence that breaks the same promise. It
//! prints that part in plain words, and the command that runs it again. Settings, as variables of the environment:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `MODEL_SEED` | runs only the sequence of this seed |
//! | `MODEL_KEEP` | runs only these parts of it, by their names ([`parts`]) |
//! | `MODEL_TRACE` | set to any value: prints every event |
//! | `MODEL_SEQUENCES` | the number of sequences in each dialect |
//! | `MODEL_RESTORES_PERCENT` | the percentage of the sequences that restore the database |
//! | `MODEL_SHRINK_SECONDS` | the longest search for a smaller sequence, in seconds; 0: no search |
//!
//! | subject | place |
//! | --- | --- |
//! | a sequence, its steps and its end | [`sequence`], [`steps`], [`requests`], [`people`] |
//! | turns at the database, and the time | [`schedule`] |
//! | one instance of the function, and faults on its way | [`instance`], [`faults`] |
//! | the database, and a copy of it to go back to | [`database`], [`restore`], `model.sql` |
//! | Purple Flea and its books | [`purple_flea`], [`books`] |
//! | events that must never happen, and conditions that hold in the end | [`world`], [`claims`], [`verdict`] |
//! | a smaller sequence that still fails | [`parts`], [`record`], [`shrink`], [`report`], [`planted`] |

mod books;
mod claims;
mod database;
mod faults;
mod instance;
mod parts;
mod people;
mod planted;
mod purple_flea;
mod record;
mod report;
mod requests;
mod restore;
mod schedule;
mod sequence;
mod shrink;
mod steps;
mod verdict;
mod world;

use database::Database;
use purple_flea_edge::domain::account::Api;
use sequence::{Plan, Sequence};
use std::{
    env,
    str::FromStr,
    time::{Duration, SystemTime},
};

/// How many sequences each dialect gets unless `MODEL_SEQUENCES` says otherwise: about a minute on two cores.
const SEQUENCES: u64 = 100;

#[test]
fn no_deposit_is_forgotten_or_bet_on_twice_in_the_gateway_dialect() {
    run(Api::Gateway);
}

#[test]
fn no_deposit_is_forgotten_or_bet_on_twice_in_the_live_dialect() {
    run(Api::Live);
}

fn run(api: Api) {
    let seed = variable::<u64>("MODEL_SEED");
    let kept = variable("MODEL_KEEP");
    assert!(seed.is_some() || kept.is_none(), "MODEL_KEEP names parts of the sequence that MODEL_SEED runs");
    let sequences = if seed.is_some() { 1 } else { variable("MODEL_SEQUENCES").unwrap_or(SEQUENCES) };
    let shrink_time = Duration::from_secs(variable("MODEL_SHRINK_SECONDS").unwrap_or(report::SHRINK_S));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let mut seeds = fastrand::Rng::with_seed(now as u64);
    block_on(async {
        let database = Database::start().await;
        for _ in 0..sequences {
            let seed = seed.unwrap_or_else(|| u64::from(seeds.u32(..)));
            let plan = Plan { api, seed, kept: kept.clone() };
            let record = plan.run(&database).await;
            if !record.violations().is_empty() {
                panic!("{}", report::explain(&plan, &record, shrink_time, &database).await);
            }
        }
    });
}

/// Reads a setting; one that cannot be read is an error, and not the default.
fn variable<T: FromStr<Err: std::fmt::Debug>>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error:?}")))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
