//! An escrow is made, waits for its counterparty, and is released or cancelled.
//!
//! Purple Flea is paid to hold the money, so three things decide about it: an event that names the counterparty as the
//! one that confirms, the state of the escrow at Purple Flea where its API shows one, and time.

use super::{
    Host, agent,
    data::{self, Name, object},
    money::{self, Money, Settled},
};
use crate::{
    domain::{
        account::Api,
        amount::Amount,
        escrow::{SMALLEST_ESCROW, Step},
        job::RequestKind,
    },
    inngest::{
        run::{Run, StepError, Stop, Wait},
        workflow::{Trigger, Workflow},
    },
    runtime::Runtime,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const ID: &str = "escrow-lifecycle";

/// The step that makes the escrow. Its job's name is the escrow's name in the ledger.
const CREATE: &str = "create-escrow";

/// The event that confirms an escrow.
pub const CONFIRMED: &str = "purple-flea/escrow.confirmed";

const HOUR_S: u64 = 60 * 60;
const DAY_S: u64 = 24 * HOUR_S;

/// The wait for the counterparty, in days.
const WAIT_DAYS: u64 = 7;

/// The hours after which Purple Flea itself ends the escrow: the wait, and a day more, so that the two never race.
const TIMEOUT_HOURS: u64 = WAIT_DAYS * 24 + 24;

/// The longest time of a run, in days. It begins before the wait, and ends after it.
const FINISH_DAYS: u64 = 8;

/// Most confirmations of somebody else that a run reads. Then it hears no more events, and ends the escrow when the wait
/// is over: strangers neither release it nor end it early.
const STRANGERS_LIMIT: u32 = 5;

/// The data of `purple-flea/escrow.created`.
#[derive(Deserialize)]
struct Created {
    escrow_id: Name,
    amount_usdc: Amount,
    counterparty: Name,
}

/// The data of `purple-flea/escrow.confirmed`, as far as they decide.
#[derive(Deserialize)]
struct Confirmation {
    #[serde(default)]
    confirmed_by: Option<String>,
}

/// The escrow that was made, as the memo has it.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    /// The name of the job, and of the escrow in the ledger.
    reference: String,
    pf_escrow_id: String,
    #[serde(default)]
    auto_release_at: Option<String>,
}

/// How the escrow ended, as the memo has it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct End {
    status: String,
    #[serde(default)]
    tx_hash: Option<String>,
    #[serde(default)]
    fee: Option<Amount>,
    #[serde(default)]
    referral: Option<Amount>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

/// The part of a step's outcome that the run's result shows.
#[derive(Deserialize)]
struct Taken {
    #[serde(default)]
    tx_hash: Option<String>,
    #[serde(default)]
    fee: Option<Amount>,
    #[serde(default)]
    referral_earned: Option<Amount>,
}

pub(super) fn workflow<'a, R: Runtime>() -> Workflow<Host<'a, R>> {
    Workflow {
        id: ID,
        name: "Escrow lifecycle",
        triggers: vec![Trigger::event("purple-flea/escrow.created")],
        retries: 3,
        concurrency: None,
        finish: Some(Duration::from_secs(FINISH_DAYS * DAY_S)),
        has_money_steps: true,
        run: |run, host| Box::pin(go(run, host)),
    }
}

async fn go(run: &Run<'_>, host: &Host<'_, impl Runtime>) -> Result<Value, Stop> {
    let created: Created = data::read(run)?;
    if created.amount_usdc.decimal() < SMALLEST_ESCROW || !created.amount_usdc.is_whole_cents() {
        return data::refuse("`amount_usdc` must be whole cents, 0.10 or more");
    }
    let made: Made = run.step(CREATE, async || create(run, host, &created).await).await?;
    let (name, step, kind) = if is_confirmed(run, host, &created, &made).await? {
        ("release-escrow", Step::Release, RequestKind::EscrowRelease)
    } else {
        ("cancel-escrow", Step::Cancel, RequestKind::EscrowCancel)
    };
    let money = Money {
        workflow: ID,
        step: name,
        kind,
        details: json!({ "made_as": made.reference }),
        subject: None,
    };
    let end: End = run.step(name, async || finish(run, host, money, step).await).await?;
    Ok(object([
        ("status", end.status.as_str().into()),
        ("escrow_id", created.escrow_id.as_str().into()),
        ("pf_escrow_id", made.pf_escrow_id.into()),
        ("tx_hash", end.tx_hash.into()),
        ("fee_usdc", end.fee.map_or(Value::Null, Into::into)),
        ("referral", end.referral.map_or(Value::Null, Into::into)),
        ("reason", end.reason.into()),
        ("detail", end.detail.into()),
        ("ends_at", made.auto_release_at.filter(|_| end.status == "open").into()),
    ]))
}

