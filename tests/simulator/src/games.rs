//! Serves the games: checks bets and decides them.

use super::{
    Bet, Entry, LIVE_AGENT, State,
    answer::{Answer, Said, failed, ok, refuse, refuse_with},
    call::{Api, Call},
    house,
    kelly::{self, Odds},
    money::{cents, double, is_falsy, number, number_or_text, plain, raw, reported},
    statement::Why,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::time::SystemTime;

/// The least stake.
const MINIMUM_BET: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

/// The least commission that a referrer is paid.
const LEAST_COMMISSION: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

/// A game.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Game {
    Crash,
    CoinFlip,
    /// Crash under another name, with a wider range. The gateway has none.
    Multiplier,
    HiLo,
}

/// Serves `POST /casino/crash` and `POST /api/v1/games/crash`.
pub(super) fn crash(state: &mut State, call: &Call<'_>) -> Said {
    bet(state, call, Game::Crash)
}

/// Serves `POST /casino/coin-flip` and `POST /api/v1/games/coin-flip`.
pub(super) fn coin_flip(state: &mut State, call: &Call<'_>) -> Said {
    bet(state, call, Game::CoinFlip)
}

/// Serves `POST /api/v1/games/multiplier`.
pub(super) fn multiplier(state: &mut State, call: &Call<'_>) -> Said {
    bet(state, call, Game::Multiplier)
}

/// Serves `POST /api/v1/games/hilo`.
pub(super) fn hi_lo(state: &mut State, call: &Call<'_>) -> Said {
    bet(state, call, Game::HiLo)
}

/// Gives the `live` dialect's name of a game.
pub(super) fn live_name(game: &str) -> &str {
    match game {
        "coin-flip" => "coin_flip",
        "hi-lo" => "hilo",
        game => game,
    }
}

fn bet(state: &mut State, call: &Call<'_>, game: Game) -> Said {
    let Call { body, agent_id, .. } = call;
    let live = call.api == Api::Live;
    let choice = Choice::read(call.api, game, body)?;
    let amount = if live { &body["amount"] } else { &body["wager"] };
    let wager = number(amount).filter(|wager| *wager > Decimal::ZERO);
    let wager = wager.ok_or_else(|| refuse(400, "invalid_amount", "the amount must be a positive number"))?;
    if wager < MINIMUM_BET {
        return Err(refuse(400, "minimum_bet", "Minimum bet is $0.01"));
    }
    let account = state.accounts.get(agent_id);
    let account = account.ok_or_else(|| refuse(400, "unknown_agent", "no such agent"))?;
    if account.balance < wager {
        return Err(insufficient(account.balance, wager));
    }
    let choice = choice.ok_or_else(|| kelly::of_nothing(wager))?;
    if live {
        kelly::check(account, wager, choice.odds())?;
    }
    let (entry, detail) = play(state, call, wager, &choice);
    let unwritable = is_unwritable(&entry.proof.client_seed);
    let reply = if live { live_reply } else { gateway_reply }(state, &entry, detail, choice.told_odds());
    let bet = entry.bet.clone();
    state.ledger.push(entry);
    if unwritable {
        return Err(failed());
    }
    if live && !bet.won {
        pay_referrers(state, &bet);
    }
    ok(reply)
}

/// Pays the agents that have referred the loser of a bet: a tenth of the stake to the nearest, half of that to the next,
/// a quarter to the third.
fn pay_referrers(state: &mut State, bet: &Bet) {
    let mut referred = bet.agent_id.clone();
    for (level, share) in (1..).zip([1.0, 0.5, 0.25]) {
        let account = state.accounts.get(&referred);
        let Some(referrer) = account.and_then(|account| account.referred_by.clone()) else { return };
        let commission = reported(double(bet.wager) * 0.10 * share);
        if commission >= LEAST_COMMISSION {
            state.accounts.book(&referrer, commission, Why::Referral(level), &bet.bet_id, bet.at);
        }
        referred = referrer;
    }
}

