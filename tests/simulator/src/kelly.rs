//! Enforces the Kelly ceiling of the `live` games: the most that an agent may stake on one bet (purple-flea.md, section
//! 2).

use super::{
    State,
    accounts::Account,
    answer::{Answer, Said, ok, refuse, refuse_with},
    call::Call,
    house,
    money::{cents, double, number, plain, reported},
};
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// The risk factor of a new agent.
pub(super) const NEW_AGENTS: Decimal = Decimal::from_parts(25, 0, 0, false, 2);

/// The least risk factor. The most is 1.
const LEAST: Decimal = Decimal::from_parts(1, 0, 0, false, 1);

/// The odds of a game.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds {
    pub(super) win_probability: Decimal,
    /// The payout of a win per dollar, the stake included.
    pub(super) pays: Decimal,
}

impl Odds {
    /// The ceiling's odds of a coin-flip: an even chance.
    pub(super) const COIN_FLIP: Self = Self {
        win_probability: Decimal::from_parts(5, 0, 0, false, 1),
        pays: Decimal::from_parts(199, 0, 0, false, 2),
    };

    /// The ceiling's odds of hi-lo: the same for every first card.
    pub(super) const HI_LO: Self = Self {
        win_probability: Decimal::from_parts(46, 0, 0, false, 2),
        pays: Decimal::from_parts(19, 0, 0, false, 1),
    };

    pub(super) fn crash(cash_out_at: Decimal) -> Self {
        Self { win_probability: house::win_probability(cash_out_at), pays: cash_out_at }
    }

    /// Computes Kelly's fraction, which is below 0 if the house has an edge.
    fn fraction(self) -> Decimal {
        let gain = self.pays - Decimal::ONE;
        let fraction =
            (gain * self.win_probability - (Decimal::ONE - self.win_probability)).checked_div(gain);
        fraction.unwrap_or_default().round_dp(4)
    }
}

/// Gives the risk factor that a reply shows: 1 for an account without a ceiling.
pub(super) fn risk_factor(account: &Account) -> Decimal {
    account.risk_factor.unwrap_or(Decimal::ONE)
}

fn max_bet(account: &Account, odds: Odds) -> Decimal {
    reported(double(account.balance) * (double(risk_factor(account)) * double(odds.win_probability)))
}

/// Refuses a stake above the ceiling. A stake at the ceiling passes.
pub(super) fn check(account: &Account, wager: Decimal, odds: Odds) -> Result<(), Answer> {
    let max_bet = max_bet(account, odds);
    if account.risk_factor.is_none() || wager <= max_bet {
        return Ok(());
    }
    let kelly = json!({
        "max_bet": plain(max_bet), "kelly_fraction": plain(odds.fraction()),
        "adjusted_fraction": plain((risk_factor(account) * odds.win_probability).round_dp(4)),
        "suggested_bet": plain(cents(max_bet / Decimal::TWO)),
    });
    Err(exceeded(wager, &format!("{max_bet:.2}"), plain(max_bet), kelly))
}

/// Makes the reply of the real server to a bet without the cash-out from which it computes.
pub(super) fn of_nothing(wager: Decimal) -> Answer {
    let kelly =
        json!({"max_bet": null, "kelly_fraction": null, "adjusted_fraction": null, "suggested_bet": null});
    exceeded(wager, "NaN", Value::Null, kelly)
}

fn exceeded(wager: Decimal, limit: &str, max_bet: Value, kelly: Value) -> Answer {
    let message = format!("Bet ${wager:.2} exceeds Kelly limit of ${limit}");
    let more =
        json!({"max_bet": max_bet, "suggestion": format!("Reduce bet to ${limit} or less"), "kelly": kelly});
    refuse_with(400, "kelly_limit_exceeded", &message, more)
}

/// Describes the ceiling for a game's reply.
pub(super) fn told(account: &Account, odds: Odds) -> Value {
    let max_bet = max_bet(account, odds);
    let bets = account.balance.checked_div(max_bet).map_or(Value::Null, |bets| plain(bets.round()));
    json!({
        "bankroll": plain(cents(account.balance)), "risk_factor": plain(risk_factor(account)),
        "max_bet_this_game": plain(max_bet), "bets_until_ruin": bets,
        "suggested_bet": plain(cents(max_bet / Decimal::TWO)),
    })
}

/// Serves `PUT /api/v1/kelly/config {"risk_factor": 0.1 … 1.0}`. It gives a ceiling to an account that has none.
pub(super) fn configure(state: &mut State, call: &Call<'_>) -> Said {
    let factor = number(&call.body["risk_factor"]).filter(|factor| (LEAST..=Decimal::ONE).contains(factor));
    let factor =
        factor.ok_or_else(|| refuse(400, "invalid_risk_factor", "risk_factor must be 0.1 to 1.0"))?;
    state.accounts.open(&call.agent_id).risk_factor = Some(factor);
    ok(json!({"risk_factor": plain(factor)}))
}

