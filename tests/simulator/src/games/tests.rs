use super::*;
use crate::{
    KEY, Request, routes,
    testing::{as_agent, funded, last, post},
};
use http::{StatusCode, header::AUTHORIZATION};

const COIN_FLIP: &str = "/api/v1/games/coin-flip";
const CRASH: &str = "/api/v1/games/crash";
const MULTIPLIER: &str = "/api/v1/games/multiplier";

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

fn number_at(value: &Value) -> Decimal {
    number(value).expect("a JSON number")
}

const ENVELOPE: [&str; 11] = [
    "_info",
    "amount_bet",
    "amount_won",
    "bet_id",
    "game",
    "kelly",
    "new_balance",
    "payout_multiplier",
    "proof",
    "result",
    "won",
];

#[test]
fn a_live_crash_is_answered_in_the_documented_envelope() {
    let mut state = funded();
    let mut balance = Decimal::from(1_000);
    let mut wins = 0;
    for n in 0..50 {
        let body = format!(r#"{{"cash_out_at":1.53,"amount":1.25,"client_seed":"seed-{n}"}}"#);
        let (status, reply) = post(&mut state, CRASH, &body);
        assert_eq!(status, 200, "{reply}");
        assert_eq!(keys(&reply), ENVELOPE);
        assert_eq!(
            keys(&reply["result"]),
            ["cash_out_at", "cashed_out", "crash_point", "roll", "win_probability"]
        );
        assert_eq!(keys(&reply["proof"]), ["client_seed", "nonce", "result_hash", "server_seed_hash"]);
        assert_eq!(
            (&reply["proof"]["client_seed"], &reply["proof"]["nonce"]),
            (&json!(format!("seed-{n}")), &json!(n))
        );
        assert_eq!(
            (&reply["game"], reply["payout_multiplier"].to_string().as_str()),
            (&json!("crash"), "1.53")
        );
        let won = number_at(&reply["result"]["crash_point"]) >= Decimal::new(153, 2);
        wins += u32::from(won);
        assert_eq!((&reply["won"], &reply["result"]["cashed_out"]), (&json!(won), &json!(won)));
        // The reply is rounded, the balance is not.
        assert_eq!(reply["amount_won"].to_string(), if won { "1.91" } else { "0" });
        balance +=
            if won { Decimal::new(19_125, 4) } else { Decimal::ZERO } - number_at(&reply["amount_bet"]);
        assert_eq!(number_at(&reply["new_balance"]), cents(balance));
        let bet = &last(&mut state).bet;
        assert_eq!(
            (bet.game, bet.key(), bet.in_history),
            ("crash", Some(format!("seed-{n}").as_str()), true)
        );
        assert_eq!(bet.crash_point, number(&reply["result"]["crash_point"]));
        assert_eq!((bet.agent_id.as_str(), bet.won), (LIVE_AGENT, won));
    }
    assert!((20..45).contains(&wins), "{wins}");
    assert_eq!(state.accounts.balance(LIVE_AGENT), balance);
}

#[test]
fn a_live_coin_flip_tells_the_face_and_no_winner() {
    let mut state = funded();
    for _ in 0..10 {
        let (status, reply) =
            post(&mut state, COIN_FLIP, r#"{"side":"tails","amount":5,"agent_id":"agent-001"}"#);
        assert_eq!((status, keys(&reply)), (200, ENVELOPE.to_vec()));
        assert_eq!(keys(&reply["result"]), ["outcome", "roll", "side_chosen"]);
        let won = reply["result"]["outcome"] == "tails";
        assert_eq!((&reply["won"], &reply["game"]), (&json!(won), &json!("coin_flip")));
        assert_eq!(reply["amount_won"].to_string(), if won { "9.95" } else { "0" });
        assert_eq!(reply["payout_multiplier"].to_string(), "1.99");
        let seed = reply["proof"]["client_seed"].as_str().unwrap_or_default();
        assert!(seed.starts_with("auto_"), "{seed}");
        let bet = &last(&mut state).bet;
        assert_eq!((bet.game, bet.key(), bet.crash_point), ("coin-flip", None, None));
    }
    assert_eq!(state.accounts.balance("agent-001"), 1_000.into(), "the key decides whose bet it is");
}

#[test]
fn live_refusals_are_the_documented_ones_and_take_nothing() {
    let mut state = funded();
    for (path, body, error) in [
        (COIN_FLIP, r#"{"side":"heads"}"#, "invalid_amount"),
        (COIN_FLIP, r#"{"side":"heads","wager":5}"#, "invalid_amount"),
        (COIN_FLIP, r#"{"side":"heads","amount":"5"}"#, "invalid_amount"),
        (COIN_FLIP, r#"{"side":"heads","amount":0}"#, "invalid_amount"),
        (COIN_FLIP, r#"{"side":"heads","amount":-1}"#, "invalid_amount"),
        (COIN_FLIP, r#"{"side":"heads","amount":0.009}"#, "minimum_bet"),
        (COIN_FLIP, r#"{"side":"heads","amount":1000.01}"#, "insufficient_balance"),
        (COIN_FLIP, r#"{"side":"HEADS","amount":5}"#, "invalid_side"),
        (COIN_FLIP, r#"{"side":["heads"],"amount":5}"#, "invalid_side"),
        (COIN_FLIP, r#"{"amount":5}"#, "invalid_side"),
        (CRASH, r#"{"cash_out_at":1.009,"amount":5}"#, "invalid_cashout"),
        (CRASH, r#"{"cash_out_at":100.1,"amount":5}"#, "invalid_cashout"),
        (CRASH, r#"{"cashout_at":1.5,"amount":5}"#, "kelly_limit_exceeded"),
        (CRASH, r#"{"cash_out_at":"x","amount":5}"#, "kelly_limit_exceeded"),
        (CRASH, r#"{"cash_out_at":{},"amount":5}"#, "kelly_limit_exceeded"),
        (CRASH, r#"{"cash_out_at":"x","amount":2000}"#, "insufficient_balance"),
        (CRASH, r#"{"cash_out_at":null,"amount":5}"#, "invalid_cashout"),
        (CRASH, r#"{"cash_out_at":"","amount":5}"#, "invalid_cashout"),
        (CRASH, r#"{"cash_out_at":true,"amount":5}"#, "invalid_cashout"),
        (CRASH, r#"{"cash_out_at":101}"#, "invalid_cashout"),
        (CRASH, r#"{"cash_out_at":"x"}"#, "invalid_amount"),
        (COIN_FLIP, r#"{"side":"edge","amount":0}"#, "invalid_side"),
        (MULTIPLIER, r#"{"target_multiplier":1000.01,"amount":5}"#, "invalid_multiplier"),
        (MULTIPLIER, r#"{"cash_out_at":1.5,"amount":5}"#, "kelly_limit_exceeded"),
        (CRASH, r#"{"cash_out_at":1.5,"#, "invalid_json"),
        (CRASH, "", "invalid_json"),
    ] {
        let (status, reply) = post(&mut state, path, body);
        assert_eq!((status, &reply["error"]), (400, &json!(error)), "{body}");
        assert!(reply["_info"].is_object());
    }
    let (_, poor) = post(&mut state, CRASH, r#"{"cash_out_at":2,"amount":2e3}"#);
    assert_eq!(poor["required"].to_string(), "2000");
    assert_eq!(poor["message"], "Balance $1000.00 is less than bet $2000.00");
    assert_eq!(poor["suggestion"], "Deposit at least $1000.00 or reduce bet size");
    let (_, limited) = post(&mut state, CRASH, r#"{"amount":5}"#);
    assert!(limited["message"].as_str().is_some_and(|message| message.ends_with("Kelly limit of $NaN")));
    assert_eq!((limited.get("max_bet"), &limited["kelly"]["max_bet"]), (Some(&Value::Null), &Value::Null));
    assert_eq!(post(&mut state, CRASH, "null").0, 500);
    assert_eq!(post(&mut state, "/api/v1/games/dice", "{}").1["error"], "not_found");
    assert!(state.ledger.is_empty());
    assert_eq!(state.accounts.balance(LIVE_AGENT), 1_000.into());
    let nobody = post(&mut State::default(), COIN_FLIP, r#"{"side":"heads","amount":1}"#);
    assert_eq!((nobody.0, &nobody.1["error"]), (400, &json!("insufficient_balance")));
}

#[test]
fn the_key_is_compared_whole_and_with_the_schemes_case() {
    let mut state = funded();
    for key in [None, Some(format!("bearer {KEY}")), Some(KEY.to_owned()), Some(format!("Bearer {KEY}x"))] {
        let headers = key.iter().filter_map(|key| Some((AUTHORIZATION, key.parse().ok()?))).collect();
        let path = COIN_FLIP.to_owned();
        let body = r#"{"side":"heads","amount":1}"#.to_owned();
        let request = Request { path, query: String::new(), headers, body };
        assert_eq!(
            routes::answer(&mut state, &http::Method::POST, &request, false).status,
            StatusCode::UNAUTHORIZED
        );
    }
    assert!(state.ledger.is_empty());
}

#[test]
fn a_seed_that_cannot_be_written_costs_a_bet_and_leaves_no_row() {
    let mut state = funded();
    for (bets, seed) in (1..).zip([r#"{"a":1}"#, "{}", "true"]) {
        let body = format!(r#"{{"side":"heads","amount":5,"client_seed":{seed}}}"#);
        let (status, reply) = post(&mut state, COIN_FLIP, &body);
        assert_eq!((status, &reply["error"]), (500, &json!("internal_error")), "{seed}");
        assert_eq!((state.ledger.len(), last(&mut state).bet.in_history), (bets, false), "{seed}");
    }
    assert_ne!(state.accounts.balance(LIVE_AGENT), 1_000.into());
    let (_, reply) = post(&mut state, COIN_FLIP, r#"{"side":"heads","amount":5,"client_seed":7}"#);
    assert_eq!(reply["proof"]["client_seed"].to_string(), "7");
    assert!(last(&mut state).bet.in_history);
    post(&mut state, COIN_FLIP, r#"{"side":"heads","amount":5,"client_seed":["a",1]}"#);
    assert_eq!(last(&mut state).bet.key(), Some("a,1"));
    for seed in ["0", "false", "null", r#""""#] {
        let body = format!(r#"{{"side":"heads","amount":5,"client_seed":{seed}}}"#);
        let (_, reply) = post(&mut state, COIN_FLIP, &body);
        let shown = reply["proof"]["client_seed"].as_str().unwrap();
        assert!(shown.starts_with("auto_") && last(&mut state).bet.client_seed.is_none(), "{seed}: {shown}");
    }
}

#[test]
fn a_multiplier_is_a_crash_with_a_wider_range_and_another_result() {
    let mut state = funded();
    let body = r#"{"target_multiplier":1000,"amount":0.5,"client_seed":"m"}"#;
    let (status, reply) = post(&mut state, MULTIPLIER, body);
    assert_eq!((status, keys(&reply)), (200, ENVELOPE.to_vec()));
    assert_eq!(
        (&reply["game"], reply["payout_multiplier"].to_string()),
        (&json!("multiplier"), "1000".to_owned())
    );
    assert_eq!(keys(&reply["result"]), ["crash_point", "roll", "target_multiplier", "win_probability"]);
    let won = number_at(&reply["result"]["crash_point"]) >= 1_000.into();
    assert_eq!(reply["won"], won);
    let bet = &last(&mut state).bet;
    assert_eq!((bet.game, bet.key(), bet.crash_point.is_some()), ("multiplier", Some("m"), true));
}

#[test]
fn a_referrer_earns_a_tenth_of_a_loss_and_those_before_him_parts_of_it() {
    let mut state = funded();
    for (agent, referrer) in
        [(LIVE_AGENT, "first"), ("first", "second"), ("second", "third"), ("third", "fourth")]
    {
        state.accounts.open(referrer);
        state.accounts.open(agent).referred_by = Some(referrer.to_owned());
    }
    let mut lost = Decimal::ZERO;
    for _ in 0..20 {
        post(&mut state, COIN_FLIP, r#"{"side":"heads","amount":0.52}"#);
        lost += if last(&mut state).bet.won { Decimal::ZERO } else { Decimal::ONE };
    }
    assert!(lost > Decimal::ZERO);
    for (agent, cents_of_each) in [("first", 5), ("second", 3), ("third", 1), ("fourth", 0)] {
        let earned = lost * Decimal::new(cents_of_each, 2);
        assert_eq!(state.accounts.balance(agent), earned, "{agent}");
    }
    let before = state.accounts.balance("first");
    for body in [r#"{"side":"heads","amount":0.04}"#, r#"{"side":"heads","amount":5,"client_seed":true}"#] {
        for _ in 0..10 {
            post(&mut state, COIN_FLIP, body);
        }
    }
    assert_eq!(state.accounts.balance("first"), before, "less than a cent, or a bet without a row");
    let key = state.accounts.give_key("first", "sk_live_");
    let (_, ledger) = as_agent(&mut state, &key, http::Method::GET, "/api/v1/auth/ledger", "");
    let line = &ledger["entries"][0];
    assert!(line["reason"].as_str().unwrap().starts_with("referral_commission_l1:bet_"), "{line}");
    assert_eq!(line["reference"], Value::Null);
}

#[test]
fn a_cash_out_in_a_string_goes_back_in_one_and_the_gateway_refuses_it() {
    let mut state = funded();
    let (status, reply) = post(&mut state, CRASH, r#"{"cash_out_at":"1.5","amount":5}"#);
    assert_eq!((status, &reply["payout_multiplier"]), (200, &json!("1.5")));
    assert_eq!(reply["result"]["cash_out_at"], "1.5");
    let gateway = r#"{"agent_id":"agent-001","wager":5,"cashout_at":"1.5"}"#;
    assert_eq!(post(&mut state, "/casino/crash", gateway).1["error"], "invalid_cashout");
}

#[test]
fn both_dialects_share_the_house_and_the_ledger() {
    let mut state = funded();
    let (_, gateway) =
        post(&mut state, "/casino/crash", r#"{"agent_id":"agent-001","wager":10,"cashout_at":1.5}"#);
    let outcome = if last(&mut state).bet.won { "win" } else { "loss" };
    assert_eq!((&gateway["outcome"], &gateway["game"]), (&json!(outcome), &json!("crash")));
    let (_, live) = post(&mut state, CRASH, r#"{"cash_out_at":1.5,"amount":10}"#);
    assert_eq!((&gateway["bet_id"], &live["bet_id"]), (&json!("bet_00000001"), &json!("bet_00000002")));
    assert_eq!((live["proof"]["nonce"].as_u64(), state.ledger.len()), (Some(1), 2));
    let (_, flip) =
        post(&mut state, "/casino/coin-flip", r#"{"agent_id":"agent-001","wager":1,"side":"heads"}"#);
    assert_eq!(flip["won"], flip["outcome"] == "heads");
}

#[test]
fn a_live_hi_lo_deals_two_cards_and_pays_by_the_first() {
    const HILO: &str = "/api/v1/games/hilo";
    let mut state = funded();
    let mut results = std::collections::BTreeSet::new();
    for n in 0..100 {
        let body = format!(r#"{{"guess":"higher","amount":5,"client_seed":"seed-{n}"}}"#);
        let (status, reply) = post(&mut state, HILO, &body);
        assert_eq!((status, keys(&reply), &reply["game"]), (200, ENVELOPE.to_vec(), &json!("hilo")));
        // A bet takes two nonces, and its proof names the first.
        assert_eq!(reply["proof"]["nonce"], 2 * n);
        let result = &reply["result"];
        let (first, second) = (result["card1"].as_i64().unwrap(), result["card2"].as_i64().unwrap());
        let said = result["result"].as_str().unwrap().to_owned();
        let expected = match second - first {
            0 => "push",
            1.. => "win",
            _ => "loss",
        };
        assert_eq!((said.as_str(), &reply["won"]), (expected, &json!(second >= first)));
        if second == first {
            assert_eq!((&reply["payout_multiplier"], &reply["amount_won"]), (&json!(1), &json!(5)));
        } else {
            let multiplier = house::hi_lo_multiplier(13 - first).to_string();
            assert_eq!(reply["payout_multiplier"].to_string(), multiplier);
        }
        results.insert(said);
        let bet = &last(&mut state).bet;
        assert_eq!((bet.game, bet.won, bet.in_history), ("hi-lo", second >= first, true));
    }
    assert_eq!(results.len(), 3, "{results:?}");
    for guess in ["", r#""guess":"equal","#, r#""guess":"HIGHER","#] {
        let (status, reply) = post(&mut state, HILO, &format!(r#"{{{guess}"amount":5}}"#));
        assert_eq!((status, &reply["error"]), (400, &json!("invalid_guess")));
    }
    assert_eq!(state.ledger.len(), 100);
}
