//! The faucet: one first credit for a new agent and, at the gateway, one credit a day.

use super::{
    Call, PurpleFlea, body,
    reply::{Field, ONE_CLAIM_A_DAY},
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
    /// Claims the faucet's first credit for an agent. The faucet pays it once, so a repeated claim does no
    /// harm.
    ///
    /// In the `live` dialect a registration also makes the claim, and the faucet accepts one claim a day from
    /// an IP address. The balance of a `fresh` account then shows the credit.
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
            final_codes: &["agent_not_found", "has_deposits"],
            ..Call::post("/faucet/claim".to_owned(), body, idempotency_key)
        };
        let refusal = match self.call(&self.faucet, account, call, runtime).await.map_err(Failure::retryable)
        {
            Ok(reply) => return self.credit(&reply, account, runtime).await,
            Err(failure) => failure,
        };
        let may_be_claimed = refusal.has_code("already_claimed") || refusal.has_code(ONE_CLAIM_A_DAY);
        if !(fresh && self.has_balance_of(account) && may_be_claimed) {
            return Err(refusal);
        }
        match self.balance(account, runtime).await? {
            balance if balance == Amount::ZERO => Err(refusal),
            balance => {
                let (credited, balance) = (Some(balance), Some(balance));
                Ok(Credit { credited, balance, claim_id: None, reason: Some("already_claimed") })
            }
        }
    }

    /// Makes the daily claim. Only the gateway's faucet has it, and refuses a second one a day.
    pub async fn claim_daily(
        &self,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Credit, Failure> {
        let body = body([("agent_id", account.name.as_str().into())]);
        let call = Call {
            final_codes: &["agent_not_found"],
            ..Call::post("/api/claim".to_owned(), body, idempotency_key)
        };
        let reply = self.call(&self.faucet, account, call, runtime).await.map_err(Failure::retryable)?;
        self.credit(&reply, account, runtime).await
    }

    /// Reads the credit from a claim's reply, and the balance if Purple Flea reports it.
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
        let balance =
            if self.has_balance_of(account) { self.balance(account, runtime).await.ok() } else { None };
        Ok(Credit { credited, balance, claim_id: reply.identifier(&["claim_id", "id"]), reason: None })
    }

    /// Returns whether the balance that Purple Flea reports is the agent's. In the `live` dialect the shared key reads
    /// the balance of its own account.
    fn has_balance_of(&self, account: &Account) -> bool {
        self.api == Api::Gateway || matches!(account.key, AccountKey::Own(_))
    }
}
