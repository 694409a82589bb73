//! The faucet: a first credit for a new agent, once; and, at the gateway, another each day.

use super::{
    Account, AccountKey, Api, Call, PurpleFlea,
    reply::{Doubt, Failure, Field, ONE_A_DAY},
};
use crate::{money::Amount, outside::Outside};
use serde::Serialize;
use serde_json::{Value, json};

/// What the faucet gave, or had given before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credit {
    /// What it says it credited, in US dollars. `None`: it was before, and `balance` says what is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credited: Option<Amount>,
    /// What the account holds, where that had to be looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Amount>,
    /// Purple Flea's name for the claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<String>,
    /// Why it is not simply a claim that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl PurpleFlea {
    /// Claims the faucet for an agent. It gives once, so that asking again does no harm. In the `live` dialect a
    /// registration claims by itself, and only one claim a day is taken from an address: then the balance tells.
    pub async fn claim_faucet(
        &self,
        account: &Account,
        referral_code: Option<&str>,
        bet_key: &str,
        outside: &impl Outside,
    ) -> Result<Credit, Failure> {
        let agent_id = &account.name;
        let (body, with_key) = match (self.api, referral_code) {
            (Api::Gateway, _) => (json!({ "agent_id": agent_id }), true),
            (Api::Live, None) => (json!({ "agent_casino_id": agent_id }), false),
            (Api::Live, Some(code)) => (json!({ "agent_casino_id": agent_id, "referral_code": code }), false),
        };
        let call = Call {
            with_key,
            finals: &["agent_not_found", "has_deposits"],
            ..Call::post("/faucet/claim".to_owned(), body, bet_key)
        };
        match self.call(&self.faucet, account, call, outside).await.map_err(Failure::repeatable) {
            Ok(reply) => read(&reply),
            // Everybody's account is not the agent's: what it holds says nothing.
            Err(refusal) if self.api == Api::Live && !matches!(account.key, AccountKey::Own(_)) => {
                Err(refusal)
            }
            Err(refusal) if refusal.says("already_claimed") || refusal.says(ONE_A_DAY) => {
                let balance = self.balance(account, outside).await?;
                if balance == Amount::ZERO && !refusal.says("already_claimed") {
                    return Err(refusal);
                }
                let reason = Some("already_claimed");
                Ok(Credit { credited: None, balance: Some(balance), claim_id: None, reason })
            }
            Err(failure) => Err(failure),
        }
    }

    /// Makes the claim of the day, which the gateway's faucet has and the live one has not. More than one a day is refused.
    pub async fn claim_daily(
        &self,
        account: &Account,
        bet_key: &str,
        outside: &impl Outside,
    ) -> Result<Credit, Failure> {
        let body = json!({ "agent_id": account.name });
        let call =
            Call { finals: &["agent_not_found"], ..Call::post("/api/claim".to_owned(), body, bet_key) };
        let reply = self.call(&self.faucet, account, call, outside).await.map_err(Failure::repeatable)?;
        read(&reply)
    }
}

fn read(reply: &Value) -> Result<Credit, Failure> {
    let credited = reply.amount(&["credited", "amount_usdc", "amount"]);
    let credited = credited.filter(|amount| !amount.is_negative());
    if credited.is_none() {
        return Err(Failure::NoAnswer(Some(Doubt::Unrecognised)));
    }
    let claim_id = reply.word(&["claim_id", "id"]);
    Ok(Credit { credited, balance: None, claim_id, reason: None })
}