/// Serves `GET /api/v1/kelly/limits`: the ceilings of the games, without that of crash, which the real server leaves
/// out too.
pub(super) fn limits(state: &mut State, call: &Call<'_>) -> Said {
    let account = state.accounts.open(&call.agent_id);
    ok(json!({
        "bankroll": plain(cents(account.balance)),
        "risk_factor": plain(risk_factor(account)),
        "limits": {"coin_flip": {"max_bet": plain(max_bet(account, Odds::COIN_FLIP))}},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LIVE_AGENT,
        statement::Why,
        testing::{as_agent, funded, post},
    };
    use http::Method;
    use std::time::SystemTime;

    const COIN_FLIP: &str = "/api/v1/games/coin-flip";
    const CRASH: &str = "/api/v1/games/crash";

    /// Makes a new agent with a balance, and gives its key.
    fn new_agent(amount: &str) -> (State, String) {
        let mut state = funded();
        let key = state.accounts.give_key("ag_new", "sk_live_");
        let amount = amount.parse().unwrap();
        state.accounts.book("ag_new", amount, Why::Deposit, "", SystemTime::now());
        (state, key)
    }

    fn stake(state: &mut State, key: &str, path: &str, amount: &str) -> (u16, Value) {
        let body = format!(r#"{{"side":"heads","cash_out_at":1.5,"guess":"lower","amount":{amount}}}"#);
        as_agent(state, key, Method::POST, path, &body)
    }

    #[test]
    fn a_new_agent_may_stake_an_eighth_on_a_coin_a_sixth_on_a_crash_and_less_on_hi_lo() {
        for (balance, path, most, more) in [
            ("1", COIN_FLIP, "0.13", "0.131"),
            ("100", COIN_FLIP, "12.5", "12.51"),
            ("100", CRASH, "16.58", "16.59"),
            ("100", "/api/v1/games/hilo", "11.5", "11.51"),
        ] {
            let (mut state, key) = new_agent(balance);
            let (status, refused) = stake(&mut state, &key, path, more);
            assert_eq!((status, &refused["error"]), (400, &json!("kelly_limit_exceeded")), "{refused}");
            assert_eq!(refused["max_bet"].to_string(), most);
            assert_eq!(refused["kelly"]["max_bet"].to_string(), most);
            assert!(refused["suggestion"].is_string() && state.ledger.is_empty());
            assert_eq!(stake(&mut state, &key, path, most).0, 200);
        }
    }

    #[test]
    fn the_documented_refusal_comes_word_for_word() {
        let (mut state, key) = new_agent("986.36");
        let set = as_agent(&mut state, &key, Method::PUT, "/api/v1/kelly/config", r#"{"risk_factor":1}"#);
        assert_eq!((set.0, set.1["risk_factor"].to_string().as_str()), (200, "1"));
        let (_, refused) = stake(&mut state, &key, COIN_FLIP, "900");
        assert_eq!(refused["message"], "Bet $900.00 exceeds Kelly limit of $493.18");
        assert_eq!(refused["kelly"]["kelly_fraction"].to_string(), "-0.0051");
        let (_, poor) = stake(&mut state, &key, COIN_FLIP, "986.37");
        assert_eq!(poor["error"], "insufficient_balance", "the balance is looked at first");
    }

    #[test]
    fn the_factor_stays_between_a_tenth_and_one() {
        let (mut state, key) = new_agent("100");
        for factor in ["0.09", "1.01", "\"1\"", "null"] {
            let body = format!(r#"{{"risk_factor":{factor}}}"#);
            let (status, refused) = as_agent(&mut state, &key, Method::PUT, "/api/v1/kelly/config", &body);
            assert_eq!((status, &refused["error"]), (400, &json!("invalid_risk_factor")), "{factor}");
        }
        let (_, limits) = as_agent(&mut state, &key, Method::GET, "/api/v1/kelly/limits", "");
        assert_eq!(limits["limits"]["coin_flip"]["max_bet"].to_string(), "12.5");
        assert_eq!(limits["limits"]["crash"], Value::Null);
    }

    #[test]
    fn the_shared_key_has_no_ceiling_until_it_is_given_one() {
        let mut state = funded();
        let all = r#"{"side":"heads","amount":600,"client_seed":"x"}"#;
        assert_eq!(post(&mut state, COIN_FLIP, all).0, 200);
        let (_, reply) = post(&mut state, COIN_FLIP, r#"{"side":"heads","amount":1}"#);
        assert_eq!(reply["kelly"]["risk_factor"].to_string(), "1");
        state.accounts.open(LIVE_AGENT).risk_factor = Some(NEW_AGENTS);
        assert_eq!(post(&mut state, COIN_FLIP, r#"{"side":"heads","amount":400}"#).0, 400);
    }

    #[test]
    fn a_reply_describes_the_next_bet_as_documented() {
        let (mut state, _) = new_agent("1004.95");
        let account = state.accounts.open("ag_new");
        account.risk_factor = Some(Decimal::ONE);
        let told = told(account, Odds::COIN_FLIP).to_string();
        let documented = r#"{"bankroll":1004.95,"bets_until_ruin":2,"max_bet_this_game":502.48,"risk_factor":1,"suggested_bet":251.24}"#;
        assert_eq!(told, documented);
    }
}
