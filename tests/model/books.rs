//! Purple Flea's books: the money that it has taken and given. Purple Flea has no idempotency: two requests for one stake
//! make two stakes.

use super::purple_flea::SHARED_KEY;
use rust_decimal::Decimal;
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    time::Duration,
};

/// The credit of the faucet. It differs from every amount that the model deposits, and two of them are less than the
/// documented dollar.
pub(super) const CREDIT: Decimal = Decimal::from_parts(37, 0, 0, false, 2);

/// The balance of an account that no function registered: enough for every bet.
const PLENTY: Decimal = Decimal::from_parts(100_000, 0, 0, false, 2);

/// How long after a daily claim Purple Flea takes the next one.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Money that Purple Flea has taken.
#[derive(Debug, Clone)]
pub(super) struct Stake {
    pub(super) idempotency_key: String,
    /// Purple Flea's name for the stake.
    pub(super) id: String,
    /// The key of the request.
    pub(super) key: String,
    pub(super) amount: Decimal,
    pub(super) at: Duration,
    pub(super) staked_on: StakedOn,
}

/// The thing that money was staked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StakedOn {
    Bet {
        payout: Decimal,
        in_history: bool,
    },
    Position,
    /// An escrow. `ended`: its status after its end.
    Escrow {
        ended: Option<&'static str>,
    },
}

impl Stake {
    /// Tells whether a look-up finds the bet with this key; `None` for the shared key.
    pub(super) fn is_in_history_of(&self, key: Option<&str>) -> bool {
        matches!(self.staked_on, StakedOn::Bet { in_history: true, .. })
            && self.key == key.unwrap_or(SHARED_KEY)
    }
}

#[derive(Default)]
pub(super) struct Books {
    stakes: RefCell<Vec<Stake>>,
    /// The accounts' names by their keys.
    accounts: RefCell<HashMap<String, String>>,
    /// The accounts that have had the faucet's credit, and the idempotency keys of the requests.
    credited: RefCell<HashMap<String, String>>,
    /// The time of each account's last daily claim, and the idempotency key of the request.
    daily: RefCell<HashMap<String, (Duration, String)>>,
    /// The escrows whose receivers have delivered.
    completed: RefCell<HashSet<String>>,
    /// Idempotency keys of the requests that ended escrows.
    endings: RefCell<HashSet<String>>,
    /// Idempotency keys of the requests that Purple Flea refused for good.
    refused: RefCell<HashSet<String>>,
    names: Cell<u32>,
}

impl Books {
    /// Lists the stakes under an idempotency key.
    pub(super) fn stakes_of(&self, idempotency_key: &str) -> Vec<Stake> {
        self.stakes
            .borrow()
            .iter()
            .filter(|stake| stake.idempotency_key == idempotency_key)
            .cloned()
            .collect()
    }

    /// Lists the bets with an account's key, the newest first.
    pub(super) fn bets_with(&self, key: &str) -> Vec<Stake> {
        let stakes = self.stakes.borrow();
        let bets = stakes
            .iter()
            .rev()
            .filter(|stake| stake.key == key && matches!(stake.staked_on, StakedOn::Bet { .. }));
        bets.cloned().collect()
    }

    /// Lists the idempotency key of each stake.
    pub(super) fn idempotency_keys(&self) -> Vec<String> {
        self.stakes.borrow().iter().map(|stake| stake.idempotency_key.clone()).collect()
    }

    pub(super) fn stake(
        &self,
        staked_on: StakedOn,
        idempotency_key: &str,
        key: &str,
        amount: Decimal,
        at: Duration,
    ) -> Stake {
        let kind = match staked_on {
            StakedOn::Bet { .. } => "bet",
            StakedOn::Position => "pos",
            StakedOn::Escrow { .. } => "esc",
        };
        let stake = Stake {
            idempotency_key: idempotency_key.to_owned(),
            id: self.name(kind),
            key: key.to_owned(),
            amount,
            at,
            staked_on,
        };
        self.stakes.borrow_mut().push(stake.clone());
        stake
    }

    /// Makes an account and gives its name and its key. At the gateway the request chooses the name.
    pub(super) fn register(&self, named: Option<&str>) -> (String, String) {
        let name = named.map_or_else(|| self.name("ag"), str::to_owned);
        let key = format!("sk_live_0123456789abcdef0123456789{}", self.name("key"));
        self.accounts.borrow_mut().insert(key.clone(), name.clone());
        (name, key)
    }

    /// Names the registered account that a key belongs to.
    pub(super) fn owner(&self, key: &str) -> Option<String> {
        self.accounts.borrow().get(key).cloned()
    }

    /// Gives the balance of an account. (Stakes leave it as it is: every account has enough.)
    pub(super) fn balance(&self, account: &str, registered: bool) -> Decimal {
        if !registered {
            return PLENTY;
        }
        let times = [self.credited.borrow().contains_key(account), self.daily.borrow().contains_key(account)];
        CREDIT * Decimal::from(times.into_iter().filter(|had| *had).count())
    }

