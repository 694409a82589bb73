//! Serves provable fairness in the `live` dialect: commits to a seed, reveals it, and verifies a bet by it
//! (purple-flea.md, section 10).

use super::{
    Entry, State,
    answer::{Answer, Said, iso_seconds, ok, refuse},
    call::Call,
    games::live_name,
    house::{Seed, hex, roll_of},
    money::plain,
};
use serde_json::{Value, json};

/// Serves `GET /api/v1/fairness/seed-hash`: the commitment for the next bet.
pub(super) fn seed_hash(state: &mut State, call: &Call<'_>) -> Said {
    let seed = state.house.active(&call.agent_id);
    ok(json!({"server_seed_hash": seed.hash}))
}

/// Serves `GET /api/v1/fairness/seeds`: all seeds, oldest first, with the active one hidden.
pub(super) fn seeds(state: &mut State, call: &Call<'_>) -> Said {
    let shown = |seed: &Seed, revealed: bool| {
        let told = if revealed { &seed.server_seed } else { "[active - not yet revealed]" };
        json!({"seed_hash": seed.hash, "seed": told, "active": !revealed, "bets_made": seed.bets})
    };
    let active = shown(state.house.active(&call.agent_id), false);
    let revealed = state.house.revealed(&call.agent_id).iter().map(|seed| shown(seed, true));
    let all: Vec<Value> = revealed.chain([active]).collect();
    ok(json!({ "seeds": all }))
}

/// Serves `POST /api/v1/fairness/rotate`: reveals the seed. The next bet uses another.
pub(super) fn rotate(state: &mut State, call: &Call<'_>) -> Said {
    let revealed = state.house.rotate(&call.agent_id);
    ok(json!({
        "message": "Seed rotated successfully",
        "previous_seed":
            {"seed": revealed.server_seed, "seed_hash": revealed.hash, "bets_made": revealed.bets},
        "new_seed_hash": state.house.active(&call.agent_id).hash,
    }))
}

/// Serves `POST /api/v1/fairness/verify {bet_id}`: computes one of the caller's bets again, once its seed is revealed.
/// To the real server another agent's bet is none.
pub(super) fn verify(state: &mut State, call: &Call<'_>) -> Said {
    let bet_id = call.text("bet_id").ok_or_else(|| refuse(400, "missing_params", "Provide bet_id"))?;
    let not_found = || refuse(404, "bet_not_found", &format!("No bet found with id: {bet_id}"));
    let entry = own_bet(state, call, bet_id).map_err(|_| not_found())?;
    let Entry { bet, proof, .. } = entry;
    let seeds = state.house.revealed(&call.agent_id);
    let Some(seed) = seeds.iter().find(|seed| seed.hash == proof.server_seed_hash) else {
        let mut shown = proof.to_json();
        shown["bet_id"] = json!(bet.bet_id);
        shown["status"] = json!("seed_not_yet_revealed");
        shown["message"] = json!("Server seed will be revealed when it rotates");
        return ok(shown);
    };
    let computed = seed.result(&proof.client_seed, proof.nonce);
    let matches = hex(&computed) == proof.result_hash;
    let mut shown = proof.to_json();
    shown["server_seed"] = json!(seed.server_seed);
    shown["computed_result"] = plain(roll_of(&computed));
    shown["hash_matches"] = json!(matches);
    ok(json!({
        "bet_id": bet.bet_id, "verified": matches, "game": live_name(bet.game), "won": bet.won,
        "amount_bet": plain(bet.wager), "amount_won": plain(bet.payout), "proof": shown,
    }))
}

/// Serves `GET /api/v1/fairness/audit/:bet_id`: one of the caller's bets, with its unrounded payout.
pub(super) fn audit(state: &mut State, call: &Call<'_>) -> Said {
    let Entry { bet, multiplier, proof, .. } = own_bet(state, call, call.id)?;
    ok(json!({
        "bet_id": bet.bet_id, "game": live_name(bet.game), "amount": plain(bet.wager), "won": bet.won,
        "payout_multiplier": plain(*multiplier), "amount_won": plain(bet.payout),
        "timestamp": iso_seconds(bet.at), "fairness": proof.to_json(),
    }))
}

