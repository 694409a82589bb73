//! The history of the `live` dialect, as CSV.

use super::{
    Bet, Request, State,
    games::{Answer, refuse},
};
use http::StatusCode;
use rust_decimal::Decimal;
use std::time::{Duration, SystemTime};

/// Most rows of one answer.
const ROWS_LIMIT: usize = 10_000;

const COLUMNS: &str = "bet_id,game,amount_usd,amount_won_usd,net_usd,payout_multiplier,won,server_seed_hash,client_seed,nonce,result_hash,timestamp_utc";

/// `GET /api/v1/bets/export.csv?game&since&until`: newest first, whole seconds.
pub(super) fn export(state: &State, request: &Request) -> Answer {
    let (mut since, mut until, mut game) = (SystemTime::UNIX_EPOCH, None, None);
    for (name, value) in request.query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = value.replace("%3A", ":").replace("%3a", ":");
        let time = humantime::parse_rfc3339_weak(&value).ok();
        match (name, time) {
            ("since", Some(time)) => since = time,
            ("until", Some(time)) => until = Some(time),
            ("game", _) => game = Some(value),
            _ => return refuse(400, "invalid_request", "since and until are ISO times"),
        }
    }
    let mut csv = format!("{COLUMNS}\r\n");
    let rows = state.bets.iter().rev().filter(|bet| {
        let at = whole_seconds(bet.at);
        bet.in_history
            && bet.client_seed.is_some()
            && at >= since
            && until.is_none_or(|until| at <= until)
            && game.as_ref().is_none_or(|game| name(bet) == game)
    });
    for bet in rows.take(ROWS_LIMIT) {
        csv.push_str(&row(bet));
    }
    Answer { status: StatusCode::OK, content_type: "text/csv", body: csv }
}

fn row(bet: &Bet) -> String {
    let multiplier = if bet.won { bet.payout / bet.wager } else { Decimal::ZERO };
    let seed = bet.client_seed.as_deref().unwrap_or_default();
    let seed =
        if seed.contains([',', '"', '\r', '\n']) { format!("\"{}\"", seed.replace('"', "\"\"")) } else { seed.to_owned() };
    format!(
        "{},{},{},{},{},{},{},simulated,{seed},0,simulated,{}\r\n",
        bet.bet_id,
        name(bet),
        bet.wager.normalize(),
        bet.payout.normalize(),
        (bet.payout - bet.wager).normalize(),
        multiplier.round_dp(4).normalize(),
        bet.won,
        humantime::format_rfc3339_seconds(bet.at)
    )
}

fn name(bet: &Bet) -> &'static str {
    if bet.game == "crash" { "crash" } else { "coin_flip" }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
