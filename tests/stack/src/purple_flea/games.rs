//! The games' rules: who may bet what, and who wins.

use super::{Bet, KEY, LIVE_AGENT, Request, State, history};
use hmac::{Hmac, KeyInit, Mac};
use http::{StatusCode, header::AUTHORIZATION};
use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::SystemTime;

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
    fn roll(&mut self, client_seed: &str) -> Decimal {
        let nonce = self.nonce;
        self.nonce += 1;
        let mut mac = Hmac::<Sha256>::new_from_slice(b"simulator").unwrap_or_else(|never| panic!("{never}"));
        mac.update(format!("{client_seed}:{nonce}").as_bytes());
        let digest = mac.finalize().into_bytes();
        let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Decimal::new(i64::from(first % 10_000), 2)
    }
}

/// An answer by the rules.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    Answer { status, content_type: "application/json", body: body.to_string() }
}

pub(super) fn refuse(status: u16, error: &str, message: &str) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &json!({"error": error, "message": message, "_info": {"service": "simulator"}}))
}

/// The route of a bet: its dialect and its game.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    GatewayCrash,
    GatewayCoinFlip,
    LiveCrash,
    LiveCoinFlip,
}

impl Route {
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/casino/crash" => Self::GatewayCrash,
            "/casino/coin-flip" => Self::GatewayCoinFlip,
            "/api/v1/games/crash" => Self::LiveCrash,
            "/api/v1/games/coin-flip" => Self::LiveCoinFlip,
            _ => return None,
        })
    }

    fn live(self) -> bool {
        matches!(self, Self::LiveCrash | Self::LiveCoinFlip)
    }
}

/// Answers a request by the rules, and takes the bet if it is one. A `hidden` bet leaves no row in the history.
pub(super) fn answer(state: &mut State, method: &http::Method, request: &Request, hidden: bool) -> Answer {
    let route = Route::of(&request.path).filter(|_| method == http::Method::POST);
    let history = method == http::Method::GET && request.path == "/api/v1/bets/export.csv";
    if route.is_none() && !history {
        return refuse(404, "not_found", "no such route");
    }
    let key = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if key != Some(&format!("Bearer {KEY}")) {
        return refuse(401, "unauthorized", "Invalid API key");
    }
    let Some(route) = route else {
        return history::export(state, request);
    };
    let Ok(body) = serde_json::from_str::<Value>(&request.body) else {
        return refuse(400, "invalid_json", "Invalid JSON");
    };
    match bet(state, request, route, &body, hidden) {
        Ok(answer) | Err(answer) => answer,
    }
}

fn bet(state: &mut State, request: &Request, route: Route, body: &Value, hidden: bool) -> Result<Answer, Answer> {
    let (agent_id, amount) = if route.live() {
        (LIVE_AGENT.to_owned(), &body["amount"])
    } else {
        (body["agent_id"].as_str().unwrap_or_default().to_owned(), &body["wager"])
    };
    let wager = number(amount).filter(|wager| *wager > Decimal::ZERO);
    let wager = wager.ok_or_else(|| refuse(400, "invalid_amount", "the amount must be a positive number"))?;
    if wager < Decimal::new(1, 2) {
        return Err(refuse(400, "minimum_bet", "Minimum bet is $0.01"));
    }
    let balance = state.balances.get(&agent_id).copied();
    let balance = balance.ok_or_else(|| refuse(400, "unknown_agent", "no such agent"))?;
    if balance < wager {
        let message = format!("Balance ${balance:.2} is less than bet ${wager:.2}");
        return Err(refuse(400, "insufficient_balance", &message));
    }
    let client_seed = route.live().then(|| body["client_seed"].as_str().unwrap_or("auto").to_owned());
    let nonce = state.house.nonce;
    let played = match route {
        Route::GatewayCrash => crash(state, &body["cashout_at"], "gateway", wager),
        Route::LiveCrash if body["cash_out_at"].is_null() => {
            let message = "Bet exceeds Kelly limit of $NaN";
            Err(refuse(400, "kelly_limit_exceeded", message))
        }
        Route::LiveCrash => crash(state, &body["cash_out_at"], client_seed.as_deref().unwrap_or_default(), wager),
        Route::GatewayCoinFlip => coin_flip(state, body, "gateway", wager),
        Route::LiveCoinFlip => coin_flip(state, body, client_seed.as_deref().unwrap_or_default(), wager),
    }?;
    let new_balance = balance - wager + played.payout;
    state.balances.insert(agent_id.clone(), new_balance);
    let bet = Bet {
        bet_id: format!("bet_{:08}", state.bets.len() + 1),
        agent_id,
        game: played.game,
        wager,
        won: played.payout > Decimal::ZERO,
        payout: played.payout,
        crash_point: played.crash_point,
        idempotency_key: header(request, "idempotency-key"),
        client_seed,
        in_history: !hidden,
        at: SystemTime::now(),
    };
    let reply = if route.live() {
        live_reply(&bet, &played, new_balance, nonce)
    } else {
        gateway_reply(&bet, &played, new_balance)
    };
    state.bets.push(bet);
    Ok(json_answer(StatusCode::OK, &reply))
}

