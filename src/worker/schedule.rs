//! The scheduler: decides on a worker's next step. The worker claims, long-polls, waits, or ends.

use std::time::Duration;

/// A worker's next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Claim at most this many jobs.
    Claim(u32),
    /// Long-poll for a due job, for at most this time.
    Watch(Duration),
    /// Wait before the next claim, because the due jobs are not claimable yet.
    Delay,
    /// Start nothing.
    Nothing,
}

/// The state of a worker.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// The most jobs that may be under way at once.
    capacity: u32,
    /// The time after which the worker starts no claim, on the monotonic clock.
    claims_end: Duration,
    /// The time for which the worker long-polls after its last job.
    linger: Duration,
    /// The number of jobs under way.
    jobs: u32,
    /// The number of outcomes that no report has taken yet.
    unsettled: u32,
    settling: bool,
    /// Whether a claim, a long poll or a delay is under way.
    waiting: bool,
    /// Whether more jobs are due, by the last answer of the ledger.
    due: bool,
    /// Whether the due jobs are not claimable before a report or a delay is over.
    held: bool,
    watching: bool,
    last_job: Duration,
    failure_seen: bool,
    success_seen: bool,
}

impl Scheduler {
    /// Makes a scheduler before the first claim.
    pub fn new(capacity: u32, claims_end: Duration, linger: Duration) -> Self {
        Self { capacity, claims_end, linger, ..Self::default() }
    }

    /// Returns the next step at the time `now`.
    pub fn next(&self, now: Duration) -> Next {
        if self.waiting || now >= self.claims_end || self.has_stopped_claims() {
            return Next::Nothing;
        }
        let lingers_until = self.last_job.saturating_add(self.linger).min(self.claims_end);
        let lingers = self.watching && now < lingers_until;
        let busy = self.jobs > 0 || self.unsettled > 0 || self.settling;
        let room = self.capacity.saturating_sub(self.jobs).saturating_sub(self.unsettled);
        match (self.due, self.held) {
            // A claim of a few jobs costs the ledger as much as a claim of many.
            (true, false) if room > 0 && room >= self.capacity.div_ceil(2) => Next::Claim(room),
            (true, false) => Next::Nothing,
            (true, true) if lingers && !busy => Next::Delay,
            (true, true) => Next::Nothing,
            (false, _) if lingers => Next::Watch(lingers_until.saturating_sub(now)),
            (false, _) => Next::Nothing,
        }
    }

    /// Returns whether the time is over although jobs are due.
    pub fn is_cut_short(&self, now: Duration) -> bool {
        now >= self.claims_end && self.due && !self.held && !self.has_stopped_claims()
    }

    /// Returns whether jobs are due that only another host can start. This worker is at capacity, and its
    /// watch keeps the ledger from notifying others.
    pub fn needs_other_hosts(&self) -> bool {
        let room = self.capacity.saturating_sub(self.jobs).saturating_sub(self.unsettled);
        self.watching && self.due && !self.held && room == 0
    }

    /// Records that the worker has given up the watch.
    pub fn handed_over(&mut self) {
        self.watching = false;
    }

    /// Returns whether this worker has the watch.
    pub fn is_watching(&self) -> bool {
        self.watching
    }

    /// Records that a claim, a long poll or a delay has started.
    pub fn start(&mut self) {
        self.waiting = true;
    }

    /// Records the result of a claim. `one_at_a_time` says that an agent's next job waits until one of these
    /// is settled.
    pub fn claimed(&mut self, jobs: u32, one_at_a_time: bool, more: bool, watching: bool, now: Duration) {
        self.waiting = false;
        self.jobs = self.jobs.saturating_add(jobs);
        self.due = more;
        self.held = one_at_a_time || jobs == 0;
        self.watching = watching;
        (self.failure_seen, self.success_seen) = (false, false);
        if jobs > 0 {
            self.last_job = now;
        }
    }

    /// Records that a claim failed. Due jobs wait for the next notification.
    pub fn claim_failed(&mut self) {
        self.waiting = false;
        self.due = false;
        self.linger = Duration::ZERO;
    }

    /// Records the end of a long poll: a job is due, the watch is over, or the call failed.
    pub fn watched(&mut self, due: Option<bool>) {
        self.waiting = false;
        match due {
            Some(due) => {
                self.due = due;
                self.held = false;
                self.watching = due;
            }
            // The next claim, after a delay, shows whether a job is due.
            None => (self.due, self.held) = (true, true),
        }
    }

    /// Records the end of a delay.
    pub fn delayed(&mut self) {
        self.waiting = false;
        self.held = false;
    }

    /// Records the end of a job's execution, and whether its outcome stops or favours further claims.
    pub fn executed(&mut self, stops_claims: bool, favours_claims: bool) {
        self.jobs = self.jobs.saturating_sub(1);
        self.unsettled = self.unsettled.saturating_add(1);
        self.failure_seen |= stops_claims;
        self.success_seen |= favours_claims;
    }

