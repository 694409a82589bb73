//! Escrows: money that one agent holds ready for another.

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
    /// Makes an escrow, once: the money leaves the creator's balance. It cannot be looked up by our name for it, which
    /// stands in its description for people to find.
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
            finals: &["counterparty_not_found", "forbidden"],
            ..Call::post("/escrow/create".to_owned(), body, idempotency_key)
        };
        let reply = self.call(&self.escrow, account, call, runtime).await?;
        read(&reply).ok_or(Failure::Unknown(Doubt::Unrecognised))
    }

    /// Ends an escrow. Purple Flea does that at most once; where it says that it cannot, the escrow itself tells
    /// whether it was.
    pub async fn end_escrow(
        &self,
        end: End,
        id: &str,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Escrow, Failure> {
        let id = reply::word(id).ok_or(Failure::NotSent("request_not_built"))?;
        let (route, body) = match self.api {
            Api::Gateway => {
                (format!("/escrow/{id}/{}", end.verb()), body([("agent_id", account.name.as_str().into())]))
            }
            Api::Live => (format!("/escrow/{}/{id}", end.verb()), body([])),
        };
        let call = Call { finals: &["not_found", "forbidden"], ..Call::post(route, body, idempotency_key) };
        match self.call(&self.escrow, account, call, runtime).await.map_err(Failure::retryable) {
            Ok(reply) => {
                let ended = Escrow { pf_escrow_id: id, ..read_but_for_its_id(&reply) };
                let sure = ended.escrow_status.as_deref().is_some_and(|status| end.is(status));
                if sure { Ok(ended) } else { Err(Failure::NoAnswer(Some(Doubt::Unrecognised))) }
            }
            Err(refusal) if refusal.says("invalid_status") => {
                let route = format!("/escrow/{id}");
                let call = Call { finals: &["not_found", "forbidden"], ..Call::get(route) };
                let reply =
                    self.call(&self.escrow, account, call, runtime).await.map_err(Failure::retryable)?;
                let found = Escrow { pf_escrow_id: id, ..read_but_for_its_id(&reply) };
                match &found.escrow_status {
                    Some(status) if end.is(status) => Ok(found),
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
    let pf_escrow_id = reply.word(&["escrow_id", "id"])?;
    Some(Escrow { pf_escrow_id, ..read_but_for_its_id(reply) })
}

fn read_but_for_its_id(reply: &Value) -> Escrow {
    Escrow {
        pf_escrow_id: String::new(),
        escrow_status: reply.word(&["status"]),
        fee: reply.amount(&["commission", "commission_usd", "fee_usdc"]),
        referral_earned: reply.amount(&["referral_commission", "referral_usdc", "referral"]),
    }
}
