//! One event from its bytes to its reply: verify, read, decide, call.

use crate::{
    config::Settings,
    game::{CashoutAt, Game, GameName, Side},
    log::{Line, milliseconds},
    money::Amount,
    outside::Outside,
    policy::{Bet, Decision, Skip},
    problem::{Problem, json},
    purple_flea::reply::Outcome,
    webhook::{
        event::{self, Event, Unhandled},
        reference::Reference,
        signature::{self, Caller},
    },
};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use std::time::SystemTime;

/// A bet that was executed.
#[derive(Serialize)]
struct Executed<'a> {
    status: &'static str,
    reference: &'a str,
    agent_id: &'a str,
    game: GameName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cashout_at: Option<CashoutAt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<Side>,
    wager: Amount,
    outcome: &'static str,
    payout: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash_point: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bet_id: Option<&'a str>,
}

/// An event that led to no bet.
#[derive(Serialize)]
struct NotBet<'a> {
    status: &'static str,
    reason: &'static str,
    detail: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a str>,
}

/// Answers one event. What the log should know goes into `line` on the way, the reference among it: what has one by
/// then is called by it in the reply, too.
pub async fn run(
    settings: &Settings,
    headers: &HeaderMap,
    body: &[u8],
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Response<Vec<u8>>, Problem> {
    let Caller { webhook_id } = signature::verify(&settings.callers, headers, body, unix_s(outside.now()))?;
    let (row, choice) = match event::read(body)? {
        Event::Inserted { row, choice } => (row, choice),
        Event::Ledger => return Err(Problem::LedgerNotConfigured),
        Event::Unhandled(why) => {
            line.decision = Some(why.name());
            return Ok(unhandled(why));
        }
    };
    let reference = Reference::of(&row, webhook_id.as_deref())?;
    line.reference = Some(reference.as_str().to_owned());
    line.agent = Some(row.agent_id.clone());
    match settings.policy.with(&choice).decide(&row) {
        Decision::Skip(skip) => {
            line.decision = Some(skip.name());
            Ok(skipped(skip, &reference, &row.agent_id))
        }
        Decision::Paused => {
            line.decision = Some("paused");
            Ok(waiting(&reference, &row.agent_id))
        }
        Decision::Bet(bet) => {
            line.decision = Some("bet");
            let outcome = call(settings, &bet, &reference, outside, line).await?;
            Ok(executed(&bet, &reference, &outcome))
        }
    }
}

async fn call(
    settings: &Settings,
    bet: &Bet,
    reference: &Reference,
    outside: &impl Outside,
    line: &mut Line,
) -> Result<Outcome, Problem> {
    let asked = outside.monotonic();
    let result = settings.purple_flea.play(bet, reference, outside).await;
    line.purple_flea_ms = Some(milliseconds(outside.monotonic().saturating_sub(asked)));
    let outcome = result?;
    line.outcome = Some(word(&outcome));
    Ok(outcome)
}

fn executed(bet: &Bet, reference: &Reference, outcome: &Outcome) -> Response<Vec<u8>> {
    let (cashout_at, side) = match bet.game {
        Game::Crash(cashout_at) => (Some(cashout_at), None),
        Game::CoinFlip(side) => (None, Some(side)),
    };
    ok(&Executed {
        status: "executed",
        reference: reference.as_str(),
        agent_id: &bet.agent_id,
        game: bet.game.name(),
        cashout_at,
        side,
        wager: bet.wager,
        outcome: word(outcome),
        payout: outcome.payout,
        crash_point: outcome.crash_point,
        bet_id: outcome.bet_id.as_deref(),
    })
}

fn unhandled(why: Unhandled) -> Response<Vec<u8>> {
    ok(&NotBet {
        status: "skipped",
        reason: why.name(),
        detail: match why {
            Unhandled::Table => "Only rows of public.wallet_changes lead to bets.",
            Unhandled::Kind => "Only inserted rows lead to bets.",
        },
        reference: None,
        agent_id: None,
    })
}

fn skipped(skip: Skip, reference: &Reference, agent_id: &str) -> Response<Vec<u8>> {
    ok(&NotBet {
        status: "skipped",
        reason: skip.name(),
        detail: match skip {
            Skip::NotADeposit => "Only rows whose change_type is deposit lead to bets.",
            Skip::NoBalance => "The row has no new_balance to take a part of.",
            Skip::BelowMinBalance => "new_balance is below min_balance.",
            Skip::BelowMinChange => "change_amount is below min_change, or not there.",
            Skip::WagerTooSmall => "The wager would be below $0.01.",
            Skip::TooLarge => "The wager could win more than a result can hold (99999999.9999).",
        },
        reference: Some(reference.as_str()),
        agent_id: Some(agent_id),
    })
}

fn waiting(reference: &Reference, agent_id: &str) -> Response<Vec<u8>> {
    ok(&NotBet {
        status: "waiting",
        reason: "paused",
        detail: "Bets are paused. Nothing was executed; send the same event again when they are not.",
        reference: Some(reference.as_str()),
        agent_id: Some(agent_id),
    })
}

fn ok(body: &impl Serialize) -> Response<Vec<u8>> {
    json(StatusCode::OK, "application/json", body)
}

fn word(outcome: &Outcome) -> &'static str {
    if outcome.won { "win" } else { "loss" }
}

fn unix_s(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
