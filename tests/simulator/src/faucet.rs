//! Serves the faucet of a new agent, once (purple-flea.md, section 6), and the gateway's daily claim.

use super::{
    PurpleFlea, State,
    answer::{Answer, Said, failed, iso, ok, refuse, refuse_with},
    call::{Api, Call},
    money::{is_falsy, plain},
    routes::Kind,
    statement::Why,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// The credit of each claim.
const CREDIT: Decimal = Decimal::ONE;

/// The address from which the casino claims for each new agent. It is the casino's own, so about one new agent a day is
/// credited.
const CASINO: &str = "the casino";

/// How long after a daily claim the next one is due.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The claims so far, and those under way.
pub(super) struct Faucet {
    /// Agents that have claimed the faucet, with the times.
    claimed: HashMap<String, SystemTime>,
    /// Each address's last claim of the faucet.
    addresses: HashMap<String, SystemTime>,
    /// Each agent's last daily claim.
    daily: HashMap<String, SystemTime>,
    /// The number of claims of both kinds.
    count: u32,
    /// Whether a `live` registration claims the faucet.
    by_registration: bool,
    delay: Duration,
    /// Claims of registrations that are not credited yet.
    under_way: Vec<(SystemTime, String)>,
}

impl Default for Faucet {
    fn default() -> Self {
        Self {
            claimed: HashMap::new(),
            addresses: HashMap::new(),
            daily: HashMap::new(),
            count: 0,
            by_registration: true,
            delay: Duration::ZERO,
            under_way: Vec::new(),
        }
    }
}

/// Serves `POST /faucet/claim`, without a key in `live`. Checks the address first, then the agent.
pub(super) fn claim(state: &mut State, call: &Call<'_>) -> Said {
    let agent_id = claimant(call)?.to_owned();
    let every = state.gate.faucet_every(call.api);
    let address = state.gate.address(Kind::Faucet, call.request, Some(&call.body));
    if let Some(wait) = state.faucet.wait_of(&address, every, state.now()) {
        state.gate.count_refused();
        let hours = wait.as_secs().div_ceil(60 * 60);
        let message = format!("Already claimed from this IP today. Try again in ~{hours}h.");
        return Err(refuse(429, "ip_rate_limited", &message));
    }
    state.check_first(&agent_id)?;
    let code = &call.body["referral_code"];
    let referrer = if is_falsy(code) {
        state.accounts.get(&agent_id).and_then(|account| account.referred_by.clone())
    } else {
        state.accounts.referrer(code)?
    };
    let claim_id = state.credit_first(&agent_id, address);
    ok(json!({
        "credited": plain(CREDIT), "claim_id": claim_id, "agent_id": agent_id,
        "message": "Play money, by a simulator", "casino_url": "/",
        "referral_tracked": referrer.is_some_and(|referrer| referrer != agent_id),
    }))
}

/// Reads the agent of a claim. In the gateway an agent's own key names the agent, too.
fn claimant<'a>(call: &'a Call<'_>) -> Result<&'a str, Answer> {
    let live = call.api == Api::Live;
    let name = if live { "agent_casino_id" } else { "agent_id" };
    if live && !matches!(call.body[name], Value::Null | Value::String(_)) {
        // The real server takes the value for text, and fails with an internal error.
        return Err(failed());
    }
    let named = call.text(name).map(str::trim).or(Some(call.agent_id.as_str()).filter(|_| !live));
    let named = named.filter(|named| if live { named.starts_with("ag_") } else { !named.is_empty() });
    named.ok_or_else(|| refuse(400, "invalid_request", &format!("{name} is required (ag_xxx format)")))
}

/// Serves `GET /faucet/stats`.
pub(super) fn stats(state: &mut State, _: &Call<'_>) -> Said {
    let claims = state.faucet.claimed.len();
    let value = plain(CREDIT * Decimal::from(claims));
    let each = if claims == 0 { json!(0) } else { plain(CREDIT) };
    ok(
        json!({"total_claims": claims, "total_agents": claims, "total_value_usd": value, "avg_per_agent": each}),
    )
}

/// Serves `GET /api/status?agent_id=…`, without a key: whether the daily claim is due.
pub(super) fn daily_status(state: &mut State, call: &Call<'_>) -> Said {
    known(state, &call.agent_id)?;
    let next = state.next_daily(&call.agent_id);
    ok(json!({"agent_id": call.agent_id, "can_claim": next.is_none(), "next_eligible_at": next.map(iso)}))
}

/// Serves `POST /api/claim {agent_id, wallet_address?}`, without a key, once in 24 hours. The simulator has no chain, so the hash is
/// only a name.
pub(super) fn daily_claim(state: &mut State, call: &Call<'_>) -> Said {
    known(state, &call.agent_id)?;
    if let Some(next) = state.next_daily(&call.agent_id) {
        let more = json!({ "next_eligible_at": iso(next) });
        return Err(refuse_with(409, "already_claimed", "One claim in 24 hours", more));
    }
    let now = state.now();
    state.faucet.daily.insert(call.agent_id.clone(), now);
    let (number, _) = state.pour(&call.agent_id);
    ok(json!({
        "agent_id": call.agent_id, "amount_usdc": plain(CREDIT), "tx_hash": format!("0x{number:064x}"),
        "wallet_address": call.text("wallet_address"), "next_eligible_at": iso(now + DAY),
    }))
}

fn known(state: &State, agent_id: &str) -> Result<(), Answer> {
    if agent_id.is_empty() {
        return Err(refuse(400, "invalid_request", "agent_id is required"));
    }
    let account = state.accounts.get(agent_id);
    account.map(|_| ()).ok_or_else(|| refuse(404, "agent_not_found", "no such agent"))
}

impl Faucet {
    /// Gives how long an address waits for its next claim, unless it is due.
    fn wait_of(&self, address: &str, every: Option<Duration>, now: SystemTime) -> Option<Duration> {
        let due = *self.addresses.get(address)? + every?;
        due.duration_since(now).ok().filter(|wait| !wait.is_zero())
    }
}

impl State {
    /// Refuses an agent that has had its first dollar, or that does not need it.
    fn check_first(&self, agent_id: &str) -> Result<(), Answer> {
        known(self, agent_id)?;
        if self.faucet.claimed.contains_key(agent_id) {
            let message = "This agent has already claimed the faucet bonus.";
            return Err(refuse(409, "already_claimed", message));
        }
        if self.accounts.get(agent_id).is_some_and(|account| account.deposited > Decimal::ZERO) {
            return Err(refuse(403, "has_deposits", "Faucet is for new agents with no deposits."));
        }
        Ok(())
    }

    /// Credits an agent's first dollar, and gives the claim's id. Only such a claim makes the address wait.
    fn credit_first(&mut self, agent_id: &str, address: String) -> String {
        let now = self.now();
        self.faucet.claimed.insert(agent_id.to_owned(), now);
        self.faucet.addresses.insert(address, now);
        self.pour(agent_id).1
    }

    /// Credits a claim, and gives its number and its id.
    fn pour(&mut self, agent_id: &str) -> (u32, String) {
        self.faucet.count += 1;
        let number = self.faucet.count;
        let (claim_id, now) = (format!("00000000-0000-4000-8000-{number:012x}"), self.now());
        self.accounts.book(agent_id, CREDIT, Why::Faucet, &claim_id, now);
        (number, claim_id)
    }

    /// Gives the time of the next daily claim, unless it is due now.
    fn next_daily(&self, agent_id: &str) -> Option<SystemTime> {
        let next = *self.faucet.daily.get(agent_id)? + DAY;
        (self.now() < next).then_some(next)
    }

    /// Starts the claim of a `live` registration, from the casino's address.
    pub(super) fn claim_in_the_background(&mut self, agent_id: &str) {
        if self.faucet.by_registration {
            let due = self.now() + self.faucet.delay;
            self.faucet.under_way.push((due, agent_id.to_owned()));
            self.finish_claims();
        }
    }

    /// Executes the due claims of registrations. Nobody reads their replies.
    pub(super) fn finish_claims(&mut self) {
        let now = self.now();
        let due: Vec<_> = self.faucet.under_way.extract_if(.., |(due, _)| *due <= now).collect();
        for (_, agent_id) in due {
            let (address, every) = self.gate.registrations_claim(CASINO, &agent_id);
            let may = self.faucet.wait_of(&address, Some(every), now).is_none();
            if may && self.check_first(&agent_id).is_ok() {
                self.credit_first(&agent_id, address);
            }
        }
    }
}

impl PurpleFlea {
    /// Sets whether a `live` registration claims the faucet for the new agent, as the real server does. The claims share
    /// the casino's address, which gets one a day: [`Limits::faucet_every`](super::Limits::faucet_every), even without
    /// limits. On by default.
    pub fn faucet_on_registration(&self, on: bool) {
        self.shared.state().faucet.by_registration = on;
    }

    /// Sets how long after a registration its claim is executed; at once by default.
    pub fn faucet_delay(&self, delay: Duration) {
        self.shared.state().faucet.delay = delay;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        LIVE_AGENT, Limits,
        testing::{as_agent, funded, get, post, send},
    };
    use http::Method;

    const CLAIM: &str = "/faucet/claim";
    const REGISTER: &str = "/api/v1/auth/register";

    fn claim(state: &mut State, agent_id: &str) -> (u16, Value) {
        let body = json!({ "agent_casino_id": agent_id }).to_string();
        as_agent(state, "", Method::POST, CLAIM, &body)
    }

    /// Gives the status and the error code of a refusal.
    fn refusal((status, reply): (u16, Value)) -> (u16, String) {
        (status, reply["error"].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_new_agent_gets_a_dollar_once_in_either_dialect_and_needs_no_key_in_live() {
        let mut state = funded();
        for agent in ["ag_new", "ag_newer"] {
            state.accounts.open(agent);
        }
        let (status, reply) = claim(&mut state, "ag_new");
        assert_eq!((status, &reply["credited"], &reply["agent_id"]), (200, &json!(1), &json!("ag_new")));
        assert_eq!(reply["claim_id"].as_str().map(str::len), Some(36));
        let (status, reply) = post(&mut state, CLAIM, r#"{"agent_id":"ag_newer"}"#);
        assert_eq!((status, &reply["credited"]), (200, &json!(1)));
        for again in [claim(&mut state, "ag_newer"), post(&mut state, CLAIM, r#"{"agent_id":"ag_new"}"#)] {
            assert_eq!(refusal(again), (409, "already_claimed".to_owned()));
        }
        assert_eq!([state.accounts.balance("ag_new"), state.accounts.balance("ag_newer")], [CREDIT, CREDIT]);
        let keyless = as_agent(&mut state, "", Method::POST, CLAIM, r#"{"agent_id":"ag_newer"}"#);
        assert_eq!(refusal(keyless), (401, "unauthorized".to_owned()));
        assert_eq!(get(&mut state, "/faucet/stats").1["total_claims"], 2);
    }

    #[test]
    fn an_unknown_agent_and_an_agent_with_deposits_get_nothing() {
        let mut state = funded();
        assert_eq!(refusal(claim(&mut state, "ag_nobody")), (404, "agent_not_found".to_owned()));
        assert_eq!(refusal(claim(&mut state, LIVE_AGENT)), (403, "has_deposits".to_owned()));
        for body in ["", "{", "{}", r#"{"agent_casino_id":"agent-001"}"#, r#"{"agent_id":""}"#] {
            assert_eq!(refusal(post(&mut state, CLAIM, body)), (400, "invalid_request".to_owned()), "{body}");
        }
        for body in ["null", r#"{"agent_casino_id":7}"#] {
            assert_eq!(refusal(post(&mut state, CLAIM, body)), (500, "internal_error".to_owned()), "{body}");
        }
        assert_eq!(state.accounts.balance(LIVE_AGENT), 1_000.into());
    }

    #[test]
    fn an_address_claims_once_a_day_and_is_looked_at_before_the_agent() {
        let mut state = funded();
        state.gate.set(Some(Limits { faucet_claims: 100, ..Limits::default() }));
        for agent in ["ag_a", "ag_b"] {
            state.accounts.open(agent);
        }
        let from = |state: &mut State, address: &'static str, agent: &str| {
            let body = json!({ "agent_casino_id": agent }).to_string();
            refusal(send(state, Method::POST, CLAIM, &body, &[("x-forwarded-for", address)]))
        };
        assert_eq!(from(&mut state, "10.0.0.1, 10.9.9.9", "ag_a").0, 200);
        for agent in ["ag_a", "ag_b", "ag_nobody"] {
            assert_eq!(from(&mut state, "10.0.0.1", agent), (429, "ip_rate_limited".to_owned()));
        }
        assert_eq!(state.gate.refused(), 3);
        state.clock_ahead += Duration::from_secs(60 * 60);
        let body = r#"{"agent_casino_id":"ag_b"}"#;
        let (_, reply) = send(&mut state, Method::POST, CLAIM, body, &[("x-forwarded-for", "10.0.0.1")]);
        assert_eq!(reply["message"], "Already claimed from this IP today. Try again in ~23h.");
        assert_eq!(from(&mut state, "10.0.0.2", "ag_a"), (409, "already_claimed".to_owned()));
        assert_eq!(from(&mut state, "10.0.0.2", "ag_b").0, 200, "an agent that gets nothing has not claimed");
        state.accounts.open("ag_c");
        state.clock_ahead += DAY;
        assert_eq!(from(&mut state, "10.0.0.1", "ag_c").0, 200);
    }

    fn registered(state: &mut State) -> String {
        post(state, REGISTER, "{}").1["agent_id"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn registrations_claim_from_one_address_so_one_new_agent_a_day_is_credited() {
        let mut state = funded();
        let (first, second) = (registered(&mut state), registered(&mut state));
        assert_eq!(
            [state.accounts.balance(&first), state.accounts.balance(&second)],
            [CREDIT, Decimal::ZERO]
        );
        assert_eq!(refusal(claim(&mut state, &first)), (409, "already_claimed".to_owned()));
        assert_eq!(claim(&mut state, &second).0, 200, "the agent itself claims from another address");
        state.clock_ahead += DAY;
        let next = registered(&mut state);
        assert_eq!((state.accounts.balance(&next), state.gate.refused()), (CREDIT, 0));
        state.gate.set(Some(Limits { faucet_every: Duration::ZERO, ..Limits::default() }));
        let another = registered(&mut state);
        assert_eq!(state.accounts.balance(&another), CREDIT, "a test can shorten the day");
        state.faucet.by_registration = false;
        let poor = registered(&mut state);
        assert_eq!(state.accounts.balance(&poor), Decimal::ZERO);
    }

    #[test]
    fn a_registrations_claim_comes_at_once_or_later_and_never_twice() {
        let mut state = funded();
        state.faucet.delay = Duration::from_secs(30);
        let (quick, later) = (registered(&mut state), registered(&mut state));
        assert_eq!(claim(&mut state, &quick).0, 200);
        assert_eq!(state.accounts.balance(&later), Decimal::ZERO);
        state.clock_ahead += Duration::from_secs(31);
        state.settle();
        assert_eq!([state.accounts.balance(&later), state.accounts.balance(&quick)], [CREDIT, CREDIT]);
        assert!(state.faucet.under_way.is_empty());
    }

    #[test]
    fn the_gateways_daily_claim_is_due_every_24_hours() {
        let mut state = funded();
        let status = |state: &mut State| get(state, "/api/status?agent_id=agent-001").1;
        assert_eq!(status(&mut state)["can_claim"], true);
        assert_eq!(status(&mut state)["next_eligible_at"], Value::Null);
        let body = r#"{"agent_id":"agent-001","wallet_address":"0x1"}"#;
        let (code, reply) = as_agent(&mut state, "", Method::POST, "/api/claim", body);
        assert_eq!((code, &reply["amount_usdc"], reply["tx_hash"].is_string()), (200, &json!(1), true));
        let (code, early) = post(&mut state, "/api/claim", body);
        assert_eq!((code, &early["error"]), (409, &json!("already_claimed")));
        assert_eq!(early["next_eligible_at"], reply["next_eligible_at"]);
        assert_eq!(status(&mut state)["can_claim"], false);
        assert_eq!(status(&mut state)["next_eligible_at"], reply["next_eligible_at"]);
        state.clock_ahead += DAY;
        assert_eq!(post(&mut state, "/api/claim", body).0, 200);
        assert_eq!(state.accounts.balance("agent-001"), 1_002.into());
        for path in ["/api/claim", "/api/status"] {
            let method = if path == "/api/claim" { Method::POST } else { Method::GET };
            let nobody = send(&mut state, method, &format!("{path}?agent_id=nobody"), "", &[]);
            assert_eq!(refusal(nobody), (404, "agent_not_found".to_owned()));
        }
    }
}
