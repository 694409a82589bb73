//! Enforces the measured rate limits (purple-flea.md, sections 2, 3, 4 and 6). The first check, before all others,
//! counts by address and path. A later one counts all games together by agent.
//!
//! A window is fixed and begins with its first request. Refused requests count too. No header tells a caller how long
//! to wait.

use super::{
    PurpleFlea, Request, State,
    answer::{Answer, iso, refuse, refuse_with},
    call::Api,
    routes::{Kind, Route},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// The number of windows from which on the simulator forgets those that are over.
const WINDOWS_LIMIT: usize = 10_000;

/// The rate limits. The default is what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The length of a window.
    pub window: Duration,
    /// Bets at each game, by address.
    pub games: u32,
    /// Bets at all games together, by agent.
    pub games_per_agent: u32,
    /// Calls of the history of bets, by address.
    pub histories: u32,
    /// Registrations, by address.
    pub registrations: u32,
    /// Claims of the faucet, by address. The next limit refuses most of these.
    pub faucet_claims: u32,
    /// How long an address waits between two claims of the faucet, for any agent.
    pub faucet_every: Duration,
    /// Positions opened, and positions closed, by address.
    pub trades: u32,
    /// Escrows made, by address.
    pub escrow_creations: u32,
    /// Completions and releases (and cancellations), by address and escrow.
    pub escrow_ends: u32,
    /// Disputes, by address and escrow.
    pub escrow_disputes: u32,
    /// Whether the `gateway` has the same limits. Its documentation names no limit that its servers enforce.
    pub gateway: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            games: 60,
            games_per_agent: 60,
            histories: 60,
            registrations: 10,
            faucet_claims: 5,
            faucet_every: Duration::from_secs(24 * 60 * 60),
            trades: 30,
            escrow_creations: 20,
            escrow_ends: 30,
            escrow_disputes: 10,
            gateway: false,
        }
    }
}

impl Limits {
    /// Gives the number of requests of a kind that a window takes from an address.
    fn of(&self, kind: Kind) -> Option<u32> {
        Some(match kind {
            Kind::Game => self.games,
            Kind::History => self.histories,
            Kind::Registration => self.registrations,
            Kind::Faucet => self.faucet_claims,
            Kind::Trade => self.trades,
            Kind::EscrowCreation => self.escrow_creations,
            Kind::EscrowEnd => self.escrow_ends,
            Kind::EscrowDispute => self.escrow_disputes,
            Kind::DailyClaim | Kind::Other => return None,
        })
    }
}

/// The requests that one window counts together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    Path { address: String, path: String },
    Agent(String),
}

struct Window {
    ends: SystemTime,
    count: u32,
}

/// The limits, with the counts so far.
#[derive(Default)]
pub(super) struct Gate {
    limits: Option<Limits>,
    own_addresses: bool,
    windows: HashMap<Counted, Window>,
    refused: usize,
}

impl Gate {
    /// Sets the limits. All windows start again.
    pub(super) fn set(&mut self, limits: Option<Limits>) {
        self.limits = limits;
        self.windows.clear();
    }

    fn limits(&self, api: Api) -> Option<Limits> {
        self.limits.filter(|limits| api == Api::Live || limits.gateway)
    }

    /// Gives how long an address waits for its next claim of the faucet, if there are limits.
    pub(super) fn faucet_every(&self, api: Api) -> Option<Duration> {
        self.limits(api).map(|limits| limits.faucet_every)
    }

    /// Gives the address of a registration's own claim of the faucet, and how long it waits for the next one.
    pub(super) fn registrations_claim(&self, casino: &str, agent_id: &str) -> (String, Duration) {
        let address = if self.own_addresses { agent_id } else { casino };
        (address.to_owned(), self.limits.unwrap_or_default().faucet_every)
    }

    /// Gives a request's address. All requests that name no address share one.
    pub(super) fn address(&self, kind: Kind, request: &Request, body: Option<&Value>) -> String {
        if self.own_addresses {
            let named = |name| body.and_then(|body| body[name].as_str());
            let agent =
                named("agent_casino_id").or_else(|| named("agent_id")).filter(|_| kind == Kind::Faucet);
            if let Some(own) = agent.or_else(|| request.bearer()) {
                return own.to_owned();
            }
        }
        let header = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let forwarded = header("x-forwarded-for").and_then(|list| list.split(',').next());
        forwarded.or_else(|| header("x-real-ip")).unwrap_or("unknown").trim().to_owned()
    }

    pub(super) fn count_refused(&mut self) {
        self.refused += 1;
    }

    #[cfg(test)]
    pub(super) fn refused(&self) -> usize {
        self.refused
    }