/// Rolls, and moves the money. Gives the bet and the game's own part of the reply.
fn play(state: &mut State, call: &Call<'_>, wager: Decimal, choice: &Choice) -> (Entry, Value) {
    let live = call.api == Api::Live;
    let given = &call.body["client_seed"];
    let client_seed = if live { client_seed(given, state.now()) } else { json!("gateway") };
    let unwritable = is_unwritable(&client_seed);
    // The gateway promises nothing about its rolls, so the simulator takes them from the shared key's seed.
    let roller = if live { &call.agent_id } else { LIVE_AGENT };
    let (roll, proof) = state.house.roll(roller, client_seed);
    let played = choice.play(roll, || state.house.roll_again(roller, &proof.client_seed));
    let exact = if played.won { wager * played.multiplier } else { Decimal::ZERO };
    // The released servers round the payouts that they report, not those that they credit.
    let payout = if live { exact } else { cents(exact) };
    let forgotten = state.forget > 0;
    state.forget = state.forget.saturating_sub(1);
    let bet = Bet {
        bet_id: format!("bet_{:08}", state.ledger.len() + 1),
        agent_id: call.agent_id.clone(),
        game: choice.game(),
        wager,
        won: played.won,
        payout,
        crash_point: played.crash_point,
        idempotency_key: call.idempotency_key(),
        client_seed: own_seed(given).filter(|_| live),
        in_history: !call.hidden && !forgotten && !unwritable,
        at: state.now(),
    };
    state.accounts.book(&bet.agent_id, -wager, Why::Stake, &bet.bet_id, bet.at);
    if bet.won {
        state.accounts.book(&bet.agent_id, payout, Why::Win, &bet.bet_id, bet.at);
    }
    (Entry { bet, live, multiplier: played.multiplier, proof }, played.detail)
}

fn insufficient(balance: Decimal, wager: Decimal) -> Answer {
    let message = format!("Balance ${balance:.2} is less than bet ${wager:.2}");
    let suggestion = format!("Deposit at least ${:.2} or reduce bet size", wager - balance);
    let more = json!({"required": plain(wager), "suggestion": suggestion});
    refuse_with(400, "insufficient_balance", &message, more)
}

