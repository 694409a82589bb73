//! The games' rules: who may bet what, and who wins.

use super::{
    Bet, Entry, KEY, LIVE_AGENT, Request, State, history,
    house::{self, cents},
};
use http::{StatusCode, header::AUTHORIZATION};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use std::time::SystemTime;

/// What a won coin-flip pays per dollar.
const COIN_FLIP_PAYS: Decimal = Decimal::from_parts(199, 0, 0, false, 2);

/// The least that can be staked.
const MINIMUM_BET: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

/// An answer by the rules.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Answer {
    Answer { status, content_type: "application/json", body: body.to_string() }
}

pub(super) fn refuse(status: u16, error: &str, message: &str) -> Answer {
    refuse_with(status, error, message, Map::new())
}

fn refuse_with(status: u16, error: &str, message: &str, more: Map<String, Value>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = json!({"error": error, "message": message, "_info": info()});
    if let Value::Object(body) = &mut body {
        body.extend(more);
    }
    json_answer(status, &body)
}

fn info() -> Value {
    json!({"service": "simulator", "version": "1.0.0"})
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

/// The `live` dialect's name for a game.
pub(super) fn live_name(game: &str) -> &str {
    if game == "coin-flip" { "coin_flip" } else { game }
}

/// Answers a request by the rules, and takes the bet if it is one. A `hidden` bet leaves no row in the
/// history.
pub(super) fn answer(state: &mut State, method: &http::Method, request: &Request, hidden: bool) -> Answer {
    let route = Route::of(&request.path).filter(|_| method == http::Method::POST);
    let history = method == http::Method::GET && request.path == history::PATH;
    if route.is_none() && !history {
        return refuse(404, "not_found", "no such route");
    }
    let key = request.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if key.and_then(|key| key.strip_prefix("Bearer ")) != Some(KEY) {
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

fn bet(
    state: &mut State,
    request: &Request,
    route: Route,
    body: &Value,
    hidden: bool,
) -> Result<Answer, Answer> {
    let live = route.live();
    if live && body.is_null() {
        return Err(failed());
    }
    let (agent_id, amount) = if live {
        (LIVE_AGENT, &body["amount"])
    } else {
        (body["agent_id"].as_str().unwrap_or_default(), &body["wager"])
    };
    let wager = number(amount).filter(|wager| *wager > Decimal::ZERO);
    let wager = wager.ok_or_else(|| refuse(400, "invalid_amount", "the amount must be a positive number"))?;
    if wager < MINIMUM_BET {
        return Err(refuse(400, "minimum_bet", "Minimum bet is $0.01"));
    }
    // The key's owner has an account, empty as it may be.
    let balance = state.balances.get(agent_id).copied().or(live.then_some(Decimal::ZERO));
    let balance = balance.ok_or_else(|| refuse(400, "unknown_agent", "no such agent"))?;
    if balance < wager {
        return Err(insufficient(balance, wager));
    }
    let choice = Choice::read(route, body, wager)?;
    let client_seed = if live { client_seed(&body["client_seed"]) } else { json!("gateway") };
    // The real one stumbles over such a seed when it writes the row, which is after the money was moved.
    let unwritable = client_seed.is_object() || client_seed.is_array();
    let (roll, proof) = state.house.roll(client_seed);
    let played = choice.play(roll);
    let payout = if played.won { cents(wager * choice.multiplier()) } else { Decimal::ZERO };
    let forgotten = state.forget > 0;
    state.forget = state.forget.saturating_sub(1);
    let entry = Entry {
        bet: Bet {
            bet_id: format!("bet_{:08}", state.ledger.len() + 1),
            agent_id: agent_id.to_owned(),
            game: choice.game(),
            wager,
            won: played.won,
            payout,
            crash_point: played.crash_point,
            idempotency_key: header(request, "idempotency-key"),
            client_seed: own_seed(&body["client_seed"]).filter(|_| live),
            in_history: !hidden && !forgotten && !unwritable,
            at: SystemTime::now(),
        },
        live,
        multiplier: choice.multiplier(),
        proof,
    };
    let new_balance = balance - wager + payout;
    let reply = if live { live_reply } else { gateway_reply }(&entry, played.detail, new_balance);
    state.balances.insert(agent_id.to_owned(), new_balance);
    state.ledger.push(entry);
    Ok(if unwritable { failed() } else { json_answer(StatusCode::OK, &reply) })
}

fn failed() -> Answer {
    refuse(500, "internal_error", "Internal error")
}

fn insufficient(balance: Decimal, wager: Decimal) -> Answer {
    let message = format!("Balance ${balance:.2} is less than bet ${wager:.2}");
    let more = [
        ("required".to_owned(), plain(wager)),
        ("suggestion".to_owned(), format!("Deposit at least ${wager:.2} or reduce bet size").into()),
    ];
    refuse_with(400, "insufficient_balance", &message, more.into_iter().collect())
}

/// What a caller left to us, or left empty, gets a name of ours.
fn client_seed(given: &Value) -> Value {
    if own_seed(given).is_some() {
        return given.clone();
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!(format!("auto_{}", now.as_millis()))
}

fn own_seed(given: &Value) -> Option<String> {
    Some(house::text(given)).filter(|text| !given.is_null() && !text.is_empty())
}

fn header(request: &Request, name: &str) -> Option<String> {
    request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn gateway_reply(Entry { bet, .. }: &Entry, detail: Value, new_balance: Decimal) -> Value {
    let mut reply = json!({
        "bet_id": bet.bet_id, "game": bet.game, "agent_id": bet.agent_id, "wager": raw(bet.wager),
        "payout": raw(bet.payout), "new_balance": raw(new_balance), "_info": info(),
    });
    if let (Value::Object(reply), Value::Object(mut detail)) = (&mut reply, detail) {
        match detail.get("cashed_out").and_then(Value::as_bool) {
            Some(won) => detail.insert("outcome".to_owned(), json!(if won { "win" } else { "loss" })),
            None => detail.insert("won".to_owned(), json!(bet.won)),
        };
        reply.extend(detail);
    }
    reply
}

fn live_reply(Entry { bet, multiplier, proof, .. }: &Entry, result: Value, new_balance: Decimal) -> Value {
    // A multiplier that came as a string goes back as one.
    let asked = result.get("cash_out_at").cloned();
    json!({
        "bet_id": bet.bet_id, "game": live_name(bet.game), "amount_bet": plain(bet.wager), "result": result,
        "won": bet.won, "payout_multiplier": asked.unwrap_or_else(|| plain(*multiplier)),
        "amount_won": plain(bet.payout), "new_balance": plain(cents(new_balance)), "proof": proof.to_json(),
        "_info": info(),
    })
}

/// What is bet on.
enum Choice {
    Side(&'static str),
    CashOut {
        at: Decimal,
        /// As the caller sent it.
        sent: Value,
    },
}

struct Played {
    won: bool,
    crash_point: Option<Decimal>,
    detail: Value,
}

impl Choice {
    fn read(route: Route, body: &Value, wager: Decimal) -> Result<Self, Answer> {
        let sent = match route {
            Route::GatewayCoinFlip | Route::LiveCoinFlip => {
                let side = ["heads", "tails"].into_iter().find(|side| body["side"] == *side);
                return side
                    .map(Self::Side)
                    .ok_or_else(|| refuse(400, "invalid_side", "side must be heads or tails"));
            }
            Route::LiveCrash if body["cash_out_at"].is_null() => return Err(kelly_limit_of_nothing(wager)),
            Route::LiveCrash => &body["cash_out_at"],
            Route::GatewayCrash => &body["cashout_at"],
        };
        let range = Decimal::new(101, 2)..=Decimal::ONE_HUNDRED;
        let text = sent.as_str().filter(|_| route.live());
        let at = number(sent).or_else(|| text?.parse().ok()).filter(|at| range.contains(at));
        let at = at.ok_or_else(|| refuse(400, "invalid_cashout", "the cash-out must be 1.01 to 100"))?;
        Ok(Self::CashOut { at, sent: sent.clone() })
    }

    fn game(&self) -> &'static str {
        match self {
            Self::Side(_) => "coin-flip",
            Self::CashOut { .. } => "crash",
        }
    }

    /// What a win pays per dollar.
    fn multiplier(&self) -> Decimal {
        match self {
            Self::Side(_) => COIN_FLIP_PAYS,
            Self::CashOut { at, .. } => *at,
        }
    }

    fn play(&self, roll: Decimal) -> Played {
        match self {
            Self::Side(side) => {
                let face = if roll < Decimal::from(50) { "heads" } else { "tails" };
                let detail = json!({"side_chosen": side, "outcome": face, "roll": plain(roll)});
                Played { won: face == *side, crash_point: None, detail }
            }
            Self::CashOut { at, sent } => {
                let crash_point = house::crash_point(roll);
                let won = crash_point >= *at;
                let detail = json!({
                    "cash_out_at": sent, "crash_point": plain(crash_point), "cashed_out": won,
                    "win_probability": plain(house::win_probability(*at)), "roll": plain(roll),
                });
                Played { won, crash_point: Some(crash_point), detail }
            }
        }
    }
}

/// What the real one says when it computes with a cash-out that is not there.
fn kelly_limit_of_nothing(wager: Decimal) -> Answer {
    let message = format!("Bet ${wager:.2} exceeds Kelly limit of $NaN");
    let more = [
        ("max_bet".to_owned(), Value::Null),
        ("suggestion".to_owned(), "Reduce bet to $NaN".into()),
        ("kelly".to_owned(), json!({"max_bet": null, "kelly_fraction": null})),
    ];
    refuse_with(400, "kelly_limit_exceeded", &message, more.into_iter().collect())
}

/// A JSON number as a decimal; strings are refused, as the real casino refuses them.
fn number(value: &Value) -> Option<Decimal> {
    let Value::Number(number) = value else {
        return None;
    };
    let text = number.as_str();
    Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text)).ok()
}

/// A decimal as a JSON number, digit by digit.
fn raw(value: Decimal) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

/// A decimal as a JSON number without needless zeros, as the real one writes its floats.
fn plain(value: Decimal) -> Value {
    raw(value.normalize())
}

#[cfg(test)]
mod tests;