    /// Counts a request. Gives the end of the window if the request is over the limit.
    fn count(
        &mut self,
        counted: Counted,
        most: u32,
        window: Duration,
        now: SystemTime,
    ) -> Option<SystemTime> {
        if self.windows.len() >= WINDOWS_LIMIT {
            self.windows.retain(|_, window| now < window.ends);
        }
        let begun = self.windows.entry(counted).or_insert(Window { ends: now + window, count: 0 });
        if begun.ends <= now {
            *begun = Window { ends: now + window, count: 0 };
        }
        begun.count = begun.count.saturating_add(1);
        let (ends, refused) = (begun.ends, begun.count > most);
        self.refused += usize::from(refused);
        refused.then_some(ends)
    }
}

impl State {
    /// Limits a request by address and path, before the key is checked. A path contains its ids.
    pub(super) fn limit_path(
        &mut self,
        route: &Route,
        request: &Request,
        body: Option<&Value>,
    ) -> Result<(), Answer> {
        let Some(limits) = self.gate.limits(route.api) else {
            return Ok(());
        };
        let Some(most) = limits.of(route.kind) else {
            return Ok(());
        };
        let address = self.gate.address(route.kind, request, body);
        let (counted, now) = (Counted::Path { address, path: request.path.clone() }, self.now());
        if self.gate.count(counted, most, limits.window, now).is_none() {
            return Ok(());
        }
        let message = format!("Too many requests. Limit: {most} per {}s", limits.window.as_secs_f64());
        Err(refuse(429, "rate_limited", &message))
    }

    /// Limits bets by agent, with all games together.
    pub(super) fn limit_agent(&mut self, route: &Route, agent_id: &str) -> Result<(), Answer> {
        let Some(limits) = self.gate.limits(route.api).filter(|_| route.kind == Kind::Game) else {
            return Ok(());
        };
        let (counted, now) = (Counted::Agent(agent_id.to_owned()), self.now());
        let Some(ends) = self.gate.count(counted, limits.games_per_agent, limits.window, now) else {
            return Ok(());
        };
        let message = format!("Max {} game requests/min", limits.games_per_agent);
        Err(refuse_with(429, "rate_limit_exceeded", &message, json!({ "reset_at": iso(ends) })))
    }
}

impl PurpleFlea {
    /// Sets the limits; `None` removes them. At the start there are none. All windows start again.
    pub fn limit(&self, limits: Option<Limits>) {
        self.shared.state().gate.set(limits);
    }

    /// Sets whether each key counts as an address of its own, and at the faucet each agent, in place of the address in
    /// the headers. So a test's agents do not share one address, and every registration's claim is credited.
    pub fn each_agent_has_its_own_ip(&self, on: bool) {
        self.shared.state().gate.own_addresses = on;
    }

