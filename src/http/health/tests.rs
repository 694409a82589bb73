use super::*;
use crate::{
    config,
    log::Line,
    runtime::{Answer, Limits, SendError},
};
use futures::future::join_all;
use http::Request;
use http::StatusCode;
use std::{
    cell::{Cell, RefCell},
    time::SystemTime,
};

const FAILED: Result<Health, LedgerError> = Err(LedgerError::Missing);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn one_look_starts_in_a_second_and_the_others_get_what_is_known() {
    let looks = Looks::none();
    assert!(matches!(looks.turn(at(5_000)), Turn::Look(_)));
    assert!(matches!(looks.turn(at(5_001)), Turn::Wait));
    looks.keep(at(5_000), &FAILED);
    assert!(matches!(looks.turn(at(5_999)), Turn::Known(Err(LedgerError::Missing))));
    assert!(matches!(looks.turn(at(6_000)), Turn::Look(_)));
    assert!(matches!(looks.turn(at(6_999)), Turn::Known(_)), "the last answer, while the next is looked for");
}

#[test]
fn a_look_that_never_ends_keeps_nobody_from_the_next() {
    let looks = Looks::none();
    assert!(matches!(looks.turn(at(0)), Turn::Look(_)));
    assert!(matches!(looks.turn(at(1_000)), Turn::Look(_)));
    looks.keep(at(1_000), &FAILED);
    // The first one ends after all, and is older.
    looks.keep(at(0), &Err(LedgerError::Unreadable));
    assert!(matches!(looks.turn(at(1_500)), Turn::Known(Err(LedgerError::Missing))));
}

/// A ledger that answers after some time, and notes when it was asked.
struct World {
    clock: Cell<Duration>,
    takes: Duration,
    asked: RefCell<Vec<Duration>>,
}

impl Runtime for World {
    async fn send(&self, _: Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
        self.asked.borrow_mut().push(self.clock.get());
        self.sleep(self.takes).await;
        let body = br#"{"protocols":[2],"sweeper":"ok","due":0,"unknown":0,"alarms":0}"#.to_vec();
        Ok(Answer { head: Response::new(()).into_parts().0, body, whole: true })
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        self.clock.get()
    }

    async fn sleep(&self, time: Duration) {
        let until = self.clock.get() + time;
        while self.clock.get() < until {
            tokio::task::yield_now().await;
        }
    }

    fn random(&self) -> u128 {
        0
    }

    fn log(&self, _: &Line) {}
}

/// Callers that come all the time, a hundred in each of so many milliseconds; when the ledger was asked.
async fn asked(takes_ms: u64, time_ms: u64) -> Vec<Duration> {
    let settings = config::check(|name| match name {
        "webhook_token" => Some("a-token-of-16-chars".to_owned()),
        "supabase_url" => Some("https://supabase.test".to_owned()),
        "supabase_key" => Some("key".to_owned()),
        _ => None,
    })
    .unwrap();
    let world = World { clock: Cell::default(), takes: at(takes_ms), asked: RefCell::default() };
    let (looks, world) = (&Looks::none(), &world);
    let callers = (0..time_ms / 50).map(|n| {
        let settings = &settings;
        async move {
            world.sleep(at(n * 50)).await;
            let replies = (0..100).map(|_| check(settings, looks, false, world));
            for reply in join_all(replies).await {
                assert_eq!(reply.unwrap().status(), StatusCode::OK);
            }
        }
    });
    let time_passes = async {
        while world.clock.get() < at(time_ms + 10 * takes_ms + 10_000) {
            world.clock.set(world.clock.get() + at(5));
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(join_all(callers), time_passes);
    world.asked.take()
}

#[test]
fn whatever_comes_the_ledger_is_asked_once_a_second() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // It answers at once; after a while; or when the next look has long begun.
    for takes_ms in [0, 40, 900, 2_500] {
        let asked = runtime.block_on(asked(takes_ms, 4_000));
        assert!((4..=5).contains(&asked.len()), "{takes_ms} ms: {asked:?}");
        for (first, second) in asked.iter().zip(asked.iter().skip(1)) {
            assert!(*second - *first >= at(1_000), "{takes_ms} ms: {asked:?}");
        }
    }
}
