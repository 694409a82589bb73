//! A stand-in for Purple Flea. It takes every kind of request in both dialects, keeps books of them, and fails before or after
//! it has done its part, with or without a row in its history.

use super::{
    books::{Books, CREDIT, Stake, StakedOn},
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

/// The key that agents without a key of their own share.
pub(super) const SHARED_KEY: &str = "shared-key";

/// How often Purple Flea fails in a way of its own, of a hundred.
const FAILURES_PERCENT: u32 = 20;

pub(super) struct PurpleFlea {
    api: Api,
    pub(super) books: Books,
    refuses_keys: Cell<bool>,
    /// Whether the clock of the database was set: then the history ignores the times of a look-up.
    timeless: Cell<bool>,
}

/// A reply: status, perhaps a header, body.
pub(super) type Reply = (u16, Option<(HeaderName, &'static str)>, String);

/// Gives the idempotency key of a request; `None` for a request that only reads.
pub(super) fn idempotency_key(request: &Request<Vec<u8>>) -> Option<String> {
    let key = request.headers().get("idempotency-key")?;
    Some(key.to_str().unwrap().to_owned())
}

/// Names the operation that a request asks for.
pub(super) fn operation(request: &Request<Vec<u8>>) -> &'static str {
    Operation::of(request).name()
}

/// The operation that a request asks for.
enum Operation {
    Bet,
    Position,
    EscrowMade,
    EscrowEnded { id: String, ended_as: &'static str },
    EscrowCompleted { id: String },
    Escrow { id: String },
    Registration,
    Balance,
    Statement,
    Faucet,
    DailyStatus,
    Daily,
    History,
}

impl Operation {
    fn of(request: &Request<Vec<u8>>) -> Self {
        let path = request.uri().path();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (request.method() == Method::POST, parts.as_slice()) {
            (true, [.., "crash" | "coin-flip" | "hilo"]) => Self::Bet,
            (true, ["trade"] | ["trading", "order"] | [.., "trade", "open"]) => Self::Position,
            (true, ["escrow", "create"]) => Self::EscrowMade,
            (true, ["escrow", id, "release"] | ["escrow", "release", id]) => {
                Self::EscrowEnded { id: (*id).to_owned(), ended_as: "released" }
            }
            (true, ["escrow", id, "cancel"]) => {
                Self::EscrowEnded { id: (*id).to_owned(), ended_as: "cancelled" }
            }
            (true, ["escrow", "dispute", id]) => {
                Self::EscrowEnded { id: (*id).to_owned(), ended_as: "disputed" }
            }
            (true, ["escrow", "complete", id]) => Self::EscrowCompleted { id: (*id).to_owned() },
            (false, ["escrow", id]) => Self::Escrow { id: (*id).to_owned() },
            (true, [.., "register"]) => Self::Registration,
            (false, [.., "balance"]) => Self::Balance,
            (false, [.., "ledger"]) => Self::Statement,
            (true, ["faucet", "claim"]) => Self::Faucet,
            (false, ["api", "status"] | [.., "daily"]) => Self::DailyStatus,
            (true, ["api", "claim"] | [.., "daily", "claim"]) => Self::Daily,
            (false, [.., "export.csv"]) => Self::History,
            _ => panic!("{} {path}", request.method()),
        }
    }

    /// Names the operation.
    fn name(&self) -> &'static str {
        match self {
            Self::Bet => "bet",
            Self::Position => "position",
            Self::EscrowMade => "escrow",
            Self::EscrowEnded { .. } | Self::EscrowCompleted { .. } => "escrow-end",
            Self::Escrow { .. } => "escrow-status",
            Self::Registration => "registration",
            Self::Balance => "balance",
            Self::Statement => "statement",
            Self::Faucet => "faucet",
            Self::DailyStatus => "daily-status",
            Self::Daily => "daily-claim",
            Self::History => "history",
        }
    }

    fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Balance | Self::Statement | Self::DailyStatus | Self::Escrow { .. } | Self::History
        )
    }
}

/// A way to fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Refused,
    TooMany,
    Before,
    After,
    /// Purple Flea does its part, leaves no row in the history, and fails.
    AfterUnseen,
    Unreadable,
}

impl Failure {
    /// Says in words what Purple Flea does.
    fn words(self) -> &'static str {
        match self {
            Self::Refused => "refuses the request",
            Self::TooMany => "takes no more requests for 3 s",
            Self::Before => "fails, and has done nothing",
            Self::After => "does its part, and answers that it failed",
            Self::AfterUnseen => "does its part without a row in the history, and answers that it failed",
            Self::Unreadable => "does its part, and answers unreadably",
        }
    }
}

/// The details of a request that its handler needs.
struct Details<'a> {
    body: Value,
    idempotency_key: &'a str,
    /// The key that the request shows; empty for none.
    key: &'a str,
    /// The name of the account, and whether a function registered it.
    account: String,
    registered: bool,
    now: Duration,
    in_history: bool,
}

impl PurpleFlea {
    pub(super) fn new(api: Api) -> Self {
        Self { api, books: Books::default(), refuses_keys: Cell::default(), timeless: Cell::default() }
    }