    /// Counts the requests that were refused for a rate limit, the faucet's included. It counts no answer of a
    /// [`Fault`](super::Fault), planned or random.
    pub fn refused_for_rate(&self) -> usize {
        self.shared.state().gate.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{as_agent, funded, get, post, send};
    use http::Method;

    const COIN_FLIP: &str = "/api/v1/games/coin-flip";
    const CRASH: &str = "/api/v1/games/crash";
    const FLIP: &str = r#"{"side":"heads","amount":0.01,"cash_out_at":2}"#;

    fn limited(limits: Limits) -> State {
        let mut state = funded();
        state.gate.set(Some(limits));
        state
    }

    #[test]
    fn nothing_is_limited_unless_it_is_asked_for() {
        let mut state = funded();
        assert!((0..100).all(|_| post(&mut state, COIN_FLIP, FLIP).0 == 200));
        assert_eq!(state.gate.refused(), 0);
    }

    #[test]
    fn the_61st_call_to_a_path_is_refused_with_any_key_and_body_until_the_window_ends() {
        let mut state = limited(Limits::default());
        for n in 0..60 {
            let (status, _) = as_agent(&mut state, "nobody's", Method::POST, COIN_FLIP, "{");
            assert_eq!(status, 401, "call {n}");
        }
        let (status, reply) = post(&mut state, COIN_FLIP, FLIP);
        assert_eq!((status, &reply["error"]), (429, &json!("rate_limited")));
        assert_eq!(reply["message"], "Too many requests. Limit: 60 per 60s");
        assert!(reply.get("reset_at").is_none() && state.ledger.is_empty());
        assert_eq!(post(&mut state, CRASH, FLIP).0, 200, "another path is counted for itself");
        state.clock_ahead += Duration::from_secs(30);
        assert_eq!(post(&mut state, COIN_FLIP, FLIP).0, 429);
        state.clock_ahead += Duration::from_secs(30);
        assert_eq!(post(&mut state, COIN_FLIP, FLIP).0, 200, "the window began with its first request");
        assert_eq!(state.gate.refused(), 2);
    }

    #[test]
    fn an_agents_61st_bet_at_any_game_is_refused_with_the_end_of_its_minute() {
        let mut state = limited(Limits::default());
        for _ in 0..30 {
            assert_eq!((post(&mut state, COIN_FLIP, FLIP).0, post(&mut state, CRASH, FLIP).0), (200, 200));
        }
        let (status, reply) = post(&mut state, CRASH, FLIP);
        assert_eq!((status, &reply["error"]), (429, &json!("rate_limit_exceeded")));
        assert_eq!(reply["message"], "Max 60 game requests/min");
        let reset = humantime::parse_rfc3339(reply["reset_at"].as_str().unwrap()).unwrap();
        let wait = reset.duration_since(state.now()).unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&wait), "{wait:?}");
        assert_eq!(state.ledger.len(), 60);
        let key = state.accounts.give_key("agent-001", "sk_live_");
        assert_eq!(as_agent(&mut state, &key, Method::POST, CRASH, FLIP).0, 200);
    }

    #[test]
    fn addresses_are_counted_apart_and_keys_where_they_stand_for_them() {
        let mut state = limited(Limits { games: 1, ..Limits::default() });
        let mut from = |headers: &[(&'static str, &'static str)]| {
            send(&mut state, Method::POST, COIN_FLIP, FLIP, headers).0
        };
        assert_eq!([from(&[]), from(&[])], [200, 429]);
        assert_eq!(from(&[("x-real-ip", "10.0.0.1")]), 200);
        assert_eq!(from(&[("x-forwarded-for", "10.0.0.2, 10.0.0.1"), ("x-real-ip", "10.0.0.1")]), 200);
        assert_eq!(from(&[("x-forwarded-for", "10.0.0.1")]), 429);
        state.gate.own_addresses = true;
        let key = state.accounts.give_key("agent-001", "sk_live_");
        assert_eq!(post(&mut state, COIN_FLIP, FLIP).0, 200);
        assert_eq!(as_agent(&mut state, &key, Method::POST, COIN_FLIP, FLIP).0, 200);
        assert_eq!(as_agent(&mut state, &key, Method::POST, COIN_FLIP, FLIP).0, 429);
    }

    #[test]
    fn every_service_has_its_own_number() {
        let mut state = limited(Limits { window: Duration::from_secs(1), ..Limits::default() });
        for (path, body, most) in [
            ("/api/v1/auth/register", "{}", 10),
            ("/faucet/claim", "{}", 5),
            ("/escrow/create", "{}", 20),
            ("/escrow/release/esc_1", "{}", 30),
            ("/escrow/release/esc_2", "{}", 30),
            ("/escrow/dispute/esc_1", "{}", 10),
            ("/v1/trade/open", "{}", 30),
            ("/v1/trade/close", "{}", 30),
        ] {
            for n in 0..most {
                assert_ne!(post(&mut state, path, body).0, 429, "{path} {n}");
            }
            let (status, reply) = post(&mut state, path, body);
            assert_eq!(status, 429, "{path}");
            assert_eq!(reply["message"], format!("Too many requests. Limit: {most} per 1s"));
        }
        let history = |state: &mut State| get(state, "/api/v1/bets/export.csv").0;
        assert!((0..60).all(|_| history(&mut state) == 200) && history(&mut state) == 429);
        assert!((0..100).all(|_| get(&mut state, "/api/v1/auth/balance").0 == 200));
    }

    #[test]
    fn the_gateway_has_limits_only_if_a_test_sets_them() {
        let mut state = limited(Limits::default());
        let bet = r#"{"agent_id":"agent-001","wager":0.01,"side":"heads"}"#;
        let escrow = r#"{"agent_id":"agent-001"}"#;
        for _ in 0..61 {
            assert_eq!(post(&mut state, "/casino/coin-flip", bet).0, 200);
            assert_ne!(post(&mut state, "/escrow/create", escrow).0, 429);
        }
        state.gate.set(Some(Limits { gateway: true, games: 1_000, ..Limits::default() }));
        let statuses: Vec<_> = (0..61).map(|_| post(&mut state, "/casino/coin-flip", bet).0).collect();
        assert_eq!((statuses[59], statuses[60]), (200, 429));
    }

    #[test]
    fn windows_that_are_over_are_forgotten_when_there_are_many() {
        let (mut gate, now) = (Gate::default(), SystemTime::UNIX_EPOCH);
        for n in 0..WINDOWS_LIMIT {
            gate.count(Counted::Agent(n.to_string()), 1, Duration::from_secs(1), now);
        }
        gate.count(Counted::Agent("x".to_owned()), 1, Duration::from_secs(1), now + Duration::from_secs(1));
        assert_eq!(gate.windows.len(), 1);
    }
}
