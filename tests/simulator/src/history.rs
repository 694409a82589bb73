//! Serves the history of the `live` dialect, as CSV.

use super::{
    Entry, State,
    answer::{Answer, Said, iso_seconds, whole_seconds},
    call::Call,
    games::live_name,
    house,
    money::{double, reported},
};
use http::StatusCode;
use rust_decimal::RoundingStrategy::MidpointAwayFromZero;
use std::{borrow::Cow, time::SystemTime};

/// The history's path.
pub(super) const PATH: &str = "/api/v1/bets/export.csv";

/// Most rows of one answer.
const ROWS_LIMIT: usize = 10_000;

const COLUMNS: &str = "bet_id,game,amount_usd,amount_won_usd,net_usd,payout_multiplier,won,server_seed_hash,client_seed,nonce,result_hash,timestamp_utc";

/// The games that the real server knows. It ignores a filter by any other name.
const GAMES: [&str; 17] = [
    "coin_flip",
    "dice",
    "simple_dice",
    "multiplier",
    "roulette",
    "custom",
    "blackjack",
    "crash",
    "plinko",
    "slots",
    "hilo",
    "keno",
    "scratch_card",
    "video_poker",
    "wheel",
    "mines",
    "baccarat",
];

/// Serves `GET /api/v1/bets/export.csv?game&outcome&since&until`: the bets of the key's owner, newest first. Times are
/// in whole seconds, and both ends are inclusive. A filter that the server cannot read filters nothing.
pub(super) fn export(state: &mut State, call: &Call<'_>) -> Said {
    let time = |name| call.request.query_value(name).and_then(|text| parsed(&text)).map(whole_seconds);
    let (since, until, outcome) = (time("since"), time("until"), call.request.query_value("outcome"));
    let game = call.request.query_value("game").filter(|game| GAMES.contains(&game.as_str()));
    let rows = state.ledger.iter().rev().filter(|entry| {
        let at = whole_seconds(entry.bet.at);
        entry.live
            && entry.bet.in_history
            && entry.bet.agent_id == call.agent_id
            && since.is_none_or(|since| at >= since)
            && until.is_none_or(|until| at <= until)
            && game.as_ref().is_none_or(|game| live_name(entry.bet.game) == game)
            && match outcome.as_deref() {
                Some("won") => entry.bet.won,
                Some("lost") => !entry.bet.won,
                _ => true,
            }
    });
    let mut csv = COLUMNS.to_owned();
    for entry in rows.take(ROWS_LIMIT) {
        csv.push_str("\r\n");
        csv.push_str(&row(entry));
    }
    Ok(Answer { status: StatusCode::OK, content_type: "text/csv; charset=utf-8", body: csv })
}

/// Reads a time, or a day without a time.
fn parsed(text: &str) -> Option<SystemTime> {
    let time = humantime::parse_rfc3339_weak(text);
    time.or_else(|_| humantime::parse_rfc3339(&format!("{text}T00:00:00Z"))).ok()
}

fn row(entry: &Entry) -> String {
    let Entry { bet, multiplier, proof, .. } = entry;
    let (wager, payout) = (double(bet.wager), double(bet.payout));
    let client_seed = house::text(&proof.client_seed);
    format!(
        "{},{},{:.2},{:.2},{:.2},{},{},{},{},{},{},{}",
        bet.bet_id,
        live_name(bet.game),
        reported(wager),
        reported(payout),
        reported(payout - wager),
        multiplier.round_dp_with_strategy(4, MidpointAwayFromZero).normalize(),
        bet.won,
        proof.server_seed_hash,
        quoted_if_needed(&client_seed),
        proof.nonce,
        proof.result_hash,
        iso_seconds(bet.at)
    )
}

