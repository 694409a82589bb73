use super::*;
use crate::{Chaos, KEY, LIVE_AGENT, Limits, PurpleFlea, testing::in_time};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::time::Instant;
use tokio::io::AsyncWriteExt;

const BODY: &str = r#"{"side":"heads","amount":1,"client_seed":"mine"}"#;

/// Sends a request on a connection of its own. Gives the reply as soon as its headers have arrived.
async fn send(request: http::Request<&'static str>) -> Result<Response<Incoming>> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    Ok(client.request(request.map(Full::<Bytes>::from)).await?)
}

async fn flip(purple_flea: &PurpleFlea) -> Result<Response<Incoming>> {
    let request = http::Request::post(format!("{}/api/v1/games/coin-flip", purple_flea.url))
        .header("authorization", format!("Bearer {KEY}"))
        .body(BODY)?;
    in_time(send(request)).await
}

async fn rich() -> Result<PurpleFlea> {
    let purple_flea = PurpleFlea::start().await?;
    purple_flea.fund(LIVE_AGENT, 1_000_000.into());
    Ok(purple_flea)
}

#[tokio::test]
async fn a_caller_that_disconnects_has_still_made_its_bet() -> Result<()> {
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
async fn a_planned_fault_comes_before_random_faults() -> Result<()> {
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
async fn an_answer_in_pieces_is_the_right_answer() -> Result<()> {
    let purple_flea = PurpleFlea::start().await?;
    purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Stall });
    let request = http::Request::post(format!("{}/api/v1/games/coin-flip", purple_flea.url)).body(BODY)?;
    let reply = in_time(send(request)).await?;
    assert_eq!(reply.status(), 401);
    Ok(())
}

/// Sends a request with the shared key. Gives the status, or `None` without an answer.
async fn ask(purple_flea: &PurpleFlea, method: &str, path: &str, body: &'static str) -> Option<u16> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", purple_flea.url))
        .header("authorization", format!("Bearer {KEY}"))
        .body(body);
    // A reply with a broken body counts as no answer.
    let reply = in_time(async {
        let (head, body) = send(request?).await?.into_parts();
        body.collect().await?;
        Ok(head.status.as_u16())
    });
    reply.await.ok()
}

const ESCROW: &str = r#"{"amount_usd":10,"description":"A logo","counterparty_agent_id":"ag_them"}"#;
const TRADE: &str = r#"{"market":"BTC","size":10}"#;
const CLAIM: &str = r#"{"agent_id":"agent-002"}"#;

#[tokio::test]
async fn a_fault_after_the_execution_leaves_the_request_executed_in_every_service() -> Result<()> {
    let purple_flea = rich().await?;
    purple_flea.fund("ag_them", 0.into());
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
fn random_faults_hit_only_the_history_and_requests_that_move_money() {
    let mut state = State::default();
    let chaos = Chaos { seed: 1, per_mille: 1_000 };
    state.chaos = Some(crate::chaos::Dice::new(chaos));
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
async fn a_test_can_advance_the_clock_and_read_the_accounts() -> Result<()> {
    let purple_flea = rich().await?;
    let key = purple_flea.register("ag_them");
    assert_eq!(
        (purple_flea.register("ag_them"), purple_flea.owner_of(&key)),
        (key, Some("ag_them".to_owned()))
    );
    assert_eq!(purple_flea.owner_of(KEY).as_deref(), Some(LIVE_AGENT));
    assert_eq!(ask(&purple_flea, "POST", "/escrow/create", ESCROW).await, Some(201));
    purple_flea.advance(Duration::from_secs(24 * 3_600));
    assert_eq!(purple_flea.escrows()[0].status, "refunded");
    assert_eq!(purple_flea.balances()[LIVE_AGENT].normalize().to_string(), "999999.9");
    let names: Vec<_> = purple_flea.accounts().into_iter().map(|account| account.agent_id).collect();
    assert_eq!(names, [LIVE_AGENT, "ag_them"]);
    assert!(purple_flea.account("nobody").is_none());
    purple_flea.limit(Some(Limits { registrations: 1, ..Limits::default() }));
    let register = "/api/v1/auth/register";
    assert_eq!(ask(&purple_flea, "POST", register, "").await, Some(201));
    assert_eq!(ask(&purple_flea, "POST", register, "").await, Some(429));
    assert_eq!(purple_flea.refused_for_rate(), 1);
    Ok(())
}
