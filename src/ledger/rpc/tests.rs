use super::*;
use crate::runtime::Answer;
use http::{HeaderMap, Request, Response};
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::SystemTime,
};

/// A PostgREST that gives these answers, one after the other. A sleep passes at once.
#[derive(Default)]
struct World {
    answers: RefCell<VecDeque<(u16, &'static str)>>,
    sent: RefCell<Vec<HeaderMap>>,
    clock: Cell<Duration>,
    logged: RefCell<Vec<String>>,
}

impl Runtime for World {
    async fn send(&self, request: Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
        self.sent.borrow_mut().push(request.headers().clone());
        let (status, body) = self.answers.borrow_mut().pop_front().unwrap();
        let (head, ()) = Response::builder().status(status).body(()).unwrap().into_parts();
        Ok(Answer { head, body: body.into(), whole: true })
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        self.clock.get()
    }

    async fn sleep(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
    }

    fn random(&self) -> u128 {
        0
    }

    fn log(&self, line: &Line) {
        self.logged.borrow_mut().push(line.to_json());
    }
}

const EARLY: (u16, &str) = (401, r#"{"code": "PGRST303", "message": "JWT issued at future"}"#);
const UNVERIFIED: (u16, &str) = (401, r#"{"code": "PGRST301", "message": "No suitable key"}"#);

fn connection(key: &str, apikey: &str) -> Connection {
    let [key, apikey] = [key, apikey].map(|text| Key::parse(text).unwrap());
    Connection { url: BaseUrl::parse("https://supabase.test").unwrap(), key, apikey }
}

/// Calls a function once, and returns its result, and how often it was sent.
async fn call(
    answers: impl IntoIterator<Item = (u16, &'static str)>,
) -> (Result<Vec<u8>, LedgerError>, World) {
    let world = World { answers: RefCell::new(answers.into_iter().collect()), ..World::default() };
    let result = connection("a.b.c", "anon").call("claim_jobs", &json!({}), &world).await;
    (result, world)
}

#[tokio::test]
async fn a_token_that_is_refused_once_is_shown_again_a_second_later() {
    for (refusal, code) in [(EARLY, "PGRST303"), (UNVERIFIED, "PGRST301")] {
        let (result, world) = call([refusal, (200, "{}")]).await;
        assert_eq!((result, world.sent.borrow().len()), (Ok(b"{}".to_vec()), 2));
        assert_eq!(world.clock.get(), Duration::from_secs(1));
        let logged = world.logged.borrow().join("\n");
        assert!(logged.contains(code) && !logged.contains("refused_us"), "{logged}");
    }
}

#[tokio::test]
async fn a_token_that_is_refused_twice_is_wrong_and_so_is_any_other_refusal() {
    let (result, world) = call([EARLY, EARLY]).await;
    let error = result.unwrap_err();
    assert_eq!((error.code(), error.cause().as_str()), ("ledger_refused_us", "PGRST303"));
    assert_eq!(world.sent.borrow().len(), 2);
    for (refusal, cause) in [
        ((401, ""), "status_401"),
        ((401, r#"{"code": "PGRST302"}"#), "status_401"),
        ((401, r#"{"code": "42501"}"#), "status_401"),
        ((403, r#"{"code": "PGRST301"}"#), "status_403"),
    ] {
        let (result, world) = call([refusal]).await;
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.cause().as_str()), ("ledger_refused_us", cause));
        assert_eq!(world.sent.borrow().len(), 1);
    }
}

#[test]
fn a_secret_key_is_no_bearer_token() {
    for (key, apikey, expected) in [
        ("sb_secret_1", "sb_secret_1", ("sb_secret_1", None)),
        ("sb_secret_1", "sb_publishable_2", ("sb_secret_1", None)),
        ("a.b.c", "sb_publishable_2", ("sb_publishable_2", Some("Bearer a.b.c"))),
        ("a.b.c", "a.b.c", ("a.b.c", Some("Bearer a.b.c"))),
        // A signed-in user's token, beside the function's secret key.
        ("d.e.f", "sb_secret_1", ("sb_secret_1", Some("Bearer d.e.f"))),
    ] {
        let request = connection(key, apikey).request("claim_jobs", &json!({})).unwrap();
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((header("apikey").unwrap(), header("authorization")), expected);
    }
}
