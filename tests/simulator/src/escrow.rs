//! Serves escrow: money that one agent holds for another, from the casino's balances (purple-flea.md, section 3). The
//! real server cannot cancel an escrow; the gateway can.

mod creation;

use super::{
    PurpleFlea, State,
    answer::{Answer, Said, failed, iso_seconds, ok, refuse},
    call::{Api, Call},
    money::plain,
    statement::Why,
};
pub(super) use creation::create;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{SystemTime, UNIX_EPOCH},
};

/// The part of an escrow that Purple Flea keeps as its fee, at a release and at the timeout.
const COMMISSION: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

/// The part of the fee that the referrer earns when the counterparty is paid, and when the creator is paid back.
const REFERRAL: Decimal = Decimal::from_parts(15, 0, 0, false, 2);

/// An escrow at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Escrow {
    /// Its id.
    pub escrow_id: String,
    /// The agent that made and paid it.
    pub creator_id: String,
    /// The agent that is to be paid.
    pub counterparty_id: String,
    /// The amount that its creator paid.
    pub amount: Decimal,
    /// Its description.
    pub description: String,
    /// `funded`, `completed`, `released`, `disputed`, `refunded` (by its timeout) or, in the gateway, `cancelled`.
    pub status: &'static str,
    /// The agent that earns the referral: the owner of the request's code, or else the creator's own referrer.
    pub referrer: Option<String>,
    /// The referrer's earnings so far.
    pub referral_commission: Decimal,
    /// When it is refunded, if no step ends it before.
    pub ends_at: SystemTime,
    /// The `Idempotency-Key` of the request that made it. The simulator ignores the key, as the real server does.
    pub idempotency_key: Option<String>,
    timeout_hours: u32,
    api: Api,
    events: Vec<Event>,
}

/// A step of an escrow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    /// `created`, or the escrow's new status.
    name: &'static str,
    /// The agent that took the step; none for the timeout.
    actor: Option<String>,
    at: SystemTime,
}

/// All escrows, in order.
#[derive(Default)]
pub(super) struct Escrows {
    all: Vec<Escrow>,
    /// The open escrows by the times of their refunds.
    due: BTreeSet<(SystemTime, usize)>,
}

impl Escrow {
    /// Gives Purple Flea's fee: 1 %, to the millionth.
    pub fn commission(&self) -> Decimal {
        (self.amount * COMMISSION).round_dp(6).normalize()
    }

    /// Gives the amount without the fee. A release pays it to the counterparty, and the timeout pays it back to the
    /// creator.
    pub fn net(&self) -> Decimal {
        self.amount - self.commission()
    }

    fn is_open(&self) -> bool {
        matches!(self.status, "funded" | "completed")
    }

    fn becomes(&mut self, status: &'static str, actor: Option<&str>, at: SystemTime) {
        self.status = status;
        self.events.push(Event { name: status, actor: actor.map(str::to_owned), at });
    }

    /// Describes it in the dialect in which it was made.
    fn to_json(&self) -> Value {
        match self.api {
            Api::Gateway => json!({
                "id": self.escrow_id, "status": self.status, "agent_id": self.creator_id,
                "counterparty_agent_id": self.counterparty_id, "amount_usdc": plain(self.amount),
                "fee_usdc": plain(self.commission()), "referral_usdc": plain(self.referral_commission),
                "net_usdc": plain(self.net()), "description": self.description,
                "ends_at": iso_seconds(self.ends_at),
            }),
            Api::Live => json!({
                "escrow_id": self.escrow_id, "amount_usd": plain(self.amount),
                "commission_usd": plain(self.commission()), "net_to_counterparty": plain(self.net()),
                "description": self.description, "creator_id": self.creator_id,
                "counterparty_id": self.counterparty_id, "status": self.status,
                "timeout_hours": self.timeout_hours, "auto_release_at": iso_seconds(self.ends_at),
            }),
        }
    }

    /// Gives the time of a step, or `null`.
    fn time_of(&self, names: &[&str]) -> Value {
        let found = self.events.iter().find(|event| names.contains(&event.name));
        found.map_or(Value::Null, |event| json!(iso_seconds(event.at)))
    }

