//! A gate that callers pass one at a time, in the order in which they came.
//!
//! A caller that gives up leaves the queue and holds nobody. The gate has no clock: a caller limits its own wait, and
//! goes on without its turn.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// The gate.
#[derive(Debug)]
pub struct Gate(Mutex<State>);

#[derive(Debug)]
struct State {
    taken: bool,
    /// The number of the next caller that has to wait.
    next: u64,
    /// The callers that wait, the first one in front.
    waiting: VecDeque<(u64, Waker)>,
}

impl Gate {
    /// Makes a gate that nobody has passed.
    pub const fn new() -> Self {
        Self(Mutex::new(State { taken: false, next: 0, waiting: VecDeque::new() }))
    }

    /// Waits for the caller's turn, without a limit. Dropping the future leaves the queue.
    pub fn turn(&self) -> Waiting<'_> {
        Waiting { gate: self, number: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Wakes the first caller if the gate is free. The caller takes its turn when it is polled, so a caller that is
    /// dropped before that loses no turn.
    fn wake_first(&self) {
        if let (false, Some((_, first))) = (self.taken, self.waiting.front()) {
            first.wake_by_ref();
        }
    }
}

/// The turn of one caller. Dropping it lets the next one pass.
#[derive(Debug)]
#[must_use = "the turn ends when it is dropped"]
pub struct Turn<'a>(&'a Gate);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.taken = false;
        state.wake_first();
    }
}

/// The wait of one caller.
#[derive(Debug)]
pub struct Waiting<'a> {
    gate: &'a Gate,
    /// The caller's number in the queue, while it waits there.
    number: Option<u64>,
}

