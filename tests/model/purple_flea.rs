//! Purple Flea in a few lines: takes every kind of request, in both dialects, keeps books of them, and fails before and
//! after, with and without a row in its history.

use super::{
    books::{Books, CREDIT, Stake, What},
    database,
};
use http::{
    Method, Request,
    header::{AUTHORIZATION, HeaderName, RETRY_AFTER},
};
use purple_flea_edge::domain::account::Api;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

/// Everybody's key.
pub(super) const KEY: &str = "everybodys-key";

/// How often it fails in a way of its own, of a hundred.
const FAILURES_PERCENT: u32 = 20;

pub(super) struct PurpleFlea {
    api: Api,
    pub(super) books: Books,
    refuses_key: Cell<bool>,
    /// Whether the database's clock was set: then the times of the history are nothing to look for.
    timeless: Cell<bool>,
}

/// A reply: its status, perhaps a header, its body.
pub(super) type Reply = (u16, Option<(HeaderName, &'static str)>, String);

/// What a request calls what is to be done; `None` for one that only reads.
pub(super) fn bet_key(request: &Request<Vec<u8>>) -> Option<String> {
    let key = request.headers().get("idempotency-key")?;
    Some(key.to_str().unwrap().to_owned())
}

/// What is asked for.
enum Asked {
    Bet,
    Position,
    EscrowMade,
    EscrowEnded { id: String, ended_as: &'static str },
    Escrow { id: String },
    Registration,
    Balance,
    Faucet,
    Daily,
    History,
}

impl Asked {
    fn of(request: &Request<Vec<u8>>) -> Self {
        let path = request.uri().path();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method() == Method::POST, parts.as_slice()) {
            (true, [.., "crash" | "coin-flip"]) => Self::Bet,
            (true, ["trade"] | ["trading", "order"] | [.., "trade", "open"]) => Self::Position,
            (true, ["escrow", "create"]) => Self::EscrowMade,
            (true, ["escrow", id, "release"] | ["escrow", "release", id]) => {
                Self::EscrowEnded { id: (*id).to_owned(), ended_as: "released" }
            }
            (true, ["escrow", id, "cancel"]) => {
                Self::EscrowEnded { id: (*id).to_owned(), ended_as: "cancelled" }
            }
            (false, ["escrow", id]) => Self::Escrow { id: (*id).to_owned() },
            (true, [.., "register"]) => Self::Registration,
            (false, [.., "balance"]) => Self::Balance,
            (true, ["faucet", "claim"]) => Self::Faucet,
            (true, ["api", "claim"]) => Self::Daily,
            (false, [.., "export.csv"]) => Self::History,
            _ => panic!("{} {path}", request.method()),
        }
    }

    fn only_reads(&self) -> bool {
        matches!(self, Self::Balance | Self::Escrow { .. } | Self::History)
    }
}

/// In which way it fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Refused,
    TooMany,
    Before,
    After,
    /// It is done, leaves no row in the history, and fails.
    AfterUnseen,
    Unreadable,
}

/// A request as far as it matters to its handler.
struct Call<'a> {
    body: Value,
    bet_key: &'a str,
    /// The key that is shown; empty: none.
    key: &'a str,
    /// What the account is called, and whether it was registered.
    account: String,
    registered: bool,
    now: Duration,
    in_history: bool,
}

impl PurpleFlea {
    pub(super) fn new(api: Api) -> Self {
        Self { api, books: Books::default(), refuses_key: Cell::default(), timeless: Cell::default() }
    }

    pub(super) fn refuse_key(&self, refuse: bool) {
        self.refuses_key.set(refuse);
    }

    pub(super) fn refuses_key(&self) -> bool {
        self.refuses_key.get()
    }

    pub(super) fn forget_times(&self) {
        self.timeless.set(true);
    }

