//! The report of a sequence that broke a promise: the smallest part of the sequence that still breaks it, in plain words.

use super::{
    database::Database,
    parts::{Kind, Parts},
    record::Record,
    sequence::{ENDLESS, NO_DATABASE, Plan},
    shrink::{self, Limits, Smallest},
};
use purple_flea_edge::domain::account::Api;
use std::{env, fmt::Write, rc::Rc, time::Duration};

/// The longest search, in seconds, unless `MODEL_SHRINK_SECONDS` says otherwise. A search of a hundred parts takes about 30 s;
/// a developer waits for it.
pub(super) const SHRINK_S: u64 = 120;

/// Most candidates of a search: a sequence of a hundred parts takes about 50.
const CANDIDATES: usize = 400;

/// How often the whole sequence runs again before a search, and the smallest one after it: enough to tell a sequence that
/// always fails from one that fails now and then.
const RERUNS: usize = 3;

/// How often a candidate runs, until it fails, if the whole sequence does not fail each time.
const RUNS_OF_AN_UNSTEADY_CANDIDATE: usize = 4;

/// A smaller sequence that breaks the same promise.
struct Shrunk {
    plan: Plan,
    /// The record of a run that failed.
    record: Rc<Record>,
    search: Smallest,
    /// How many of the last [`RERUNS`] runs failed.
    failed_again: usize,
}

/// Shrinks a sequence that failed, within a time, and reports it. Without any time it reports the sequence as it is.
pub(super) async fn explain(plan: &Plan, record: &Record, time: Duration, database: &Database) -> String {
    let promise = record.violations()[0].promise;
    let mut text = format!("{:?}: a sequence of {} broke a promise.\n", plan.api, size(&record.met()));
    for violation in record.violations() {
        writeln!(text, "  {violation}").unwrap();
    }
    // A developer names parts to run exactly these.
    let no_search = time.is_zero() || plan.kept.is_some() || [ENDLESS, NO_DATABASE].contains(&promise);
    if no_search {
        tell_story(&mut text, record);
    } else {
        let failed_again = count_failures(plan, promise, database).await;
        writeln!(text, "It failed again in {failed_again} of {RERUNS} runs.").unwrap();
        match shrink(plan, record, time, failed_again == RERUNS, database).await {
            Some(shrunk) => describe(&mut text, promise, &shrunk),
            None => {
                text += "No smaller sequence broke the same promise.\n";
                tell_story(&mut text, record);
            }
        }
    }
    writeln!(text, "To run the whole sequence:\n  {}", command(plan)).unwrap();
    text
}

/// Looks for a smaller sequence that breaks the same promise first. Gives `None` if there is none within the limits.
async fn shrink(
    plan: &Plan,
    record: &Record,
    time: Duration,
    steady: bool,
    database: &Database,
) -> Option<Shrunk> {
    let promise = record.violations().first()?.promise;
    let runs = if steady { 1 } else { RUNS_OF_AN_UNSTEADY_CANDIDATE };
    let limits = Limits { candidates: CANDIDATES, time };
    let mut last_failed = None;
    let search = shrink::shrink(record.met(), limits, async |parts, left| {
        let candidate = Plan { kept: Some(parts.clone()), ..plan.clone() };
        let fails = async {
            for _ in 0..runs {
                let record = candidate.run(database).await;
                if breaks(&record, promise) {
                    return Some(record);
                }
            }
            None
        };
        // A run that the time does not suffice for counts as one that keeps the promise.
        let record = tokio::time::timeout(left, fails).await.ok().flatten()?;
        let met = record.met();
        last_failed = Some(record);
        Some(met)
    })
    .await;
    let record = last_failed?;
    let plan = Plan { kept: Some(search.parts.clone()), ..plan.clone() };
    let failed_again = count_failures(&plan, promise, database).await;
    Some(Shrunk { plan, record, search, failed_again })
}

fn breaks(record: &Record, promise: &str) -> bool {
    record.violations().iter().any(|violation| violation.promise == promise)
}

async fn count_failures(plan: &Plan, promise: &str, database: &Database) -> usize {
    let mut failures = 0;
    for _ in 0..RERUNS {
        failures += usize::from(breaks(&*plan.run(database).await, promise));
    }
    failures
}

/// Describes a smaller sequence in plain words.
fn describe(text: &mut String, promise: &str, shrunk: &Shrunk) {
    let Shrunk { plan, record, search, failed_again } = shrunk;
    let Smallest { parts, candidates, minimal } = search;
    let end = if *minimal { "no single part can be left out" } else { "the search came to its limit" };
    write!(
        text,
        "\nThe smallest sequence found that breaks the same promise ({promise})\n\
         has {}; {end} ({candidates} candidates). It failed again in {failed_again} of {RERUNS} runs.\n",
        size(parts)
    )
    .unwrap();
    tell_story(text, record);
    writeln!(text, "To run it again:\n  {}", command(plan)).unwrap();
}

fn tell_story(text: &mut String, record: &Record) {
    for line in record.story() {
        writeln!(text, "  {line}").unwrap();
    }
}

/// Says how large a sequence is.
fn size(parts: &Parts) -> String {
    let kinds = [
        (Kind::Step, "step"),
        (Kind::Request, "request"),
        (Kind::Deposit, "deposit"),
        (Kind::Fault, "fault"),
    ];
    let count = |(kind, name)| match parts.count(kind) {
        1 => format!("1 {name}"),
        count => format!("{count} {name}s"),
    };
    kinds.map(count).join(", ")
}

/// Gives the command that runs a sequence.
fn command(plan: &Plan) -> String {
    let mut command = format!("MODEL_SEED={}", plan.seed);
    if let Some(parts) = &plan.kept {
        write!(command, " MODEL_KEEP={parts}").unwrap();
    }
    // It decides which sequence a seed gives.
    if let Ok(percent) = env::var("MODEL_RESTORES_PERCENT") {
        write!(command, " MODEL_RESTORES_PERCENT={percent}").unwrap();
    }
    let dialect = if plan.api == Api::Live { "live_dialect" } else { "gateway_dialect" };
    write!(command, " cargo test --test model {dialect}").unwrap();
    command
}
