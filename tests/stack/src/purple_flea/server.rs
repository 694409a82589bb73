//! The simulator on the wire, faults included.

use super::{
    Fault, How, REQUESTS_LIMIT, Request, Shared, State,
    answer::{Answer, json_answer},
    chaos::Planned,
    routes::{self, Kind, Route},
};
use anyhow::{Error, Result, anyhow};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{net::TcpStream, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// How long a dripping server takes over each byte.
const DRIP: Duration = Duration::from_secs(1);

/// How long a connection on which nothing will ever come is kept: longer than anybody waits, and not for
/// ever, as nobody notices here when its caller goes.
const SILENCE: Duration = Duration::from_secs(120);

type Body = UnsyncBoxBody<Bytes, Error>;

pub(super) async fn accept(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            // A second handle on the same socket, to reset it by.
            let Ok((stream, handle)) = two_handles(stream) else {
                return;
            };
            let service = service_fn(|request| serve(&shared, &handle, request));
            // A caller that sends a whole request and goes away has made a bet all the same.
            let _ =
                http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn two_handles(stream: tokio::net::TcpStream) -> std::io::Result<(tokio::net::TcpStream, TcpStream)> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let handle = stream.try_clone()?;
    Ok((tokio::net::TcpStream::from_std(stream)?, handle))
}

async fn serve(
    shared: &Shared,
    handle: &TcpStream,
    request: http::Request<Incoming>,
) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let request = Request {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned(),
    };
    let kind = kind(&head.method, &request);
    let (planned, answer, delay) = {
        let mut state = shared.state();
        if state.requests.len() >= REQUESTS_LIMIT {
            state.requests.pop_front();
        }
        state.requests.push_back(request.clone());
        shared.requests.send_modify(|seen| *seen += 1);
        let planned = next_fault(&mut state, kind);
        let by_the_rules = planned.as_ref().is_none_or(|planned| planned.fault.after_the_bet);
        let answer = if by_the_rules {
            let hidden = planned.as_ref().is_some_and(|planned| planned.hidden);
            routes::answer(&mut state, &head.method, &request, hidden)
        } else {
            let body = serde_json::json!({"outcome": "win", "payout": 1_000_000, "fault": true});
            json_answer(StatusCode::OK, body)
        };
        (planned, answer, state.delay.filter(|_| kind.moves_money()))
    };
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    let Answer { status, content_type, body } = answer;
    let body = Bytes::from(body);
    let Some(Planned { fault: Fault { how, .. }, .. }) = planned else {
        return whole(status, &[("content-type", content_type.to_owned())], body);
    };
    let in_pieces = |body: Body, length: usize| {
        let head = Response::builder().status(status).header("content-type", content_type);
        Ok(head.header("content-length", length).body(body)?)
    };
    match how {
        How::Answer { status, headers, body } => whole(status, &headers, body.into()),
        How::Hang => {
            sleep(SILENCE).await;
            Err(anyhow!("hung"))
        }
        How::Reset => {
            socket2::SockRef::from(handle).set_linger(Some(Duration::ZERO))?;
            Err(anyhow!("reset"))
        }
        How::Drip => {
            let bytes = body.to_vec();
            let length = bytes.len();
            let drops = stream::iter(bytes).then(|byte| async move {
                sleep(DRIP).await;
                Ok(Frame::data(Bytes::from(vec![byte])))
            });
            in_pieces(StreamBody::new(drops).boxed_unsync(), length)
        }
        How::BreakOff => {
            let half = stream::iter([Ok(Frame::data(half(&body))), Err(anyhow!("broken off"))]);
            // The half leaves before the break does.
            let half = half.then(|frame| async move {
                if frame.is_err() {
                    sleep(Duration::from_millis(20)).await;
                }
                frame
            });
            in_pieces(StreamBody::new(half).boxed_unsync(), body.len())
        }
        How::OddNumber => {
            whole(status, &[("content-type", content_type.to_owned())], with_an_odd_number(&body))
        }
        How::Stall => {
            let end = stream::once(async {
                sleep(SILENCE).await;
                Err(anyhow!("stalled"))
            });
            let half = stream::iter([Ok(Frame::data(half(&body)))]).chain(end);
            in_pieces(StreamBody::new(half).boxed_unsync(), body.len())
        }
    }
}

fn kind(method: &http::Method, request: &Request) -> Kind {
    Route::of(method, request).map_or(Kind::Other, |(route, _)| route.kind)
}

