//! Keeps the accounts with their keys and balances. All money moves through [`Accounts::book`].

use super::{
    KEY, LIVE_AGENT, PurpleFlea, State,
    answer::{Answer, Said, created, failed, ok, refuse},
    call::{Api, Call, Caller},
    kelly,
    money::{is_falsy, plain, raw},
    statement::{Statement, Why},
};
use fastrand::Rng;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

/// The seed of names and keys, so that every run has the same ones.
const SEED: u64 = 0xACC0;

/// An account at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The agent that owns it.
    pub agent_id: String,
    /// Its balance, unrounded.
    pub balance: Decimal,
    /// Its key, once it is registered. [`LIVE_AGENT`]'s key is [`KEY`].
    pub api_key: Option<String>,
    /// The code by which new agents name it as their referrer.
    pub referral_code: String,
    /// The agent whose code it was registered with.
    pub referred_by: Option<String>,
    /// The part of the balance from which the Kelly ceiling of the `live` games is computed. With `None` there is no
    /// ceiling.
    pub risk_factor: Option<Decimal>,
    /// The sum of its deposits. An account with deposits gets nothing from the faucet.
    pub deposited: Decimal,
    /// The sum of its stakes on games.
    pub wagered: Decimal,
    /// The sum of its payouts of games, the stakes included.
    pub won: Decimal,
    pub(super) statement: Statement,
}

/// All accounts.
pub(super) struct Accounts {
    by_agent: BTreeMap<String, Account>,
    /// Agents by their keys.
    keys: HashMap<String, String>,
    /// Agents by their referral codes.
    codes: HashMap<String, String>,
    chance: Rng,
}

impl Default for Accounts {
    fn default() -> Self {
        let mut accounts = Self {
            by_agent: BTreeMap::new(),
            keys: HashMap::new(),
            codes: HashMap::new(),
            chance: Rng::with_seed(SEED),
        };
        accounts.keys.insert(KEY.to_owned(), LIVE_AGENT.to_owned());
        let ours = accounts.open(LIVE_AGENT);
        ours.api_key = Some(KEY.to_owned());
        // Tests stake any amount with the shared key. `PUT /api/v1/kelly/config` gives its account a ceiling, too.
        ours.risk_factor = None;
        accounts
    }
}

impl Accounts {
    pub(super) fn get(&self, agent_id: &str) -> Option<&Account> {
        self.by_agent.get(agent_id)
    }

    pub(super) fn balance(&self, agent_id: &str) -> Decimal {
        self.get(agent_id).map(|account| account.balance).unwrap_or_default()
    }

