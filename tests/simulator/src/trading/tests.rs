use super::*;
use crate::{
    KEY,
    testing::{as_agent, funded, post, send},
};
use http::Method;

const OPEN: &str = "/v1/trade/open";
const CLOSE: &str = "/v1/trade/close";
const POSITIONS: &str = "/v1/trade/positions";
const HISTORY: &str = "/v1/trade/history";
const BTC: &str = r#"{"coin":"BTC","side":"long","size_usd":100}"#;

fn ask(state: &mut State, path: &str, body: &str) -> (u16, Value) {
    as_agent(state, TRADING_KEY, Method::POST, path, body)
}

fn shown(state: &mut State, path: &str) -> Value {
    as_agent(state, TRADING_KEY, Method::GET, path, "").1
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
fn a_position_is_closed_once_and_by_its_owner_at_the_markets_price() {
    let mut state = funded();
    let (_, opened) = ask(&mut state, OPEN, r#"{"coin":"ETH","side":"short","size_usd":20,"leverage":25}"#);
    assert_eq!(opened["leverage"].to_string(), "10");
    let body = json!({"position_id": opened["position_id"]}).to_string();
    state.trading.keys.insert("other".to_owned(), "ag_other".to_owned());
    assert_eq!(as_agent(&mut state, "other", Method::POST, CLOSE, &body).0, 404);
    assert_eq!(shown(&mut state, POSITIONS)["count"], 1);
    state.trading.prices.set("ETH", 3_520.into());
    let (status, closed) = ask(&mut state, CLOSE, &body);
    assert_eq!((status, &closed["status"], &closed["ticker"]), (200, &json!("closed"), &json!("ETH")));
    for (name, value) in [
        ("entry_price", "3200"),
        ("exit_price", "3520"),
        ("pnl", "-2.02"),
        ("pnl_percent", "10"),
        ("fee", "0.01"),
    ] {
        assert_eq!(closed[name].to_string(), value, "{name}");
    }
    assert_eq!(shown(&mut state, POSITIONS)["count"], 0);
    let (status, again) = ask(&mut state, CLOSE, &body);
    assert_eq!((status, &again["error"], again.get("message")), (404, &json!("position_not_found"), None));
    for nothing in ["{}", r#"{"position_id":""}"#] {
        assert_eq!(ask(&mut state, CLOSE, nothing).1["error"], "provide position_id");
    }
    assert_eq!(ask(&mut state, CLOSE, r#"{"position_id":7}"#).0, 404);
}

#[test]
fn the_history_shows_both_fills_of_a_closed_position_and_the_list_of_all_its_profit() {
    let mut state = funded();
    let (_, first) = ask(&mut state, OPEN, BTC);
    ask(&mut state, OPEN, r#"{"coin":"tsla","side":"short","size_usd":50}"#);
    state.trading.prices.set("BTC", Decimal::new(720_896, 1));
    ask(&mut state, CLOSE, &json!({"position_id": first["position_id"]}).to_string());
    let history = shown(&mut state, HISTORY);
    assert_eq!(history["count"], 3);
    let seen: Vec<_> = history["trades"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            ["coin", "side", "sizeUsd", "price", "realizedPnl"].map(|name| row[name].to_string()).join(" ")
        })
        .collect();
    let expected = [
        r#""BTC" "sell" 100.27 72089.6 10.03"#,
        r#""xyz:TSLA" "sell" 50 250 0"#,
        r#""BTC" "buy" 100.27 65536 0"#,
    ];
    assert_eq!(seen, expected);
    let names: Vec<_> = history["trades"][0].as_object().unwrap().keys().map(String::as_str).collect();
    let documented =
        ["agentId", "coin", "createdAt", "fee", "id", "orderId", "price", "realizedPnl", "side", "sizeUsd"];
    assert_eq!(names, documented);
    assert_eq!(history["trades"][2]["orderId"], first["order_id"]);
    assert_eq!(shown(&mut state, &format!("{HISTORY}?limit=1"))["count"], 1);
    assert_eq!(shown(&mut state, &format!("{HISTORY}?limit=few"))["count"], 3);
    let all = shown(&mut state, &format!("{POSITIONS}?status=all"));
    let closed = &all["positions"][1];
    assert_eq!((&closed["id"], &closed["status"]), (&first["position_id"], &json!("closed")));
    assert_eq!(
        (closed["unrealizedPnl"].to_string(), closed["closedAt"].is_u64()),
        ("10.03".to_owned(), true)
    );
    assert_eq!(shown(&mut state, POSITIONS)["positions"][0]["ticker"], "TSLA");
}

#[test]
fn the_tier_caps_the_leverage_and_the_market_refuses_it() {
    let mut state = funded();
    for (coin, leverage, message) in
        [("ZEC", "null", "Max leverage for ZEC is 3x"), ("zec", "4", "Max leverage for ZEC is 3x")]
    {
        let body = format!(r#"{{"coin":"{coin}","side":"long","size_usd":64,"leverage":{leverage}}}"#);
        let (status, reply) = ask(&mut state, OPEN, &body);
        assert_eq!(
            (status, &reply["error"], &reply["message"]),
            (400, &json!("trade_failed"), &json!(message))
        );
    }
    for (coin, leverage, got) in
        [("ZEC", "3", "3"), ("BTC", "null", "5"), ("BTC", "50", "10"), ("BTC", "2.5", "2.5")]
    {
        let body = format!(r#"{{"coin":"{coin}","side":"long","size_usd":64,"leverage":{leverage}}}"#);
        assert_eq!(ask(&mut state, OPEN, &body).1["leverage"].to_string(), got, "{coin} {leverage}");
    }
}

#[test]
fn a_market_opens_in_any_case_under_its_canonical_name() {
    let mut state = funded();
    for (coin, canonical, ticker, dex) in [
        ("btc", "BTC", "BTC", "main"),
        ("xyz:TSLA", "xyz:TSLA", "TSLA", "xyz"),
        ("gold", "xyz:GOLD", "GOLD", "xyz"),
    ] {
        let (status, reply) =
            ask(&mut state, OPEN, &format!(r#"{{"coin":"{coin}","side":"long","size_usd":100}}"#));
        assert_eq!(
            (status, &reply["coin"], &reply["ticker"], &reply["dex"]),
            (200, &json!(canonical), &json!(ticker), &json!(dex))
        );
    }
    let (_, gateway) = post(&mut state, "/trade", r#"{"agent_id":"agent-001","market":"eth-usd","size":5}"#);
    assert_eq!((&gateway["market"], state.trading.positions[3].market), (&json!("eth-usd"), "ETH"));
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
        (r#"{"coin":"BTC","side":"buy","size_usd":"100"}"#, "invalid_size"),
        (r#"{"coin":"BTC","side":"long","size_usd":-1}"#, "invalid_size"),
        (r#"{"coin":"BTC","side":"long","size_usd":0}"#, "invalid_request"),
        (r#"{"coin":7,"side":"long","size_usd":100}"#, "trade_failed"),
        (r#"{"coin":"BTC","side":"long","size_usd":100,"leverage":0.5}"#, "invalid_leverage"),
        (r#"{"coin":"BTC","side":"long","size_usd":10000.01}"#, "position_too_large"),
        (r#"{"coin":"BTC-USD","side":"long","size_usd":100}"#, "trade_failed"),
        (r#"{"coin":"BTC","side":"long","size_usd":0.99}"#, "trade_failed"),
    ] {
        let (status, reply) = ask(&mut state, OPEN, body);
        assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
    }
    for (body, message) in [
        (r#"{"coin":"doge","side":"long","size_usd":100}"#, "Market not found: DOGE"),
        (
            r#"{"coin":"BTC","side":"long","size_usd":0.3}"#,
            "Position size too small for BTC (min size: 0.00001 units)",
        ),
    ] {
        assert_eq!(ask(&mut state, OPEN, body).1["message"], message);
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
    let body = r#"{"asset":"ETH","side":"short","size_usdc":10,"order_type":"market"}"#;
    let (status, ordered) = post(&mut state, "/trading/order", body);
    assert_eq!((status, &ordered["status"], &ordered["side"]), (200, &json!("filled"), &json!("short")));
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
        ("/trading/order", r#"{"asset":"BTC","side":"buy","size_usdc":1}"#, "invalid_side"),
        ("/trading/order", r#"{"asset":"BTC","side":"long","order_type":"stop"}"#, "invalid_order_type"),
    ] {
        let (status, reply) = post(&mut state, path, body);
        assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
    }
    assert!(state.trading.positions.is_empty());
}
