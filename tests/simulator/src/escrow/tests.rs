use super::*;
use crate::{
    LIVE_AGENT,
    testing::{THEM, as_agent, funded, get, post},
};
use http::Method;
use std::time::Duration;

const CREATE: &str = "/escrow/create";

/// Makes a `live` escrow of ten dollars, from the shared key to the second agent, and gives its id.
fn made(state: &mut State, more: &str) -> String {
    let body =
        format!(r#"{{"amount_usd":10,"description":"A logo","counterparty_agent_id":"ag_them"{more}}}"#);
    let (status, reply) = post(state, CREATE, &body);
    assert_eq!(status, 201, "{reply}");
    reply["escrow_id"].as_str().unwrap().to_owned()
}

/// Makes the same escrow in the gateway, from agent-001 to agent-002.
fn made_in_the_gateway(state: &mut State, more: &str) -> String {
    state.accounts.open("agent-002");
    let body = format!(
        r#"{{"agent_id":"agent-001","amount_usdc":10,"description":"A logo","counterparty_agent_id":"agent-002"{more}}}"#
    );
    let (status, reply) = post(state, CREATE, &body);
    assert_eq!((status, &reply["status"]), (201, &json!("funded")), "{reply}");
    reply["id"].as_str().unwrap().to_owned()
}

fn balance(state: &State, agent: &str) -> String {
    state.accounts.balance(agent).normalize().to_string()
}

/// Gives the status and the error code of a refusal.
fn refusal((status, reply): (u16, Value)) -> (u16, String) {
    (status, reply["error"].as_str().unwrap_or_default().to_owned())
}

fn invalid_status() -> (u16, String) {
    (409, "invalid_status".to_owned())
}

#[test]
fn a_live_escrow_is_answered_as_documented_and_debits_its_creator() {
    let mut state = funded();
    let body =
        r#"{"amount_usd":"10","description":"A logo","counterparty_agent_id":"ag_them","agent_id":"x"}"#;
    let (status, reply) = post(&mut state, CREATE, body);
    assert_eq!(
        (status, reply["commission_usd"].to_string(), reply["net_to_counterparty"].to_string()),
        (201, "0.1".to_owned(), "9.9".to_owned())
    );
    assert_eq!((&reply["creator_id"], &reply["counterparty_id"]), (&json!(LIVE_AGENT), &json!(THEM)));
    assert_eq!((&reply["status"], &reply["timeout_hours"]), (&json!("funded"), &json!(24)));
    let id = reply["escrow_id"].as_str().unwrap();
    assert!(id.len() == 20 && reply["next_steps"]["counterparty"] == format!("POST /escrow/complete/{id}"));
    assert_eq!((balance(&state, LIVE_AGENT), balance(&state, THEM)), ("990".to_owned(), "1000".to_owned()));
    made(&mut state, "");
    assert_eq!(balance(&state, LIVE_AGENT), "980", "asked twice it makes two");
}

#[test]
fn a_live_escrow_goes_from_funded_to_completed_to_released_and_each_step_is_its_owners() {
    let mut state = funded();
    let (theirs, others) =
        (state.accounts.give_key(THEM, "sk_live_"), state.accounts.give_key("ag_other", "sk_live_"));
    let id = made(&mut state, "");
    let (complete, release) = (format!("/escrow/complete/{id}"), format!("/escrow/release/{id}"));
    let step = |state: &mut State, key: &str, path: &str| as_agent(state, key, Method::POST, path, "{}");
    for (key, path) in [(others.as_str(), &complete), (&theirs, &release), (&others, &release)] {
        assert_eq!(refusal(step(&mut state, key, path)), (403, "forbidden".to_owned()));
    }
    assert_eq!(refusal(post(&mut state, &complete, "")), (403, "forbidden".to_owned()));
    let (status, completed) = step(&mut state, &theirs, &complete);
    assert_eq!((status, &completed["status"]), (200, &json!("completed")));
    assert_eq!(refusal(step(&mut state, &theirs, &complete)), invalid_status());
    let (status, released) = post(&mut state, &release, "");
    assert_eq!(
        (status, &released["status"], released["amount_released"].to_string().as_str()),
        (200, &json!("released"), "9.9")
    );
    assert_eq!(
        (&released["commission"].to_string(), &released["referral_commission"].to_string()),
        (&"0.1".to_owned(), &"0".to_owned())
    );
    assert_eq!(refusal(post(&mut state, &release, "")), invalid_status());
    assert_eq!(balance(&state, THEM), "1009.9", "a second release pays nothing");
    let (_, shown) = get(&mut state, &format!("/escrow/{id}"));
    let events: Vec<_> =
        shown["events"].as_array().unwrap().iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!((&shown["status"], events), (&json!("released"), vec!["created", "completed", "released"]));
    for key in [others.as_str(), ""] {
        let (status, shown) = as_agent(&mut state, key, Method::GET, &format!("/escrow/{id}"), "");
        assert_eq!((status, shown.get("events")), (200, None));
    }
}

#[test]
fn a_referral_earns_15_percent_of_the_commission_of_what_is_released() {
    let mut state = funded();
    let code = state.accounts.open("boss").referral_code.clone();
    let id = made(&mut state, &format!(r#","referral_code":"{code}""#));
    let (_, released) = post(&mut state, &format!("/escrow/release/{id}"), "");
    assert_eq!(released["referral_commission"].to_string(), "0.015");
    assert_eq!((balance(&state, "boss"), balance(&state, THEM)), ("0.015".to_owned(), "1009.9".to_owned()));
    let id = made(&mut state, r#","referral_code":"ref_unknown""#);
    let (_, released) = post(&mut state, &format!("/escrow/release/{id}"), "");
    assert_eq!(released["referral_commission"].to_string(), "0");
}

#[test]
fn at_its_timeout_the_creator_gets_it_back_less_one_percent() {
    let mut state = funded();
    let id = made(&mut state, r#","timeout_hours":1.9"#);
    let released = made(&mut state, r#","timeout_hours":0"#);
    assert_eq!(post(&mut state, &format!("/escrow/release/{released}"), "").0, 200);
    state.clock_ahead += Duration::from_secs(3_599);
    state.settle();
    assert_eq!(balance(&state, LIVE_AGENT), "980");
    state.clock_ahead += Duration::from_secs(1);
    let (_, shown) = get(&mut state, &format!("/escrow/{id}"));
    assert_eq!((&shown["status"], &shown["timeout_hours"]), (&json!("refunded"), &json!(1)));
    assert_eq!(
        (balance(&state, LIVE_AGENT), balance(&state, THEM)),
        ("989.9".to_owned(), "1009.9".to_owned())
    );
    for path in ["release", "dispute"] {
        assert_eq!(refusal(post(&mut state, &format!("/escrow/{path}/{id}"), "")), invalid_status());
    }
}

#[test]
fn only_a_release_tells_the_referrers_part_and_a_timeout_pays_it_too() {
    let mut state = funded();
    let code = state.accounts.open("boss").referral_code.clone();
    let body = json!({
        "amount_usd": 10, "description": "A logo", "counterparty_agent_id": THEM, "referral_code": code,
    });
    let (_, made) = post(&mut state, CREATE, &body.to_string());
    let path = format!("/escrow/{}", made["escrow_id"].as_str().unwrap());
    let (_, shown) = get(&mut state, &path);
    for reply in [&made, &shown] {
        assert_eq!(reply.get("referral_commission"), None, "{reply}");
        assert!(reply["auto_release_at"].as_str().unwrap().ends_with(".000Z"), "{reply}");
    }
    state.clock_ahead += Duration::from_secs(24 * 3_600);
    let (_, refunded) = get(&mut state, &path);
    assert_eq!((&refunded["status"], refunded.get("referral_commission")), (&json!("refunded"), None));
    assert!(refunded["released_at"].is_string() && refunded["completed_at"].is_null(), "{refunded}");
    assert_eq!(
        (balance(&state, "boss"), balance(&state, LIVE_AGENT)),
        ("0.015".to_owned(), "999.9".to_owned())
    );
}

#[test]
fn without_a_code_the_creators_own_referrer_earns_and_nobody_refers_himself() {
    let mut state = funded();
    state.accounts.open("boss");
    state.accounts.open(LIVE_AGENT).referred_by = Some("boss".to_owned());
    let own = state.accounts.open(LIVE_AGENT).referral_code.clone();
    for (more, earned) in [(String::new(), "0.015"), (format!(r#","referral_code":"{own}""#), "0")] {
        let id = made(&mut state, &more);
        let (_, released) = post(&mut state, &format!("/escrow/release/{id}"), "");
        assert_eq!(released["referral_commission"].to_string(), earned, "{more}");
    }
}

#[test]
fn a_dispute_is_for_good() {
    let mut state = funded();
    let key = state.accounts.give_key(THEM, "sk_live_");
    let id = made(&mut state, "");
    let dispute = format!("/escrow/dispute/{id}");
    let (status, reply) = as_agent(&mut state, &key, Method::POST, &dispute, r#"{"reason":"late"}"#);
    assert_eq!((status, &reply["status"], &reply["reason"]), (200, &json!("disputed"), &json!("late")));
    assert!(get(&mut state, &format!("/escrow/{id}")).1["disputed_at"].is_string());
    for path in [&dispute, &format!("/escrow/release/{id}")] {
        assert_eq!(refusal(post(&mut state, path, "")), invalid_status());
    }
    state.clock_ahead += Duration::from_secs(800 * 3_600);
    state.settle();
    assert_eq!((state.escrows.all[0].status, balance(&state, LIVE_AGENT)), ("disputed", "990".to_owned()));
    let (_, stats) = as_agent(&mut state, "", Method::GET, "/escrow/stats", "");
    assert_eq!((&stats["total_created"], &stats["total_disputed"]), (&json!(1), &json!(1)));
}

#[test]
fn refusals_are_the_documented_ones_and_take_nothing() {
    let mut state = funded();
    let to = r#""counterparty_agent_id":"ag_them""#;
    for (body, status, error) in [
        ("{", 400, "invalid_amount"),
        ("null", 500, "internal_error"),
        (r#"{"amount_usd":0.09,"description":"A logo"}"#, 400, "invalid_amount"),
        (r#"{"amount_usd":"many"}"#, 400, "invalid_amount"),
        (r#"{"amount_usd":1,"description":"ab"}"#, 400, "invalid_description"),
        (r#"{"amount_usd":1}"#, 400, "invalid_description"),
        (r#"{"amount_usd":1,"description":7}"#, 500, "internal_error"),
        (r#"{"amount_usd":1,"description":"abc"}"#, 400, "invalid_counterparty"),
        (r#"{"amount_usd":1,"description":"abc","counterparty_agent_id":7}"#, 500, "internal_error"),
        (
            r#"{"amount_usd":1,"description":"abc","counterparty_agent_id":"agent-001"}"#,
            400,
            "invalid_counterparty",
        ),
        (
            &format!(r#"{{"amount_usd":1,"description":"abc","counterparty_agent_id":"{LIVE_AGENT}"}}"#),
            400,
            "self_escrow",
        ),
        (
            r#"{"amount_usd":1,"description":"abc","counterparty_agent_id":"ag_1"}"#,
            404,
            "counterparty_not_found",
        ),
        (&format!(r#"{{"amount_usd":1000.01,"description":"abc",{to}}}"#), 402, "insufficient_balance"),
        (
            &format!(r#"{{"amount_usd":1,"description":"abc","timeout_hours":"soon",{to}}}"#),
            500,
            "internal_error",
        ),
    ] {
        assert_eq!(refusal(post(&mut state, CREATE, body)), (status, error.to_owned()), "{body}");
    }
    let (_, poor) =
        post(&mut state, CREATE, &format!(r#"{{"amount_usd":1000.01,"description":"abc",{to}}}"#));
    assert_eq!(poor["balance"].to_string(), "1000");
    assert_eq!((state.escrows.all.len(), balance(&state, LIVE_AGENT)), (0, "1000".to_owned()));
    for (method, path) in [
        (Method::POST, "/escrow/release/esc_0000000000000001"),
        (Method::POST, "/escrow/dispute/esc_0"),
        (Method::GET, "/escrow/1"),
    ] {
        assert_eq!(refusal(as_agent(&mut state, crate::KEY, method, path, "")).1, "not_found");
    }
    let (_, nobody) = as_agent(&mut state, "", Method::POST, CREATE, "{}");
    let (_, terse) = as_agent(&mut state, "", Method::POST, "/escrow/release/esc_1", "{}");
    assert_eq!((nobody["message"].is_string(), terse.get("message")), (true, None));
}

#[test]
fn the_gateways_escrow_speaks_of_usdc_and_is_released_by_its_creator() {
    let mut state = funded();
    let code = state.accounts.open("boss").referral_code.clone();
    let id = made_in_the_gateway(&mut state, &format!(r#","referral_code":"{code}""#));
    let path = format!("/escrow/{id}/release");
    assert_eq!(refusal(post(&mut state, &path, r#"{"agent_id":"agent-002"}"#)).0, 403);
    let (status, released) = post(&mut state, &path, r#"{"agent_id":"agent-001"}"#);
    let documented =
        format!(r#"{{"fee_usdc":0.1,"id":"{id}","net_usdc":9.9,"referral_usdc":0.015,"status":"released"}}"#);
    let mut plain = released.clone();
    plain.as_object_mut().unwrap().remove("_info");
    assert_eq!((status, plain.to_string()), (200, documented));
    assert_eq!(
        (balance(&state, "agent-001"), balance(&state, "agent-002"), balance(&state, "boss")),
        ("990".to_owned(), "9.9".to_owned(), "0.015".to_owned())
    );
    assert_eq!(refusal(post(&mut state, &path, "")), invalid_status());
    let (_, shown) = get(&mut state, &format!("/escrow/{id}"));
    assert_eq!(
        (&shown["id"], &shown["status"], shown["fee_usdc"].to_string()),
        (&json!(id), &json!("released"), "0.1".to_owned())
    );
    assert!(shown["events"].is_array());
}

#[test]
fn a_cancelled_escrow_gives_all_of_it_back_once() {
    let mut state = funded();
    let id = made_in_the_gateway(&mut state, "");
    let path = format!("/escrow/{id}/cancel");
    let (status, cancelled) = post(&mut state, &path, "{}");
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
    assert_eq!(refusal(post(&mut state, &path, "{}")), invalid_status());
    assert_eq!(refusal(post(&mut state, &format!("/escrow/{id}/release"), "{}")), invalid_status());
    state.clock_ahead += Duration::from_secs(25 * 3_600);
    state.settle();
    assert_eq!(balance(&state, "agent-001"), "1000");
    let address = r#"{"agent_id":"agent-001","amount_usdc":2000,"counterparty_address":"agent-002","description":"abc"}"#;
    assert_eq!(refusal(post(&mut state, CREATE, address)), (402, "insufficient_balance".to_owned()));
    let nobody =
        r#"{"agent_id":"nobody","amount_usdc":2,"counterparty_address":"agent-002","description":"abc"}"#;
    assert_eq!(refusal(post(&mut state, CREATE, nobody)), (400, "unknown_agent".to_owned()));
}

#[test]
fn an_escrow_keeps_its_idempotency_key() {
    let mut state = funded();
    let body = r#"{"amount_usd":1,"description":"abc","counterparty_agent_id":"ag_them"}"#;
    crate::testing::send(&mut state, Method::POST, CREATE, body, &[("idempotency-key", "escrow-7")]);
    assert_eq!(state.escrows.all[0].idempotency_key.as_deref(), Some("escrow-7"));
}