async fn create(run: &Run<'_>, host: &Host<'_, impl Runtime>, created: &Created) -> Result<Made, StepError> {
    let Created { escrow_id, amount_usdc, counterparty } = created;
    let money = Money {
        workflow: ID,
        step: CREATE,
        kind: RequestKind::Escrow,
        details: json!({
            "sender_id": agent::id(host)?,
            "counterparty": counterparty.as_str(),
            "amount": amount_usdc,
            "description": format!("Escrow {}", escrow_id.as_str()),
            "timeout_hours": TIMEOUT_HOURS,
        }),
        subject: Some(escrow_id.as_str()),
    };
    money::done(run, host, money).await
}

/// Waits for the counterparty. Returns whether the money may be released: the event names the counterparty, or the
/// escrow itself reads `completed`.
///
/// The gateway shows no state, so its wait is one. No released server of the live API sends an event either, so there
/// the run reads the state once a day.
async fn is_confirmed(
    run: &Run<'_>,
    host: &Host<'_, impl Runtime>,
    created: &Created,
    made: &Made,
) -> Result<bool, Stop> {
    let (slice_days, slices) = match host.settings.purple_flea.api {
        Api::Gateway => (WAIT_DAYS, 1),
        Api::Live => (1, WAIT_DAYS),
    };
    let (mut passed, mut strangers) = (0_u64, 0_u32);
    loop {
        let wait = Wait {
            event: CONFIRMED,
            timeout: left(run, host, passed > 0 || strangers > 0)
                .min(Duration::from_secs(slice_days.saturating_mul(DAY_S))),
            matching: Some("data.escrow_id"),
        };
        let event = run.wait_for_event("wait-for-counterparty", wait).await?;
        let named = event.as_ref().and_then(|event| event.read::<Confirmation>().ok()?.confirmed_by);
        if named.as_deref() == Some(created.counterparty.as_str()) {
            return Ok(true);
        }
        if is_completed(run, host, made).await? {
            return Ok(true);
        }
        match event {
            None => passed = passed.saturating_add(1),
            Some(_) => strangers = strangers.saturating_add(1),
        }
        if passed >= slices {
            return Ok(false);
        }
        if strangers >= STRANGERS_LIMIT {
            run.sleep("wait-out-strangers", left(run, host, true)).await?;
            return is_completed(run, host, made).await;
        }
    }
}

/// Returns whether the escrow itself reads `completed`. The gateway shows no state.
async fn is_completed(run: &Run<'_>, host: &Host<'_, impl Runtime>, made: &Made) -> Result<bool, Stop> {
    if host.settings.purple_flea.api == Api::Gateway {
        return Ok(false);
    }
    let status: Option<String> =
        run.step("read-escrow", async || read_status(host, &made.pf_escrow_id).await).await?;
    Ok(status.is_some_and(|status| Step::Complete.matches(&status)))
}

/// Returns what is left of the whole wait, for a wait that is not the first. Inngest hears it once, when the wait begins.
fn left(run: &Run<'_>, host: &Host<'_, impl Runtime>, is_later: bool) -> Duration {
    let whole = Duration::from_secs(WAIT_DAYS * DAY_S);
    let began_ms = run.event().ts.and_then(|ts| u64::try_from(ts).ok()).filter(|_| is_later);
    let now = host.runtime.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let passed = began_ms.map_or(Duration::ZERO, |ms| now.saturating_sub(Duration::from_millis(ms)));
    Duration::from_secs(whole.saturating_sub(passed).as_secs().max(1))
}

async fn read_status(host: &Host<'_, impl Runtime>, pf_escrow_id: &str) -> Result<Option<String>, StepError> {
    let account = agent::account(host).await?;
    let read = host.settings.purple_flea.read_escrow(pf_escrow_id, &account, host.runtime).await;
    Ok(read.map_err(agent::of_reading)?.escrow_status)
}

/// Ends the escrow. After a refusal the escrow's own state is the result; the live API cannot cancel, and its timeout
/// ends the escrow.
async fn finish(
    run: &Run<'_>,
    host: &Host<'_, impl Runtime>,
    money: Money<'_>,
    step: Step,
) -> Result<End, StepError> {
    match money::execute(run, host, money).await? {
        Settled::Done(Taken { tx_hash, fee, referral_earned }) => {
            let status = step.status().to_owned();
            Ok(End { status, tx_hash, fee, referral: referral_earned, ..End::default() })
        }
        Settled::NotDone(why) if why.reason == "no_cancel" => {
            let (reason, detail) = (Some(why.reason), why.detail);
            Ok(End { status: "open".to_owned(), reason, detail, ..End::default() })
        }
        Settled::NotDone(why) => match why.escrow_status {
            Some(status) => Ok(End { status, reason: Some(why.reason), ..End::default() }),
            None => Err(why.into_error()),
        },
    }
}
