//! Escrows: money that one agent holds for another.

use super::{
    Call, PurpleFlea, body,
    reply::{self, Field},
};
use crate::{
    domain::{
        account::{Account, Api},
        escrow::{End, Escrow, Terms},
        failure::{Doubt, Failure, Refusal},
    },
    runtime::Runtime,
};
use serde_json::Value;

impl PurpleFlea {
    /// Makes an escrow. The call is sent once, because the money leaves the sender's balance. Purple Flea
    /// cannot look an escrow up by the idempotency key; the description holds it, so people can find it.
    pub async fn create_escrow(
        &self,
        terms: &Terms,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Escrow, Failure> {
        let description = format!("{} [{idempotency_key}]", terms.description.as_deref().unwrap_or("Escrow"));
        let mut body = match self.api {
            Api::Gateway => body([
                ("agent_id", account.name.as_str().into()),
                ("amount_usdc", terms.amount.into()),
                ("counterparty_address", terms.counterparty.as_str().into()),
                ("description", description.into()),
            ]),
            Api::Live => body([
                ("amount_usd", terms.amount.into()),
                ("description", description.into()),
                ("counterparty_agent_id", terms.counterparty.as_str().into()),
            ]),
        };
        if let Value::Object(body) = &mut body {
            body.extend(terms.timeout_hours.map(|hours| ("timeout_hours".to_owned(), hours.into())));
            body.extend(
                terms.referral_code.as_ref().map(|code| ("referral_code".to_owned(), code.as_str().into())),
            );
        }
        let call = Call {
            final_codes: &["counterparty_not_found", "forbidden"],
            ..Call::post("/escrow/create".to_owned(), body, idempotency_key)
        };
        let reply = self.call(&self.escrow, account, call, runtime).await?;
        read(&reply).ok_or(Failure::Unknown(Doubt::Unrecognised))
    }

    /// Ends an escrow. Purple Flea does that at most once. If it refuses because of the escrow's state, the
    /// function reads the state to learn whether the escrow has ended this way.
    pub async fn end_escrow(
        &self,
        end: End,
        id: &str,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Escrow, Failure> {
        let id = reply::identifier(id).ok_or(Failure::NotSent("request_not_built"))?;
        let (route, body) = match self.api {
            Api::Gateway => {
                (format!("/escrow/{id}/{}", end.verb()), body([("agent_id", account.name.as_str().into())]))
            }
            Api::Live => (format!("/escrow/{}/{id}", end.verb()), body([])),
        };
        let call =
            Call { final_codes: &["not_found", "forbidden"], ..Call::post(route, body, idempotency_key) };
        match self.call(&self.escrow, account, call, runtime).await.map_err(Failure::retryable) {
            Ok(reply) => {
                let ended = Escrow { pf_escrow_id: id, ..read_without_id(&reply) };
                let has_ended = ended.escrow_status.as_deref().is_some_and(|status| end.matches(status));
                if has_ended { Ok(ended) } else { Err(Failure::NoAnswer(Some(Doubt::Unrecognised))) }
            }
            Err(refusal) if refusal.has_code("invalid_status") => {
                let route = format!("/escrow/{id}");
                let call = Call { final_codes: &["not_found", "forbidden"], ..Call::get(route) };
                let reply =
                    self.call(&self.escrow, account, call, runtime).await.map_err(Failure::retryable)?;
                let found = Escrow { pf_escrow_id: id, ..read_without_id(&reply) };
                match &found.escrow_status {
                    Some(status) if end.matches(status) => Ok(found),
                    status => Err(Failure::Rejected(Refusal {
                        code: Some("invalid_status".to_owned()),
                        escrow_status: status.clone(),
                        max_bet: None,
                    })),
                }
            }
            Err(failure) => Err(failure),
        }
    }
}

fn read(reply: &Value) -> Option<Escrow> {
    let pf_escrow_id = reply.identifier(&["escrow_id", "id"])?;
    Some(Escrow { pf_escrow_id, ..read_without_id(reply) })
}

fn read_without_id(reply: &Value) -> Escrow {
    Escrow {
        pf_escrow_id: String::new(),
        escrow_status: reply.identifier(&["status"]),
        fee: reply.amount(&["commission", "commission_usd", "fee_usdc"]),
        referral_earned: reply.amount(&["referral_commission", "referral_usdc", "referral"]),
    }
}
