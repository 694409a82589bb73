//! Purple Flea in a few lines: takes bets, in both dialects, keeps a ledger of them, and fails before and after, with
//! and without a row in its history. It has no idempotency.

use super::database;
use crate::purple_flea::Api;
use http::{Request, header::HeaderName};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

/// How often it fails in a way of its own, of a hundred.
const FAILURES_PERCENT: u32 = 20;

pub(super) struct PurpleFlea {
    api: Api,
    bets: RefCell<Vec<Bet>>,
    refuses_key: Cell<bool>,
    /// How far its clock is ahead of when the sequence began.
    clock: Cell<Duration>,
}

#[derive(Clone)]
pub(super) struct Bet {
    pub(super) bet_key: String,
    pub(super) bet_id: String,
    pub(super) wager: Decimal,
    pub(super) payout: Decimal,
    pub(super) in_history: bool,
    at: Duration,
}

/// A reply: its status, perhaps a header, its body.
pub(super) type Reply = (u16, Option<(HeaderName, &'static str)>, String);

/// What a request for a bet calls it; `None` for the history.
pub(super) fn bet_key(request: &Request<Vec<u8>>) -> Option<String> {
    let key = request.headers().get("idempotency-key")?;
    Some(key.to_str().unwrap().to_owned())
}

impl PurpleFlea {
    pub(super) fn new(api: Api) -> Self {
        let clock = Cell::new(Duration::ZERO);
        Self { api, bets: RefCell::default(), refuses_key: Cell::new(false), clock }
    }

    pub(super) fn refuse_key(&self, refuse: bool) {
        self.refuses_key.set(refuse);
    }

    pub(super) fn pass(&self, time: Duration) {
        self.clock.set(self.clock.get() + time);
    }

    /// The first bet of a name.
    pub(super) fn bet(&self, bet_key: &str) -> Option<Bet> {
        self.bets.borrow().iter().find(|bet| bet.bet_key == bet_key).cloned()
    }

    /// All bets of a name.
    pub(super) fn count(&self, bet_key: &str) -> usize {
        self.bets.borrow().iter().filter(|bet| bet.bet_key == bet_key).count()
    }

    /// All bets.
    pub(super) fn total(&self) -> usize {
        self.bets.borrow().len()
    }

    pub(super) fn answer(
        &self,
        request: &Request<Vec<u8>>,
        body: &str,
        chance: &mut fastrand::Rng,
        calm: bool,
    ) -> Reply {
        if self.refuses_key.get() {
            return (401, None, r#"{"error":"unauthorized"}"#.to_owned());
        }
        let failure = if calm || chance.u32(0..100) >= FAILURES_PERCENT { 99 } else { chance.u32(0..7) };
        let Some(bet_key) = bet_key(request) else {
            return if failure == 0 { (500, None, "{}".to_owned()) } else { (200, None, self.history()) };
        };
        let failed = || (500, None, r#"{"error":"internal_error"}"#.to_owned());
        match failure {
            0 => return (400, None, r#"{"error":"insufficient_balance"}"#.to_owned()),
            1 => return (429, Some((http::header::RETRY_AFTER, "3")), "{}".to_owned()),
            2 => return failed(),
            _ => {}
        }
        let reply = self.take(bet_key, body, chance, failure != 4);
        match failure {
            3 | 4 => failed(),
            5 => (200, None, r#"{"ok":true}"#.to_owned()),
            _ => (200, None, reply),
        }
    }

    fn take(&self, bet_key: String, body: &str, chance: &mut fastrand::Rng, in_history: bool) -> String {
        let body: Value = serde_json::from_str(body).unwrap();
        let amount = if self.api == Api::Live { &body["amount"] } else { &body["wager"] };
        let wager: Decimal = amount.to_string().parse().unwrap();
        let won = chance.bool();
        let payout = if won { wager * Decimal::TWO } else { Decimal::ZERO };
        let bet_id = format!("bet_{}", self.bets.borrow().len());
        let at = self.clock.get();
        self.bets.borrow_mut().push(Bet { bet_key, bet_id: bet_id.clone(), wager, payout, in_history, at });
        let payout: Value = serde_json::from_str(&payout.to_string()).unwrap();
        json!({ "bet_id": bet_id, "won": won, "payout": payout }).to_string()
    }

    fn history(&self) -> String {
        let mut csv = "bet_id,amount_usd,amount_won_usd,won,client_seed,timestamp_utc\r\n".to_owned();
        for bet in self.bets.borrow().iter().rev().filter(|bet| bet.in_history) {
            let at = humantime::format_rfc3339_seconds(database::wall_clock(bet.at));
            let won = !bet.payout.is_zero();
            csv += &format!("{},{},{},{won},{},{at}\r\n", bet.bet_id, bet.wager, bet.payout, bet.bet_key);
        }
        csv
    }
}