    pub(super) fn refuse_keys(&self, refuse: bool) {
        self.refuses_keys.set(refuse);
    }

    pub(super) fn refuses_keys(&self) -> bool {
        self.refuses_keys.get()
    }

    pub(super) fn forget_times(&self) {
        self.timeless.set(true);
    }

    /// Answers a request. `allows` decides whether a failure happens, which it is told in words.
    pub(super) fn answer(
        &self,
        request: &Request<Vec<u8>>,
        now: Duration,
        chance: &mut fastrand::Rng,
        allows: &dyn Fn(&str) -> bool,
    ) -> Reply {
        let operation = Operation::of(request);
        let key = request.headers().get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
        let key = key.strip_prefix("Bearer ").unwrap_or_default();
        let owner = self.books.owner(key);
        let known = key.is_empty() || key == SHARED_KEY || owner.is_some();
        if !known || (self.refuses_keys.get() && !key.is_empty()) {
            return (401, None, r#"{"error":"unauthorized"}"#.to_owned());
        }
        let idempotency_key = idempotency_key(request).unwrap_or_default();
        let failure =
            self.failure(&operation, &idempotency_key, chance).filter(|failure| allows(failure.words()));
        match failure {
            Some(Failure::Refused) => {
                self.books.refuse(&idempotency_key);
                return (400, None, r#"{"error":"insufficient_balance"}"#.to_owned());
            }
            Some(Failure::TooMany) => return (429, Some((RETRY_AFTER, "3")), "{}".to_owned()),
            Some(Failure::Before) => return (500, None, r#"{"error":"internal_error"}"#.to_owned()),
            _ => {}
        }
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let details = Details {
            idempotency_key: &idempotency_key,
            key,
            registered: owner.is_some(),
            account: owner.unwrap_or_else(|| named(request, &body)),
            now,
            in_history: failure != Some(Failure::AfterUnseen),
            body,
        };
        let reply = self.perform(&operation, &details, request, chance);
        match failure {
            Some(Failure::After | Failure::AfterUnseen) => {
                (500, None, r#"{"error":"internal_error"}"#.to_owned())
            }
            Some(Failure::Unreadable) if reply.0 == 200 => (200, None, r#"{"ok":true}"#.to_owned()),
            _ => reply,
        }
    }

    fn failure(
        &self,
        operation: &Operation,
        idempotency_key: &str,
        chance: &mut fastrand::Rng,
    ) -> Option<Failure> {
        if chance.u32(0..100) >= FAILURES_PERCENT {
            return None;
        }
        Some(match chance.u32(0..7) {
            // Purple Flea refuses nothing that it has done: it fails, or says that it is done.
            0 if !operation.only_reads() && !self.books.is_done(idempotency_key) => Failure::Refused,
            1 => Failure::TooMany,
            2 => Failure::Before,
            3 => Failure::After,
            4 => Failure::AfterUnseen,
            5 if !matches!(operation, Operation::History) => Failure::Unreadable,
            _ => return None,
        })
    }

    fn perform(
        &self,
        operation: &Operation,
        details: &Details<'_>,
        request: &Request<Vec<u8>>,
        chance: &mut fastrand::Rng,
    ) -> Reply {
        let books = &self.books;
        match operation {
            Operation::Bet => self.bet(details, chance),
            Operation::Position => self.position(details, chance),
            Operation::EscrowMade => self.make_escrow(details),
            Operation::EscrowEnded { id, ended_as } => self.end_escrow(id, ended_as, details),
            Operation::EscrowCompleted { id } => match books.escrow(id) {
                None => refuse(404, "not_found"),
                Some(_) if books.complete_escrow(id) => ok(json!({ "escrow_id": id, "status": "completed" })),
                Some(_) => refuse(409, "invalid_status"),
            },
            Operation::Escrow { id } => match books.escrow(id) {
                Some(status) => {
                    let description = format!("Escrow [{}]", books.key_of_escrow(id));
                    ok(json!({ "id": id, "escrow_id": id, "status": status, "description": description }))
                }
                None => refuse(404, "not_found"),
            },
            Operation::Registration => self.register(details, chance),
            Operation::Balance => {
                ok(json!({ "balance": number(books.balance(&details.account, details.registered)) }))
            }
            Operation::Statement => ok(json!({ "entries": self.statement(details) })),
            Operation::DailyStatus => {
                ok(json!({ "can_claim": books.may_claim_daily(&details.account, details.now) }))
            }
            Operation::Faucet if books.credit(&details.account, details.idempotency_key) => {
                ok(json!({ "credited": number(CREDIT), "claim_id": "claim_1" }))
            }
            Operation::Daily if books.claim_daily(&details.account, details.idempotency_key, details.now) => {
                ok(json!({ "amount_usdc": number(CREDIT) }))
            }
            Operation::Faucet | Operation::Daily => refuse(409, "already_claimed"),
            Operation::History => (200, None, self.history(details, request)),
        }
    }

    fn bet(&self, details: &Details<'_>, chance: &mut fastrand::Rng) -> Reply {
        let amount = amount(&details.body, &["wager", "amount"]);
        let won = chance.bool();
        let payout = if won { amount * Decimal::TWO } else { Decimal::ZERO };
        let staked_on = StakedOn::Bet { payout, in_history: details.in_history };
        let Stake { id, .. } =
            self.books.stake(staked_on, details.idempotency_key, details.key, amount, details.now);
        ok(json!({ "bet_id": id, "won": won, "payout": number(payout) }))
    }

    fn position(&self, details: &Details<'_>, chance: &mut fastrand::Rng) -> Reply {
        let amount = amount(&details.body, &["size", "size_usdc", "size_usd"]);
        let fails = !details.in_history && chance.bool();
        // The exchange behind Purple Flea may refuse an order, or fail after it has taken the order.
        if fails && chance.bool() {
            return refuse(400, "trade_failed");
        }
        let Stake { id, .. } =
            self.books.stake(StakedOn::Position, details.idempotency_key, details.key, amount, details.now);
        if fails {
            return refuse(400, "trade_failed");
        }
        ok(json!({ "position_id": id, "order_id": id, "size": number(amount), "entry_price": 100 }))
    }

    fn make_escrow(&self, details: &Details<'_>) -> Reply {
        let amount = amount(&details.body, &["amount_usdc", "amount_usd"]);
        let description = details.body["description"].as_str().unwrap();
        assert_eq!(description.contains(details.idempotency_key), self.api == Api::Live, "{description}");
        let staked_on = StakedOn::Escrow { ended: None };
        let Stake { id, .. } =
            self.books.stake(staked_on, details.idempotency_key, details.key, amount, details.now);
        ok(json!({ "id": id, "status": "funded", "fee_usdc": number(fee(amount)) }))
    }

    fn end_escrow(&self, id: &str, ended_as: &'static str, details: &Details<'_>) -> Reply {
        if self.books.escrow(id).is_none() {
            return refuse(404, "not_found");
        }
        if !self.books.end_escrow(id, ended_as, details.idempotency_key) {
            return refuse(409, "invalid_status");
        }
        ok(json!({ "id": id, "status": ended_as }))
    }

    fn register(&self, details: &Details<'_>, chance: &mut fastrand::Rng) -> Reply {
        let named = details.body["agent_id"].as_str();
        let (account, key) = self.books.register(named);
        // The registration of the released servers may claim the faucet by itself.
        if self.api == Api::Live && chance.bool() {
            self.books.credit(&account, "registration");
        }
        ok(json!({ "agent_id": account, "api_key": key, "referral_code": "ref_1" }))
    }

    /// Lists the credits of an account, and the escrows that its key paid.
    fn statement(&self, Details { account, key, .. }: &Details<'_>) -> Vec<Value> {
        let had = [
            ("daily_bonus", self.books.has_claimed_daily(account)),
            ("faucet_claim", self.books.has_credit(account)),
        ];
        let line = |reason| json!({ "type": "credit", "amount": number(CREDIT), "reason": reason });
        let credits = had.into_iter().filter(|(_, had)| *had).map(|(reason, _)| line(reason));
        let held = |Stake { id, amount, at, .. }: Stake| {
            let at = humantime::format_rfc3339_seconds(database::wall_clock(at)).to_string();
            json!({ "type": "debit", "amount": number(amount), "reason": format!("escrow_lock: {id}"), "at": at })
        };
        self.books.escrows_with(key).into_iter().map(held).chain(credits).collect()
    }

    /// Lists the bets of the key between two times, the newest first.
    fn history(&self, details: &Details<'_>, request: &Request<Vec<u8>>) -> String {
        let at = |name: &str| {
            let query = request.uri().query().unwrap_or_default();
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            humantime::parse_rfc3339_weak(value.unwrap()).unwrap()
        };
        // The clock of the database is the machine's. Time that has passed for the functions lies behind it.
        let passed = |at: Duration| SystemTime::now() - details.now.saturating_sub(at);
        let (since, until) = (at("since"), at("until"));
        let mut csv = "bet_id,amount_usd,amount_won_usd,won,client_seed,timestamp_utc\r\n".to_owned();
        for Stake { idempotency_key, id, amount, at, staked_on, .. } in self.books.bets_with(details.key) {
            let within = self.timeless.get() || (since..=until).contains(&passed(at));
            if let (StakedOn::Bet { payout, in_history: true }, true) = (staked_on, within) {
                let (won, at) =
                    (!payout.is_zero(), humantime::format_rfc3339_seconds(database::wall_clock(at)));
                csv += &format!("{id},{amount},{payout},{won},{idempotency_key},{at}\r\n");
            }
        }
        csv
    }
}

/// Gives the account that a request names if it shows no key of the account's own.
fn named(request: &Request<Vec<u8>>, body: &Value) -> String {
    let in_body = ["agent_id", "agent_casino_id"].iter().find_map(|name| body[*name].as_str());
    let in_query = request.uri().query().and_then(|query| query.strip_prefix("agent_id="));
    in_body.or(in_query).unwrap_or_default().to_owned()
}

/// Gives the fee that Purple Flea keeps of an escrow.
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
