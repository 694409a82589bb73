use super::*;
use crate::{
    KEY,
    testing::{as_agent, funded, post, send},
};
use http::Method;

const OPEN: &str = "/v1/trade/open";
const CLOSE: &str = "/v1/trade/close";
const BTC: &str = r#"{"coin":"BTC","side":"long","size_usd":100}"#;

fn ask(state: &mut State, path: &str, body: &str) -> (u16, Value) {
    as_agent(state, TRADING_KEY, Method::POST, path, body)
}

#[test]
fn the_documented_position_comes_out_to_the_cent() {
    let mut state = funded();
    let (status, reply) = ask(&mut state, OPEN, BTC);
    assert_eq!(status, 200, "{reply}");
    for (name, value) in [
        ("size_usd", "100.27"),
        ("entry_price", "65536"),
        ("leverage", "5"),
        ("max_leverage", "50"),
        ("margin_used", "20.05"),
        ("liquidation_price", "52756.48"),
        ("fee", "0.06"),
        ("status", "\"open\""),
    ] {
        assert_eq!(reply[name].to_string(), value, "{name}");
    }
    assert_eq!(reply["fee_breakdown"].to_string(), r#"{"hyperliquid":0.04,"purple_flea_builder":0.02}"#);
    let position = &state.trading.positions[0];
    assert_eq!(
        (position.agent_id.as_str(), position.market, position.asked),
        (LIVE_AGENT, "BTC", 100.into())
    );
    assert_eq!(state.accounts.balance(LIVE_AGENT), 1_000.into(), "no balance moves by it");
    ask(&mut state, OPEN, BTC);
    assert_eq!(state.trading.positions.len(), 2, "asked twice it opens two");
}

#[test]
fn a_position_is_closed_once_and_by_its_owner() {
    let mut state = funded();
    let (_, opened) = ask(&mut state, OPEN, r#"{"coin":"ETH","side":"short","size_usd":20,"leverage":25}"#);
    assert_eq!(opened["leverage"].to_string(), "10");
    let body = json!({"position_id": opened["position_id"]}).to_string();
    state.trading.keys.insert("other".to_owned(), "ag_other".to_owned());
    assert_eq!(as_agent(&mut state, "other", Method::POST, CLOSE, &body).0, 404);
    let list = |state: &mut State| {
        as_agent(state, TRADING_KEY, Method::GET, "/v1/trade/positions", "").1["count"].clone()
    };
    assert_eq!(list(&mut state), 1);
    let (status, closed) = ask(&mut state, CLOSE, &body);
    assert_eq!(
        (status, &closed["status"], &closed["exit_price"]),
        (200, &json!("closed"), &opened["entry_price"])
    );
    assert_eq!(list(&mut state), 0);
    let (status, again) = ask(&mut state, CLOSE, &body);
    assert_eq!((status, &again["error"]), (404, &json!("position_not_found")));
    assert_eq!(ask(&mut state, CLOSE, "{}").1["error"], "invalid_request");
}

#[test]
fn live_refusals_are_the_documented_ones_and_open_nothing() {
    let mut state = funded();
    for (body, error) in [
        ("{", "invalid_json"),
        ("{}", "invalid_request"),
        (r#"{"coin":"BTC","side":"long"}"#, "invalid_request"),
        (r#"{"coin":"BTC","side":"buy","size_usd":100}"#, "invalid_side"),
        (r#"{"coin":"BTC","side":"long","size_usd":"100"}"#, "invalid_size"),
        (r#"{"coin":"BTC","side":"long","size_usd":0}"#, "invalid_size"),
        (r#"{"coin":"BTC","side":"long","size_usd":100,"leverage":0.5}"#, "invalid_leverage"),
        (r#"{"coin":"BTC","side":"long","size_usd":10000.01}"#, "position_too_large"),
        (r#"{"coin":"BTC-USD","side":"long","size_usd":100}"#, "trade_failed"),
        (r#"{"coin":"BTC","side":"long","size_usd":0.99}"#, "trade_failed"),
    ] {
        let (status, reply) = ask(&mut state, OPEN, body);
        assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
    }
    assert_eq!(ask(&mut state, OPEN, "null").0, 500);
    for (standing, status, error) in [
        (Standing::NoWallet, 400, "wallet_not_configured"),
        (Standing::LossLimit, 403, "daily_loss_limit_reached"),
    ] {
        state.trading.standing = standing;
        let (refused, reply) = ask(&mut state, OPEN, BTC);
        assert_eq!((refused, &reply["error"]), (status, &json!(error)));
    }
    assert!(state.trading.positions.is_empty());
}

#[test]
fn live_trading_refuses_the_casinos_keys_and_no_other_service_takes_a_trading_key() {
    let mut state = funded();
    let own = state.accounts.give_key("agent-001", "sk_live_");
    for key in [KEY, own.as_str()] {
        let (status, reply) = as_agent(&mut state, key, Method::POST, OPEN, BTC);
        assert_eq!((status, &reply["error"]), (401, &json!("invalid_key")));
    }
    assert_eq!(as_agent(&mut state, "", Method::POST, OPEN, BTC).1["error"], "unauthorized");
    let flip = r#"{"side":"heads","amount":1}"#;
    assert_eq!(ask(&mut state, "/api/v1/games/coin-flip", flip).0, 401);
    assert_eq!(ask(&mut state, "/escrow/create", "{}").0, 401);
}

#[test]
fn both_routes_of_the_gateway_fill_the_asked_size() {
    let mut state = funded();
    let body = r#"{"agent_id":"agent-001","market":"BTC-USD","size":25.5}"#;
    let (status, traded) = send(&mut state, Method::POST, "/trade", body, &[("idempotency-key", "trade-7")]);
    assert_eq!((status, &traded["status"], &traded["side"]), (200, &json!("open"), &json!("long")));
    assert_eq!((&traded["market"], traded["size"].to_string()), (&json!("BTC-USD"), "25.5".to_owned()));
    let body = r#"{"asset":"ETH","side":"sell","size_usdc":10,"order_type":"market"}"#;
    let (status, ordered) = post(&mut state, "/trading/order", body);
    assert_eq!((status, &ordered["status"], &ordered["side"]), (200, &json!("filled"), &json!("sell")));
    let [first, second] = &state.trading.positions[..] else { panic!() };
    assert_eq!((first.agent_id.as_str(), first.idempotency_key.as_deref()), ("agent-001", Some("trade-7")));
    assert_eq!((second.agent_id.as_str(), second.side), (LIVE_AGENT, "short"));
    assert_ne!(traded["id"], ordered["id"]);
}

#[test]
fn the_gateway_says_which_market_or_side_it_does_not_know() {
    let mut state = funded();
    for (path, body, error) in [
        ("/trade", r#"{"market":"DOGE","size":1}"#, "unknown_market"),
        ("/trade", r#"{"size":1}"#, "unknown_market"),
        ("/trade", r#"{"market":"BTC","size":1,"side":"buy"}"#, "invalid_side"),
        ("/trade", r#"{"market":"BTC","size":"1"}"#, "invalid_size"),
        ("/trade", "{", "invalid_json"),
        ("/trading/order", r#"{"asset":"BTC","side":"long","size_usdc":1}"#, "invalid_side"),
        ("/trading/order", r#"{"asset":"BTC","side":"buy","order_type":"stop"}"#, "invalid_order_type"),
    ] {
        let (status, reply) = post(&mut state, path, body);
        assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
    }
    assert!(state.trading.positions.is_empty());
}