    /// Returns whether a report starts now. One report runs at a time, with all outcomes that wait.
    pub fn settles(&mut self) -> bool {
        let settles = !self.settling && self.unsettled > 0;
        if settles {
            self.settling = true;
            self.unsettled = 0;
        }
        settles
    }

    /// Records the end of a report.
    pub fn settled(&mut self) {
        self.settling = false;
        self.held = false;
    }

    /// Returns whether further jobs would probably fail, too. One success shows that a failure concerned one
    /// agent alone.
    fn has_stopped_claims(&self) -> bool {
        self.failure_seen && !self.success_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(1_200);

    fn schedule() -> Scheduler {
        Scheduler::new(8, at(45_000), LINGER)
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn while_more_jobs_are_due_half_the_capacity_is_enough_for_another_claim() {
        let mut schedule = schedule();
        schedule.claimed(8, false, true, false, at(0));
        assert_eq!(schedule.next(at(1)), Next::Nothing);
        for _ in 0..4 {
            schedule.executed(false, true);
        }
        assert_eq!(
            schedule.next(at(2)),
            Next::Nothing,
            "outcomes that wait for a report count against the capacity"
        );
        assert!(schedule.settles() && !schedule.settles());
        assert_eq!(schedule.next(at(3)), Next::Claim(4));
    }

    #[test]
    fn after_the_last_job_the_watch_lasts_for_the_linger_time() {
        let mut schedule = schedule();
        schedule.claimed(1, false, false, true, at(100));
        assert_eq!(schedule.next(at(400)), Next::Watch(at(900)));
        assert_eq!(schedule.next(at(1_300)), Next::Nothing);
        schedule.watched(Some(true));
        assert_eq!(schedule.next(at(500)), Next::Claim(7));
        schedule.watched(Some(false));
        assert!(!schedule.is_watching());
        assert_eq!(schedule.next(at(500)), Next::Nothing);
    }

    #[test]
    fn a_watcher_at_capacity_needs_other_hosts_until_a_report_starts_or_the_watch_ends() {
        let mut schedule = schedule();
        schedule.claimed(8, false, true, true, at(0));
        assert!(schedule.needs_other_hosts());
        schedule.executed(false, true);
        assert!(
            schedule.needs_other_hosts(),
            "an outcome that waits for its report counts against the capacity"
        );
        assert!(schedule.settles());
        assert!(!schedule.needs_other_hosts());
        schedule.claimed(1, false, true, true, at(1));
        assert!(schedule.needs_other_hosts());
        schedule.handed_over();
        assert!(!schedule.needs_other_hosts() && !schedule.is_watching());
        schedule.claimed(0, false, false, true, at(2));
        assert!(!schedule.needs_other_hosts(), "nothing is due that another host could take");
    }

    #[test]
    fn a_worker_without_the_watch_does_not_wait() {
        let mut schedule = schedule();
        schedule.claimed(1, false, false, false, at(100));
        assert_eq!(schedule.next(at(200)), Next::Nothing);
    }

    #[test]
    fn jobs_that_are_not_claimable_yet_are_claimed_after_a_report_or_a_delay() {
        let mut schedule = schedule();
        schedule.claimed(1, true, true, true, at(0));
        assert_eq!(schedule.next(at(1)), Next::Nothing, "the agent's other job waits for this one");
        schedule.executed(false, true);
        assert!(schedule.settles());
        schedule.settled();
        assert_eq!(schedule.next(at(2)), Next::Claim(8));
        schedule.claimed(0, false, true, true, at(3));
        assert_eq!(schedule.next(at(3)), Next::Delay);
        schedule.delayed();
        assert_eq!(schedule.next(at(53)), Next::Claim(8));
        schedule.claimed(0, false, true, true, at(1_200));
        assert_eq!(schedule.next(at(1_200)), Next::Nothing, "the linger time is over");
    }

    #[test]
    fn a_claim_whose_jobs_all_fail_is_the_last_one() {
        let mut schedule = schedule();
        schedule.claimed(2, false, true, true, at(0));
        schedule.executed(true, false);
        assert_eq!(schedule.next(at(1)), Next::Nothing);
        schedule.executed(false, true);
        assert_eq!(schedule.next(at(1)), Next::Claim(6));
    }

    #[test]
    fn after_the_end_of_claims_nothing_starts_and_due_jobs_are_handed_over() {
        let mut schedule = schedule();
        schedule.claimed(1, false, true, true, at(0));
        assert!(!schedule.is_cut_short(at(44_999)));
        assert_eq!(schedule.next(at(45_000)), Next::Nothing);
        assert!(schedule.is_cut_short(at(45_000)));
    }
}