fn next_fault(state: &mut State, kind: Kind) -> Option<Planned> {
    if let Some(fault) = state.next.pop_front().or_else(|| state.always.clone()) {
        return Some(Planned { fault, hidden: false });
    }
    let dice = state.chaos.as_mut()?;
    match kind {
        Kind::History => dice.with_the_history(),
        kind if kind.moves_money() => dice.with_a_bet(),
        _ => None,
    }
}

/// An answer of JSON with a nonce of a million digits in its proof; any other as it is.
fn with_an_odd_number(body: &Bytes) -> Bytes {
    let (Ok(mut answer), Ok(nonce)) =
        (serde_json::from_slice::<serde_json::Value>(body), "1e999999".parse::<serde_json::Number>())
    else {
        return body.clone();
    };
    if let Some(fields) = answer.as_object_mut() {
        let proof = fields.entry("proof").or_insert_with(|| serde_json::json!({}));
        if let Some(proof) = proof.as_object_mut() {
            proof.insert("nonce".to_owned(), nonce.into());
        }
    }
    answer.to_string().into()
}

fn half(body: &Bytes) -> Bytes {
    body.slice(..body.len() / 2)
}

fn whole(status: StatusCode, headers: &[(&'static str, String)], body: Bytes) -> Result<Response<Body>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(body).map_err(|never| match never {}).boxed_unsync())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http1,
        purple_flea::{Chaos, KEY, LIVE_AGENT, Limits, PurpleFlea, testing::in_time},
    };
    use std::time::Instant;
    use tokio::io::AsyncWriteExt;

    const BODY: &str = r#"{"side":"heads","amount":1,"client_seed":"mine"}"#;

    async fn flip(purple_flea: &PurpleFlea) -> Result<Response<Bytes>> {
        let request = http::Request::post(format!("{}/api/v1/games/coin-flip", purple_flea.url))
            .header("authorization", format!("Bearer {KEY}"))
            .body(BODY.into())?;
        in_time(http1::send(request)).await
    }

    async fn rich() -> Result<PurpleFlea> {
        let purple_flea = PurpleFlea::start().await?;
        purple_flea.fund(LIVE_AGENT, 1_000_000.into());
        Ok(purple_flea)
    }

    #[tokio::test]
    async fn whoever_goes_away_has_made_its_bet_all_the_same() -> Result<()> {
        let purple_flea = rich().await?;
        let address = purple_flea.url.trim_start_matches("http://").to_owned();
        for _ in 0..20 {
            let mut stream = tokio::net::TcpStream::connect(&address).await?;
            let head = format!(
                "POST /api/v1/games/coin-flip HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{BODY}",
                BODY.len()
            );
            stream.write_all(head.as_bytes()).await?;
        }
        in_time(async {
            purple_flea.reached(20).await;
            Ok(())
        })
        .await?;
        assert_eq!(purple_flea.bets().len(), 20);
        Ok(())
    }

    #[tokio::test]
    async fn a_told_fault_goes_before_chance_and_ends_with_it() -> Result<()> {
        let purple_flea = rich().await?;
        purple_flea.misbehave_at_random(Some(Chaos { seed: 1, per_mille: 1_000 }));
        purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(418, "{}") });
        assert_eq!(flip(&purple_flea).await?.status(), 418);
        purple_flea.misbehave_at_random(None);
        assert_eq!(flip(&purple_flea).await?.status(), 200);
        Ok(())
    }

    #[tokio::test]
    async fn a_delayed_reply_comes_late_and_its_bet_does_not() -> Result<()> {
        let purple_flea = rich().await?;
        let delay = Duration::from_millis(300);
        purple_flea.delay(Some(delay));
        let started = Instant::now();
        let (reply, ()) = tokio::join!(flip(&purple_flea), async {
            purple_flea.reached(1).await;
            assert_eq!(purple_flea.bets().len(), 1);
            assert!(started.elapsed() < delay);
        });
        assert_eq!(reply?.status(), 200);
        assert!(started.elapsed() >= delay);
        Ok(())
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_the_right_answer() -> Result<()> {
        let purple_flea = PurpleFlea::start().await?;
        purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Stall });
        let uri: http::Uri = format!("{}/api/v1/games/coin-flip", purple_flea.url).parse()?;
        let request = http::Request::post(uri.clone()).body(Full::new(Bytes::from(BODY)))?;
        let mut sender = http1::connect(&uri).await?;
        let reply =
            in_time(async { Ok(sender.send_request(http1::in_origin_form(request)?).await?) }).await?;
        assert_eq!(reply.status(), 401);
        Ok(())
    }

    /// Asks with the key for something; its status, or `None` where no answer came.
    async fn ask(purple_flea: &PurpleFlea, method: &str, path: &str, body: &str) -> Option<u16> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", purple_flea.url))
            .header("authorization", format!("Bearer {KEY}"))
            .body(body.into());
        let reply = in_time(async { http1::send(request?).await }).await;
        reply.ok().map(|reply| reply.status().as_u16())
    }

    const ESCROW: &str = r#"{"amount_usd":10,"description":"A logo","counterparty_agent_id":"agent-001"}"#;
    const TRADE: &str = r#"{"market":"BTC","size":10}"#;
    const CLAIM: &str = r#"{"agent_id":"agent-002"}"#;

    #[tokio::test]
    async fn a_fault_after_the_thing_was_done_has_done_it_in_every_service() -> Result<()> {
        let purple_flea = rich().await?;
        purple_flea.fund("agent-001", 0.into());
        purple_flea.register("agent-002");
        for (after_the_bet, done) in [(false, 0), (true, 1)] {
            let calls = [("/escrow/create", ESCROW), ("/trade", TRADE), ("/faucet/claim", CLAIM)];
            for (path, body) in calls {
                purple_flea.misbehave_once(Fault { after_the_bet, how: How::Reset });
                assert_eq!(ask(&purple_flea, "POST", path, body).await, None);
            }
            assert_eq!((purple_flea.escrows().len(), purple_flea.positions().len()), (done, done));
            assert_eq!(purple_flea.balance("agent-002"), done.into());
        }
        assert_eq!(purple_flea.balance(LIVE_AGENT), 999_990.into());
        Ok(())
    }

    #[test]
    fn chance_meets_what_moves_money_and_the_history_and_nothing_else() {
        let mut state = State::default();
        let chaos = Chaos { seed: 1, per_mille: 1_000 };
        state.chaos = Some(crate::purple_flea::chaos::Dice::new(chaos));
        for (method, path, met) in [
            ("POST", "/api/v1/games/crash", true),
            ("POST", "/casino/coin-flip", true),
            ("POST", "/escrow/create", true),
            ("POST", "/escrow/esc_1/cancel", true),
            ("POST", "/escrow/dispute/esc_1", true),
            ("POST", "/faucet/claim", true),
            ("POST", "/api/claim", true),
            ("POST", "/trade", true),
            ("POST", "/v1/trade/open", true),
            ("GET", "/api/v1/bets/export.csv", true),
            ("POST", "/api/v1/auth/register", false),
            ("POST", "/api/v1/fairness/rotate", false),
            ("GET", "/api/v1/auth/balance", false),
            ("GET", "/escrow/esc_1", false),
            ("GET", "/nowhere", false),
        ] {
            let request = Request { path: path.to_owned(), ..Request::default() };
            let kind = kind(&method.parse().unwrap(), &request);
            assert_eq!(next_fault(&mut state, kind).is_some(), met, "{path}");
        }
    }

    #[tokio::test]
    async fn time_can_be_passed_and_accounts_be_looked_at() -> Result<()> {
        let purple_flea = rich().await?;
        let key = purple_flea.register("agent-001");
        assert_eq!(
            (purple_flea.register("agent-001"), purple_flea.owner_of(&key)),
            (key, Some("agent-001".to_owned()))
        );
        assert_eq!(purple_flea.owner_of(KEY).as_deref(), Some(LIVE_AGENT));
        assert_eq!(ask(&purple_flea, "POST", "/escrow/create", ESCROW).await, Some(201));
        purple_flea.advance(Duration::from_secs(24 * 3_600));
        assert_eq!(purple_flea.escrows()[0].status, "refunded");
        assert_eq!(purple_flea.balances()[LIVE_AGENT].normalize().to_string(), "999999.9");
        let names: Vec<_> = purple_flea.accounts().into_iter().map(|account| account.agent_id).collect();
        assert_eq!(names, [LIVE_AGENT, "agent-001"]);
        assert!(purple_flea.account("nobody").is_none());
        purple_flea.limit(Some(Limits { registrations: 1, ..Limits::default() }));
        let register = "/api/v1/auth/register";
        assert_eq!(ask(&purple_flea, "POST", register, "").await, Some(201));
        assert_eq!(ask(&purple_flea, "POST", register, "").await, Some(429));
        assert_eq!(purple_flea.refused_for_rate(), 1);
        Ok(())
    }
}
