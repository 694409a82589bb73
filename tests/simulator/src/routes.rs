//! Finds the route of a request, in one table for both dialects and all services. Checks the limits, the key and the
//! body once for all routes.

use super::{
    KEY, Request, State, accounts,
    answer::{Answer, Said, failed, refuse, refuse_with},
    call::{Api, Call, Caller},
    daily, escrow, fairness, faucet, games, history, kelly, statement, trading,
};
use serde_json::{Value, json};

/// The purpose of a route. It decides about the route's limits and random faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Game,
    Registration,
    Faucet,
    DailyClaim,
    EscrowCreation,
    EscrowEnd,
    EscrowDispute,
    Trade,
    /// The history of bets.
    History,
    /// Every other route. It reads, or sets a value without moving money.
    Other,
}

impl Kind {
    /// Tells whether a repeated request may take effect twice.
    pub(super) fn moves_money(self) -> bool {
        !matches!(self, Self::Registration | Self::History | Self::Other)
    }

    /// Tells whether a body that is no JSON is refused. Other routes read such a body as `{}`.
    fn is_strict(self) -> bool {
        matches!(self, Self::Game | Self::Trade)
    }

    /// Tells whether the real server fails at a body that is `null`, because it reads a field of it.
    fn fails_at_null(self) -> bool {
        self.is_strict() || matches!(self, Self::Registration | Self::Faucet | Self::EscrowCreation)
    }
}

/// The keys that open a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Keys of the casino, which open escrow too.
    Casino,
    /// Keys of trading, in `live`.
    Trading,
    /// No key is needed.
    Open,
}

