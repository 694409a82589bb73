//! Accounts at Purple Flea: the dialect that is spoken, the key that opens an account, and the faucet's credit.

use super::amount::Amount;
use crate::endpoint::Key;
use serde::{Deserialize, Serialize};

/// A dialect of Purple Flea's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The paths and fields of the public documentation: `/casino/crash`, `wager`, `cashout_at`.
    Gateway,
    /// What the released servers answer: `/api/v1/games/crash`, `amount`, `cash_out_at`, and a bet history in which
    /// a bet is found by its `client_seed`. The key decides who bets.
    Live,
}

/// On whose account something is done.
#[derive(Debug, Clone)]
pub struct Account {
    /// What Purple Flea calls the agent.
    pub name: String,
    /// With what key.
    pub key: AccountKey,
}

/// What key an account's calls are made with.
#[derive(Debug, Clone)]
pub enum AccountKey {
    /// The service's: everybody's.
    Shared,
    /// The agent's own.
    Own(Key),
    /// The agent's own, which is not there (yet). Nobody else's will do.
    Missing,
}

impl Account {
    /// An account that is used with everybody's key.
    pub fn shared(name: &str) -> Self {
        Self { name: name.to_owned(), key: AccountKey::Shared }
    }
}

/// What the faucet gave, or had given before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credit {
    /// What it credited, in US dollars: as it says, or, of a fresh account, what is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credited: Option<Amount>,
    /// What the account holds now, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Amount>,
    /// Purple Flea's name for the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<String>,
    /// Why it is not simply a claim that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}
