//! The games' rules: who may bet what, and who wins.

use super::{Bet, KEY, Request, State};
use hmac::{Hmac, KeyInit, Mac};
use http::{StatusCode, header::AUTHORIZATION};
use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
use serde_json::{Value, json};
use sha2::Sha256;

/// What a won coin-flip pays per dollar.
const COIN_FLIP_PAYS: Decimal = Decimal::from_parts(199, 0, 0, false, 2);

/// The house's part of a crash game, in thousandths.
const EDGE: Decimal = Decimal::from_parts(5, 0, 0, false, 3);

/// The most that the multiplier climbs to.
const CRASH_CAP: Decimal = Decimal::from_parts(10_000, 0, 0, false, 0);

/// Rolls by the real one's formula, HMAC-SHA256(server seed, client seed:nonce), but with seeds that are always the
/// same and never revealed: a simulator's first roll is everybody's first roll.
#[derive(Default)]
pub(super) struct House {
    nonce: u64,
}

impl House {
    /// 0.00 to 99.99.
    fn roll(&mut self) -> Decimal {
        let nonce = self.nonce;
        self.nonce += 1;
        let mut mac = Hmac::<Sha256>::new_from_slice(b"simulator").unwrap_or_else(|never| panic!("{never}"));
        mac.update(format!("gateway:{nonce}").as_bytes());
        let digest = mac.finalize().into_bytes();
        let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Decimal::new(i64::from(first % 10_000), 2)
    }
}

/// An answer: a status and JSON.
pub(super) type Answer = (StatusCode, Value);

fn refuse(status: u16, error: &str, message: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, json!({"error": error, "message": message, "_info": {"service": "simulator"}}))
}

/// Answers a request by the rules, and takes the bet if it is one.
pub(super) fn answer(state: &mut State, method: &http::Method, request: &Request) -> Answer {
    if method != http::Method::POST || !matches!(request.path.as_str(), "/casino/crash" | "/casino/coin-flip")
    {
        return refuse(404, "not_found", "no such route");
    }
    let key = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if key != Some(&format!("Bearer {KEY}")) {
        return refuse(401, "unauthorized", "Invalid API key");
    }
    let Ok(body) = serde_json::from_str::<Value>(&request.body) else {
        return refuse(400, "invalid_json", "Invalid JSON");
    };
    match bet(state, request, &body) {
        Ok(answer) | Err(answer) => answer,
    }
}

fn bet(state: &mut State, request: &Request, body: &Value) -> Result<Answer, Answer> {
    let agent_id = body["agent_id"].as_str().unwrap_or_default().to_owned();
    let wager = number(&body["wager"]).filter(|wager| *wager > Decimal::ZERO);
    let wager = wager.ok_or_else(|| refuse(400, "invalid_amount", "wager must be a positive number"))?;
    if wager < Decimal::new(1, 2) {
        return Err(refuse(400, "minimum_bet", "Minimum bet is $0.01"));
    }
    let balance = state.balances.get(&agent_id).copied();
    let balance = balance.ok_or_else(|| refuse(400, "unknown_agent", "no such agent"))?;
    if balance < wager {
        let message = format!("Balance ${balance:.2} is less than bet ${wager:.2}");
        return Err(refuse(400, "insufficient_balance", &message));
    }
    let played = if request.path == "/casino/crash" {
        crash(state, body, wager)
    } else {
        coin_flip(state, body, wager)
    }?;
    let new_balance = balance - wager + played.payout;
    state.balances.insert(agent_id.clone(), new_balance);
    let bet_id = format!("bet_{:08}", state.bets.len() + 1);
    let key = request.headers.get("idempotency-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut reply = json!({
        "bet_id": bet_id, "game": played.game, "agent_id": agent_id, "wager": raw(wager),
        "payout": raw(played.payout), "new_balance": raw(new_balance), "_info": {"service": "simulator"},
    });
    if let (Value::Object(reply), Value::Object(detail)) = (&mut reply, played.detail) {
        reply.extend(detail);
    }
    state.bets.push(Bet {
        bet_id,
        agent_id,
        game: played.game,
        wager,
        won: played.payout > Decimal::ZERO,
        payout: played.payout,
        idempotency_key: key,
    });
    Ok((StatusCode::OK, reply))
}

struct Played {
    game: &'static str,
    payout: Decimal,
    detail: Value,
}

fn crash(state: &mut State, body: &Value, wager: Decimal) -> Result<Played, Answer> {
    let range = Decimal::new(101, 2)..=Decimal::ONE_HUNDRED;
    let cashout_at = number(&body["cashout_at"]).filter(|at| range.contains(at));
    let cashout_at =
        cashout_at.ok_or_else(|| refuse(400, "invalid_cashout", "cashout_at must be 1.01 to 100"))?;
    let roll = state.house.roll();
    let crash_point = if roll >= Decimal::new(9999, 2) {
        CRASH_CAP
    } else {
        cents((Decimal::ONE - EDGE) / (Decimal::ONE - roll / Decimal::ONE_HUNDRED)).max(Decimal::ONE)
    };
    let won = crash_point >= cashout_at;
    Ok(Played {
        game: "crash",
        payout: if won { cents(wager * cashout_at) } else { Decimal::ZERO },
        detail: json!({"outcome": if won { "win" } else { "loss" }, "cashed_out": won, "crash_point": raw(crash_point)}),
    })
}

fn coin_flip(state: &mut State, body: &Value, wager: Decimal) -> Result<Played, Answer> {
    let Some(side @ ("heads" | "tails")) = body["side"].as_str() else {
        return Err(refuse(400, "invalid_side", "side must be heads or tails"));
    };
    let face = if state.house.roll() < Decimal::new(50, 0) { "heads" } else { "tails" };
    let won = face == side;
    Ok(Played {
        game: "coin-flip",
        payout: if won { cents(wager * COIN_FLIP_PAYS) } else { Decimal::ZERO },
        detail: json!({"outcome": face, "won": won}),
    })
}

fn cents(value: Decimal) -> Decimal {
    value.round_dp_with_strategy(2, MidpointAwayFromZero)
}

/// A JSON number as a decimal; strings are refused, as the real casino refuses them.
fn number(value: &Value) -> Option<Decimal> {
    let Value::Number(number) = value else {
        return None;
    };
    Decimal::from_str_exact(number.as_str()).ok()
}

fn raw(value: Decimal) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}
