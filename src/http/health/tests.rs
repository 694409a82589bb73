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
fn one_query_starts_per_second_and_other_callers_get_the_cached_result() {
    let cache = HealthCache::empty();
    assert!(matches!(cache.turn(at(5_000)), Turn::Query(_)));
    assert!(matches!(cache.turn(at(5_001)), Turn::Wait));
    cache.store(at(5_000), &FAILED);
    assert!(matches!(cache.turn(at(5_999)), Turn::Cached(Err(LedgerError::Missing))));
    assert!(matches!(cache.turn(at(6_000)), Turn::Query(_)));
    assert!(matches!(cache.turn(at(6_999)), Turn::Cached(_)), "the last result, while the next query runs");
}

#[test]
fn a_query_that_never_ends_does_not_prevent_the_next_one() {
    let cache = HealthCache::empty();
    assert!(matches!(cache.turn(at(0)), Turn::Query(_)));
    assert!(matches!(cache.turn(at(1_000)), Turn::Query(_)));
    cache.store(at(1_000), &FAILED);
    // The first query ends last, with an older result.
    cache.store(at(0), &Err(LedgerError::Unreadable));
    assert!(matches!(cache.turn(at(1_500)), Turn::Cached(Err(LedgerError::Missing))));
}

/// A ledger that answers after `takes`, and records the time of each query.
struct World {
    clock: Cell<Duration>,
    takes: Duration,
    queries: RefCell<Vec<Duration>>,
}

impl Runtime for World {
    async fn send(&self, _: Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
        self.queries.borrow_mut().push(self.clock.get());
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

/// Sends a hundred health requests every 50 ms for `time_ms`. Returns the times at which the ledger was
/// queried.
async fn query_times(takes_ms: u64, time_ms: u64) -> Vec<Duration> {
    let settings = config::check(|name| match name {
        "webhook_token" => Some("a-token-of-16-chars".to_owned()),
        "supabase_url" => Some("https://supabase.test".to_owned()),
        "supabase_key" => Some("key".to_owned()),
        _ => None,
    })
    .unwrap();
    let world = World { clock: Cell::default(), takes: at(takes_ms), queries: RefCell::default() };
    let (cache, world) = (&HealthCache::empty(), &world);
    let callers = (0..time_ms / 50).map(|n| {
        let settings = &settings;
        async move {
            world.sleep(at(n * 50)).await;
            let replies = (0..100).map(|_| check(settings, cache, false, world));
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
    world.queries.take()
}

#[test]
fn the_ledger_is_queried_at_most_once_a_second_however_many_callers_there_are() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // The ledger answers at once, after a while, or after the next query has started.
    for takes_ms in [0, 40, 900, 2_500] {
        let queries = runtime.block_on(query_times(takes_ms, 4_000));
        assert!((4..=5).contains(&queries.len()), "{takes_ms} ms: {queries:?}");
        for (first, second) in queries.iter().zip(queries.iter().skip(1)) {
            assert!(*second - *first >= at(1_000), "{takes_ms} ms: {queries:?}");
        }
    }
}