impl<'a> Future for Waiting<'a> {
    type Output = Turn<'a>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn<'a>> {
        let gate = self.gate;
        let mut state = gate.state();
        let first = state.waiting.front().map(|(number, _)| *number);
        if !state.taken && first == self.number {
            if self.number.take().is_some() {
                state.waiting.pop_front();
            }
            state.taken = true;
            return Poll::Ready(Turn(gate));
        }
        let place = state.waiting.iter_mut().find(|(number, _)| Some(*number) == self.number);
        match place {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                let number = state.next;
                state.next = number.wrapping_add(1);
                state.waiting.push_back((number, cx.waker().clone()));
                self.number = Some(number);
            }
        }
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(left) = self.number else { return };
        let mut state = self.gate.state();
        state.waiting.retain(|(number, _)| *number != left);
        // The gate may have woken this caller, which passes the word on.
        state.wake_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::{Either, join_all, select};
    use std::{
        cell::RefCell,
        future::{pending, ready},
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        task::Wake,
    };
    use tokio::task::yield_now;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn poll<'a>(waiting: &mut Waiting<'a>, waker: &Waker) -> Poll<Turn<'a>> {
        Pin::new(waiting).poll(&mut Context::from_waker(waker))
    }

    #[tokio::test]
    async fn callers_pass_one_at_a_time_in_their_order() {
        let (gate, inside, passed) = (Gate::new(), RefCell::new(0), RefCell::new(Vec::new()));
        join_all((0..50).map(async |number| {
            let _turn = gate.turn().await;
            assert_eq!(inside.replace(1), 0);
            yield_now().await;
            inside.replace(0);
            passed.borrow_mut().push(number);
        }))
        .await;
        assert_eq!(*passed.borrow(), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_caller_that_comes_late_does_not_overtake() {
        let (gate, waker) = (Gate::new(), Waker::noop());
        let (mut first, mut second, mut late) = (gate.turn(), gate.turn(), gate.turn());
        let Poll::Ready(turn) = poll(&mut first, waker) else { panic!("the gate is free") };
        assert!(poll(&mut second, waker).is_pending());
        drop(turn);
        assert!(poll(&mut late, waker).is_pending());
        assert!(poll(&mut second, waker).is_ready());
        assert!(poll(&mut late, waker).is_ready());
    }

    #[test]
    fn a_caller_that_gives_up_in_the_queue_holds_nobody() {
        let (gate, waker, bell) = (Gate::new(), Waker::noop(), Arc::new(Bell::default()));
        let (mut first, mut second, mut third) = (gate.turn(), gate.turn(), gate.turn());
        let Poll::Ready(turn) = poll(&mut first, waker) else { panic!("the gate is free") };
        assert!(poll(&mut second, waker).is_pending());
        assert!(poll(&mut third, &bell.clone().into()).is_pending());
        drop(second);
        assert!(poll(&mut third, &bell.clone().into()).is_pending());
        drop(turn);
        assert!(bell.0.load(SeqCst) > 0, "the third is woken");
        assert!(poll(&mut third, waker).is_ready());
    }

    #[test]
    fn a_caller_that_gives_up_between_its_waking_and_its_turn_passes_the_word_on() {
        let (gate, waker, bell) = (Gate::new(), Waker::noop(), Arc::new(Bell::default()));
        let (mut first, mut second, mut third) = (gate.turn(), gate.turn(), gate.turn());
        let Poll::Ready(turn) = poll(&mut first, waker) else { panic!("the gate is free") };
        assert!(poll(&mut second, waker).is_pending());
        assert!(poll(&mut third, &bell.clone().into()).is_pending());
        drop(turn);
        assert_eq!(bell.0.load(SeqCst), 0, "the second is woken, not the third");
        drop(second);
        assert_eq!(bell.0.load(SeqCst), 1);
        assert!(poll(&mut third, waker).is_ready());
    }

    #[tokio::test]
    async fn a_turn_that_is_dropped_in_the_middle_ends() {
        let gate = Gate::new();
        {
            let slow = async {
                let _turn = gate.turn().await;
                pending::<()>().await;
            };
            // The race drops the slow one, as a time limit does.
            assert!(matches!(select(pin!(slow), pin!(ready(()))).await, Either::Right(_)));
        }
        let _turn = gate.turn().await;
    }

    #[tokio::test]
    async fn a_caller_that_has_no_patience_goes_on_while_another_has_its_turn() {
        let gate = Gate::new();
        let turn = gate.turn().await;
        assert!(matches!(select(gate.turn(), pin!(yield_now())).await, Either::Right(_)));
        drop(turn);
        let _turn = gate.turn().await;
        assert!(gate.state().waiting.is_empty());
    }

    #[test]
    fn nobody_is_forgotten_whatever_is_dropped() {
        for seed in 0..500 {
            let gate = Gate::new();
            let mut chance = fastrand::Rng::with_seed(seed);
            let (mut waiting, mut turn) = (Vec::new(), None);
            for _ in 0..60 {
                match chance.u8(0..4) {
                    0 => waiting.push((gate.turn(), Arc::new(Bell::default()))),
                    1 if !waiting.is_empty() => drop(waiting.remove(chance.usize(0..waiting.len()))),
                    2 => turn = None,
                    _ => {
                        let mut index = 0;
                        while let Some((caller, bell)) = waiting.get_mut(index) {
                            match poll(caller, &bell.clone().into()) {
                                Poll::Ready(passed) => {
                                    assert!(turn.is_none(), "seed {seed}: two turns at once");
                                    turn = Some(passed);
                                    waiting.remove(index);
                                }
                                Poll::Pending => index += 1,
                            }
                        }
                    }
                }
            }
            // From here on a caller is polled only if it was woken, or was never polled.
            for (caller, bell) in &mut waiting {
                if caller.number.is_none() {
                    bell.0.fetch_add(1, SeqCst);
                }
            }
            drop(turn);
            while let Some(index) = waiting.iter().position(|(_, bell)| bell.0.swap(0, SeqCst) > 0) {
                if let Some((caller, bell)) = waiting.get_mut(index)
                    && poll(caller, &bell.clone().into()).is_ready()
                {
                    waiting.remove(index);
                }
            }
            assert!(waiting.is_empty(), "seed {seed}: {} callers wait for ever", waiting.len());
        }
    }
}