/// A route.
pub(super) struct Route {
    method: &'static str,
    path: &'static str,
    pub(super) api: Api,
    door: Door,
    pub(super) kind: Kind,
    handler: fn(&mut State, &Call<'_>) -> Said,
}

/// Paths that both dialects have. The names of the body's fields tell the dialect.
const SHARED: [&str; 2] = ["/escrow/create", "/faucet/claim"];

/// All routes. The `gateway`'s are those of the specification. The `live` ones are those of the released servers
/// (purple-flea.md, section 7).
#[rustfmt::skip]
static ROUTES: &[Route] = {
    use {Api::{Gateway, Live}, Door::{Casino, Open, Trading}, Kind::*};
    &[
        row("POST", "/casino/crash",                Gateway, Casino,  Game,           games::crash),
        row("POST", "/casino/coin-flip",            Gateway, Casino,  Game,           games::coin_flip),
        row("POST", "/agents/register",             Gateway, Open,    Registration,   accounts::register),
        row("GET",  "/wallet/balance",              Gateway, Casino,  Other,          accounts::gateway_balance),
        row("POST", "/faucet/claim",                Gateway, Casino,  Faucet,         faucet::claim),
        row("GET",  "/api/status",                  Gateway, Open,    Other,          faucet::daily_status),
        row("POST", "/api/claim",                   Gateway, Open,    DailyClaim,     faucet::daily_claim),
        row("POST", "/escrow/create",               Gateway, Casino,  EscrowCreation, escrow::create),
        row("POST", "/escrow/:id/release",          Gateway, Casino,  EscrowEnd,      escrow::release),
        row("POST", "/escrow/:id/cancel",           Gateway, Casino,  EscrowEnd,      escrow::cancel),
        row("POST", "/trade",                       Gateway, Casino,  Trade,          trading::trade),
        row("POST", "/trading/order",               Gateway, Casino,  Trade,          trading::order),

        row("POST", "/api/v1/games/crash",          Live,    Casino,  Game,           games::crash),
        row("POST", "/api/v1/games/coin-flip",      Live,    Casino,  Game,           games::coin_flip),
        row("POST", "/api/v1/games/multiplier",     Live,    Casino,  Game,           games::multiplier),
        row("POST", "/api/v1/games/hilo",           Live,    Casino,  Game,           games::hi_lo),
        row("GET",  history::PATH,                  Live,    Casino,  History,        history::export),
        row("POST", "/api/v1/auth/register",        Live,    Open,    Registration,   accounts::register),
        row("GET",  "/api/v1/auth/balance",         Live,    Casino,  Other,          accounts::live_balance),
        row("GET",  "/api/v1/auth/ledger",          Live,    Casino,  Other,          statement::ledger),
        row("PUT",  "/api/v1/kelly/config",         Live,    Casino,  Other,          kelly::configure),
        row("GET",  "/api/v1/kelly/limits",         Live,    Casino,  Other,          kelly::limits),
        row("GET",  "/api/v1/daily",                Live,    Casino,  Other,          daily::status),
        row("POST", "/api/v1/daily/claim",          Live,    Casino,  DailyClaim,     daily::claim),
        row("GET",  "/api/v1/fairness/seed-hash",   Live,    Casino,  Other,          fairness::seed_hash),
        row("GET",  "/api/v1/fairness/seeds",       Live,    Casino,  Other,          fairness::seeds),
        row("POST", "/api/v1/fairness/rotate",      Live,    Casino,  Other,          fairness::rotate),
        row("POST", "/api/v1/fairness/verify",      Live,    Casino,  Other,          fairness::verify),
        row("GET",  "/api/v1/fairness/audit/:id",   Live,    Casino,  Other,          fairness::audit),
        row("POST", "/faucet/claim",                Live,    Open,    Faucet,         faucet::claim),
        row("POST", "/escrow/create",               Live,    Casino,  EscrowCreation, escrow::create),
        row("POST", "/escrow/complete/:id",         Live,    Casino,  EscrowEnd,      escrow::complete),
        row("POST", "/escrow/release/:id",          Live,    Casino,  EscrowEnd,      escrow::release),
        row("POST", "/escrow/dispute/:id",          Live,    Casino,  EscrowDispute,  escrow::dispute),
        row("POST", "/v1/trade/open",               Live,    Trading, Trade,          trading::open),
        row("POST", "/v1/trade/close",              Live,    Trading, Trade,          trading::close),
        row("GET",  "/v1/trade/positions",          Live,    Trading, Other,          trading::positions),
        row("GET",  "/v1/trade/history",            Live,    Trading, Other,          trading::history),

        // A reply shows an escrow in the dialect in which it was made.
        row("GET",  "/escrow/stats",                Live,    Open,    Other,          escrow::stats),
        row("GET",  "/escrow/:id",                  Live,    Open,    Other,          escrow::show),
        row("GET",  "/faucet/stats",                Live,    Open,    Other,          faucet::stats),
    ]
};

const fn row(
    method: &'static str,
    path: &'static str,
    api: Api,
    door: Door,
    kind: Kind,
    handler: fn(&mut State, &Call<'_>) -> Said,
) -> Route {
    Route { method, path, api, door, kind, handler }
}

impl Route {
    /// Finds the route of a request, and the part of its path at `:id`.
    pub(super) fn of<'a>(method: &http::Method, request: &'a Request) -> Option<(&'static Self, &'a str)> {
        ROUTES.iter().find_map(|route| {
            let id = matched(route.path, &request.path).filter(|_| route.method == method.as_str())?;
            let spoken = !SHARED.contains(&route.path) || route.api == dialect(request);
            spoken.then_some((route, id))
        })
    }

    /// Finds the caller by the key. Refuses a key that does not open the route.
    fn let_in(&self, state: &State, request: &Request) -> Result<Caller, Answer> {
        let key = request.bearer();
        let accounts = &state.accounts;
        let known = |key: &str| accounts.owner_of(key).map(|agent| Caller::Agent(agent.to_owned()));
        match (self.door, key) {
            (Door::Casino | Door::Open, Some(KEY)) => Ok(Caller::SharedKey),
            (Door::Open, key) => Ok(key.and_then(known).unwrap_or(Caller::Nobody)),
            (Door::Casino, key) => key.and_then(known).ok_or_else(|| self.unauthorized(key)),
            (Door::Trading, None) => Err(refuse(401, "unauthorized", "Missing Authorization header")),
            (Door::Trading, Some(key)) => state
                .trading
                .owner_of(key)
                .map(|agent| Caller::Agent(agent.to_owned()))
                .ok_or_else(|| refuse(401, "invalid_key", "")),
        }
    }

    /// Makes the refusal of a wrong key. The casino has two messages for it, and escrow one or none (purple-flea.md,
    /// sections 2 and 3).
    fn unauthorized(&self, key: Option<&str>) -> Answer {
        if matches!(self.kind, Kind::EscrowEnd | Kind::EscrowDispute) {
            return refuse(401, "unauthorized", "");
        }
        if self.kind == Kind::EscrowCreation {
            return refuse(401, "unauthorized", "Bearer {casino_api_key} required.");
        }
        let message = key.map_or("Missing Authorization: Bearer <key>", |_| "Invalid API key");
        let suggestion = "POST /api/v1/auth/register makes an account and its key";
        refuse_with(401, "unauthorized", message, json!({ "suggestion": suggestion }))
    }
}

/// Gives the part of a matching path at `:id`; empty if the pattern has no `:id`.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut id = "";
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(id),
            (Some(":id"), Some(part)) if !part.is_empty() => id = part,
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// Tells the dialect of a shared path: the gateway if the body has its fields and none of the released servers'.
fn dialect(request: &Request) -> Api {
    let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let has = |names: &[&str]| names.iter().any(|name| body.get(name).is_some());
    if has(&["agent_id", "amount_usdc", "counterparty_address"]) && !has(&["agent_casino_id", "amount_usd"]) {
        Api::Gateway
    } else {
        Api::Live
    }
}

/// Executes a request without a fault, and gives the answer. A `hidden` one leaves no row in the history.
pub(super) fn answer(state: &mut State, method: &http::Method, request: &Request, hidden: bool) -> Answer {
    state.settle();
    let said = match Route::of(method, request) {
        Some((route, id)) => by_the_rules(state, route, id, request, hidden),
        None => {
            let more = json!({"docs": "this is a simulator", "openapi": "/openapi.json"});
            Err(refuse_with(404, "not_found", "no such route", more))
        }
    };
    let (Ok(answer) | Err(answer)) = said;
    answer
}

fn by_the_rules(state: &mut State, route: &Route, id: &str, request: &Request, hidden: bool) -> Said {
    let body: Option<Value> = serde_json::from_str(&request.body).ok();
    // The real server counts a request before it checks the key.
    state.limit_path(route, request, body.as_ref())?;
    let caller = route.let_in(state, request)?;
    let queried = request.query_value("agent_id");
    let named = body.as_ref().and_then(|body| body["agent_id"].as_str()).or(queried.as_deref());
    let agent_id = caller.account(route.api, named.filter(|name| !name.is_empty()));
    let agent_id = agent_id.ok_or_else(|| refuse(403, "forbidden", "the key is another agent's"))?;
    state.limit_agent(route, &agent_id)?;
    let body = match body {
        None if route.kind.is_strict() => return Err(refuse(400, "invalid_json", "Invalid JSON")),
        Some(Value::Null) if route.kind.fails_at_null() && route.api == Api::Live => return Err(failed()),
        body => body.unwrap_or_else(|| json!({})),
    };
    (route.handler)(state, &Call { api: route.api, request, body, id, caller, agent_id, hidden })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{as_agent, funded, post};
    use http::Method;

    fn route(method: Method, path: &str, body: &str) -> Option<(Api, Kind, String)> {
        let request = Request { path: path.to_owned(), body: body.to_owned(), ..Request::default() };
        Route::of(&method, &request).map(|(route, id)| (route.api, route.kind, id.to_owned()))
    }

    #[test]
    fn a_shared_path_is_told_apart_by_its_fields() {
        for (body, api) in [
            (r#"{"agent_id":"a"}"#, Api::Gateway),
            (r#"{"amount_usdc":1,"counterparty_agent_id":"b"}"#, Api::Gateway),
            (r#"{"amount_usd":1,"agent_id":"a"}"#, Api::Live),
            (r#"{"agent_casino_id":"a"}"#, Api::Live),
            ("{", Api::Live),
            ("null", Api::Live),
        ] {
            for path in SHARED {
                assert_eq!(route(Method::POST, path, body).map(|(api, ..)| api), Some(api), "{body}");
            }
        }
    }

    #[test]
    fn a_path_is_matched_whole_and_a_name_before_an_id() {
        let id = |method, path| route(method, path, "").map(|(_, _, id)| id);
        assert_eq!(id(Method::GET, "/escrow/stats").as_deref(), Some(""));
        assert_eq!(id(Method::GET, "/escrow/esc_1").as_deref(), Some("esc_1"));
        assert_eq!(id(Method::POST, "/escrow/esc_1/release").as_deref(), Some("esc_1"));
        assert_eq!(id(Method::POST, "/escrow/release/esc_1").as_deref(), Some("esc_1"));
        for path in ["/escrow/", "/escrow/esc_1/", "/escrow", "/casino/crash/1", "//casino/crash", ""] {
            assert_eq!(id(Method::GET, path), None, "{path}");
        }
        assert_eq!(id(Method::GET, "/casino/crash"), None);
    }

    #[test]
    fn an_agents_own_key_opens_no_other_agents_account_in_any_service_of_the_gateway() {
        let mut state = funded();
        let key = state.accounts.give_key("agent-001", "pf_live_");
        for (method, path, body) in [
            (Method::POST, "/casino/crash", r#"{"agent_id":"agent-002","wager":1,"cashout_at":2}"#),
            (Method::POST, "/casino/coin-flip", r#"{"agent_id":"agent-002","wager":1,"side":"heads"}"#),
            (Method::POST, "/faucet/claim", r#"{"agent_id":"agent-002"}"#),
            (Method::GET, "/api/status?agent_id=agent-002", ""),
            (Method::POST, "/api/claim", r#"{"agent_id":"agent-002"}"#),
            (Method::POST, "/escrow/create", r#"{"agent_id":"agent-002","amount_usdc":1}"#),
            (Method::POST, "/escrow/esc_1/release", r#"{"agent_id":"agent-002"}"#),
            (Method::POST, "/trade", r#"{"agent_id":"agent-002","market":"BTC","size":1}"#),
            (Method::POST, "/trading/order", r#"{"agent_id":"agent-002","asset":"BTC"}"#),
        ] {
            let (status, reply) = as_agent(&mut state, &key, method, path, body);
            assert_eq!((status, &reply["error"]), (403, &json!("forbidden")), "{path}");
        }
        let (status, reply) = post(&mut state, "/escrow/nowhere", "{}");
        assert_eq!((status, &reply["error"], reply["docs"].is_string()), (404, &json!("not_found"), true));
    }

    #[test]
    fn without_a_key_nothing_moves() {
        let mut state = funded();
        for route in ROUTES.iter().filter(|route| route.door != Door::Open) {
            let method = Method::from_bytes(route.method.as_bytes()).unwrap();
            // The dialects of a shared path differ by their bodies.
            let body =
                if route.api == Api::Gateway { r#"{"agent_id":"agent-001"}"# } else { r#"{"amount_usd":1}"# };
            for key in ["", "nobody's"] {
                let (status, reply) = as_agent(&mut state, key, method.clone(), route.path, body);
                let error = match (route.door, key) {
                    (Door::Trading, "nobody's") => "invalid_key",
                    _ => "unauthorized",
                };
                assert_eq!((status, &reply["error"]), (401, &json!(error)), "{}", route.path);
            }
        }
        assert!(state.ledger.is_empty());
    }
}
