//! Plans random faults, the same for the same seed and order of requests.

use super::{Fault, How};
use fastrand::Rng;

/// The share of requests that get a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chaos {
    /// The seed of the random numbers.
    pub seed: u64,
    /// The number of faults in a thousand requests.
    pub per_mille: u32,
}

impl Chaos {
    /// Plans faults for `per_mille` of a thousand requests, at random from a seed.
    pub fn new(seed: u64, per_mille: u32) -> Self {
        Self { seed, per_mille }
    }
}

/// The fault of one request.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    /// Whether an executed bet leaves no row in the history.
    pub(super) hidden: bool,
}

/// Decides about faults. Bets and calls of the history have random numbers of their own. So the faults of bets do not
/// depend on the time of look-ups.
pub(super) struct Dice {
    per_mille: u32,
    bets: Rng,
    history: Rng,
}

/// A fault of a bet.
#[derive(Clone, Copy)]
enum Mishap {
    Refused,
    Unauthorized,
    RateLimited,
    HangsBefore,
    HangsAfter,
    Drips,
    Stalls,
    BreaksOff,
    ResetBefore,
    ResetAfter,
    FailsBefore,
    FailsAfter,
    FailsAfterWithoutARow,
    ResetAfterWithoutARow,
    Garbage,
}

/// The weight of each fault. After a 401 a caller stops for a while, and each hang costs the caller a timeout, so those
/// are rare.
const SHARES: [(u32, Mishap); 15] = [
    (20, Mishap::Refused),
    (2, Mishap::Unauthorized),
    (20, Mishap::RateLimited),
    (10, Mishap::HangsBefore),
    (10, Mishap::HangsAfter),
    (10, Mishap::Drips),
    (10, Mishap::Stalls),
    (20, Mishap::BreaksOff),
    (20, Mishap::ResetBefore),
    (20, Mishap::ResetAfter),
    (20, Mishap::FailsBefore),
    (20, Mishap::FailsAfter),
    (20, Mishap::FailsAfterWithoutARow),
    (10, Mishap::ResetAfterWithoutARow),
    (20, Mishap::Garbage),
];

impl Dice {
    pub(super) fn new(Chaos { seed, per_mille }: Chaos) -> Self {
        let mut bets = Rng::with_seed(seed);
        let history = bets.fork();
        Self { per_mille, bets, history }
    }

    /// Decides about the fault of the next bet.
    pub(super) fn with_a_bet(&mut self) -> Option<Planned> {
        if self.bets.u32(0..1_000) >= self.per_mille {
            return None;
        }
        let mut ticket = self.bets.u32(0..SHARES.iter().map(|(share, _)| share).sum());
        for (share, mishap) in SHARES {
            match ticket.checked_sub(share) {
                Some(rest) => ticket = rest,
                None => return Some(mishap.planned()),
            }
        }
        None
    }

    /// Decides about the fault of the next call of the history.
    pub(super) fn with_the_history(&mut self) -> Option<Planned> {
        if self.history.u32(0..1_000) >= self.per_mille {
            return None;
        }
        let how = if self.history.bool() { failed() } else { How::Reset };
        Some(Planned { fault: Fault { after_the_bet: false, how }, hidden: false })
    }
}

impl Mishap {
    fn planned(self) -> Planned {
        let (after_the_bet, how) = match self {
            Self::Refused => (
                false,
                How::answer(400, r#"{"error":"insufficient_balance","required":1,"message":"by chance"}"#),
            ),
            Self::Unauthorized => {
                (false, How::answer(401, r#"{"error":"unauthorized","message":"by chance"}"#))
            }
            Self::RateLimited => (false, rate_limited()),
            Self::HangsBefore => (false, How::Hang),
            Self::HangsAfter => (true, How::Hang),
            Self::Drips => (true, How::Drip),
            Self::Stalls => (true, How::Stall),
            Self::BreaksOff => (true, How::BreakOff),
            Self::ResetBefore => (false, How::Reset),
            Self::ResetAfter | Self::ResetAfterWithoutARow => (true, How::Reset),
            Self::FailsBefore => (false, failed()),
            Self::FailsAfter | Self::FailsAfterWithoutARow => (true, failed()),
            Self::Garbage => (true, How::answer(200, r#"{"ok":true,"re"#)),
        };
        let hidden = matches!(self, Self::FailsAfterWithoutARow | Self::ResetAfterWithoutARow);
        Planned { fault: Fault { after_the_bet, how }, hidden }
    }
}

fn failed() -> How {
    How::answer(500, r#"{"error":"internal_error"}"#)
}

fn rate_limited() -> How {
    let mut how = How::answer(429, r#"{"error":"rate_limited","message":"by chance"}"#);
    if let How::Answer { headers, .. } = &mut how {
        headers.push(("retry-after", "1".to_owned()));
    }
    how
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn plan(dice: &mut Dice, requests: usize) -> Vec<String> {
        (0..requests).map(|_| format!("{:?}", dice.with_a_bet())).collect()
    }

    #[test]
    fn look_ups_do_not_change_the_faults_of_a_seed() {
        let dice = |seed| Dice::new(Chaos { seed, per_mille: 200 });
        let (mut one, mut other) = (dice(7), dice(7));
        for _ in 0..50 {
            other.with_the_history();
        }
        let first = plan(&mut one, 1_000);
        assert_eq!(first, plan(&mut other, 1_000));
        assert_ne!(first, plan(&mut dice(8), 1_000));
        let count = first.iter().filter(|planned| *planned != "None").count();
        assert!((150..250).contains(&count), "{count}");
    }

    #[test]
    fn every_fault_occurs_at_some_time_and_none_without_chaos() {
        let mut always = Dice::new(Chaos { seed: 1, per_mille: 1_000 });
        let kinds: HashSet<String> = plan(&mut always, 10_000).into_iter().collect();
        assert_eq!(kinds.len(), SHARES.len());
        assert!(!kinds.contains("None"));
        assert!((0..100).all(|_| always.with_the_history().is_some()));
        let mut never = Dice::new(Chaos { seed: 1, per_mille: 0 });
        assert!((0..1_000).all(|_| never.with_a_bet().is_none() && never.with_the_history().is_none()));
    }

    #[test]
    fn only_a_bet_that_was_taken_can_be_hidden() {
        for (_, mishap) in SHARES {
            let planned = mishap.planned();
            assert!(planned.fault.after_the_bet || !planned.hidden, "{planned:?}");
        }
    }
}