    fn events(&self) -> Value {
        let shown = |Event { name, actor, at }: &Event| {
            let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let id = format!("{}_{name}", self.escrow_id);
            json!({"id": id, "escrow_id": self.escrow_id, "event": name, "actor_id": actor, "created_at": seconds})
        };
        self.events.iter().map(shown).collect()
    }
}

impl Escrows {
    /// Finds an escrow by its id: `esc_` and its number in 16 hexadecimal digits.
    fn place(&self, id: &str) -> Option<usize> {
        let number = usize::from_str_radix(id.strip_prefix("esc_")?, 16).ok()?;
        let place = number.checked_sub(1)?;
        self.all.get(place).is_some_and(|escrow| escrow.escrow_id == id).then_some(place)
    }
}

/// The parties that may take a step.
#[derive(Clone, Copy)]
enum Who {
    Creator,
    Counterparty,
    Either,
}

/// Finds the escrow of a step. Checks in this order that it exists, that the caller is a party, and that its state
/// allows the step.
fn step<'a>(
    state: &'a mut State,
    call: &Call<'_>,
    who: Who,
    from: &[&str],
) -> Result<(usize, &'a mut Escrow), Answer> {
    let place = state.escrows.place(call.id);
    let found = place.and_then(|place| Some((place, state.escrows.all.get_mut(place)?)));
    let (place, escrow) = found.ok_or_else(not_found)?;
    // An orchestrator that names no agent acts for either party.
    let is = |agent: &str| {
        if call.agent_id.is_empty() { call.caller.acts_for(agent, call.api) } else { call.agent_id == agent }
    };
    let may = match who {
        Who::Creator => is(&escrow.creator_id),
        Who::Counterparty => is(&escrow.counterparty_id),
        Who::Either => is(&escrow.creator_id) || is(&escrow.counterparty_id),
    };
    if !may {
        return Err(refuse(403, "forbidden", "not this agent's step"));
    }
    if !from.contains(&escrow.status) {
        return Err(refuse(409, "invalid_status", &format!("Escrow is {}", escrow.status)));
    }
    Ok((place, escrow))
}

fn not_found() -> Answer {
    refuse(404, "not_found", "no such escrow")
}

/// Serves `POST /escrow/complete/:id`: the counterparty says that it has delivered.
pub(super) fn complete(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (_, escrow) = step(state, call, Who::Counterparty, &["funded"])?;
    let actor = escrow.counterparty_id.clone();
    escrow.becomes("completed", Some(&actor), now);
    let next_step = format!("Creator should call POST /escrow/release/{}", escrow.escrow_id);
    ok(json!({
        "escrow_id": escrow.escrow_id, "status": escrow.status,
        "message": "Task marked complete. Waiting for creator to release funds.", "next_step": next_step,
        "auto_release_at": iso_seconds(escrow.ends_at),
    }))
}

/// Serves `POST /escrow/release/:id` and `POST /escrow/{id}/release`: pays the counterparty, less the fee.
pub(super) fn release(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (place, escrow) = step(state, call, Who::Creator, &["funded", "completed"])?;
    let actor = escrow.creator_id.clone();
    escrow.becomes("released", Some(&actor), now);
    let (counterparty, ends_at) = (escrow.counterparty_id.clone(), escrow.ends_at);
    let (id, fee, net) = (escrow.escrow_id.clone(), plain(escrow.commission()), escrow.net());
    state.escrows.due.remove(&(ends_at, place));
    state.accounts.book(&counterparty, net, Why::EscrowRelease, &id, now);
    let referral = plain(state.pay_referrer(place, now));
    let net = plain(net);
    ok(match call.api {
        Api::Gateway => json!({
            "id": id, "status": "released", "fee_usdc": fee, "referral_usdc": referral, "net_usdc": net,
        }),
        Api::Live => json!({
            "escrow_id": id, "status": "released", "amount_released": net, "commission": fee,
            "referral_commission": referral, "counterparty_id": counterparty, "message": "Released",
        }),
    })
}

/// Serves `POST /escrow/{id}/cancel`, in the gateway: pays the creator back in full.
pub(super) fn cancel(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (place, escrow) = step(state, call, Who::Creator, &["funded", "completed"])?;
    let actor = escrow.creator_id.clone();
    escrow.becomes("cancelled", Some(&actor), now);
    let (id, amount, ends_at) = (escrow.escrow_id.clone(), escrow.amount, escrow.ends_at);
    state.escrows.due.remove(&(ends_at, place));
    state.accounts.book(&actor, amount, Why::EscrowCancel, &id, now);
    ok(json!({"id": id, "status": "cancelled", "refunded_usdc": plain(amount)}))
}

