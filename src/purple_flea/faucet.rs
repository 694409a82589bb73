//! The faucet: one first credit for a new agent.

use super::{
    Call, PurpleFlea, body,
    reply::{ALREADY_CLAIMED, Field},
    statement::Cause,
};
use crate::{
    domain::{
        account::{Account, AccountKey, Api, Credit},
        amount::Amount,
        failure::{Doubt, Failure, ONE_CLAIM_A_DAY},
    },
    runtime::Runtime,
};
use serde_json::Value;

/// The faucet's credit (docs/purple-flea.md, section 6).
const CREDIT: Amount = Amount::ONE;

impl PurpleFlea {
    /// Claims the faucet's first credit for an agent. The faucet pays it once, so a repeated claim does no
    /// harm.
    ///
    /// In the `live` dialect a registration also makes the claim, and the faucet accepts one claim a day from
    /// an IP address. If the credit of a `fresh` account came before this claim, the account itself shows it.
    /// `wait_s` is the time until the faucet accepts a claim from our address. Until then the function sends
    /// none.
    pub async fn claim_faucet(
        &self,
        account: &Account,
        referral_code: Option<&str>,
        fresh: bool,
        wait_s: Option<u64>,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Credit, Failure> {
        let claimed = match wait_s {
            Some(retry_after_s) => {
                Err(Failure::RateLimited { retry_after_s, code: Some(ONE_CLAIM_A_DAY.to_owned()) })
            }
            None => self.send_claim(account, referral_code, idempotency_key, runtime).await,
        };
        let refusal = match claimed {
            Ok(reply) => return self.credit(&reply, account, runtime).await,
            Err(failure) => failure,
        };
        let may_be_claimed = refusal.has_code(ALREADY_CLAIMED) || refusal.has_code(ONE_CLAIM_A_DAY);
        if !(fresh && has_balance_of(account) && may_be_claimed) {
            return Err(refusal);
        }
        match self.api {
            Api::Live => self.find_credit(Cause::Faucet, account, runtime).await?.ok_or(refusal),
            Api::Gateway if refusal.has_code(ALREADY_CLAIMED) => {
                let balance = self.balance(account, runtime).await?;
                let credited = Some(balance.min(CREDIT)).filter(|credited| *credited > Amount::ZERO);
                let credit = Credit { credited, balance: Some(balance), ..Credit::default() };
                credited.map(|_| Credit { reason: Some(ALREADY_CLAIMED), ..credit }).ok_or(refusal)
            }
            Api::Gateway => Err(refusal),
        }
    }

    async fn send_claim(
        &self,
        account: &Account,
        referral_code: Option<&str>,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Value, Failure> {
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
        self.call(&self.faucet, account, call, runtime).await.map_err(Failure::retryable)
    }

    /// Reads the credit from a claim's reply, and the balance if Purple Flea reports it.
    pub(super) async fn credit(
        &self,
        reply: &Value,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Credit, Failure> {
        let credited = reply.amount(&["credited", "amount_usdc", "bonus_usd", "amount"]);
        let credited = credited.filter(|amount| !amount.is_negative());
        if credited.is_none() {
            return Err(Failure::NoAnswer(Some(Doubt::Unrecognised)));
        }
        let told = reply.amount(&["balance_after"]).filter(|balance| !balance.is_negative());
        let balance = match told {
            _ if !has_balance_of(account) => None,
            Some(balance) => Some(balance),
            None => self.balance(account, runtime).await.ok(),
        };
        Ok(Credit {
            credited,
            balance,
            claim_id: reply.identifier(&["claim_id", "id"]),
            tx_hash: reply.tx_hash(&["tx_hash"]),
            next_eligible_at: reply.time(&["next_eligible_at"]),
            reason: None,
        })
    }
}

/// Returns whether the balance that Purple Flea reports is the agent's. The shared key reads the balance of
/// its own account.
fn has_balance_of(account: &Account) -> bool {
    matches!(account.key, AccountKey::Own(_))
}
