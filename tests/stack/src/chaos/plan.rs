//! Plans the fault of each round. The same seed gives the same plan, and every fault happens at least once.

use fastrand::Rng;
use std::time::Duration;

/// The number of rounds of a run. Each makes its part of the deposits and injects one fault.
pub(super) const ROUNDS: u32 = 40;

/// The least and the most time of a round, in milliseconds.
pub(super) const ROUND_MS: std::ops::Range<u64> = 200..600;

/// The fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    /// The function's host is killed, and another starts in its place.
    KillHost,
    /// The host is replaced by one that cuts work off a moment after its reply.
    CutOff,
    /// The host may open no more files.
    NoFiles,
    /// One of Postgres' processes is killed; the server recovers as after a crash.
    CrashPostgres,
    /// The database is dumped, for a later restore.
    BackUp,
    /// The last dump is restored in place; an operator confirms it.
    Restore,
    /// A standby that lacks the last moments becomes the primary; an operator confirms it.
    FailOver,
    /// All requests in pg_net's queue are lost.
    EmptyQueue,
    /// Notifications of old and of new deposits are sent again, several times at once.
    Double,
    /// All bets are held back until the next round.
    Pause,
    /// An application's triggers raise while the ledger settles.
    BadTriggers,
    /// Purple Flea's next answers have a number that no database can hold.
    OddNumbers,
    /// An application locks an agent's row.
    HoldAgent,
    /// An application locks the table of jobs, so that claims are late.
    LockJobs,
    /// PostgREST answers later than the function waits.
    LateAnswers,
    /// PostgREST's answers are lost until claims are given up.
    LostAnswers,
}

/// The number of rounds of each act.
const TIMES: [(Act, usize); 16] = [
    (Act::KillHost, 4),
    (Act::CutOff, 2),
    (Act::NoFiles, 2),
    (Act::CrashPostgres, 2),
    (Act::BackUp, 2),
    (Act::Restore, 2),
    (Act::FailOver, 2),
    (Act::EmptyQueue, 3),
    (Act::Double, 7),
    (Act::Pause, 3),
    (Act::BadTriggers, 2),
    (Act::OddNumbers, 2),
    (Act::HoldAgent, 2),
    (Act::LockJobs, 2),
    (Act::LateAnswers, 1),
    (Act::LostAnswers, 2),
];

/// Gives each round its act, in a random order. Dumps and restores take turns, because a restore needs a dump.
pub(super) fn plan(chance: &mut Rng) -> Vec<Act> {
    let mut acts: Vec<Act> = TIMES.iter().flat_map(|(act, times)| [*act].repeat(*times)).collect();
    chance.shuffle(&mut acts);
    let turns = acts.iter_mut().filter(|act| matches!(act, Act::BackUp | Act::Restore));
    for (act, turn) in turns.zip([Act::BackUp, Act::Restore].into_iter().cycle()) {
        *act = turn;
    }
    acts
}

/// Gives a random time within a range of milliseconds.
pub(super) fn between(chance: &mut Rng, milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(chance.u64(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_an_act_and_every_act_a_round_whatever_the_seed() {
        for seed in 0..200 {
            let acts = plan(&mut Rng::with_seed(seed));
            assert_eq!(acts.len(), ROUNDS as usize);
            assert_eq!(acts, plan(&mut Rng::with_seed(seed)));
            for (act, times) in TIMES {
                assert_eq!(acts.iter().filter(|planned| **planned == act).count(), times, "{act:?}");
            }
        }
    }

    #[test]
    fn nothing_is_restored_that_was_not_dumped() {
        for seed in 0..200 {
            let mut dumps = 0;
            for act in plan(&mut Rng::with_seed(seed)) {
                match act {
                    Act::BackUp => dumps += 1,
                    Act::Restore => {
                        assert_eq!(dumps, 1, "seed {seed}");
                        dumps = 0;
                    }
                    _ => {}
                }
            }
        }
    }
}
