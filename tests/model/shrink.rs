//! Shrinking: a search for a small sequence that breaks the same promise as a large one.
//!
//! The shrinker leaves out parts of one kind at a time: first all of them, then halves, quarters, and so on down to single
//! parts (delta debugging). It begins again until no single part can be left out, or a limit is reached. (`proptest` shrinks
//! values that exist before a test runs. Faults exist only while a sequence runs, and a run need not fail each time.)

use super::parts::{Kind, Part, Parts};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

/// How far a search goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most candidates.
    pub(super) candidates: usize,
    pub(super) time: Duration,
}

/// The result of a search.
#[derive(Debug)]
pub(super) struct Smallest {
    pub(super) parts: Parts,
    /// How many candidates were tried.
    pub(super) candidates: usize,
    /// Whether no single part can be left out; otherwise the search came to a limit.
    pub(super) minimal: bool,
}

struct Search<Fails> {
    smallest: Parts,
    /// Candidates that keep the promise.
    passed: HashSet<Parts>,
    candidates: usize,
    limits: Limits,
    began: Instant,
    fails: Fails,
}

/// Looks for a small set of parts that still fails.
///
/// `fails` runs a candidate in the time that is left. It gives the parts that happened, if the candidate failed.
pub(super) async fn shrink<Fails>(parts: Parts, limits: Limits, fails: Fails) -> Smallest
where
    Fails: AsyncFnMut(&Parts, Duration) -> Option<Parts>,
{
    let mut search = Search {
        smallest: parts,
        passed: HashSet::new(),
        candidates: 0,
        limits,
        began: Instant::now(),
        fails,
    };
    let mut before = usize::MAX;
    while search.smallest.len() < before && !search.is_over() {
        before = search.smallest.len();
        for kind in Kind::ALL {
            search.leave_out(kind).await;
        }
    }
    let minimal = !search.is_over();
    Smallest { parts: search.smallest, candidates: search.candidates, minimal }
}

impl<Fails: AsyncFnMut(&Parts, Duration) -> Option<Parts>> Search<Fails> {
    fn is_over(&self) -> bool {
        self.candidates >= self.limits.candidates || self.began.elapsed() >= self.limits.time
    }

    /// Leaves out parts of a kind, the last ones first: often nothing after the failure matters.
    async fn leave_out(&mut self, kind: Kind) {
        let mut size = self.smallest.count(kind);
        while size > 0 {
            let mut end = self.smallest.count(kind);
            while end > 0 && !self.is_over() {
                let parts = self.smallest.of(kind);
                end = end.min(parts.len());
                let start = end.saturating_sub(size);
                self.try_without(&parts[start..end]).await;
                end = start;
            }
            size /= 2;
        }
    }

    async fn try_without(&mut self, left_out: &[Part]) {
        let candidate = self.smallest.without(left_out);
        if self.passed.contains(&candidate) {
            return;
        }
        self.candidates += 1;
        let left = self.limits.time.saturating_sub(self.began.elapsed());
        match (self.fails)(&candidate, left).await {
            Some(met) => self.smallest = met,
            None => {
                self.passed.insert(candidate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, shrink};
    use crate::parts::{MessageId, Part, Parts, RequestId};
    use std::time::Duration;

    const LIMITS: Limits = Limits { candidates: 1_000, time: Duration::from_secs(60) };

    /// Gives the fault that the first message of a request meets.
    fn fault(request: RequestId) -> Part {
        Part::Fault(MessageId { request, kind: 0, place: 0 })
    }

    /// Gives twenty steps with two requests each, and a fault at each request.
    fn twenty_steps() -> Parts {
        let mut parts = Parts::default();
        for step in 0..20 {
            parts.insert(Part::Step(step));
            for place in 0..2 {
                let request = RequestId { step, place };
                parts.insert(Part::Request(request));
                parts.insert(fault(request));
            }
        }
        parts
    }

    /// Gives the parts that happen: none whose container is left out.
    fn happening(parts: &Parts) -> Parts {
        let within = |part: &Part| match *part {
            Part::Request(RequestId { step, .. }) => parts.contains(Part::Step(step)),
            Part::Fault(MessageId { request, .. }) => {
                parts.contains(Part::Step(request.step)) && parts.contains(Part::Request(request))
            }
            _ => true,
        };
        Parts(parts.0.iter().copied().filter(within).collect())
    }

    #[tokio::test]
    async fn shrinking_leaves_only_the_parts_that_fail_together() {
        let (one, other) = (RequestId { step: 3, place: 1 }, RequestId { step: 17, place: 0 });
        let fails = async |parts: &Parts, _| {
            let met = happening(parts);
            let both = met.contains(fault(one)) && met.contains(Part::Request(other));
            both.then_some(met)
        };
        let smallest = shrink(twenty_steps(), LIMITS, fails).await;
        assert_eq!(smallest.parts.to_string(), "17/request-0,3/request-1/abandon_claim-0/fault");
        assert!(smallest.minimal);
        assert!(smallest.candidates < 60, "{} candidates", smallest.candidates);
    }

    #[tokio::test]
    async fn shrinking_keeps_every_part_of_a_sequence_that_needs_them_all() {
        let whole = twenty_steps();
        let fails = async |parts: &Parts, _| (*parts == whole).then(|| whole.clone());
        assert_eq!(shrink(whole.clone(), LIMITS, fails).await.parts, whole);
    }

    #[tokio::test]
    async fn shrinking_ends_at_its_limit_of_candidates() {
        let limits = Limits { candidates: 7, ..LIMITS };
        let mut runs = 0;
        let fails = async |_: &Parts, _| {
            runs += 1;
            None
        };
        let smallest = shrink(twenty_steps(), limits, fails).await;
        assert_eq!((smallest.candidates, smallest.minimal, smallest.parts), (7, false, twenty_steps()));
        assert_eq!(runs, 7);
    }

    #[tokio::test]
    async fn shrinking_ends_at_its_limit_of_time() {
        let limits = Limits { time: Duration::from_millis(20), ..LIMITS };
        let fails = async |_: &Parts, left: Duration| {
            std::thread::sleep(left);
            None
        };
        let smallest = shrink(twenty_steps(), limits, fails).await;
        assert!(!smallest.minimal);
        assert!(smallest.candidates <= 2, "{} candidates", smallest.candidates);
    }
}
