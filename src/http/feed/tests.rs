use super::*;
use crate::{
    config,
    http::router::{Body, Memory, respond},
    log::Line,
    runtime::{Answer, Limits, SendError},
};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    time::SystemTime,
};

const KEY: &str = "ek_0123456789abcdefghij-_";

const EMPTY: &str = r#"{"state":"ok","events":[],"next":"c2","more":false}"#;

const FULL: &str =
    r#"{"state":"ok","events":[{"id":1,"cursor":"c3","event":{"type":"a.b"}}],"next":"c3","more":false}"#;

/// A ledger that answers each function with the next of its replies, or with the last one again. Time passes only in sleeps.
#[derive(Default)]
struct World {
    clock: Cell<Duration>,
    pages: RefCell<VecDeque<String>>,
    full: bool,
    calls: RefCell<Vec<(String, Value)>>,
    log: RefCell<Vec<String>>,
}

impl World {
    fn with(pages: &[&str]) -> Self {
        Self { pages: RefCell::new(pages.iter().map(|page| (*page).to_owned()).collect()), ..Self::default() }
    }

    fn names(&self) -> Vec<String> {
        self.calls.borrow().iter().map(|(name, _)| name.clone()).collect()
    }

    fn arguments(&self, function: &str) -> Vec<Value> {
        let calls = self.calls.borrow();
        calls.iter().filter(|(name, _)| name == function).map(|(_, body)| body.clone()).collect()
    }

    fn page(&self) -> String {
        let mut pages = self.pages.borrow_mut();
        if pages.len() > 1 { pages.pop_front().unwrap() } else { pages.front().unwrap().clone() }
    }
}

impl Runtime for World {
    async fn send(&self, request: Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
        let function = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let arguments = serde_json::from_slice(request.body()).unwrap();
        let body = match function.as_str() {
            "take_feed_seat" => (!self.full).to_string(),
            "leave_feed_seat" => "null".to_owned(),
            _ => self.page(),
        };
        self.calls.borrow_mut().push((function, arguments));
        Ok(Answer { head: Response::new(()).into_parts().0, body: body.into(), whole: true })
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
        7
    }

    fn log(&self, line: &Line) {
        self.log.borrow_mut().push(line.to_json());
    }
}

struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Value,
}

/// Sends a request through the router, with a ledger or without one.
async fn get_with(world: &World, ledger: bool, target: &str, authorization: Option<&str>) -> Reply {
    let settings = config::check(|name| match name {
        "webhook_token" => Some("a-token-of-16-chars".to_owned()),
        "purple_flea_key" => Some("key".to_owned()),
        "supabase_url" if ledger => Some("https://supabase.test".to_owned()),
        "supabase_key" if ledger => Some("key".to_owned()),
        _ => None,
    });
    let mut request = Request::get(target);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let request = request.body(Body::Whole(Vec::new())).unwrap();
    let (response, later) = respond(&settings, &Memory::empty(), request, world).await;
    assert!(later.is_none());
    let (head, body) = response.into_parts();
    Reply { status: head.status, headers: head.headers, body: serde_json::from_slice(&body).unwrap() }
}

async fn get(world: &World, target: &str) -> Reply {
    get_with(world, true, target, Some(&format!("Bearer {KEY}"))).await
}

#[tokio::test]
async fn a_page_is_passed_on_with_its_cursors_and_is_never_stored_on_the_way() {
    let world = World::with(&[FULL]);
    let reply = get(&world, "/events?after=c2&types=a.b,c.d&limit=7").await;
    assert_eq!(
        (reply.status, &reply.headers["cache-control"]),
        (StatusCode::OK, &"no-store".parse().unwrap())
    );
    assert_eq!(
        reply.body,
        json!({"events": [{"id": 1, "cursor": "c3", "event": {"type": "a.b"}}], "next": "c3", "more": false})
    );
    let [arguments] = &world.arguments("read_events")[..] else { panic!("{:?}", world.names()) };
    let hash = ApiKey::parse(KEY.as_bytes()).unwrap().hash().to_owned();
    assert_eq!(*arguments, json!({"key_hash": hash, "after": "c2", "types": ["a.b", "c.d"], "most": 7}));
}

