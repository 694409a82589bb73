//! Proof that the model finds a fault in the ledger and shrinks the sequence that shows it: a fault that this test alone
//! plants, in a database of its own.

use super::{
    block_on,
    database::Database,
    parts::{Kind, Parts},
    record::Record,
    report,
    sequence::Plan,
};
use purple_flea_edge::domain::account::Api;
use std::{rc::Rc, time::Duration};

/// A ledger that mistakes "unknown" for "failed": it hands a bet out again although Purple Flea may have it.
///
/// A row passes triggers by their names in order; this one passes before the ledger's own.
const DOUBLE_BET: &str = "
    create function model.mistake_unknown_for_failed() returns trigger language plpgsql as $$
    begin
      new.state := 'pending';
      new.lookup_at := null;
      new.bet_day := null;
      return new;
    end;
    $$;
    create trigger a_planted_fault before update on purple_flea.jobs
      for each row when (old.state = 'claimed' and new.state = 'unknown')
      execute function model.mistake_unknown_for_failed()";

const REPAIR: &str = "drop trigger a_planted_fault on purple_flea.jobs";

const STAKED_TWICE: &str = "a job is staked more than once";

/// Most sequences until a large one breaks the promise: most of them do.
const SEEDS: u64 = 40;

/// Fewest parts of the sequence to shrink, and most parts of the smallest one. A deposit, a notification, the fault and their
/// steps are five parts; a fault may need another deposit and its agent.
const PARTS_BEFORE: usize = 40;
const PARTS_AFTER: usize = 10;

/// Several times what the search takes on a busy machine.
const SHRINK_TIME: Duration = Duration::from_secs(240);

#[test]
fn a_sequence_that_bets_twice_is_shrunk_to_a_few_parts_and_runs_again_by_their_names() {
    block_on(async {
        let database = Database::start().await;
        database.run(DOUBLE_BET).await;
        let (plan, record) = a_large_failure(&database).await;
        let report = report::explain(&plan, &record, SHRINK_TIME, &database).await;
        println!("{report}");

        let run_again = format!("MODEL_SEED={} MODEL_KEEP=", plan.seed);
        let names = report.split_once(&run_again).expect(&report).1.split_once(' ').expect(&report).0;
        let kept = names.parse::<Parts>().unwrap();
        assert!(kept.len() <= PARTS_AFTER, "{report}");
        assert!(kept.count(Kind::Deposit) > 0 && kept.count(Kind::Fault) > 0, "{report}");
        let smallest = Plan { kept: Some(kept), ..plan };
        assert!(promises(&smallest, &database).await.contains(&STAKED_TWICE), "{report}");

        // It fails because of the planted fault alone.
        database.run(REPAIR).await;
        assert_eq!(promises(&smallest, &database).await, [""; 0], "{report}");
    });
}

/// Runs sequences until the planted fault shows in a large one.
async fn a_large_failure(database: &Database) -> (Plan, Rc<Record>) {
    for seed in 0..SEEDS {
        let plan = Plan { api: Api::Live, seed, kept: None };
        let record = plan.run(database).await;
        let first = record.violations().first().map(|violation| violation.promise);
        if first == Some(STAKED_TWICE) && record.met().len() >= PARTS_BEFORE {
            return (plan, record);
        }
    }
    panic!("{SEEDS} sequences, and the planted fault shows in none");
}

/// Lists the promises that a sequence breaks.
async fn promises(plan: &Plan, database: &Database) -> Vec<&'static str> {
    plan.run(database).await.violations().iter().map(|violation| violation.promise).collect()
}
