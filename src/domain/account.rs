//! Accounts at Purple Flea: the dialect of the API, the key of an account, and the faucet's credit.

use super::amount::Amount;
use crate::{
    endpoint::Key,
    json::{ReadError, refuse},
};
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
    /// The address of the agent's wallet, if the agent has one.
    pub wallet_address: Option<String>,
}

/// The agent of a request in standalone mode that names none, and its wallet.
#[derive(Debug, Clone, Default)]
pub struct DefaultAgent {
    /// The agent's id.
    pub id: Option<String>,
    /// The address of the agent's wallet.
    pub wallet_address: Option<String>,
}

/// Longest address of a wallet, in bytes. The ledger's column has the same limit.
const WALLET_ADDRESS_LIMIT_BYTES: usize = 128;

/// Checks the address of a wallet: 1 to 128 bytes without control characters.
pub fn check_wallet_address(address: String) -> Result<String, ReadError> {
    if address.is_empty() || address.len() > WALLET_ADDRESS_LIMIT_BYTES || address.contains(char::is_control)
    {
        return refuse("`wallet_address` must be 1 to 128 bytes without control characters");
    }
    Ok(address)
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
        Self { name: name.to_owned(), key: AccountKey::Shared, wallet_address: None }
    }
}

/// A credit of a claim, given now or before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Credit {
    /// The credit in US dollars, as Purple Flea reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credited: Option<Amount>,
    /// The balance in US dollars, if Purple Flea reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Amount>,
    /// Purple Flea's id of the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<String>,
    /// The hash of the transaction that paid the credit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<String>,
    /// The time of the next claim, in RFC 3339, if Purple Flea reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_eligible_at: Option<String>,
    /// The reason, if the credit is not the reply to this claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}