#[tokio::test]
async fn the_key_itself_reaches_neither_the_ledger_nor_the_log() {
    let world = World::with(&[r#"{"state":"unauthorized"}"#]);
    assert_eq!(get(&world, "/events").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&world, &format!("/events?after={KEY}")).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(get(&world, &format!("/records/trade/1?{KEY}")).await.status, StatusCode::BAD_REQUEST);
    let seen = format!("{:?} {:?}", world.calls.borrow(), world.log.borrow());
    assert!(!seen.contains(KEY), "{seen}");
}

#[tokio::test]
async fn a_wait_looks_once_a_second_and_ends_with_the_first_event() {
    let world = World::with(&[EMPTY, EMPTY, EMPTY, FULL]);
    let reply = get(&world, "/events?wait_s=20").await;
    assert_eq!(reply.body["next"], "c3");
    assert_eq!(world.clock.get(), Duration::from_secs(3));
    assert_eq!(
        world.names(),
        ["read_events", "take_feed_seat", "read_events", "read_events", "read_events", "leave_feed_seat"]
    );
}

#[tokio::test]
async fn a_wait_without_an_event_ends_with_an_empty_page_in_its_time() {
    let world = World::with(&[EMPTY]);
    let reply = get(&world, "/events?wait_s=20").await;
    assert_eq!(reply.body, json!({"events": [], "next": "c2", "more": false}));
    assert_eq!(world.clock.get(), Duration::from_secs(20));
    assert_eq!(world.arguments("read_events").len(), 21);
    assert_eq!(
        world.arguments("leave_feed_seat"),
        world
            .arguments("take_feed_seat")
            .iter()
            .map(|taken| json!({"waiter": taken["waiter"]}))
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_wait_from_latest_goes_on_from_the_place_that_it_began_at() {
    let world = World::with(&[EMPTY, FULL]);
    get(&world, "/events?after=latest&wait_s=20").await;
    let after: Vec<Value> = world.arguments("read_events").iter().map(|call| call["after"].clone()).collect();
    assert_eq!(after, ["latest", "c2"]);
}

#[tokio::test]
async fn a_caller_without_a_seat_is_answered_at_once() {
    let world = World { full: true, ..World::with(&[EMPTY]) };
    let reply = get(&world, "/events?after=c2&wait_s=20").await;
    assert_eq!(
        (reply.status, reply.body),
        (
            StatusCode::OK,
            json!({"events": [], "next": "c2", "more": false, "not_waited": "too_many_waiters", "retry_after_s": 5})
        )
    );
    assert_eq!(world.clock.get(), Duration::ZERO);
    assert_eq!(world.names(), ["read_events", "take_feed_seat"]);
}

#[tokio::test]
async fn a_caller_that_does_not_wait_takes_no_seat() {
    let more = r#"{"state":"ok","events":[],"next":"c2","more":true}"#;
    for (page, target) in [
        (EMPTY, "/events"),
        (EMPTY, "/events?wait_s=0"),
        (FULL, "/events?wait_s=9"),
        (more, "/events?wait_s=9"),
    ] {
        let world = World::with(&[page]);
        assert_eq!(get(&world, target).await.status, StatusCode::OK);
        assert_eq!(world.names(), ["read_events"], "{target}");
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_ends_a_wait_and_frees_the_seat() {
    let world = World::with(&[EMPTY, r#"{"state":"unauthorized"}"#]);
    assert_eq!(get(&world, "/events?wait_s=20").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.clock.get(), Duration::from_secs(1));
    assert_eq!(world.names().last().map(String::as_str), Some("leave_feed_seat"));
}

#[tokio::test]
async fn each_refusal_of_the_ledger_has_its_own_reply() {
    for (state, status, code) in [
        ("unauthorized", 401, "unauthorized"),
        ("forbidden", 403, "missing_scope"),
        ("cursor_invalid", 400, "cursor_invalid"),
        ("cursor_too_old", 410, "cursor_too_old"),
        ("cursor_of_another_generation", 410, "cursor_of_another_generation"),
        ("unknown_type", 400, "unknown_type"),
        ("restore_unconfirmed", 503, "restore_unconfirmed"),
        ("of_tomorrow", 503, "ledger_failed"),
    ] {
        let world = World::with(&[&format!(r#"{{"state":"{state}","start":"s1","known":["a.b"]}}"#)]);
        let reply = get(&world, "/events").await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{}", reply.body);
        assert_eq!(reply.headers["cache-control"], "no-store");
        let start = if status == 410 { json!("s1") } else { Value::Null };
        assert_eq!(reply.body["start"], start, "{state}");
        if state == "unknown_type" {
            assert!(
                reply.body["detail"].as_str().unwrap().ends_with("The known types are: a.b."),
                "{}",
                reply.body
            );
        }
    }
}

#[tokio::test]
async fn a_record_is_found_by_its_kind_and_its_decoded_id() {
    let world = World::with(&[r#"{"state":"ok","record":{"id":"a/b","amount":1.50}}"#]);
    let reply = get(&world, "/records/agent/a%2Fb").await;
    assert_eq!(reply.body.to_string(), r#"{"record":{"amount":1.50,"id":"a/b"}}"#);
    assert_eq!(reply.headers["cache-control"], "no-store");
    let [arguments] = &world.arguments("read_record")[..] else { panic!("{:?}", world.names()) };
    assert_eq!((&arguments["kind"], &arguments["id"]), (&json!("agent"), &json!("a/b")));
    for state in ["unknown_kind", "not_found"] {
        let world = World::with(&[&format!(r#"{{"state":"{state}"}}"#)]);
        let reply = get(&world, "/records/trade/1").await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (404, &json!("unknown_record")));
    }
    let world = World::with(&[r#"{"state":"forbidden"}"#]);
    let reply = get(&world, "/records/trade/1").await;
    assert!(reply.body["detail"].as_str().unwrap().contains("records:read"), "{}", reply.body);
}

#[tokio::test]
async fn a_wrong_request_never_reaches_the_ledger() {
    let bearer = format!("Bearer {KEY}");
    for (target, authorization, status, code) in [
        ("/events?limit=0", Some(bearer.as_str()), 400, "invalid_parameter"),
        ("/events?api_key=x", None, 400, "key_in_query"),
        ("/records/trade/1?token=x", Some(&bearer), 400, "key_in_query"),
        ("/records/trade/%00", Some(&bearer), 400, "invalid_parameter"),
        ("/records/trade", Some(&bearer), 404, "not_found"),
        ("/records/trade/1/2", Some(&bearer), 404, "not_found"),
        ("/events", None, 401, "unauthorized"),
        ("/events", Some("Bearer ek_short"), 401, "unauthorized"),
        ("/events", Some("Bearer a-token-of-16-chars"), 403, "not_allowed"),
        ("/operator/status", Some(&bearer), 401, "unauthorized"),
    ] {
        let world = World::with(&[FULL]);
        let reply = get_with(&world, true, target, authorization).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (status, &json!(code)), "{target}");
        assert!(world.names().is_empty(), "{target}");
    }
}

#[tokio::test]
async fn without_a_ledger_there_is_no_feed() {
    for target in ["/events", "/records/trade/1"] {
        let reply = get_with(&World::with(&[FULL]), false, target, Some(&format!("Bearer {KEY}"))).await;
        assert_eq!((reply.status.as_u16(), &reply.body["code"]), (503, &json!("ledger_not_configured")));
    }
}