    /// Finds the agent that owns a key.
    pub(super) fn owner_of(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// Finds the agent that owns a referral code. The real database fails at a code that is neither text nor number.
    pub(super) fn referrer(&self, code: &Value) -> Result<Option<String>, Answer> {
        match code {
            _ if is_falsy(code) => Ok(None),
            Value::Bool(_) | Value::Object(_) | Value::Array(_) => Err(failed()),
            code => Ok(code.as_str().and_then(|code| self.codes.get(code)).cloned()),
        }
    }

    /// Gives an agent's account, and opens it if there is none.
    pub(super) fn open(&mut self, agent_id: &str) -> &mut Account {
        let Self { by_agent, codes, chance, .. } = self;
        by_agent.entry(agent_id.to_owned()).or_insert_with(|| {
            let referral_code = format!("ref_{}", hex(chance, 8));
            codes.insert(referral_code.clone(), agent_id.to_owned());
            Account {
                agent_id: agent_id.to_owned(),
                balance: Decimal::ZERO,
                api_key: None,
                referral_code,
                referred_by: None,
                risk_factor: Some(kelly::NEW_AGENTS),
                deposited: Decimal::ZERO,
                wagered: Decimal::ZERO,
                won: Decimal::ZERO,
                statement: Statement::default(),
            }
        })
    }

    /// Gives an agent's own key, and makes one if there is none.
    pub(super) fn give_key(&mut self, agent_id: &str, prefix: &str) -> String {
        if let Some(key) = self.open(agent_id).api_key.clone() {
            return key;
        }
        let key = format!("{prefix}{}", hex(&mut self.chance, 48));
        self.keys.insert(key.clone(), agent_id.to_owned());
        self.open(agent_id).api_key = Some(key.clone());
        key
    }

    /// Moves money into an account, or out of it if the amount is negative. The caller has checked that the account can
    /// pay. The subject is the id of the bet, the escrow or the claim.
    pub(super) fn book(&mut self, agent_id: &str, amount: Decimal, why: Why, subject: &str, at: SystemTime) {
        let account = self.open(agent_id);
        account.balance += amount;
        match why {
            Why::Deposit => account.deposited += amount.max(Decimal::ZERO),
            Why::Stake => account.wagered -= amount,
            Why::Win => account.won += amount,
            _ => {}
        }
        account.statement.add((amount, account.balance), why, subject, at);
    }

    fn fresh_name(&mut self) -> String {
        format!("ag_{}", hex(&mut self.chance, 12))
    }
}

/// Makes a random text of `digits` hexadecimal digits.
fn hex(chance: &mut Rng, digits: usize) -> String {
    (0..digits).map(|_| chance.digit(16)).collect()
}

/// Serves `POST /api/v1/auth/register` and `POST /agents/register`. The real server reads `referral_code` alone, and
/// starts a claim of the faucet. The gateway lets an agent choose its name, once.
pub(super) fn register(state: &mut State, call: &Call<'_>) -> Said {
    let chosen = match (call.api, &call.body["agent_id"]) {
        (Api::Live, _) | (Api::Gateway, Value::Null) => None,
        (Api::Gateway, Value::String(name)) if !name.is_empty() => Some(name.clone()),
        _ => return Err(refuse(400, "invalid_request", "agent_id must be a name")),
    };
    let referred_by = state.accounts.referrer(&call.body["referral_code"])?;
    let agent_id = chosen.unwrap_or_else(|| state.accounts.fresh_name());
    if state.accounts.get(&agent_id).is_some_and(|account| account.api_key.is_some()) {
        return Err(refuse(409, "already_registered", "this agent has its key"));
    }
    let prefix = if call.api == Api::Live { "sk_live_" } else { "pf_live_" };
    let api_key = state.accounts.give_key(&agent_id, prefix);
    let account = state.accounts.open(&agent_id);
    account.referred_by = referred_by;
    let mut reply = json!({
        "agent_id": agent_id, "api_key": api_key, "referral_code": account.referral_code,
    });
    if call.api == Api::Live {
        reply["balance"] = plain(account.balance);
        reply["tier"] = json!("free");
        reply["risk_factor"] = plain(kelly::NEW_AGENTS);
        state.claim_in_the_background(&agent_id);
    }
    created(reply)
}

/// Serves `GET /api/v1/auth/balance` for the key's owner. The balance is unrounded.
pub(super) fn live_balance(state: &mut State, call: &Call<'_>) -> Said {
    let account = state.accounts.open(&call.agent_id);
    ok(json!({
        "agent_id": account.agent_id, "balance_usd": plain(account.balance), "tier": "free",
        "risk_factor": plain(kelly::risk_factor(account)),
        "lifetime": {
            "total_deposited": plain(account.deposited), "total_withdrawn": 0,
            "total_wagered": plain(account.wagered), "total_won": plain(account.won),
            "net_profit": plain(account.won - account.wagered),
        },
        "recent_activity": account.statement.activity(),
    }))
}

/// Serves `GET /wallet/balance` for the key's owner.
pub(super) fn gateway_balance(state: &mut State, call: &Call<'_>) -> Said {
    let owner = if let Caller::Agent(own) = &call.caller { own } else { LIVE_AGENT };
    let account = state.accounts.get(owner);
    let account = account.ok_or_else(|| refuse(404, "agent_not_found", "no such agent"))?;
    ok(json!({"agent_id": account.agent_id, "usdc_balance": raw(account.balance), "chain": "simulated"}))
}

impl PurpleFlea {
    /// Pays into an agent's account, or takes a negative amount from it. Opens the account if there is none. The faucet
    /// regards a payment as a deposit; an amount of 0 only opens the account.
    pub fn fund(&self, agent_id: &str, amount: Decimal) {
        let mut state = self.shared.state();
        let now = state.now();
        state.accounts.book(agent_id, amount, Why::Deposit, "a test", now);
    }