    /// Gives the faucet's credit once to an account, and tells whether this request was the one.
    pub(super) fn credit(&self, account: &str, idempotency_key: &str) -> bool {
        let mut credited = self.credited.borrow_mut();
        let first = !credited.contains_key(account);
        if first {
            credited.insert(account.to_owned(), idempotency_key.to_owned());
        }
        first
    }

    /// Tells whether the daily claim of an account is due.
    pub(super) fn may_claim_daily(&self, account: &str, now: Duration) -> bool {
        self.daily.borrow().get(account).is_none_or(|(last, _)| now >= *last + DAY)
    }

    /// Takes the daily claim of an account, and tells whether it was due.
    pub(super) fn claim_daily(&self, account: &str, idempotency_key: &str, now: Duration) -> bool {
        let due = self.may_claim_daily(account, now);
        if due {
            self.daily.borrow_mut().insert(account.to_owned(), (now, idempotency_key.to_owned()));
        }
        due
    }

    /// Tells whether an account has had the faucet's credit.
    pub(super) fn has_credit(&self, account: &str) -> bool {
        self.credited.borrow().contains_key(account)
    }

    /// Tells whether an account has ever made a daily claim.
    pub(super) fn has_claimed_daily(&self, account: &str) -> bool {
        self.daily.borrow().contains_key(account)
    }

    /// Gives the status of an escrow; `None` if there is none of this name.
    pub(super) fn escrow(&self, id: &str) -> Option<&'static str> {
        let stakes = self.stakes.borrow();
        stakes.iter().find(|stake| stake.id == id).and_then(|stake| match stake.staked_on {
            StakedOn::Escrow { ended } => {
                let open = if self.completed.borrow().contains(id) { "completed" } else { "funded" };
                Some(ended.unwrap_or(open))
            }
            _ => None,
        })
    }

    /// Completes an escrow that is open, and tells whether it was.
    pub(super) fn complete_escrow(&self, id: &str) -> bool {
        self.escrow(id) == Some("funded") && self.completed.borrow_mut().insert(id.to_owned())
    }

    /// Lists the escrows that a key paid, the newest first.
    pub(super) fn escrows_with(&self, key: &str) -> Vec<Stake> {
        let stakes = self.stakes.borrow();
        let escrows = stakes
            .iter()
            .rev()
            .filter(|stake| stake.key == key && matches!(stake.staked_on, StakedOn::Escrow { .. }));
        escrows.cloned().collect()
    }

    /// Gives the idempotency key of the request that made an escrow.
    pub(super) fn key_of_escrow(&self, id: &str) -> String {
        let stakes = self.stakes.borrow();
        stakes
            .iter()
            .find(|stake| stake.id == id)
            .map(|stake| stake.idempotency_key.clone())
            .unwrap_or_default()
    }

    /// Ends an escrow that is still open, and tells whether it was.
    pub(super) fn end_escrow(&self, id: &str, ended_as: &'static str, idempotency_key: &str) -> bool {
        let mut stakes = self.stakes.borrow_mut();
        let Some(stake) = stakes.iter_mut().find(|stake| stake.id == id) else { return false };
        let open = stake.staked_on == StakedOn::Escrow { ended: None };
        if open {
            stake.staked_on = StakedOn::Escrow { ended: Some(ended_as) };
            self.endings.borrow_mut().insert(idempotency_key.to_owned());
        }
        open
    }

    /// Tells whether the request with this idempotency key ended an escrow.
    pub(super) fn has_ended(&self, idempotency_key: &str) -> bool {
        self.endings.borrow().contains(idempotency_key)
    }

    pub(super) fn refuse(&self, idempotency_key: &str) {
        self.refused.borrow_mut().insert(idempotency_key.to_owned());
    }

    /// Tells whether Purple Flea refused the request with this idempotency key for good.
    pub(super) fn has_refused(&self, idempotency_key: &str) -> bool {
        self.refused.borrow().contains(idempotency_key)
    }

    /// Tells whether Purple Flea has already done what the request with this idempotency key asks for.
    pub(super) fn is_done(&self, idempotency_key: &str) -> bool {
        let under = |had: &RefCell<HashMap<String, String>>| {
            had.borrow().values().any(|under| under == idempotency_key)
        };
        self.has_ended(idempotency_key)
            || under(&self.credited)
            || self.daily.borrow().values().any(|(_, under)| under == idempotency_key)
            || self.stakes.borrow().iter().any(|stake| stake.idempotency_key == idempotency_key)
    }

    fn name(&self, kind: &str) -> String {
        self.names.set(self.names.get() + 1);
        format!("{kind}_{}", self.names.get())
    }
}