/// Serves `POST /escrow/dispute/:id {reason?}`. A dispute is final, as no call ends it.
pub(super) fn dispute(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (place, escrow) = step(state, call, Who::Either, &["funded", "completed"])?;
    let reason = match &call.body["reason"] {
        Value::Null if !call.body.is_null() => "",
        Value::String(reason) => reason.trim(),
        // The real server takes the value for text, and fails with an internal error.
        _ => return Err(failed()),
    };
    escrow.becomes("disputed", Some(&call.agent_id), now);
    let (id, ends_at) = (escrow.escrow_id.clone(), escrow.ends_at);
    state.escrows.due.remove(&(ends_at, place));
    let reason = if reason.is_empty() { "No reason provided" } else { reason };
    ok(json!({
        "escrow_id": id, "status": "disputed", "reason": reason, "message": "Escrow flagged for manual review.",
        "contact": "nobody: this is a simulator",
    }))
}

/// Serves `GET /escrow/:id` for every caller. The two parties alone see the escrow's events.
pub(super) fn show(state: &mut State, call: &Call<'_>) -> Said {
    let place = state.escrows.place(call.id);
    let escrow = place.and_then(|place| state.escrows.all.get(place)).ok_or_else(not_found)?;
    let mut shown = escrow.to_json();
    shown["created_at"] = escrow.time_of(&["created"]);
    shown["completed_at"] = escrow.time_of(&["completed"]);
    shown["released_at"] = escrow.time_of(&["released", "refunded"]);
    shown["disputed_at"] = escrow.time_of(&["disputed"]);
    let parties = [&escrow.creator_id, &escrow.counterparty_id];
    if parties.iter().any(|agent| call.caller.acts_for(agent, escrow.api)) {
        shown["events"] = escrow.events();
    }
    ok(shown)
}

/// Serves `GET /escrow/stats`. Only a release counts as commission.
pub(super) fn stats(state: &mut State, _: &Call<'_>) -> Said {
    let all = &state.escrows.all;
    let counted = |status| all.iter().filter(|escrow| escrow.status == status).count();
    let volume: Decimal = all.iter().map(|escrow| escrow.amount).sum();
    let commission: Decimal =
        all.iter().filter(|escrow| escrow.status == "released").map(Escrow::commission).sum();
    ok(json!({
        "total_created": all.len(), "total_released": counted("released"), "total_disputed": counted("disputed"),
        "total_volume_usd": plain(volume), "total_commission_usd": plain(commission), "commission_rate": "1%",
    }))
}

impl State {
    /// Pays the referrer of an escrow that has ended, if there is one, and gives the amount.
    fn pay_referrer(&mut self, place: usize, now: SystemTime) -> Decimal {
        let Some(escrow) = self.escrows.all.get_mut(place) else { return Decimal::ZERO };
        let Some(referrer) = escrow.referrer.clone() else { return Decimal::ZERO };
        let earned = (escrow.commission() * REFERRAL).round_dp(6).normalize();
        escrow.referral_commission = earned;
        self.accounts.book(&referrer, earned, Why::EscrowReferral, &escrow.escrow_id, now);
        earned
    }

    /// Refunds escrows at their timeout: pays the creator, less the fee, and the referrer. (The real server checks every
    /// 5 minutes.)
    pub(super) fn refund_timed_out(&mut self) {
        let now = self.now();
        while let Some((_, place)) = self.escrows.due.first().copied().filter(|(ends_at, _)| *ends_at <= now)
        {
            self.escrows.due.pop_first();
            let Some(escrow) = self.escrows.all.get_mut(place).filter(|escrow| escrow.is_open()) else {
                continue;
            };
            escrow.becomes("refunded", None, now);
            let (creator, net, id) = (&escrow.creator_id, escrow.net(), &escrow.escrow_id);
            self.accounts.book(creator, net, Why::EscrowTimeout, id, now);
            self.pay_referrer(place, now);
        }
    }
}

impl PurpleFlea {
    /// Lists every escrow, in order.
    pub fn escrows(&self) -> Vec<Escrow> {
        self.settled().escrows.all.clone()
    }
}

#[cfg(test)]
mod tests;