    /// Gives the balance of an agent, unrounded: a win of the `live` games can leave parts of a cent.
    pub fn balance(&self, agent_id: &str) -> Decimal {
        self.settled().accounts.balance(agent_id)
    }

    /// Gives the balance of every account.
    pub fn balances(&self) -> BTreeMap<String, Decimal> {
        let accounts = self.accounts().into_iter();
        accounts.map(|account| (account.agent_id, account.balance)).collect()
    }

    /// Lists every account, by its agent's name.
    pub fn accounts(&self) -> Vec<Account> {
        self.settled().accounts.by_agent.values().cloned().collect()
    }

    /// Gives an agent's account, if there is one.
    pub fn account(&self, agent_id: &str) -> Option<Account> {
        self.settled().accounts.get(agent_id).cloned()
    }

    /// Finds the agent that owns a key of the casino: [`KEY`], or a key from a registration.
    pub fn owner_of(&self, key: &str) -> Option<String> {
        self.shared.state().accounts.owner_of(key).map(str::to_owned)
    }

    /// Gives an agent's own key. Registers the agent first if it has none, as the gateway does.
    pub fn register(&self, agent_id: &str) -> String {
        self.shared.state().accounts.give_key(agent_id, "pf_live_")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        statement::ACTIVITY_LIMIT,
        testing::{as_agent, ask, funded, get, post},
    };
    use http::Method;

    const REGISTER: &str = "/api/v1/auth/register";

    fn is_hex(text: &str, prefix: &str, digits: usize) -> bool {
        let rest = text.strip_prefix(prefix).unwrap_or_default();
        rest.len() == digits && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }

