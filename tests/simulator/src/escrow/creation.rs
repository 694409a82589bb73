//! Serves the creation of an escrow, in either dialect.

use super::{
    super::{
        State,
        answer::{Answer, Said, created, failed, refuse, refuse_with},
        call::{Api, Call},
        money::{is_falsy, number_or_text, plain},
        statement::Why,
    },
    Escrow, Event,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::time::Duration;

/// The least amount of an escrow.
const MINIMUM: Decimal = Decimal::from_parts(1, 0, 0, false, 1);

/// The shortest description, in characters.
const DESCRIPTION_MIN: usize = 3;

/// Hours after which an escrow is refunded: the default, and the most.
const TIMEOUT_HOURS: (u32, u32) = (24, 720);

/// The terms of a new escrow, checked in the real order.
struct Terms {
    amount: Decimal,
    description: String,
    counterparty: String,
}

impl Terms {
    fn read(call: &Call<'_>) -> Result<Self, Answer> {
        let (body, live) = (&call.body, call.api == Api::Live);
        let description = trimmed(&body["description"])?;
        let counterparty = match &body["counterparty_agent_id"] {
            Value::Null => trimmed(&body["counterparty_address"])?,
            named => trimmed(named)?,
        };
        let amount = if live { &body["amount_usd"] } else { &body["amount_usdc"] };
        let amount = number_or_text(amount).filter(|amount| *amount >= MINIMUM);
        let amount = amount.ok_or_else(|| refuse(400, "invalid_amount", "Minimum escrow amount is $0.1"))?;
        if description.chars().count() < DESCRIPTION_MIN {
            return Err(refuse(400, "invalid_description", "description is required (min 3 chars)"));
        }
        if counterparty.is_empty() || live && !counterparty.starts_with("ag_") {
            let message = "counterparty_agent_id must be in ag_xxx format";
            return Err(refuse(400, "invalid_counterparty", message));
        }
        if counterparty == call.agent_id {
            return Err(refuse(400, "self_escrow", "Cannot create escrow with yourself"));
        }
        Ok(Self { amount, description: description.to_owned(), counterparty: counterparty.to_owned() })
    }
}

/// Reads a text without the spaces around it. The real server takes any value for text, and fails with an internal
/// error if it is none.
fn trimmed(given: &Value) -> Result<&str, Answer> {
    match given {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text.trim()),
        _ => Err(failed()),
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

/// Finds the agent that earns by an escrow: the owner of the request's code, or without a code the creator's referrer.
fn referrer(state: &State, call: &Call<'_>) -> Result<Option<String>, Answer> {
    let (creator, code) = (state.accounts.get(&call.agent_id), &call.body["referral_code"]);
    let found = if is_falsy(code) {
        creator.and_then(|creator| creator.referred_by.clone())
    } else {
        state.accounts.referrer(code)?
    };
    Ok(found.filter(|referrer| *referrer != call.agent_id))
}

/// Serves `POST /escrow/create`, in either dialect.
pub(in super::super) fn create(state: &mut State, call: &Call<'_>) -> Said {
    let Terms { amount, description, counterparty } = Terms::read(call)?;
    let creator = &call.agent_id;
    if state.accounts.get(&counterparty).is_none() {
        return Err(refuse(404, "counterparty_not_found", "Counterparty agent not found in casino"));
    }
    let account = state.accounts.get(creator);
    let account = account.ok_or_else(|| refuse(400, "unknown_agent", "no such agent"))?;
    if account.balance < amount {
        let message = format!("Balance ${:.2} < escrow amount ${amount:.2}", account.balance);
        let more = json!({ "balance": plain(account.balance) });
        return Err(refuse_with(402, "insufficient_balance", &message, more));
    }
    let referrer = referrer(state, call)?;
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
        referrer,
        referral_commission: Decimal::ZERO,
        ends_at,
        idempotency_key: call.idempotency_key(),
        timeout_hours,
        api: call.api,
        events: vec![Event { name: "created", actor: Some(creator.clone()), at: now }],
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