/// Finds a bet in the history. Only the bet's owner may see it.
fn own_bet<'a>(state: &'a State, call: &Call<'_>, bet_id: &str) -> Result<&'a Entry, Answer> {
    let entry = state.bet(bet_id).filter(|entry| entry.live && entry.bet.in_history);
    let entry = entry.ok_or_else(|| refuse(404, "bet_not_found", ""))?;
    if entry.bet.agent_id != call.agent_id {
        return Err(refuse(403, "forbidden", "another agent's bet"));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{as_agent, funded, get, last, post};
    use http::Method;
    use sha2::{Digest, Sha256};

    const CRASH: &str = "/api/v1/games/crash";
    const VERIFY: &str = "/api/v1/fairness/verify";

    #[test]
    fn a_bet_is_verified_when_its_seed_is_revealed_and_not_before() {
        let mut state = funded();
        let (_, commitment) = get(&mut state, "/api/v1/fairness/seed-hash");
        let (_, reply) = post(&mut state, CRASH, r#"{"amount":1,"cash_out_at":1.5,"client_seed":"mine"}"#);
        assert_eq!(reply["proof"]["server_seed_hash"], commitment["server_seed_hash"]);
        let question = json!({"bet_id": reply["bet_id"]}).to_string();
        let (status, early) = post(&mut state, VERIFY, &question);
        assert_eq!(
            (status, &early["status"], early.get("proof")),
            (200, &json!("seed_not_yet_revealed"), None)
        );
        let (_, rotated) = post(&mut state, "/api/v1/fairness/rotate", "");
        let server_seed = rotated["previous_seed"]["seed"].as_str().unwrap();
        assert_eq!(json!(hex(&Sha256::digest(server_seed))), commitment["server_seed_hash"]);
        let (_, verified) = post(&mut state, VERIFY, &question);
        assert_eq!((&verified["verified"], &verified["proof"]["hash_matches"]), (&json!(true), &json!(true)));
        assert_eq!(verified["proof"]["server_seed"], server_seed);
        assert_eq!(verified["proof"]["computed_result"], reply["result"]["roll"]);
        let (_, next) = get(&mut state, "/api/v1/fairness/seed-hash");
        assert_eq!(next["server_seed_hash"], rotated["new_seed_hash"]);
        let (_, again) = post(&mut state, "/api/v1/fairness/rotate", "");
        assert_eq!(again["previous_seed"]["seed"].as_str().map(str::len), Some(64));
        let (_, seeds) = get(&mut state, "/api/v1/fairness/seeds");
        let shown: Vec<_> = seeds["seeds"].as_array().unwrap().iter().map(|seed| &seed["seed"]).collect();
        let hidden = json!("[active - not yet revealed]");
        assert_eq!(shown, [&json!(server_seed), &again["previous_seed"]["seed"], &hidden]);
    }

    #[test]
    fn an_audit_tells_the_owner_the_payout_to_the_last_digit() {
        let mut state = funded();
        while state.ledger.last().is_none_or(|entry| !entry.bet.won) {
            post(&mut state, CRASH, r#"{"amount":1.25,"cash_out_at":1.53}"#);
        }
        let bet = last(&mut state).bet.clone();
        assert_eq!(crate::games::reported_payout(last(&mut state)).to_string(), "1.91");
        let path = format!("/api/v1/fairness/audit/{}", bet.bet_id);
        let (_, audit) = get(&mut state, &path);
        assert_eq!(audit["amount_won"].to_string(), "1.9125");
        assert!(audit["fairness"]["client_seed"].as_str().is_some_and(|seed| seed.starts_with("auto_")));
        let key = state.accounts.give_key("ag_other", "sk_live_");
        let (status, reply) = as_agent(&mut state, &key, Method::GET, &path, "");
        assert_eq!((status, &reply["error"]), (403, &json!("forbidden")));
        let (status, reply) = get(&mut state, "/api/v1/fairness/audit/bet_1");
        assert_eq!((status, &reply["error"]), (404, &json!("bet_not_found")));
    }

    #[test]
    fn a_bet_without_a_row_is_no_bet_to_the_auditors() {
        let mut state = funded();
        state.forget = 1;
        let (_, reply) = post(&mut state, CRASH, r#"{"amount":1,"cash_out_at":1.5}"#);
        let (status, refused) = post(&mut state, VERIFY, &json!({"bet_id": reply["bet_id"]}).to_string());
        assert_eq!((status, &refused["error"]), (404, &json!("bet_not_found")));
        assert_eq!(post(&mut state, VERIFY, "{}").1["error"], "missing_params");
    }
}
