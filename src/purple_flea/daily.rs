//! The daily claim: at the gateway's faucet for the agent's wallet, at the live casino for the key's account.
//! Purple Flea gives one in 24 hours.

use super::{Call, PurpleFlea, body, reply::ALREADY_CLAIMED, reply::Field, statement::Cause};
use crate::{
    domain::{
        account::{Account, Api, Credit},
        failure::Failure,
    },
    runtime::Runtime,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use std::time::Duration;

/// The standing of an account with the daily claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyStatus {
    /// Whether the account may claim now.
    pub can_claim: bool,
    /// The time of the next claim, in RFC 3339, if Purple Flea reports it.
    pub next_eligible_at: Option<String>,
}

impl PurpleFlea {
    /// Makes the daily claim. Returns `None` if the account has claimed already. The account gets the credit
    /// once, so a repeated claim does no harm.
    pub async fn claim_daily(
        &self,
        account: &Account,
        wallet_address: Option<&str>,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Option<Credit>, Failure> {
        match self.send_daily_claim(account, wallet_address, idempotency_key, runtime).await {
            Ok(reply) => self.credit(&reply, account, runtime).await.map(Some),
            Err(failure) if failure.has_code(ALREADY_CLAIMED) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Finds the credit of a claim whose answer was lost, in the statement of a `live` account. The gateway has
    /// no statement.
    pub async fn find_daily_credit(
        &self,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Option<Credit>, Failure> {
        match self.api {
            Api::Gateway => Ok(None),
            Api::Live => self.find_credit(Cause::DailyBonus, account, runtime).await,
        }
    }

    /// Reads whether the daily claim is due.
    pub async fn daily_status(
        &self,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<DailyStatus, Failure> {
        let (route, with_key) = match self.api {
            Api::Gateway => (format!("/api/status?agent_id={}", encoded(&account.name)), false),
            Api::Live => ("/api/v1/daily".to_owned(), true),
        };
        let call = Call { with_key, final_codes: &["agent_not_found"], ..Call::get(route) };
        let reply = self.call(&self.daily, account, call, runtime).await.map_err(Failure::retryable)?;
        let after_s = reply.field("next_claim_in_seconds").and_then(Value::as_u64);
        let after = after_s.and_then(|after_s| runtime.now().checked_add(Duration::from_secs(after_s)));
        Ok(DailyStatus {
            // Without a word on it the claim itself tells.
            can_claim: reply.field("can_claim").and_then(Value::as_bool).unwrap_or(true),
            next_eligible_at: reply
                .time(&["next_eligible_at"])
                .or_else(|| after.map(|time| humantime::format_rfc3339_seconds(time).to_string())),
        })
    }

    async fn send_daily_claim(
        &self,
        account: &Account,
        wallet_address: Option<&str>,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Value, Failure> {
        let call = match self.api {
            Api::Gateway => {
                let mut claim = body([("agent_id", account.name.as_str().into())]);
                if let (Value::Object(fields), Some(address)) = (&mut claim, wallet_address) {
                    fields.extend(Map::from_iter([("wallet_address".to_owned(), address.into())]));
                }
                Call { with_key: false, ..Call::post("/api/claim".to_owned(), claim, idempotency_key) }
            }
            // The key names the account, so the claim has no body.
            Api::Live => Call {
                body: None,
                ..Call::post("/api/v1/daily/claim".to_owned(), Value::Null, idempotency_key)
            },
        };
        let call = Call { final_codes: &["agent_not_found"], ..call };
        self.call(&self.daily, account, call, runtime).await.map_err(Failure::retryable)
    }
}

/// The bytes of a query's value that are percent-encoded: all except the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_name_is_encoded_as_one_value_of_the_query() {
        assert_eq!(encoded("agent-001"), "agent-001");
        assert_eq!(encoded("a&b=c d/é"), "a%26b%3Dc%20d%2F%C3%A9");
    }
}
