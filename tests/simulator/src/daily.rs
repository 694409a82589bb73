//! Serves the casino's daily bonus, in the `live` dialect (purple-flea.md, section 11). An agent claims it with its own
//! key, once in a rolling 24 hours. The bonus grows for seven days of a streak and then starts again.

use super::{
    State,
    answer::{Said, ok, refuse_with, whole_seconds},
    call::Call,
    money::plain,
    statement::Why,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The cents of each day of a streak: at most $12 a week.
const CENTS: [i64; 7] = [50, 75, 100, 125, 150, 200, 500];

/// How long after a claim the next one is due.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long after a claim the next one still continues its streak.
const STREAK: Duration = Duration::from_secs(48 * 60 * 60);

/// Each agent's last claim, and the number of claims so far.
#[derive(Default)]
pub(super) struct Daily {
    last: HashMap<String, Claim>,
    count: u64,
}

/// A claim of the bonus.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// The time, in whole seconds.
    at: SystemTime,
    /// The day of its streak, from 1.
    day: usize,
}

/// An agent's standing with the bonus.
struct Standing {
    last: Option<Claim>,
    /// How long until the next claim is due; `None` if it is due now.
    wait: Option<Duration>,
    /// Whether the last claim is too old for its streak.
    broken: bool,
    /// The day of the streak on which the next claim is.
    next_day: usize,
}

impl Standing {
    fn of(state: &State, agent_id: &str) -> Self {
        let last = state.daily.last.get(agent_id).copied();
        let age = last.map(|last| whole_seconds(state.now()).duration_since(last.at).unwrap_or_default());
        let broken = age.is_some_and(|age| age > STREAK);
        let next_day = last.filter(|_| !broken).map_or(1, |last| last.day + 1);
        let wait = age.and_then(|age| DAY.checked_sub(age)).filter(|wait| !wait.is_zero());
        Self { last, wait, broken, next_day }
    }

    /// Gives the seconds until the next claim, or `null`.
    fn wait_seconds(&self) -> Value {
        self.wait.map_or(Value::Null, |wait| json!(wait.as_secs()))
    }
}

/// Gives the bonus of a day of a streak.
fn bonus(day: usize) -> Decimal {
    Decimal::new(CENTS[(day - 1) % CENTS.len()], 2)
}