/// Gives the caller's seed, or a generated one if the caller left it out or empty.
fn client_seed(given: &Value, now: SystemTime) -> Value {
    if own_seed(given).is_some() {
        return given.clone();
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!(format!("auto_{}", now.as_millis()))
}

/// Tells whether the real server fails to write the bet's row with this seed, after it has moved the money.
fn is_unwritable(client_seed: &Value) -> bool {
    client_seed.is_object() || client_seed.is_boolean()
}

fn own_seed(given: &Value) -> Option<String> {
    Some(house::text(given)).filter(|_| !is_falsy(given))
}

fn gateway_reply(state: &State, Entry { bet, .. }: &Entry, detail: Value, _: Odds) -> Value {
    let mut reply = json!({
        "bet_id": bet.bet_id, "game": bet.game, "agent_id": bet.agent_id, "wager": raw(bet.wager),
        "payout": raw(bet.payout), "new_balance": raw(state.accounts.balance(&bet.agent_id)),
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

/// Returns a payout as the released servers report it: computed in binary doubles, in cents.
pub(super) fn reported_payout(Entry { bet, multiplier, .. }: &Entry) -> Decimal {
    if bet.won { reported(double(bet.wager) * double(*multiplier)) } else { Decimal::ZERO }
}

fn live_reply(state: &State, entry: &Entry, result: Value, odds: Odds) -> Value {
    let Entry { bet, multiplier, proof, .. } = entry;
    // The reply repeats a multiplier in the form that the caller sent, as a string too.
    let asked = result.get("cash_out_at").or_else(|| result.get("target_multiplier")).cloned();
    let account = state.accounts.get(&bet.agent_id);
    json!({
        "bet_id": bet.bet_id, "game": live_name(bet.game), "amount_bet": plain(bet.wager), "result": result,
        "won": bet.won, "payout_multiplier": asked.unwrap_or_else(|| plain(*multiplier)),
        "amount_won": plain(reported_payout(entry)),
        "new_balance": plain(cents(state.accounts.balance(&bet.agent_id))), "proof": proof.to_json(),
        "kelly": account.map(|account| kelly::told(account, odds)),
    })
}

/// The choice that a bet is made on.
enum Choice {
    Side(&'static str),
    Guess(&'static str),
    CashOut {
        /// The field of the choice: `cash_out_at` or `target_multiplier`.
        field: &'static str,
        at: Decimal,
        /// The choice in the caller's form.
        sent: Value,
    },
}

struct Played {
    won: bool,
    /// The payout of a win per dollar.
    multiplier: Decimal,
    crash_point: Option<Decimal>,
    detail: Value,
}

impl Choice {
    /// Reads the choice, before the amount as the real server does. `None` is a cash-out that is no number for it: it
    /// passes each comparison, until the ceiling is computed from it.
    fn read(api: Api, game: Game, body: &Value) -> Result<Option<Self>, Answer> {
        let (field, most, error) = match game {
            Game::CoinFlip => {
                let side = ["heads", "tails"].into_iter().find(|side| body["side"] == *side);
                let side =
                    side.ok_or_else(|| refuse(400, "invalid_side", "Side must be 'heads' or 'tails'"))?;
                return Ok(Some(Self::Side(side)));
            }
            Game::HiLo => {
                let guess = ["higher", "lower"].into_iter().find(|guess| body["guess"] == *guess);
                let guess =
                    guess.ok_or_else(|| refuse(400, "invalid_guess", "Guess must be 'higher' or 'lower'"))?;
                return Ok(Some(Self::Guess(guess)));
            }
            Game::Crash => ("cash_out_at", 100, "invalid_cashout"),
            Game::Multiplier => ("target_multiplier", 1_000, "invalid_multiplier"),
        };
        let live = api == Api::Live;
        let sent = if live { body.get(field) } else { body.get("cashout_at") };
        let at = match sent.unwrap_or(&Value::Null) {
            Value::String(text) if live && !text.is_empty() => number_or_text(&json!(text.trim())),
            given @ Value::Number(_) => Some(number(given).unwrap_or_default()),
            Value::Object(_) if live => None,
            _ if live && sent.is_none() => None,
            _ => Some(Decimal::ZERO),
        };
        let Some(at) = at else { return Ok(None) };
        if !(Decimal::new(101, 2)..=Decimal::from(most)).contains(&at) {
            let message = format!("The multiplier must be between 1.01x and {most}x");
            return Err(refuse(400, error, &message));
        }
        Ok(Some(Self::CashOut { field, at, sent: sent.cloned().unwrap_or_default() }))
    }

    fn game(&self) -> &'static str {
        match self {
            Self::Side(_) => "coin-flip",
            Self::CashOut { field: "target_multiplier", .. } => "multiplier",
            Self::Guess(_) => "hi-lo",
            Self::CashOut { .. } => "crash",
        }
    }

    fn odds(&self) -> Odds {
        match self {
            Self::Side(_) => Odds::COIN_FLIP,
            Self::Guess(_) => Odds::HI_LO,
            Self::CashOut { at, .. } => Odds::crash(*at),
        }
    }

    /// Gives the odds by which a reply tells the ceiling. The real server tells hi-lo's as if it were a coin's.
    fn told_odds(&self) -> Odds {
        if matches!(self, Self::Guess(_)) { Odds::COIN_FLIP } else { self.odds() }
    }

    /// Plays the game. Only hi-lo takes a second roll.
    fn play(&self, roll: Decimal, next_roll: impl FnOnce() -> Decimal) -> Played {
        let multiplier = self.odds().pays;
        match self {
            Self::Guess(guess) => deal(guess, roll, next_roll()),
            Self::Side(side) => {
                let face = if roll < Decimal::from(50) { "heads" } else { "tails" };
                let detail = json!({"side_chosen": side, "outcome": face, "roll": plain(roll)});
                Played { won: face == *side, multiplier, crash_point: None, detail }
            }
            Self::CashOut { field, at, sent } => {
                let crash_point = house::crash_point(roll);
                let won = crash_point >= *at;
                let mut detail = json!({
                    "crash_point": plain(crash_point),
                    "win_probability": plain(house::win_probability(*at).round_dp(4)), "roll": plain(roll),
                });
                detail[*field] = sent.clone();
                if *field == "cash_out_at" {
                    detail["cashed_out"] = json!(won);
                }
                Played { won, multiplier, crash_point: Some(crash_point), detail }
            }
        }
    }
}

/// Deals the two cards of hi-lo.
fn deal(guess: &str, roll: Decimal, next_roll: Decimal) -> Played {
    let (first, second) = (house::card(roll), house::card(next_roll));
    let higher = guess == "higher";
    let push = first == second;
    let won = push || (second > first) == higher;
    let multiplier = match push {
        true => 1.0,
        false => house::hi_lo_multiplier(if higher { 13 - first } else { first - 1 }),
    };
    let name = |card: i64| match card {
        1 => "A".to_owned(),
        11 => "J".to_owned(),
        12 => "Q".to_owned(),
        13 => "K".to_owned(),
        card => card.to_string(),
    };
    let detail = json!({
        "card1": first, "card1_name": name(first), "card2": second, "card2_name": name(second), "guess": guess,
        "result": match (push, won) { (true, _) => "push", (_, true) => "win", _ => "loss" },
        "payout_applied": if push { "1.0x (push)".to_owned() } else { format!("{multiplier:.2}x") },
        "house_edge_pct": 4, "note": "Push on equal cards returns bet.",
    });
    // The shortest text of a double is the one that the real server writes.
    let multiplier = multiplier.to_string().parse().unwrap_or_default();
    Played { won, multiplier, crash_point: None, detail }
}

#[cfg(test)]
mod tests;
