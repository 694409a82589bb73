//! Purple Flea's books: what it has taken and given. It has no idempotency: a stake that is asked for twice is made twice.

use super::purple_flea::KEY;
use rust_decimal::Decimal;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    time::Duration,
};

/// What the faucet gives. No deposit of the model's is as large.
pub(super) const CREDIT: Decimal = Decimal::from_parts(77, 0, 0, false, 2);

/// What an account holds that was not registered: enough.
const PLENTY: Decimal = Decimal::from_parts(100_000, 0, 0, false, 2);

/// How long after a daily claim the next one is taken.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Money that was staked.
#[derive(Debug, Clone)]
pub(super) struct Stake {
    pub(super) bet_key: String,
    /// Purple Flea's name for it.
    pub(super) id: String,
    /// The key that it was made with.
    pub(super) key: String,
    pub(super) amount: Decimal,
    pub(super) at: Duration,
    pub(super) what: What,
}

/// What it was staked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Bet {
        payout: Decimal,
        in_history: bool,
    },
    Position,
    /// An escrow. `ended`: what it has become.
    Escrow {
        ended: Option<&'static str>,
    },
}

impl Stake {
    /// Whether a look-up with a key finds it; without one, with everybody's.
    pub(super) fn is_in_history_of(&self, key: Option<&str>) -> bool {
        matches!(self.what, What::Bet { in_history: true, .. }) && self.key == key.unwrap_or(KEY)
    }
}

#[derive(Default)]
pub(super) struct Books {
    stakes: RefCell<Vec<Stake>>,
    /// Accounts' names by their keys.
    accounts: RefCell<HashMap<String, String>>,
    /// The accounts that have had the faucet's credit, and under which bet key.
    credited: RefCell<HashMap<String, String>>,
    /// When an account last made its claim of the day, and under which bet key.
    daily: RefCell<HashMap<String, (Duration, String)>>,
    /// By which bet keys escrows were ended.
    endings: RefCell<HashSet<String>>,
    /// Bet keys that were refused for good.
    refused: RefCell<HashSet<String>>,
    names: Cell<u32>,
}

impl Books {
    /// All that was staked under a bet key.
    pub(super) fn stakes_of(&self, bet_key: &str) -> Vec<Stake> {
        self.stakes.borrow().iter().filter(|stake| stake.bet_key == bet_key).cloned().collect()
    }

    /// All that was staked, with a key, the newest first.
    pub(super) fn bets_with(&self, key: &str) -> Vec<Stake> {
        let stakes = self.stakes.borrow();
        let bets =
            stakes.iter().rev().filter(|stake| stake.key == key && matches!(stake.what, What::Bet { .. }));
        bets.cloned().collect()
    }

    /// Every bet key that something was staked under, once for each time.
    pub(super) fn bet_keys(&self) -> Vec<String> {
        self.stakes.borrow().iter().map(|stake| stake.bet_key.clone()).collect()
    }

    pub(super) fn stake(&self, what: What, bet_key: &str, key: &str, amount: Decimal, at: Duration) -> Stake {
        let kind = match what {
            What::Bet { .. } => "bet",
            What::Position => "pos",
            What::Escrow { .. } => "esc",
        };
        let stake =
            Stake { bet_key: bet_key.to_owned(), id: self.name(kind), key: key.to_owned(), amount, at, what };
        self.stakes.borrow_mut().push(stake.clone());
        stake
    }

    /// A new account: its name and its key. The gateway's are called as they ask to be.
    pub(super) fn register(&self, named: Option<&str>) -> (String, String) {
        let name = named.map_or_else(|| self.name("ag"), str::to_owned);
        let key = format!("sk_live_0123456789abcdef0123456789{}", self.name("key"));
        self.accounts.borrow_mut().insert(key.clone(), name.clone());
        (name, key)
    }

    /// Whose key it is, if it is a registered account's.
    pub(super) fn owner(&self, key: &str) -> Option<String> {
        self.accounts.borrow().get(key).cloned()
    }

    /// What an account holds. (Stakes move nothing here: every account has enough.)
    pub(super) fn balance(&self, account: &str, registered: bool) -> Decimal {
        if !registered {
            return PLENTY;
        }
        let times = [self.credited.borrow().contains_key(account), self.daily.borrow().contains_key(account)];
        CREDIT * Decimal::from(times.into_iter().filter(|had| *had).count())
    }

    /// The faucet's credit, once for an account: whether it was given now.
    pub(super) fn credit(&self, account: &str, bet_key: &str) -> bool {
        let mut credited = self.credited.borrow_mut();
        let first = !credited.contains_key(account);
        if first {
            credited.insert(account.to_owned(), bet_key.to_owned());
        }
        first
    }

    /// The claim of the day: whether it was taken.
    pub(super) fn claim_of_the_day(&self, account: &str, bet_key: &str, now: Duration) -> bool {
        let mut daily = self.daily.borrow_mut();
        let due = daily.get(account).is_none_or(|(last, _)| now >= *last + DAY);
        if due {
            daily.insert(account.to_owned(), (now, bet_key.to_owned()));
        }
        due
    }

    /// Whether an account has had the faucet's credit.
    pub(super) fn has_credit(&self, account: &str) -> bool {
        self.credited.borrow().contains_key(account)
    }

    /// Whether an account has ever made a claim of the day.
    pub(super) fn has_claimed_daily(&self, account: &str) -> bool {
        self.daily.borrow().contains_key(account)
    }

    /// What an escrow has become; `None` if there is none of this name.
    pub(super) fn escrow(&self, id: &str) -> Option<&'static str> {
        let stakes = self.stakes.borrow();
        stakes.iter().find(|stake| stake.id == id).and_then(|stake| match stake.what {
            What::Escrow { ended } => Some(ended.unwrap_or("funded")),
            _ => None,
        })
    }

    /// Ends an escrow, if it is still open: whether it did.
    pub(super) fn end_escrow(&self, id: &str, ended_as: &'static str, bet_key: &str) -> bool {
        let mut stakes = self.stakes.borrow_mut();
        let Some(stake) = stakes.iter_mut().find(|stake| stake.id == id) else { return false };
        let open = stake.what == What::Escrow { ended: None };
        if open {
            stake.what = What::Escrow { ended: Some(ended_as) };
            self.endings.borrow_mut().insert(bet_key.to_owned());
        }
        open
    }

    /// Whether an escrow was ended under a bet key.
    pub(super) fn has_ended(&self, bet_key: &str) -> bool {
        self.endings.borrow().contains(bet_key)
    }

    pub(super) fn refuse(&self, bet_key: &str) {
        self.refused.borrow_mut().insert(bet_key.to_owned());
    }

    /// Whether something was refused for good under a bet key.
    pub(super) fn has_refused(&self, bet_key: &str) -> bool {
        self.refused.borrow().contains(bet_key)
    }

    /// Whether what a bet key stands for was done already.
    pub(super) fn is_done(&self, bet_key: &str) -> bool {
        let under =
            |had: &RefCell<HashMap<String, String>>| had.borrow().values().any(|under| under == bet_key);
        self.has_ended(bet_key)
            || under(&self.credited)
            || self.daily.borrow().values().any(|(_, under)| under == bet_key)
            || self.stakes.borrow().iter().any(|stake| stake.bet_key == bet_key)
    }

    fn name(&self, kind: &str) -> String {
        self.names.set(self.names.get() + 1);
        format!("{kind}_{}", self.names.get())
    }
}
