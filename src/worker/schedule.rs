//! The schedule: what a worker does next, by what has happened. It claims, waits for the next job, rests, or is done.

use std::time::Duration;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Claim at most so many.
    Claim(u32),
    /// RetryReason for a job that is due, for at most so long.
    Watch(Duration),
    /// Rest before the ledger is asked again: what is due nobody may claim yet.
    Rest,
    /// Nothing that would have to be begun.
    Nothing,
}

/// Where a worker stands.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// Most jobs under way at once.
    slots: u32,
    /// When no claim is begun any more, on the monotonic clock.
    until: Duration,
    /// How long to wait for another job after the last one.
    linger: Duration,
    /// Bets that are under way.
    bets: u32,
    /// Bets that are over, and whose outcomes nobody reports yet.
    unsettled: u32,
    settling: bool,
    /// Whether the ledger is being asked, or is to be left alone for a while.
    asking: bool,
    /// Whether more jobs are due, as far as we know.
    due: bool,
    /// Whether they cannot be claimed before something has changed.
    held: bool,
    watching: bool,
    last_job: Duration,
    discouraged: bool,
    encouraged: bool,
}

impl Scheduler {
    /// At the beginning, before anything was claimed.
    pub fn new(slots: u32, until: Duration, linger: Duration) -> Self {
        Self { slots, until, linger, ..Self::default() }
    }

    /// What to do at a time.
    pub fn next(&self, now: Duration) -> Next {
        if self.asking || now >= self.until || self.is_discouraged() {
            return Next::Nothing;
        }
        let lingers_until = self.last_job.saturating_add(self.linger).min(self.until);
        let lingers = self.watching && now < lingers_until;
        let busy = self.bets > 0 || self.unsettled > 0 || self.settling;
        let room = self.slots.saturating_sub(self.bets).saturating_sub(self.unsettled);
        match (self.due, self.held) {
            // Few at a time would cost as many claims as many at a time.
            (true, false) if room > 0 && room >= self.slots.div_ceil(2) => Next::Claim(room),
            (true, false) => Next::Nothing,
            (true, true) if lingers && !busy => Next::Rest,
            (true, true) => Next::Nothing,
            (false, _) if lingers => Next::Watch(lingers_until.saturating_sub(now)),
            (false, _) => Next::Nothing,
        }
    }

    /// Whether the time is over, though jobs are due.
    pub fn is_cut_short(&self, now: Duration) -> bool {
        now >= self.until && self.due && !self.held && !self.is_discouraged()
    }

    /// Whether jobs are due that only another host could begin: all our places are taken, and the watch, which keeps others
    /// from being called, is ours.
    pub fn is_full(&self) -> bool {
        let room = self.slots.saturating_sub(self.bets).saturating_sub(self.unsettled);
        self.watching && self.due && !self.held && room == 0
    }

    /// The watch was given up, so that others are called.
    pub fn handed_over(&mut self) {
        self.watching = false;
    }

    /// Whether the watch is ours.
    pub fn is_watching(&self) -> bool {
        self.watching
    }

    /// The ledger is being asked for something, or a rest begins.
    pub fn ask(&mut self) {
        self.asking = true;
    }

    /// A claim gave so many jobs; of an agent of some of them no other can be claimed before that one is settled.
    pub fn claimed(&mut self, jobs: u32, one_at_a_time: bool, more: bool, watching: bool, now: Duration) {
        self.asking = false;
        self.bets = self.bets.saturating_add(jobs);
        self.due = more;
        self.held = one_at_a_time || jobs == 0;
        self.watching = watching;
        (self.discouraged, self.encouraged) = (false, false);
        if jobs > 0 {
            self.last_job = now;
        }
    }

    /// A claim failed: what is due waits for the next notification.
    pub fn claim_failed(&mut self) {
        self.asking = false;
        self.due = false;
        self.linger = Duration::ZERO;
    }

    /// A wait is over: a job is due, or the watch is over, or it cannot be told.
    pub fn watched(&mut self, due: Option<bool>) {
        self.asking = false;
        match due {
            Some(due) => {
                self.due = due;
                self.held = false;
                self.watching = due;
            }
            // A claim will tell, after a rest.
            None => (self.due, self.held) = (true, true),
        }
    }

