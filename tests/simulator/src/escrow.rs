//! Serves escrow: money that one agent holds for another, from the casino's balances (purple-flea.md, section 3). The
//! real server cannot cancel an escrow; the gateway can.

use super::{
    PurpleFlea, State,
    answer::{Answer, Said, created, failed, iso, ok, refuse, refuse_with},
    call::{Api, Call},
    money::{number_or_text, plain},
    statement::Why,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

/// The least amount of an escrow.
const MINIMUM: Decimal = Decimal::from_parts(1, 0, 0, false, 1);

/// The part of an escrow that Purple Flea keeps as its fee, at a release and at the timeout.
const COMMISSION: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

/// The part of the fee that the referrer earns when the counterparty is paid.
const REFERRAL: Decimal = Decimal::from_parts(15, 0, 0, false, 2);

/// The shortest description, in characters.
const DESCRIPTION_MIN: usize = 3;

/// Hours after which an escrow is refunded: the default, and the most.
const TIMEOUT_HOURS: (u32, u32) = (24, 720);

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
    /// The agent that earns the referral, if the request named an existing code.
    pub referrer: Option<String>,
    /// The referrer's earnings.
    pub referral_commission: Decimal,
    /// When it is refunded, if no step ends it before.
    pub ends_at: SystemTime,
    /// The `Idempotency-Key` of the request that made it. The simulator ignores the key, as the real server does.
    pub idempotency_key: Option<String>,
    timeout_hours: u32,
    api: Api,
    events: Vec<(&'static str, SystemTime)>,
}

/// All escrows, in order.
#[derive(Default)]
pub(super) struct Escrows {
    all: Vec<Escrow>,
    /// The open escrows by the times of their refunds.
    due: BTreeSet<(SystemTime, usize)>,
}

impl Escrow {
    /// Gives Purple Flea's fee: 1 %, unrounded.
    pub fn commission(&self) -> Decimal {
        (self.amount * COMMISSION).normalize()
    }

    /// Gives the amount without the fee. A release pays it to the counterparty, and the timeout pays it back to the
    /// creator.
    pub fn net(&self) -> Decimal {
        self.amount - self.commission()
    }

    fn is_open(&self) -> bool {
        matches!(self.status, "funded" | "completed")
    }

    fn becomes(&mut self, status: &'static str, at: SystemTime) {
        self.status = status;
        self.events.push((status, at));
    }

    /// Describes it in the dialect in which it was made.
    fn to_json(&self) -> Value {
        match self.api {
            Api::Gateway => json!({
                "id": self.escrow_id, "status": self.status, "agent_id": self.creator_id,
                "counterparty_agent_id": self.counterparty_id, "amount_usdc": plain(self.amount),
                "fee_usdc": plain(self.commission()), "referral_usdc": plain(self.referral_commission),
                "net_usdc": plain(self.net()), "description": self.description, "ends_at": iso(self.ends_at),
            }),
            Api::Live => json!({
                "escrow_id": self.escrow_id, "amount_usd": plain(self.amount),
                "commission_usd": plain(self.commission()), "net_to_counterparty": plain(self.net()),
                "referral_commission": plain(self.referral_commission), "description": self.description,
                "creator_id": self.creator_id, "counterparty_id": self.counterparty_id, "status": self.status,
                "timeout_hours": self.timeout_hours, "auto_release_at": iso(self.ends_at),
            }),
        }
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

/// The terms of a new escrow, checked in the documented order.
struct Terms {
    amount: Decimal,
    description: String,
    counterparty: String,
}

impl Terms {
    fn read(call: &Call<'_>) -> Result<Self, Answer> {
        let body = &call.body;
        let amount = if call.api == Api::Live { &body["amount_usd"] } else { &body["amount_usdc"] };
        let amount = number_or_text(amount).filter(|amount| *amount >= MINIMUM);
        let amount = amount.ok_or_else(|| refuse(400, "invalid_amount", "Minimum escrow is $0.10"))?;
        let description = match &body["description"] {
            Value::String(text) => text.trim(),
            Value::Null => "",
            // The real server takes the value for text, and fails with an internal error.
            _ => return Err(failed()),
        };
        if description.chars().count() < DESCRIPTION_MIN {
            return Err(refuse(400, "invalid_description", "description needs 3 characters"));
        }
        let counterparty = call.text("counterparty_agent_id").or_else(|| call.text("counterparty_address"));
        let counterparty =
            counterparty.ok_or_else(|| refuse(400, "invalid_counterparty", "the counterparty is missing"))?;
        if counterparty == call.agent_id {
            return Err(refuse(400, "self_escrow", "An escrow needs two agents"));
        }
        Ok(Self { amount, description: description.to_owned(), counterparty: counterparty.to_owned() })
    }
}

/// Reads whole hours, 1 to 720. With `None` the real server fails to compute a time, after it has taken the money.
fn timeout_hours(given: &Value) -> Option<u32> {
    let (default, most) = TIMEOUT_HOURS;
    if given.is_null() {
        return Some(default);
    }
    let hours = number_or_text(given)?.floor().clamp(Decimal::ONE, Decimal::from(most));
    u32::try_from(hours).ok()
}

/// Serves `POST /escrow/create`, in either dialect.
pub(super) fn create(state: &mut State, call: &Call<'_>) -> Said {
    let Terms { amount, description, counterparty } = Terms::read(call)?;
    let creator = &call.agent_id;
    if state.accounts.get(&counterparty).is_none() {
        return Err(refuse(404, "counterparty_not_found", "no such agent"));
    }
    let account = state.accounts.get(creator);
    let account = account.ok_or_else(|| refuse(400, "unknown_agent", "no such agent"))?;
    if account.balance < amount {
        let more = json!({ "balance": plain(account.balance) });
        return Err(refuse_with(402, "insufficient_balance", "The balance is less than the amount", more));
    }
    let (now, place) = (state.now(), state.escrows.all.len());
    let escrow_id = format!("esc_{:016x}", place + 1);
    state.accounts.book(creator, -amount, Why::EscrowLock, &escrow_id, now);
    let Some(timeout_hours) = timeout_hours(&call.body["timeout_hours"]) else {
        state.accounts.book(creator, amount, Why::EscrowFailed, &escrow_id, now);
        return Err(failed());
    };
    let ends_at = now + Duration::from_secs(u64::from(timeout_hours) * 3_600);
    let escrow = Escrow {
        creator_id: creator.clone(),
        counterparty_id: counterparty,
        amount,
        description,
        status: "funded",
        referrer: state.accounts.referrer(&call.body["referral_code"]),
        referral_commission: Decimal::ZERO,
        ends_at,
        idempotency_key: call.idempotency_key(),
        timeout_hours,
        api: call.api,
        events: vec![("funded", now)],
        escrow_id,
    };
    let mut reply = escrow.to_json();
    if call.api == Api::Live {
        let step = |verb: &str| format!("POST /escrow/{verb}/{}", escrow.escrow_id);
        reply["next_steps"] =
            json!({"counterparty": step("complete"), "creator": step("release"), "dispute": step("dispute")});
    }
    state.escrows.due.insert((ends_at, place));
    state.escrows.all.push(escrow);
    created(reply)
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
    escrow.becomes("completed", now);
    ok(json!({
        "escrow_id": escrow.escrow_id, "status": escrow.status, "message": "Marked as completed",
        "next_step": format!("POST /escrow/release/{}", escrow.escrow_id), "auto_release_at": iso(escrow.ends_at),
    }))
}

/// Serves `POST /escrow/release/:id` and `POST /escrow/{id}/release`: pays the counterparty, less the fee.
pub(super) fn release(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (place, escrow) = step(state, call, Who::Creator, &["funded", "completed"])?;
    escrow.becomes("released", now);
    if escrow.referrer.is_some() {
        escrow.referral_commission = (escrow.commission() * REFERRAL).normalize();
    }
    let escrow = escrow.clone();
    let (id, referral) = (&escrow.escrow_id, escrow.referral_commission);
    state.escrows.due.remove(&(escrow.ends_at, place));
    state.accounts.book(&escrow.counterparty_id, escrow.net(), Why::EscrowRelease, id, now);
    if let Some(referrer) = &escrow.referrer {
        state.accounts.book(referrer, referral, Why::EscrowReferral, id, now);
    }
    let (fee, net) = (plain(escrow.commission()), plain(escrow.net()));
    ok(match call.api {
        Api::Gateway => json!({
            "id": id, "status": "released", "fee_usdc": fee, "referral_usdc": plain(referral), "net_usdc": net,
        }),
        Api::Live => json!({
            "escrow_id": id, "status": "released", "amount_released": net, "commission": fee,
            "referral_commission": plain(referral), "counterparty_id": escrow.counterparty_id, "message": "Released",
        }),
    })
}

/// Serves `POST /escrow/{id}/cancel`, in the gateway: pays the creator back in full.
pub(super) fn cancel(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (place, escrow) = step(state, call, Who::Creator, &["funded", "completed"])?;
    escrow.becomes("cancelled", now);
    let escrow = escrow.clone();
    state.escrows.due.remove(&(escrow.ends_at, place));
    state.accounts.book(&escrow.creator_id, escrow.amount, Why::EscrowCancel, &escrow.escrow_id, now);
    ok(json!({"id": escrow.escrow_id, "status": "cancelled", "refunded_usdc": plain(escrow.amount)}))
}

/// Serves `POST /escrow/dispute/:id {reason?}`. A dispute is final, as no call ends it.
pub(super) fn dispute(state: &mut State, call: &Call<'_>) -> Said {
    let now = state.now();
    let (place, escrow) = step(state, call, Who::Either, &["funded", "completed"])?;
    escrow.becomes("disputed", now);
    let escrow = escrow.clone();
    state.escrows.due.remove(&(escrow.ends_at, place));
    ok(json!({
        "escrow_id": escrow.escrow_id, "status": "disputed", "reason": call.text("reason"),
        "message": "Disputed", "contact": "nobody: this is a simulator",
    }))
}

/// Serves `GET /escrow/:id` for every caller. The two parties alone see the escrow's history.
pub(super) fn show(state: &mut State, call: &Call<'_>) -> Said {
    let place = state.escrows.place(call.id);
    let escrow = place.and_then(|place| state.escrows.all.get(place)).ok_or_else(not_found)?;
    let mut shown = escrow.to_json();
    if [&escrow.creator_id, &escrow.counterparty_id]
        .iter()
        .any(|agent| call.caller.acts_for(agent, escrow.api))
    {
        let event = |(status, at): &(&str, SystemTime)| json!({"event": status, "at": iso(*at)});
        shown["events"] = escrow.events.iter().map(event).collect();
    }
    ok(shown)
}

/// Serves `GET /escrow/stats`.
pub(super) fn stats(state: &mut State, _: &Call<'_>) -> Said {
    let all = &state.escrows.all;
    let counted = |status| all.iter().filter(|escrow| escrow.status == status).count();
    let volume: Decimal = all.iter().map(|escrow| escrow.amount).sum();
    let paid = all.iter().filter(|escrow| matches!(escrow.status, "released" | "refunded"));
    let commission: Decimal = paid.map(Escrow::commission).sum();
    ok(json!({
        "total_escrows": all.len(), "total_volume_usd": plain(volume), "total_commission_usd": plain(commission),
        "funded": counted("funded"), "completed": counted("completed"), "released": counted("released"),
        "disputed": counted("disputed"), "refunded": counted("refunded"), "cancelled": counted("cancelled"),
    }))
}

impl State {
    /// Refunds escrows at their timeout: pays the creator, less the fee. (The real server checks every 5 minutes.)
    pub(super) fn refund_timed_out(&mut self) {
        let now = self.now();
        while let Some((_, place)) = self.escrows.due.first().copied().filter(|(ends_at, _)| *ends_at <= now)
        {
            self.escrows.due.pop_first();
            let Some(escrow) = self.escrows.all.get_mut(place).filter(|escrow| escrow.is_open()) else {
                continue;
            };
            escrow.becomes("refunded", now);
            let (creator, net, id) = (&escrow.creator_id, escrow.net(), &escrow.escrow_id);
            self.accounts.book(creator, net, Why::EscrowTimeout, id, now);
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
