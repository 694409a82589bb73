//! The casino's games: places a bet and reads its outcome.

use super::{
    Call, PurpleFlea, body,
    reply::{self, Field},
};
use crate::{
    domain::{
        account::{Account, Api},
        amount::Amount,
        bet::{self, Bet, BetOutcome, Game, Proof},
        failure::{Doubt, Failure},
    },
    runtime::Runtime,
};
use serde_json::Value;

impl PurpleFlea {
    /// Returns whether the dialect has a game. The gateway documents no path for hi-lo.
    pub fn has_game(&self, game: Game) -> bool {
        !matches!((self.api, game), (Api::Gateway, Game::HiLo(_)))
    }

    /// Places one bet, once. An operator can find the bet by `idempotency_key`: 1 to 64 of `A-Z a-z 0-9 . _ :
    /// -`.
    pub async fn place_bet(
        &self,
        bet: &Bet,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<BetOutcome, Failure> {
        let (agent_id, wager) = (account.name.as_str().into(), bet.wager.into());
        let (route, body) = match (self.api, bet.game) {
            (Api::Gateway, Game::Crash(cashout_at)) => (
                "/casino/crash",
                body([("agent_id", agent_id), ("wager", wager), ("cashout_at", cashout_at.into())]),
            ),
            (Api::Gateway, Game::CoinFlip(side)) => (
                "/casino/coin-flip",
                body([("agent_id", agent_id), ("wager", wager), ("side", side.name().into())]),
            ),
            (Api::Live, Game::Crash(cashout_at)) => (
                "/api/v1/games/crash",
                body([
                    ("amount", wager),
                    ("cash_out_at", cashout_at.into()),
                    ("client_seed", idempotency_key.into()),
                ]),
            ),
            (Api::Live, Game::CoinFlip(side)) => (
                "/api/v1/games/coin-flip",
                body([
                    ("amount", wager),
                    ("side", side.name().into()),
                    ("client_seed", idempotency_key.into()),
                ]),
            ),
            (Api::Gateway, Game::HiLo(_)) => return Err(Failure::NotSent("no_path")),
            (Api::Live, Game::HiLo(guess)) => (
                "/api/v1/games/hilo",
                body([
                    ("amount", wager),
                    ("guess", guess.name().into()),
                    ("client_seed", idempotency_key.into()),
                ]),
            ),
        };
        let call = Call::post(route.to_owned(), body, idempotency_key);
        let reply = self.call(&self.casino, account, call, runtime).await?;
        read_outcome(bet, &reply).ok_or(Failure::Unknown(Doubt::Unrecognised))
    }
}

/// Reads an outcome leniently: fields at the top or under `result`, numbers as strings, and any other fields.
/// Returns `None` unless a field says won or lost, no field contradicts it, and a present payout is an
/// amount.
fn read_outcome(bet: &Bet, body: &Value) -> Option<BetOutcome> {
    let field = |name: &str| body.field(name);
    let verdicts: Vec<bool> = [
        field("won").and_then(flag),
        field("cashed_out").and_then(flag),
        field("outcome").and_then(|word| won(bet.game, word)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let won = *verdicts.first()?;
    if verdicts.iter().any(|verdict| *verdict != won) {
        return None;
    }
    let payout = match field("payout").or_else(|| field("amount_won")) {
        None if won => None,
        None => Some(Amount::ZERO),
        Some(value) => Some(reply::amount(value)?),
    };
    if payout.is_some_and(|p| p.is_negative() || p.decimal().is_zero() == won) {
        return None;
    }
    let payout = if won {
        bet::payout(payout, body.amount(&["amount_bet"]), field("payout_multiplier").and_then(reply::decimal))
    } else {
        payout
    };
    Some(BetOutcome {
        won,
        payout,
        bet_id: body.identifier(&["bet_id", "id"]),
        crash_point: body.amount(&["crash_point"]),
        proof: proof(body),
    })
}

fn proof(body: &Value) -> Option<Proof> {
    let proof = body.get("proof")?;
    let text = |name| proof.get(name).and_then(Value::as_str).and_then(reply::identifier);
    Some(Proof {
        server_seed_hash: text("server_seed_hash")?,
        client_seed: text("client_seed")?,
        // The nonce is a counter. The database would refuse any other number together with the bet's outcome.
        nonce: proof.get("nonce")?.as_u64()?.into(),
        result_hash: text("result_hash")?,
    })
}

/// Reads `outcome`: win or loss in one reply, the side of the coin in another.
fn won(game: Game, outcome: &Value) -> Option<bool> {
    match (outcome.as_str()?.to_ascii_lowercase().as_str(), game) {
        ("win" | "won", _) => Some(true),
        ("loss" | "lose" | "lost", _) => Some(false),
        (face @ ("heads" | "tails"), Game::CoinFlip(side)) => Some(side.name() == face),
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    value.as_bool().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bet::{CashoutAt, Guess, Side};
    use proptest::prelude::*;
    use serde_json::json;

    fn bet(game: Game) -> Bet {
        Bet { agent_id: "agent-001".into(), game, wager: "10.00".parse().unwrap() }
    }

    fn crash() -> Bet {
        bet(Game::Crash(CashoutAt::new("1.5".parse().unwrap()).unwrap()))
    }

    fn flip() -> Bet {
        bet(Game::CoinFlip(Side::Heads))
    }

    fn outcome(bet: &Bet, body: &str) -> Option<(bool, Option<String>)> {
        let outcome = read_outcome(bet, &serde_json::from_str(body).ok()?)?;
        Some((outcome.won, outcome.payout.map(|p| p.to_string())))
    }

    #[test]
    fn an_outcome_is_recognised_in_every_form_that_purple_flea_writes() {
        let won = |payout: &str| Some((true, Some(payout.to_owned())));
        let lost = Some((false, Some("0".to_owned())));
        for (bet, body, expected) in [
            (crash(), r#"{"outcome":"win","payout":15.00,"_info":{}}"#, won("15.00")),
            (crash(), r#"{"outcome":"win","payout":"15.00"}"#, won("15.00")),
            (crash(), r#"{"outcome":"WIN","payout":15.0000000000002}"#, won("15.0000")),
            (crash(), r#"{"outcome":"loss","payout":0}"#, lost.clone()),
            (crash(), r#"{"outcome":"lose"}"#, lost.clone()),
            (crash(), r#"{"cashed_out":true,"crash_point":9.38,"payout":15}"#, won("15")),
            (crash(), r#"{"won":"true","amount_won":15}"#, won("15")),
            (crash(), r#"{"won":true}"#, Some((true, None))),
            (
                crash(),
                r#"{"won":true,"amount_bet":5.05,"payout_multiplier":1.5,"amount_won":7.57}"#,
                won("7.575"),
            ),
            (crash(), r#"{"won":true,"amount_bet":5.05,"payout_multiplier":"1.5"}"#, won("7.575")),
            (
                crash(),
                r#"{"won":true,"amount_bet":5.05,"payout_multiplier":1.5,"amount_won":75.7}"#,
                won("75.7"),
            ),
            (
                crash(),
                r#"{"result":{"cashed_out":false},"won":false,"amount_won":0,"error":null}"#,
                lost.clone(),
            ),
            // Hi-lo's multiplier is a quotient. The product is rounded once.
            (
                bet(Game::HiLo(Guess::Higher)),
                r#"{"won":true,"amount_bet":5,"payout_multiplier":1.6457142857142857,"amount_won":8.23}"#,
                won("8.2286"),
            ),
            // Equal cards give the wager back, and Purple Flea calls that a win.
            (
                bet(Game::HiLo(Guess::Lower)),
                r#"{"won":true,"amount_bet":5,"payout_multiplier":1,"amount_won":5,"result":{"result":"push"}}"#,
                won("5"),
            ),
            (flip(), r#"{"outcome":"heads","payout":19.9}"#, won("19.9")),
            (flip(), r#"{"outcome":"tails","payout":0}"#, lost.clone()),
            (flip(), r#"{"won":true,"result":{"outcome":"heads"},"amount_won":9.95}"#, won("9.95")),
        ] {
            assert_eq!(outcome(&bet, body), expected, "{body}");
        }
    }

    #[test]
    fn a_success_without_a_recognisable_outcome_is_unknown_and_never_a_success() {
        for body in [
            "",
            "null",
            "{}",
            "[]",
            "<html>",
            "true",
            "{\"won\":null}",
            "{\"won\":1}",
            "{\"outcome\":\"heads\",\"payout\":1}",
            "{\"outcome\":\"pending\"}",
            "{\"won\":true,\"outcome\":\"loss\"}",
            "{\"won\":true,\"payout\":0}",
            "{\"won\":false,\"payout\":5}",
            "{\"won\":true,\"payout\":-5}",
            "{\"won\":true,\"payout\":\"NaN\"}",
            "{\"won\":true,\"payout\":1e400}",
            "{\"won\":true,\"payout\":[]}",
            "{\"won\":true,\"payout\":15",
            "{\"won\":true,\"cashed_out\":false}",
        ] {
            assert_eq!(outcome(&crash(), body), None, "{body}");
        }
    }

    #[test]
    fn a_proof_is_kept_as_it_was_written_or_not_at_all() {
        let body = |nonce: &str| {
            let proof = format!(
                r#"{{"server_seed_hash":"d7b4","client_seed":"k-1","nonce":{nonce},"result_hash":"3f4a"}}"#
            );
            serde_json::from_str(&format!(r#"{{"won":true,"amount_won":7.5,"proof":{proof}}}"#)).unwrap()
        };
        let proof = read_outcome(&crash(), &body("7")).unwrap().proof.unwrap();
        assert_eq!(json!(proof), body("7")["proof"]);
        for nonce in ["null", "1e999999", "-1", "0.5", "1e2", "99999999999999999999", "\"7\""] {
            assert_eq!(read_outcome(&crash(), &body(nonce)).unwrap().proof, None, "{nonce}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body in "[a-z0-9{}\\[\\]\":,.-]{0,200}") {
            let _ = outcome(&flip(), &body);
        }
    }
}