    #[test]
    fn a_live_registration_makes_an_account_that_its_key_plays_on() {
        let mut state = funded();
        let (status, reply) = as_agent(&mut state, "", Method::POST, REGISTER, r#"{"agent_id":"me"}"#);
        let (agent, key) = (reply["agent_id"].as_str().unwrap(), reply["api_key"].as_str().unwrap());
        assert_eq!(status, 201);
        assert!(is_hex(agent, "ag_", 12) && is_hex(key, "sk_live_", 48), "{reply}");
        assert_eq!(
            (&reply["balance"], &reply["tier"], &reply["risk_factor"]),
            (&json!(0), &json!("free"), &raw(Decimal::new(25, 2)))
        );
        state.accounts.book(agent, 100.into(), Why::Deposit, "", SystemTime::now());
        let bet = r#"{"side":"heads","amount":1,"client_seed":"x"}"#;
        assert_eq!(as_agent(&mut state, key, Method::POST, "/api/v1/games/coin-flip", bet).0, 200);
        assert_eq!(state.ledger[0].bet.agent_id, agent);
        let (_, balance) = as_agent(&mut state, key, Method::GET, "/api/v1/auth/balance", "");
        assert_eq!((&balance["agent_id"], &balance["lifetime"]["total_wagered"]), (&json!(agent), &json!(1)));
        let (_, other) = as_agent(&mut state, "", Method::POST, REGISTER, "");
        assert_ne!(other["agent_id"], agent, "asked twice it makes two");
    }

    #[test]
    fn the_gateway_registers_an_agent_once_under_its_own_name() {
        let mut state = funded();
        let body = r#"{"agent_id":"agent-001","referral_code":"nobody's"}"#;
        let (status, reply) = post(&mut state, "/agents/register", body);
        let key = reply["api_key"].as_str().unwrap();
        assert_eq!((status, &reply["agent_id"]), (201, &json!("agent-001")));
        assert!(is_hex(key, "pf_live_", 48));
        assert_eq!(state.accounts.owner_of(key), Some("agent-001"));
        let (status, again) = post(&mut state, "/agents/register", body);
        assert_eq!((status, &again["error"]), (409, &json!("already_registered")));
        let (status, nameless) = post(&mut state, "/agents/register", "");
        assert_eq!((status, is_hex(nameless["agent_id"].as_str().unwrap(), "ag_", 12)), (201, true));
        assert_eq!(post(&mut state, "/agents/register", r#"{"agent_id":7}"#).1["error"], "invalid_request");
        let ours = format!(r#"{{"agent_id":"{LIVE_AGENT}"}}"#);
        assert_eq!(post(&mut state, "/agents/register", &ours).0, 409);
    }

    #[test]
    fn who_brought_an_agent_in_is_known_by_a_code_that_exists() {
        let mut state = funded();
        let code = state.accounts.open("boss").referral_code.clone();
        for (code, boss) in [(code.as_str(), Some("boss")), ("ref_unknown", None)] {
            let (_, reply) = post(&mut state, REGISTER, &json!({ "referral_code": code }).to_string());
            let agent = state.accounts.get(reply["agent_id"].as_str().unwrap()).unwrap();
            assert_eq!(agent.referred_by.as_deref(), boss);
        }
    }

    #[test]
    fn a_registration_fails_at_a_code_or_a_body_that_its_database_cannot_hold() {
        let mut state = funded();
        for body in [r#"{"referral_code":{}}"#, r#"{"referral_code":true}"#, "null"] {
            let (status, reply) = post(&mut state, REGISTER, body);
            assert_eq!((status, &reply["error"]), (500, &json!("internal_error")), "{body}");
        }
        for body in [r#"{"referral_code":7}"#, r#"{"referral_code":""}"#, "[]", "{"] {
            assert_eq!(post(&mut state, REGISTER, body).0, 201, "{body}");
        }
    }

    #[test]
    fn a_balance_is_raw_and_shows_its_last_ten_movements() {
        let mut state = funded();
        let odd: Decimal = "0.0000000000000002".parse().unwrap();
        state.accounts.book(LIVE_AGENT, odd, Why::Deposit, "odd", SystemTime::now());
        for _ in 0..12 {
            assert_eq!(post(&mut state, "/api/v1/games/coin-flip", r#"{"side":"heads","amount":1}"#).0, 200);
        }
        let (_, reply) = get(&mut state, "/api/v1/auth/balance");
        assert!(reply["balance_usd"].to_string().ends_with("00000000000002"), "{reply}");
        assert_eq!(reply["balance_usd"], plain(state.accounts.balance(LIVE_AGENT)));
        let activity = reply["recent_activity"].as_array().unwrap();
        assert_eq!(activity.len(), ACTIVITY_LIMIT);
        let won = state.ledger[11].bet.won;
        assert_eq!(activity[0]["reason"], if won { "reservation_release" } else { "reservation" });
        assert_eq!(activity[0]["type"], if won { "credit" } else { "debit" });
        assert_eq!(activity[0]["balance_after"], reply["balance_usd"]);
    }

    #[test]
    fn the_gateway_tells_the_balance_of_the_keys_owner() {
        let mut state = funded();
        for query in ["", "?agent_id=agent%2D001", "?agent_id=nobody"] {
            let (status, reply) = get(&mut state, &format!("/wallet/balance{query}"));
            assert_eq!((status, reply["usdc_balance"].to_string().as_str()), (200, "1000"));
            assert_eq!(reply["agent_id"], LIVE_AGENT, "the key decides");
        }
        let key = state.accounts.give_key("agent-001", "pf_live_");
        let (_, own) = as_agent(&mut state, &key, Method::GET, "/wallet/balance", "");
        assert_eq!(own["agent_id"], "agent-001");
        assert_eq!(ask(&mut state, Method::PUT, "/wallet/balance", "").status.as_u16(), 404);
    }
}
