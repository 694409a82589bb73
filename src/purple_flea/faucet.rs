//! The faucet: a first credit for a new agent, once; and, at the gateway, another each day.

use super::{
    Call, PurpleFlea, body,
    reply::{Field, ONE_A_DAY},
};
use crate::{
    domain::{
        account::{Account, AccountKey, Api, Credit},
        amount::Amount,
        failure::{Doubt, Failure},
    },
    runtime::Runtime,
};
use serde_json::Value;

impl PurpleFlea {
    /// Claims the faucet for an agent. It gives once, so that asking again does no harm. In the `live` dialect a
    /// registration claims by itself, and only one claim a day is taken from an address: then the balance of an account that
    /// is `fresh` tells.
    pub async fn claim_faucet(
        &self,
        account: &Account,
        referral_code: Option<&str>,
        fresh: bool,
        idempotency_key: &str,
        runtime: &impl Runtime,
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
            ..Call::post("/faucet/claim".to_owned(), body, idempotency_key)
        };
        let refusal = match self.call(&self.faucet, account, call, runtime).await.map_err(Failure::retryable)
        {
            Ok(reply) => return self.credit(&reply, account, runtime).await,
            Err(failure) => failure,
        };
        // Everybody's account is not the agent's: what it holds says nothing.
        let knows = self.api == Api::Gateway || matches!(account.key, AccountKey::Own(_));
        let may_have_been = refusal.says("already_claimed") || refusal.says(ONE_A_DAY);
        if !(fresh && knows && may_have_been) {
            return Err(refusal);
        }
        match self.balance(account, runtime).await? {
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
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Credit, Failure> {
        let body = body([("agent_id", account.name.as_str().into())]);
        let call = Call {
            finals: &["agent_not_found"],
            ..Call::post("/api/claim".to_owned(), body, idempotency_key)
        };
        let reply = self.call(&self.faucet, account, call, runtime).await.map_err(Failure::retryable)?;
        self.credit(&reply, account, runtime).await
    }

    /// What a claim gave, and what there is now, where that can be told.
    async fn credit(
        &self,
        reply: &Value,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Credit, Failure> {
        let credited = reply.amount(&["credited", "amount_usdc", "amount"]);
        let credited = credited.filter(|amount| !amount.is_negative());
        if credited.is_none() {
            return Err(Failure::NoAnswer(Some(Doubt::Unrecognised)));
        }
        let knows = self.api == Api::Gateway || matches!(account.key, AccountKey::Own(_));
        let balance = if knows { self.balance(account, runtime).await.ok() } else { None };
        Ok(Credit { credited, balance, claim_id: reply.word(&["claim_id", "id"]), reason: None })
    }
}