    /// A rest is over.
    pub fn rested(&mut self) {
        self.asking = false;
        self.held = false;
    }

    /// A bet is over; it speaks against further ones, or for them.
    pub fn executed(&mut self, discourages: bool, encourages: bool) {
        self.bets = self.bets.saturating_sub(1);
        self.unsettled = self.unsettled.saturating_add(1);
        self.discouraged |= discourages;
        self.encouraged |= encourages;
    }

    /// Whether outcomes are to be reported now: one report at a time, of all that wait for it.
    pub fn settles(&mut self) -> bool {
        let settles = !self.settling && self.unsettled > 0;
        if settles {
            self.settling = true;
            self.unsettled = 0;
        }
        settles
    }

    /// A report is over.
    pub fn settled(&mut self) {
        self.settling = false;
        self.held = false;
    }

    /// Further bets would not fare better. (One agent's trouble is not everybody's.)
    fn is_discouraged(&self) -> bool {
        self.discouraged && !self.encouraged
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
    fn while_more_is_due_half_the_slots_are_enough_for_another_claim_and_less_are_not() {
        let mut schedule = schedule();
        schedule.claimed(8, false, true, false, at(0));
        assert_eq!(schedule.next(at(1)), Next::Nothing);
        for _ in 0..4 {
            schedule.executed(false, true);
        }
        assert_eq!(schedule.next(at(2)), Next::Nothing, "outcomes that wait for a report take their places");
        assert!(schedule.settles() && !schedule.settles());
        assert_eq!(schedule.next(at(3)), Next::Claim(4));
    }

    #[test]
    fn after_the_last_job_the_watch_lasts_as_long_as_it_is_set_and_no_longer() {
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
    fn a_full_watcher_is_known_until_a_place_is_free_or_the_watch_is_given_up() {
        let mut schedule = schedule();
        schedule.claimed(8, false, true, true, at(0));
        assert!(schedule.is_full());
        schedule.executed(false, true);
        assert!(schedule.is_full(), "an outcome that waits for its report takes its place");
        assert!(schedule.settles());
        assert!(!schedule.is_full());
        schedule.claimed(1, false, true, true, at(1));
        assert!(schedule.is_full());
        schedule.handed_over();
        assert!(!schedule.is_full() && !schedule.is_watching());
        schedule.claimed(0, false, false, true, at(2));
        assert!(!schedule.is_full(), "nothing is due that another host could take");
    }

    #[test]
    fn who_has_not_got_the_watch_does_not_wait() {
        let mut schedule = schedule();
        schedule.claimed(1, false, false, false, at(100));
        assert_eq!(schedule.next(at(200)), Next::Nothing);
    }

    #[test]
    fn what_nobody_may_claim_yet_is_asked_for_again_after_a_report_or_a_rest() {
        let mut schedule = schedule();
        schedule.claimed(1, true, true, true, at(0));
        assert_eq!(schedule.next(at(1)), Next::Nothing, "the agent's other job waits for this one");
        schedule.executed(false, true);
        assert!(schedule.settles());
        schedule.settled();
        assert_eq!(schedule.next(at(2)), Next::Claim(8));
        schedule.claimed(0, false, true, true, at(3));
        assert_eq!(schedule.next(at(3)), Next::Rest);
        schedule.rested();
        assert_eq!(schedule.next(at(53)), Next::Claim(8));
        schedule.claimed(0, false, true, true, at(1_200));
        assert_eq!(schedule.next(at(1_200)), Next::Nothing, "and not for ever");
    }

    #[test]
    fn a_claim_whose_bets_all_fail_is_the_last_one() {
        let mut schedule = schedule();
        schedule.claimed(2, false, true, true, at(0));
        schedule.executed(true, false);
        assert_eq!(schedule.next(at(1)), Next::Nothing);
        schedule.executed(false, true);
        assert_eq!(schedule.next(at(1)), Next::Claim(6));
    }

    #[test]
    fn when_the_time_is_over_nothing_is_begun_and_what_is_due_is_handed_over() {
        let mut schedule = schedule();
        schedule.claimed(1, false, true, true, at(0));
        assert!(!schedule.is_cut_short(at(44_999)));
        assert_eq!(schedule.next(at(45_000)), Next::Nothing);
        assert!(schedule.is_cut_short(at(45_000)));
    }
}