fn header(request: &Request, name: &str) -> Option<String> {
    request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn gateway_reply(bet: &Bet, played: &Played, new_balance: Decimal) -> Value {
    let mut reply = json!({
        "bet_id": bet.bet_id, "game": bet.game, "agent_id": bet.agent_id, "wager": raw(bet.wager),
        "payout": raw(bet.payout), "new_balance": raw(new_balance), "_info": {"service": "simulator"},
    });
    if let (Value::Object(reply), Value::Object(detail)) = (&mut reply, played.detail.clone()) {
        reply.extend(detail);
    }
    reply
}

fn live_reply(bet: &Bet, played: &Played, new_balance: Decimal, nonce: u64) -> Value {
    let multiplier = if bet.won { bet.payout / bet.wager } else { Decimal::ZERO };
    json!({
        "bet_id": bet.bet_id, "game": if bet.game == "crash" { "crash" } else { "coin_flip" },
        "amount_bet": raw(bet.wager), "result": played.detail, "won": bet.won,
        "payout_multiplier": raw(multiplier.round_dp(2)), "amount_won": raw(bet.payout), "new_balance": raw(new_balance),
        "proof": {"server_seed_hash": "simulated", "client_seed": bet.client_seed, "nonce": nonce, "result_hash": "simulated"},
        "_info": {"service": "simulator"},
    })
}

struct Played {
    game: &'static str,
    payout: Decimal,
    crash_point: Option<Decimal>,
    detail: Value,
}

fn crash(state: &mut State, at: &Value, seed: &str, wager: Decimal) -> Result<Played, Answer> {
    let range = Decimal::new(101, 2)..=Decimal::ONE_HUNDRED;
    let cashout_at = number(at).filter(|at| range.contains(at));
    let cashout_at =
        cashout_at.ok_or_else(|| refuse(400, "invalid_cashout", "the cash-out must be 1.01 to 100"))?;
    let roll = state.house.roll(seed);
    let crash_point = if roll >= Decimal::new(9999, 2) {
        CRASH_CAP
    } else {
        cents((Decimal::ONE - EDGE) / (Decimal::ONE - roll / Decimal::ONE_HUNDRED)).max(Decimal::ONE)
    };
    let won = crash_point >= cashout_at;
    Ok(Played {
        game: "crash",
        payout: if won { cents(wager * cashout_at) } else { Decimal::ZERO },
        crash_point: Some(crash_point),
        detail: json!({"outcome": if won { "win" } else { "loss" }, "cashed_out": won, "crash_point": raw(crash_point)}),
    })
}

fn coin_flip(state: &mut State, body: &Value, seed: &str, wager: Decimal) -> Result<Played, Answer> {
    let Some(side @ ("heads" | "tails")) = body["side"].as_str() else {
        return Err(refuse(400, "invalid_side", "side must be heads or tails"));
    };
    let face = if state.house.roll(seed) < Decimal::new(50, 0) { "heads" } else { "tails" };
    let won = face == side;
    Ok(Played {
        game: "coin-flip",
        payout: if won { cents(wager * COIN_FLIP_PAYS) } else { Decimal::ZERO },
        crash_point: None,
        detail: json!({"outcome": face, "won": won, "side_chosen": side}),
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