    pub(super) fn answer(
        &self,
        request: &Request<Vec<u8>>,
        now: Duration,
        chance: &mut fastrand::Rng,
        calm: bool,
    ) -> Reply {
        let asked = Asked::of(request);
        let key = request.headers().get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
        let key = key.strip_prefix("Bearer ").unwrap_or_default();
        let owner = self.books.owner(key);
        let known = key.is_empty() || key == KEY || owner.is_some();
        if !known || (self.refuses_key.get() && !key.is_empty()) {
            return (401, None, r#"{"error":"unauthorized"}"#.to_owned());
        }
        let bet_key = bet_key(request).unwrap_or_default();
        let failure = if calm { None } else { self.failure(&asked, &bet_key, chance) };
        match failure {
            Some(Failure::Refused) => {
                self.books.refuse(&bet_key);
                return (400, None, r#"{"error":"insufficient_balance"}"#.to_owned());
            }
            Some(Failure::TooMany) => return (429, Some((RETRY_AFTER, "3")), "{}".to_owned()),
            Some(Failure::Before) => return (500, None, r#"{"error":"internal_error"}"#.to_owned()),
            _ => {}
        }
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let call = Call {
            bet_key: &bet_key,
            key,
            registered: owner.is_some(),
            account: owner.unwrap_or_else(|| named(request, &body)),
            now,
            in_history: failure != Some(Failure::AfterUnseen),
            body,
        };
        let reply = self.perform(&asked, &call, request, chance);
        match failure {
            Some(Failure::After | Failure::AfterUnseen) => {
                (500, None, r#"{"error":"internal_error"}"#.to_owned())
            }
            Some(Failure::Unreadable) if reply.0 == 200 => (200, None, r#"{"ok":true}"#.to_owned()),
            _ => reply,
        }
    }

    fn failure(&self, asked: &Asked, bet_key: &str, chance: &mut fastrand::Rng) -> Option<Failure> {
        if chance.u32(0..100) >= FAILURES_PERCENT {
            return None;
        }
        Some(match chance.u32(0..7) {
            // What was done is not refused afterwards: it says so, or fails.
            0 if !asked.only_reads() && !self.books.is_done(bet_key) => Failure::Refused,
            1 => Failure::TooMany,
            2 => Failure::Before,
            3 => Failure::After,
            4 => Failure::AfterUnseen,
            5 if !matches!(asked, Asked::History) => Failure::Unreadable,
            _ => return None,
        })
    }

    fn perform(
        &self,
        asked: &Asked,
        call: &Call<'_>,
        request: &Request<Vec<u8>>,
        chance: &mut fastrand::Rng,
    ) -> Reply {
        let books = &self.books;
        match asked {
            Asked::Bet => self.bet(call, chance),
            Asked::Position => self.position(call, chance),
            Asked::EscrowMade => self.make_escrow(call),
            Asked::EscrowEnded { id, ended_as } => self.end_escrow(id, ended_as, call),
            Asked::Escrow { id } => match books.escrow(id) {
                Some(status) => ok(json!({ "id": id, "escrow_id": id, "status": status })),
                None => refuse(404, "not_found"),
            },
            Asked::Registration => self.register(call, chance),
            Asked::Balance => ok(json!({ "balance": number(books.balance(&call.account, call.registered)) })),
            Asked::Faucet if books.credit(&call.account, call.bet_key) => {
                ok(json!({ "credited": number(CREDIT), "claim_id": "claim_1" }))
            }
            Asked::Daily if books.claim_of_the_day(&call.account, call.bet_key, call.now) => {
                ok(json!({ "amount_usdc": number(CREDIT) }))
            }
            Asked::Faucet | Asked::Daily => refuse(409, "already_claimed"),
            Asked::History => (200, None, self.history(call, request)),
        }
    }

    fn bet(&self, call: &Call<'_>, chance: &mut fastrand::Rng) -> Reply {
        let amount = amount(&call.body, &["wager", "amount"]);
        let won = chance.bool();
        let payout = if won { amount * Decimal::TWO } else { Decimal::ZERO };
        let what = What::Bet { payout, in_history: call.in_history };
        let Stake { id, .. } = self.books.stake(what, call.bet_key, call.key, amount, call.now);
        ok(json!({ "bet_id": id, "won": won, "payout": number(payout) }))
    }

    fn position(&self, call: &Call<'_>, chance: &mut fastrand::Rng) -> Reply {
        let amount = amount(&call.body, &["size", "size_usdc", "size_usd"]);
        let fails = !call.in_history && chance.bool();
        // The exchange behind it can refuse, or fail, after the order was sent.
        if fails && chance.bool() {
            return refuse(400, "trade_failed");
        }
        let Stake { id, .. } = self.books.stake(What::Position, call.bet_key, call.key, amount, call.now);
        if fails {
            return refuse(400, "trade_failed");
        }
        ok(json!({ "position_id": id, "order_id": id, "size": number(amount), "entry_price": 100 }))
    }

    fn make_escrow(&self, call: &Call<'_>) -> Reply {
        let amount = amount(&call.body, &["amount_usdc", "amount_usd"]);
        assert!(call.body["description"].as_str().unwrap().contains(call.bet_key));
        let what = What::Escrow { ended: None };
        let Stake { id, .. } = self.books.stake(what, call.bet_key, call.key, amount, call.now);
        ok(json!({ "id": id, "status": "funded", "fee_usdc": number(fee(amount)) }))
    }

    fn end_escrow(&self, id: &str, ended_as: &'static str, call: &Call<'_>) -> Reply {
        if self.books.escrow(id).is_none() {
            return refuse(404, "not_found");
        }
        if !self.books.end_escrow(id, ended_as, call.bet_key) {
            return refuse(409, "invalid_status");
        }
        ok(json!({ "id": id, "status": ended_as }))
    }

    fn register(&self, call: &Call<'_>, chance: &mut fastrand::Rng) -> Reply {
        let named = call.body["agent_id"].as_str();
        let (account, key) = self.books.register(named);
        // The released servers' registration may claim the faucet by itself.
        if self.api == Api::Live && chance.bool() {
            self.books.credit(&account, "registration");
        }
        ok(json!({ "agent_id": account, "api_key": key, "referral_code": "ref_1" }))
    }

    /// The key's bets between two times, newest first.
    fn history(&self, call: &Call<'_>, request: &Request<Vec<u8>>) -> String {
        let at = |name: &str| {
            let query = request.uri().query().unwrap_or_default();
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            humantime::parse_rfc3339_weak(value.unwrap()).unwrap()
        };
        // The database's clock is the machine's; what has passed for the functions lies behind it.
        let passed = |at: Duration| SystemTime::now() - call.now.saturating_sub(at);
        let (since, until) = (at("since"), at("until"));
        let mut csv = "bet_id,amount_usd,amount_won_usd,won,client_seed,timestamp_utc\r\n".to_owned();
        for Stake { bet_key, id, amount, at, what, .. } in self.books.bets_with(call.key) {
            let within = self.timeless.get() || (since..=until).contains(&passed(at));
            if let (What::Bet { payout, in_history: true }, true) = (what, within) {
                let (won, at) =
                    (!payout.is_zero(), humantime::format_rfc3339_seconds(database::wall_clock(at)));
                csv += &format!("{id},{amount},{payout},{won},{bet_key},{at}\r\n");
            }
        }
        csv
    }
}

/// What an account is called in a request that shows no key of its own.
fn named(request: &Request<Vec<u8>>, body: &Value) -> String {
    let in_body = ["agent_id", "agent_casino_id"].iter().find_map(|name| body[*name].as_str());
    let in_query = request.uri().query().and_then(|query| query.strip_prefix("agent_id="));
    in_body.or(in_query).unwrap_or_default().to_owned()
}

/// What Purple Flea keeps of an escrow.
pub(super) fn fee(amount: Decimal) -> Decimal {
    amount * Decimal::new(1, 2)
}

fn ok(body: Value) -> Reply {
    (200, None, body.to_string())
}

fn refuse(status: u16, code: &str) -> Reply {
    (status, None, json!({ "error": code }).to_string())
}

fn number(amount: Decimal) -> Value {
    serde_json::from_str(&amount.to_string()).unwrap()
}

fn amount(body: &Value, names: &[&str]) -> Decimal {
    let amount = names.iter().find_map(|name| body.get(name)).unwrap();
    amount.to_string().parse().unwrap()
}
