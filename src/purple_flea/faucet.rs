//! The faucet: a first credit for a new agent, once; and, at the gateway, another each day.

use super::{
    Account, AccountKey, Api, Call, PurpleFlea, body,
    reply::{Doubt, Failure, Field, ONE_A_DAY},
};
use crate::{money::Amount, outside::Outside};
use serde::Serialize;
use serde_json::Value;

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

impl PurpleFlea {
    /// Claims the faucet for an agent. It gives once, so that asking again does no harm. In the `live` dialect a
    /// registration claims by itself, and only one claim a day is taken from an address: then the balance of an account that
    /// is `fresh` tells.
    pub async fn claim_faucet(
        &self,
        account: &Account,
        referral_code: Option<&str>,
        fresh: bool,
        bet_key: &str,
        outside: &impl Outside,
    ) -> Result<Credit, Failure> {
        let agent_id = account.name.as_str().into();
        let (body, with_key) = match (self.api, referral_code) {
            (Api::Gateway, _) => (body([("agent_id", agent_id)]), true),
            (Api::Live, None) => (body([("agent_casino_id", agent_id)]), false),
            (Api::Live, Some(code)) => {
                (body([("agent_casino_id", agent_id), ("referral_code", code.into())]), false)
            }
        };
        let call = Call {
            with_key,
            finals: &["agent_not_found", "has_deposits"],
            ..Call::post("/faucet/claim".to_owned(), body, bet_key)
        };
        let refusal = match self.call(&self.faucet, account, call, outside).await.map_err(Failure::repeatable)
        {
            Ok(reply) => return self.credit(&reply, account, outside).await,
            Err(failure) => failure,
        };
        // Everybody's account is not the agent's: what it holds says nothing.
        let knows = self.api == Api::Gateway || matches!(account.key, AccountKey::Own(_));
        let may_have_been = refusal.says("already_claimed") || refusal.says(ONE_A_DAY);
        if !(fresh && knows && may_have_been) {
            return Err(refusal);
        }
        match self.balance(account, outside).await? {
            there if there == Amount::ZERO => Err(refusal),
            there => {
                let (credited, balance) = (Some(there), Some(there));
                Ok(Credit { credited, balance, claim_id: None, reason: Some("already_claimed") })
            }
        }
    }

    /// Makes the claim of the day, which the gateway's faucet has and the live one has not. More than one a day is refused.
    pub async fn claim_daily(
        &self,
        account: &Account,
        bet_key: &str,
        outside: &impl Outside,
    ) -> Result<Credit, Failure> {
        let body = body([("agent_id", account.name.as_str().into())]);
        let call =
            Call { finals: &["agent_not_found"], ..Call::post("/api/claim".to_owned(), body, bet_key) };
        let reply = self.call(&self.faucet, account, call, outside).await.map_err(Failure::repeatable)?;
        self.credit(&reply, account, outside).await
    }

    /// What a claim gave, and what there is now, where that can be told.
    async fn credit(
        &self,
        reply: &Value,
        account: &Account,
        outside: &impl Outside,
    ) -> Result<Credit, Failure> {
        let credited = reply.amount(&["credited", "amount_usdc", "amount"]);
        let credited = credited.filter(|amount| !amount.is_negative());
        if credited.is_none() {
            return Err(Failure::NoAnswer(Some(Doubt::Unrecognised)));
        }
        let knows = self.api == Api::Gateway || matches!(account.key, AccountKey::Own(_));
        let balance = if knows { self.balance(account, outside).await.ok() } else { None };
        Ok(Credit { credited, balance, claim_id: reply.word(&["claim_id", "id"]), reason: None })
    }
}
