//! Escrows: money that one agent holds for another.

use super::{
    Call, PurpleFlea, body,
    reply::{self, Field},
};
use crate::{
    domain::{
        account::{Account, Api},
        escrow::{self, Escrow, Step, Terms},
        failure::{Doubt, Failure, Refusal},
    },
    runtime::Runtime,
};
use serde_json::Value;

/// The description of an escrow whose sender gives none. Purple Flea accepts no empty one.
const NO_DESCRIPTION: &str = "Escrow";

impl PurpleFlea {
    /// Makes an escrow. The call is sent once, because the money leaves the sender's balance. In the `live`
    /// dialect the description ends in the idempotency key, by which a look-up finds the escrow.
    pub async fn create_escrow(
        &self,
        terms: &Terms,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Escrow, Failure> {
        let description = terms.description.as_deref().unwrap_or(NO_DESCRIPTION);
        let mut body = match self.api {
            Api::Gateway => body([
                ("agent_id", account.name.as_str().into()),
                ("amount_usdc", terms.amount.into()),
                (
                    "counterparty_address",
                    terms.counterparty_address.as_deref().unwrap_or(&terms.counterparty).into(),
                ),
                ("description", description.into()),
            ]),
            Api::Live => body([
                ("amount_usd", terms.amount.into()),
                ("description", format!("{description} [{idempotency_key}]").into()),
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
        let pf_escrow_id =
            reply.identifier(&["escrow_id", "id"]).ok_or(Failure::Unknown(Doubt::Unrecognised))?;
        let made = Escrow { pf_escrow_id, ..read_without_id(&reply) };
        Ok(self.with_referral(made, terms))
    }

    /// Adds the referral's share. Only the reply to a release tells it, and that reply may get lost.
    pub(super) fn with_referral(&self, made: Escrow, terms: &Terms) -> Escrow {
        let referred = self.api == Api::Live && terms.referral_code.is_some();
        let referral_due = made.fee.filter(|_| referred).and_then(escrow::referral_of);
        Escrow { referral_due, ..made }
    }

    /// Takes a step of an escrow. Purple Flea does that at most once. If it refuses because of the escrow's
    /// state, the function reads the state to learn whether the escrow is there already.
    pub async fn take_step(
        &self,
        step: Step,
        reason: Option<&str>,
        id: &str,
        account: &Account,
        idempotency_key: &str,
        runtime: &impl Runtime,
    ) -> Result<Escrow, Failure> {
        let id = reply::identifier(id).ok_or(Failure::NotSent("request_not_built"))?;
        let (route, body) = match (self.api, reason) {
            (Api::Gateway, _) => (format!("/escrow/{id}/{}", step.verb()), None),
            (Api::Live, None) => (format!("/escrow/{}/{id}", step.verb()), Some(body([]))),
            (Api::Live, Some(reason)) => {
                (format!("/escrow/{}/{id}", step.verb()), Some(body([("reason", reason.into())])))
            }
        };
        let call = Call {
            body,
            final_codes: &["not_found", "forbidden"],
            any_success: self.api == Api::Gateway,
            ..Call::post(route, Value::Null, idempotency_key)
        };
        match self.call(&self.escrow, account, call, runtime).await.map_err(Failure::retryable) {
            Ok(reply) => {
                let mut taken = Escrow { pf_escrow_id: id, ..read_without_id(&reply) };
                if self.api == Api::Gateway {
                    // Its documentation promises no body.
                    taken.escrow_status = Some(step.status().to_owned());
                }
                let is_taken = taken.escrow_status.as_deref().is_some_and(|status| step.matches(status));
                if is_taken { Ok(taken) } else { Err(Failure::NoAnswer(Some(Doubt::Unrecognised))) }
            }
            Err(refusal) if refusal.has_code("invalid_status") => {
                let found = self.read_escrow(&id, account, runtime).await?;
                match &found.escrow_status {
                    Some(status) if step.matches(status) => Ok(found),
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

    /// Reads an escrow's state. Purple Flea shows it to every caller, so the call needs no key.
    pub async fn read_escrow(
        &self,
        id: &str,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Escrow, Failure> {
        let reply = self.escrow_object(id, account, runtime).await?;
        Ok(Escrow { pf_escrow_id: id.to_owned(), ..read_without_id(&reply) })
    }

    /// Reads an escrow as Purple Flea describes it.
    pub(super) async fn escrow_object(
        &self,
        id: &str,
        account: &Account,
        runtime: &impl Runtime,
    ) -> Result<Value, Failure> {
        let id = reply::identifier(id).ok_or(Failure::NotSent("request_not_built"))?;
        let call = Call {
            final_codes: &["not_found", "forbidden"],
            with_key: self.api == Api::Gateway,
            ..Call::get(format!("/escrow/{id}"))
        };
        self.call(&self.escrow, account, call, runtime).await.map_err(Failure::retryable)
    }
}

pub(super) fn read_without_id(reply: &Value) -> Escrow {
    Escrow {
        escrow_status: reply.identifier(&["status"]),
        auto_release_at: reply.time(&["auto_release_at"]),
        fee: reply.amount(&["commission", "commission_usd", "fee_usdc"]),
        referral_earned: reply.amount(&["referral_commission", "referral_usdc", "referral"]),
        tx_hash: reply.tx_hash(&["tx_hash"]),
        ..Escrow::default()
    }
}
