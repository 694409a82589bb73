//! Accounts at Purple Flea: the dialect of the API, the key of an account, and the faucet's credit.

use super::amount::Amount;
use crate::endpoint::Key;
use serde::{Deserialize, Serialize};

/// A dialect of Purple Flea's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// The paths and fields of the public documentation: `/casino/crash`, `wager`, `cashout_at`.
    Gateway,
    /// The paths and fields of the released servers: `/api/v1/games/crash`, `amount`, `cash_out_at`. The key
    /// names the account that bets. A bet history lists each bet with its `client_seed`.
    Live,
}

/// An agent's account at Purple Flea.
#[derive(Debug, Clone)]
pub struct Account {
    /// The agent's name at Purple Flea.
    pub name: String,
    /// The key of the account.
    pub key: AccountKey,
}

/// The key that an account's calls show.
#[derive(Debug, Clone)]
pub enum AccountKey {
    /// The shared key of the service.
    Shared,
    /// The agent's own key.
    Own(Key),
    /// The agent's own key, which the vault does not have yet. No other key replaces it.
    Missing,
}

impl Account {
    /// Makes an account that uses the shared key.
    pub fn shared(name: &str) -> Self {
        Self { name: name.to_owned(), key: AccountKey::Shared }
    }
}

/// A credit of the faucet, given now or before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credit {
    /// The credit in US dollars, as the faucet reports it. A fresh account's balance equals its credit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credited: Option<Amount>,
    /// The balance in US dollars, if Purple Flea reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Amount>,
    /// Purple Flea's id of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<String>,
    /// The reason, if the credit is not the reply to this claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}