fn quoted_if_needed(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\"")).into()
    } else {
        field.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ask, funded, last, post};
    use http::Method;
    use std::time::Duration;

    const COIN_FLIP: &str = "/api/v1/games/coin-flip";

    /// Gives the fields of each row that a query shows, without the header.
    fn rows(state: &mut State, query: &str) -> Vec<Vec<String>> {
        let answer = ask(state, Method::GET, &format!("{PATH}?{query}"), "");
        assert_eq!((answer.status, answer.content_type), (StatusCode::OK, "text/csv; charset=utf-8"));
        assert!(!answer.body.ends_with("\r\n"), "{}", answer.body);
        let (header, rows) = answer.body.split_once("\r\n").unwrap_or((&answer.body, ""));
        assert_eq!(header, COLUMNS);
        rows.split_terminator("\r\n").map(|row| row.split(',').map(str::to_owned).collect()).collect()
    }

    fn seeds(state: &mut State, query: &str) -> Vec<String> {
        rows(state, query).into_iter().map(|row| row[8].clone()).collect()
    }

    /// Makes a state with bets `1` to `n`, each a second and a half after the one before.
    fn with_bets(count: u32) -> State {
        let mut state = funded();
        let start = humantime::parse_rfc3339("2026-11-21T02:28:00Z").unwrap();
        for n in 1..=count {
            let body = format!(r#"{{"side":"heads","amount":0.5,"client_seed":"{n}"}}"#);
            assert_eq!(post(&mut state, COIN_FLIP, &body).0, 200);
            last(&mut state).bet.at = start + Duration::from_millis(1_500) * n;
        }
        state
    }

    #[test]
    fn a_row_says_all_of_a_bet() {
        let mut state = with_bets(1);
        let (bet, hash) = (last(&mut state).bet.clone(), last(&mut state).proof.result_hash.clone());
        let (won_usd, net_usd) = if bet.won { ("1.00", "0.50") } else { ("0.00", "-0.50") };
        let (won, seed_hash) = (bet.won.to_string(), last(&mut state).proof.server_seed_hash.clone());
        let expected = [
            &bet.bet_id,
            "coin_flip",
            "0.50",
            won_usd,
            net_usd,
            "1.99",
            &won,
            &seed_hash,
            "1",
            "0",
            &hash,
            "2026-11-21T02:28:01.000Z",
        ];
        assert_eq!(rows(&mut state, ""), [expected]);
        assert_eq!(ask(&mut state, Method::POST, PATH, "").status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn both_bounds_are_inclusive_whole_seconds_and_the_newest_comes_first() {
        // The bets are at seconds 01, 03, 04 and 06.
        let mut state = with_bets(4);
        assert_eq!(seeds(&mut state, ""), ["4", "3", "2", "1"]);
        let both = "since=2026-11-21T02%3A28%3A03Z&until=2026-11-21T02%3a28%3a04Z";
        assert_eq!(seeds(&mut state, both), ["3", "2"]);
        assert_eq!(seeds(&mut state, "until=2026-11-21T02:28:03Z"), ["2", "1"]);
        assert_eq!(seeds(&mut state, "since=2026-11-21T02:28:06.000Z&what=ever"), ["4"]);
        assert!(seeds(&mut state, "game=crash").is_empty());
        assert_eq!(seeds(&mut state, "game=coin_flip").len(), 4);
        assert_eq!(seeds(&mut state, "since=2026-11-21T02:28:06.900Z"), ["4"], "bounds lose their fractions");
    }

    #[test]
    fn a_filter_that_cannot_be_read_filters_nothing() {
        let mut state = with_bets(4);
        for query in ["since=yesterday", "since=", "game=poker", "game=", "game=coin-flip", "outcome=both"] {
            assert_eq!(seeds(&mut state, query).len(), 4, "{query}");
        }
        assert_eq!(seeds(&mut state, "since=2026-11-21").len(), 4);
        assert!(seeds(&mut state, "since=2026-11-22").is_empty());
        let [won, lost] =
            ["won", "lost"].map(|outcome| seeds(&mut state, &format!("outcome={outcome}")).len());
        assert_eq!((won + lost, won), (4, state.ledger.iter().filter(|entry| entry.bet.won).count()));
    }

    #[test]
    fn a_forgotten_bet_and_a_gateway_bet_leave_no_row() {
        let mut state = with_bets(3);
        state.ledger[1].bet.in_history = false;
        state.forget = 1;
        let refused = post(&mut state, COIN_FLIP, r#"{"side":"edge","amount":1}"#);
        assert_eq!((refused.0, state.forget), (400, 1), "only a bet that is taken is forgotten");
        for seed in ["forgotten", "kept"] {
            let body = format!(r#"{{"side":"heads","amount":1,"client_seed":"{seed}"}}"#);
            post(&mut state, COIN_FLIP, &body);
        }
        let gateway = r#"{"agent_id":"agent-001","side":"heads","wager":1}"#;
        assert_eq!(post(&mut state, "/casino/coin-flip", gateway).0, 200);
        assert_eq!(state.ledger.len(), 6);
        assert_eq!(seeds(&mut state, ""), ["kept", "3", "1"]);
    }

    #[test]
    fn at_most_ten_thousand_rows_are_shown() {
        let mut state = funded();
        for _ in 0..=ROWS_LIMIT {
            post(&mut state, COIN_FLIP, r#"{"side":"heads","amount":0.01,"client_seed":"x"}"#);
        }
        let rows = rows(&mut state, "");
        assert_eq!((rows.len(), rows[0][0].as_str()), (ROWS_LIMIT, "bet_00010001"));
        assert_eq!(rows[0][9], "0", "the eleventh seed's first bet");
    }

    #[test]
    fn fields_are_quoted_only_where_needed() {
        for (field, quoted) in
            [("plain-1", "plain-1"), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("a\n", "\"a\n\"")]
        {
            assert_eq!(quoted_if_needed(field), quoted);
        }
    }
}
