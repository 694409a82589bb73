//! Accounts: registrations and balances.

use super::{Call, PurpleFlea, reply::Field};
use crate::{
    domain::{
        account::{Account, Api},
        amount::Amount,
        failure::{Doubt, Failure},
    },
    endpoint::Key,
    runtime::Runtime,
};
use serde_json::{Map, Value};

/// A new account. Purple Flea shows its key only once, in this reply.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The agent's name at Purple Flea.
    pub account: Option<String>,
    /// The agent's own referral code.
    pub referral_code: Option<String>,
    /// The agent's own key.
    pub key: Key,
}

impl PurpleFlea {
    /// Registers an account, with the referral code of the agent that brought this one in, if there is one. A
    /// repeated registration makes a second account, which costs nothing. The lost key of the first one
    /// cannot be recovered.
    pub async fn register(
        &self,
        account: &Account,
        referral_code: Option<&str>,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Registered, Failure> {
        let mut body = Map::new();
        if self.api == Api::Gateway {
            body.insert("agent_id".to_owned(), account.name.clone().into());
        }
        if let Some(code) = referral_code {
            body.insert("referral_code".to_owned(), code.into());
        }
        let route = match self.api {
            Api::Gateway => "/agents/register",
            Api::Live => "/api/v1/auth/register",
        };
        // The agent has no key yet. The gateway gets the shared key, if there is one.
        let with_key = self.api == Api::Gateway && self.casino.key.is_some();
        let call = Call { with_key, ..Call::post(route.to_owned(), Value::Object(body), idempotency_key) };
        let shared = Account::shared(&account.name);
        let reply = self.call(&self.casino, &shared, call, runtime).await.map_err(Failure::retryable)?;
        let key = reply.field("api_key").and_then(Value::as_str).and_then(Key::parse);
        Ok(Registered {
            account: reply.identifier(&["agent_id"]),
            referral_code: reply.identifier(&["referral_code"]),
            // The account exists now, and its key is lost. A second registration would probably lose its key,
            // too, so an operator has to look.
            key: key.ok_or_else(|| Failure::rejected("no_key_in_reply"))?,
        })
    }

    /// Reads the balance of the key's account, in US dollars.
    pub async fn balance(&self, account: &Account, runtime: &impl Runtime) -> Result<Amount, Failure> {
        let route = match self.api {
            Api::Gateway => "/wallet/balance",
            Api::Live => "/api/v1/auth/balance",
        };
        let call = Call { final_codes: &["agent_not_found"], ..Call::get(route.to_owned()) };
        let reply = self.call(&self.wallet, account, call, runtime).await.map_err(Failure::retryable)?;
        let balance = reply.amount(&["usdc_balance", "balance_usd", "total_usdc", "balance"]);
        balance.filter(|balance| !balance.is_negative()).ok_or(Failure::NoAnswer(Some(Doubt::Unrecognised)))
    }
}
