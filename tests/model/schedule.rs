//! Grants turns at the database, and keeps the time.
//!
//! A sequence is one future, in which several functions and depositors may be under way at once. If more than one of them can
//! go on, chance decides. If none can, time passes up to the first that waits for it. So a sequence follows from its seed, as
//! far as the database allows.

use futures::channel::oneshot;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

#[derive(Clone)]
pub(super) struct Schedule(Rc<State>);

struct State {
    now: Cell<Duration>,
    chance: RefCell<fastrand::Rng>,
    /// Most calls of the database that are under way at once.
    at_once: usize,
    under_way: Cell<usize>,
    /// Whether the call that is under way must be alone.
    alone: Cell<bool>,
    /// How many turns the schedule has granted.
    turns: Cell<u64>,
    waiting: RefCell<Vec<Waiting>>,
    sleepers: RefCell<Vec<Sleeper>>,
    /// Time that has passed for the functions, and not yet in the database.
    unshifted: Cell<Duration>,
}

struct Waiting {
    go: oneshot::Sender<Turn>,
    alone: bool,
    /// Granted after this many turns, beside the calls under way, because one of these may wait for it.
    beside: Option<u64>,
}

struct Sleeper {
    until: Duration,
    wake: oneshot::Sender<()>,
}

/// A turn at the database. The turn ends when its owner drops this.
pub(super) struct Turn {
    state: Rc<State>,
    alone: bool,
}

impl Schedule {
    pub(super) fn new(at_once: usize, chance: fastrand::Rng) -> Self {
        Self(Rc::new(State {
            now: Cell::new(Duration::from_secs(1_000)),
            chance: RefCell::new(chance),
            at_once,
            under_way: Cell::new(0),
            alone: Cell::new(false),
            turns: Cell::new(0),
            waiting: RefCell::default(),
            sleepers: RefCell::default(),
            unshifted: Cell::default(),
        }))
    }

    /// Replaces the chance that decides between the calls that wait.
    pub(super) fn set_chance(&self, chance: fastrand::Rng) {
        self.0.chance.replace(chance);
    }

    /// Says in words how many calls of the database may be under way.
    pub(super) fn describe(&self) -> String {
        match self.0.at_once {
            1 => "one call of the database at a time".to_owned(),
            calls => format!("up to {calls} calls of the database at a time"),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// Takes the time that has passed since the database was last told.
    pub(super) fn take_unshifted(&self) -> Duration {
        self.0.unshifted.take()
    }

    /// Lets time pass for all, at once.
    pub(super) fn pass(&self, time: Duration) {
        self.0.pass(time);
    }

    /// Waits until this time has passed.
    pub(super) async fn sleep(&self, time: Duration) {
        let until = self.now() + time;
        while self.now() < until {
            let (wake, woken) = oneshot::channel();
            self.0.sleepers.borrow_mut().push(Sleeper { until, wake });
            let _ = woken.await;
        }
    }

    /// Waits for a turn. `alone`: the database does nothing else meanwhile.
    pub(super) async fn turn(&self, alone: bool) -> Turn {
        // After time has passed the first thing is to tell the database so.
        self.wait(alone || !self.0.unshifted.get().is_zero(), None).await
    }

    /// Waits for a turn that the schedule grants after this many others, even while these are under way: one of them may wait
    /// for this one.
    pub(super) async fn turn_beside(&self, others: u64) -> Turn {
        self.wait(false, Some(self.0.turns.get() + others)).await
    }

    async fn wait(&self, alone: bool, beside: Option<u64>) -> Turn {
        let (go, granted) = oneshot::channel();
        self.0.waiting.borrow_mut().push(Waiting { go, alone, beside });
        granted.await.expect("every turn comes")
    }

    /// Lets everything else that can go on do so first.
    pub(super) async fn step_aside(&self) {
        let mut before = true;
        poll_fn(|cx| {
            if std::mem::take(&mut before) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await
    }

    /// Runs the future of a sequence.
    pub(super) async fn drive<T>(&self, sequence: impl Future<Output = T>) -> T {
        let mut sequence = pin!(sequence);
        let state = &self.0;
        poll_fn(|cx| {
            let woken = Arc::new(Woken { again: AtomicBool::new(false), outer: cx.waker().clone() });
            let waker = Waker::from(woken.clone());
            loop {
                if let Poll::Ready(done) = sequence.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return Poll::Ready(done);
                }
                let again = woken.again.swap(false, Ordering::Relaxed);
                if !(again || state.grant() || state.pass_to_the_first()) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl State {
    /// Grants a turn to one of the calls that wait, if another can be under way.
    fn grant(self: &Rc<Self>) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|one| !one.go.is_canceled());
        let (under_way, turns) = (self.under_way.get(), self.turns.get());
        let full = self.alone.get() || under_way >= self.at_once;
        let mut may: Vec<usize> = (0..waiting.len())
            .filter(|place| match &waiting[*place] {
                Waiting { beside: Some(after), .. } => turns >= *after,
                Waiting { alone: true, .. } => under_way == 0,
                _ => !full,
            })
            .collect();
        if may.is_empty() {
            return false;
        }
        let place = may.swap_remove(self.chance.borrow_mut().usize(0..may.len()));
        let Waiting { go, alone, .. } = waiting.swap_remove(place);
        self.under_way.set(under_way + 1);
        self.turns.set(turns + 1);
        self.alone.set(self.alone.get() || alone);
        // A caller that has stopped waiting gives the turn back at once.
        let _ = go.send(Turn { state: self.clone(), alone });
        true
    }

    fn pass(&self, time: Duration) {
        let now = self.now.get() + time;
        self.now.set(now);
        self.unshifted.set(self.unshifted.get() + time);
        for sleeper in self.sleepers.borrow_mut().extract_if(.., |sleeper| sleeper.until <= now) {
            let _ = sleeper.wake.send(());
        }
    }

    /// Lets time pass up to the first sleeper, if no call is under way.
    fn pass_to_the_first(&self) -> bool {
        if self.under_way.get() > 0 {
            return false;
        }
        let first = {
            let mut sleepers = self.sleepers.borrow_mut();
            sleepers.retain(|sleeper| !sleeper.wake.is_canceled());
            sleepers.iter().map(|sleeper| sleeper.until).min()
        };
        let Some(first) = first else { return false };
        self.pass(first.saturating_sub(self.now.get()));
        true
    }
}

impl Turn {
    /// Lets others go on beside this turn from here on.
    pub(super) fn share(&mut self) {
        if std::mem::take(&mut self.alone) {
            self.state.alone.set(false);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.share();
        self.state.under_way.set(self.state.under_way.get() - 1);
    }
}

/// Notes that the future can go on.
struct Woken {
    again: AtomicBool,
    outer: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.again.store(true, Ordering::Relaxed);
        self.outer.wake_by_ref();
    }
}