/// Serves `GET /api/v1/daily`: whether the bonus is due, and its schedule.
pub(super) fn status(state: &mut State, call: &Call<'_>) -> Said {
    let standing = Standing::of(state, &call.agent_id);
    let due = standing.wait.is_none();
    let claimed_at =
        standing.last.map(|last| last.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let schedule: Value = (1..=CENTS.len()).map(|day| (day.to_string(), plain(bonus(day)))).collect();
    ok(json!({
        "can_claim": due, "current_streak": standing.next_day - 1, "next_bonus_usd": plain(bonus(standing.next_day)),
        "streak_broken": standing.broken, "last_claimed_at": claimed_at,
        "next_claim_in_seconds": standing.wait_seconds(), "schedule": schedule,
        "claim": due.then_some("POST /api/v1/daily/claim"),
    }))
}

/// Serves `POST /api/v1/daily/claim`, without a body.
pub(super) fn claim(state: &mut State, call: &Call<'_>) -> Said {
    let standing = Standing::of(state, &call.agent_id);
    let (day, next) = (standing.next_day, plain(bonus(standing.next_day + 1)));
    if let Some(wait) = standing.wait {
        let minutes = wait.as_secs() / 60;
        let message = format!("Already claimed today. Come back in {}h {}m.", minutes / 60, minutes % 60);
        let more = json!({
            "next_claim_in_seconds": standing.wait_seconds(), "current_streak": day - 1,
            "next_bonus_usd": plain(bonus(day)),
        });
        return Err(refuse_with(400, "already_claimed", &message, more));
    }
    let now = state.now();
    state.daily.count += 1;
    let bonus_id = format!("db_{:012x}", state.daily.count);
    state.daily.last.insert(call.agent_id.clone(), Claim { at: whole_seconds(now), day });
    state.accounts.book(&call.agent_id, bonus(day), Why::Daily, &bonus_id, now);
    ok(json!({
        "claimed": true, "bonus_usd": plain(bonus(day)), "streak_day": day, "streak_broken": standing.broken,
        "balance_after": plain(state.accounts.balance(&call.agent_id)), "message": "Daily bonus claimed",
        "next_bonus_usd": next,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LIVE_AGENT,
        testing::{as_agent, funded, get, post},
    };
    use http::Method;

    const STATUS: &str = "/api/v1/daily";
    const CLAIM: &str = "/api/v1/daily/claim";

    #[test]
    fn a_bonus_is_claimed_once_in_a_rolling_day_and_credited_to_the_keys_owner() {
        let mut state = funded();
        let (_, before) = get(&mut state, STATUS);
        assert_eq!((&before["can_claim"], &before["last_claimed_at"]), (&json!(true), &Value::Null));
        assert_eq!(before["next_claim_in_seconds"], Value::Null);
        let (status, claimed) = post(&mut state, CLAIM, "");
        assert_eq!((status, &claimed["claimed"]), (200, &json!(true)));
        assert_eq!((claimed["bonus_usd"].to_string(), &claimed["streak_day"]), ("0.5".to_owned(), &json!(1)));
        assert_eq!(claimed["balance_after"].to_string(), "1000.5");
        state.clock_ahead += DAY - Duration::from_secs(60);
        let (status, early) = post(&mut state, CLAIM, "{}");
        assert_eq!((status, &early["error"]), (400, &json!("already_claimed")));
        let wait = early["next_claim_in_seconds"].as_u64().unwrap();
        assert!((1..=60).contains(&wait), "{early}");
        let (_, during) = get(&mut state, STATUS);
        assert_eq!((&during["can_claim"], &during["current_streak"]), (&json!(false), &json!(1)));
        assert!(during["last_claimed_at"].is_u64() && during["next_claim_in_seconds"].is_u64());
        state.clock_ahead += Duration::from_secs(60);
        assert_eq!(get(&mut state, STATUS).1["can_claim"], true);
        assert_eq!(post(&mut state, CLAIM, "").1["bonus_usd"].to_string(), "0.75");
        let (_, ledger) = get(&mut state, "/api/v1/auth/ledger");
        assert_eq!(ledger["entries"][0]["reason"], "daily_bonus");
        assert_eq!(ledger["entries"][0]["reference"], "db_000000000002");
    }

    #[test]
    fn a_week_of_claims_is_twelve_dollars_and_a_missed_day_starts_the_streak_again() {
        let mut state = funded();
        for _ in 0..7 {
            assert_eq!(post(&mut state, CLAIM, "").0, 200);
            state.clock_ahead += DAY;
        }
        assert_eq!(state.accounts.balance(LIVE_AGENT), 1_012.into());
        let (_, eighth) = post(&mut state, CLAIM, "");
        assert_eq!((eighth["bonus_usd"].to_string(), &eighth["streak_day"]), ("0.5".to_owned(), &json!(8)));
        state.clock_ahead += STREAK + Duration::from_secs(1);
        let (_, broken) = get(&mut state, STATUS);
        assert_eq!((&broken["streak_broken"], &broken["current_streak"]), (&json!(true), &json!(0)));
        let (_, again) = post(&mut state, CLAIM, "");
        assert_eq!((&again["streak_broken"], &again["streak_day"]), (&json!(true), &json!(1)));
    }

    #[test]
    fn every_agent_claims_with_its_own_key_and_none_without() {
        let mut state = funded();
        let key = state.accounts.give_key("ag_other", "sk_live_");
        assert_eq!(post(&mut state, CLAIM, "").0, 200);
        let (status, _) = as_agent(&mut state, &key, Method::POST, CLAIM, "");
        assert_eq!((status, state.accounts.balance("ag_other")), (200, Decimal::new(50, 2)));
        for key in ["", "nobody's"] {
            assert_eq!(as_agent(&mut state, key, Method::POST, CLAIM, "").0, 401);
        }
    }
}
