//! The escrow that waits for its counterparty.

use super::setup::{Driven, error_of, escrow};
use crate::{escrows::OTHER, whole_stack::sql};
use anyhow::{Context, Result};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use stack::{
    http1,
    inngest::{Run, Status},
    purple_flea::{Fault, How, LIVE_AGENT},
};
use std::time::Duration;

const CREATED: &str = "purple-flea/escrow.created";
const CONFIRMED: &str = "purple-flea/escrow.confirmed";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A counterparty of the live dialect.
const THEIRS: &str = "ag_theirs";

impl Driven {
    async fn confirm(&self, escrow_id: &str, by: &str) -> Result<()> {
        let data = json!({ "escrow_id": escrow_id, "confirmed_by": by });
        self.inngest.send_named(CONFIRMED, data).await?;
        self.inngest.rest().await
    }

    async fn waiting(&self, event: &str) -> Result<Run> {
        self.inngest.rest().await?;
        let runs = self.inngest.runs_of(event).await?;
        let run = runs.into_iter().next().context("no run")?;
        anyhow::ensure!(run.waits_for == [CONFIRMED], "{run:?}");
        Ok(run)
    }

    fn statuses(&self) -> Vec<&'static str> {
        self.stack.purple_flea.escrows().iter().map(|escrow| escrow.status).collect()
    }

    /// Sends an event of an escrow, waits until its run waits, and gives the event's id.
    async fn open(&self, id: &str, data: Value) -> Result<String> {
        let event = self.inngest.send(&json!({ "name": CREATED, "id": id, "data": data })).await?;
        self.waiting(&event).await?;
        Ok(event)
    }

    /// Lets the counterparty deliver, in the live dialect.
    async fn complete(&self, key: &str) -> Result<()> {
        let escrows = self.stack.purple_flea.escrows();
        let id = &escrows.first().context("no escrow")?.escrow_id;
        let request = http::Request::post(format!("{}/escrow/complete/{id}", self.stack.purple_flea.url))
            .header("authorization", format!("Bearer {key}"))
            .body(b"{}".to_vec())?;
        assert_eq!(http1::send(request).await?.status(), 200);
        Ok(())
    }
}

/// Starts the live dialect with a counterparty that has an account, and gives its key.
async fn live() -> Result<(Driven, String)> {
    let driven = Driven::live(&[]).await?;
    let key = driven.stack.purple_flea.register(THEIRS);
    sql(&driven.stack, &format!("update public.agents set pf_agent_id = '{THEIRS}' where id = '{OTHER}'"))
        .await?;
    Ok((driven, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_is_made_once_and_released_when_its_counterparty_confirms() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let event = driven.open("e-1", escrow("E1")).await?;
    let made = driven.stack.purple_flea.escrows();
    assert_eq!((made.len(), made[0].amount, made[0].description.as_str()), (1, 25.into(), "Escrow E1"));
    let requests = driven.stack.purple_flea.requests();
    let create: Value = serde_json::from_str(&requests[0].body)?;
    assert_eq!((&create["timeout_hours"], &create["counterparty_address"]), (&json!(192), &json!(OTHER)));
    // Another escrow's confirmation, and a stranger's, release nothing.
    driven.confirm("E2", OTHER).await?;
    driven.confirm("E1", "a-stranger").await?;
    assert_eq!(driven.waiting(&event).await?.status, Status::Running);
    driven.confirm("E1", OTHER).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!(
        (run.status, &run.output["status"], &run.output["escrow_id"]),
        (Status::Completed, &json!("released"), &json!("E1")),
        "{run:?}"
    );
    assert_eq!(
        (run.output["fee_usdc"].to_string(), driven.statuses()),
        ("0.25".to_owned(), vec!["released"])
    );
    assert_eq!(driven.stack.purple_flea.balance(OTHER), Decimal::new(12_475, 2));
    assert_eq!(driven.steps().await?, ["create-escrow executed 1", "release-escrow executed 1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrow_that_nobody_confirms_is_cancelled_after_seven_days_and_not_before() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let event = driven.open("e-1", escrow("E1")).await?;
    driven.clock()?.advance(7 * DAY - Duration::from_secs(60)).await?;
    assert_eq!((driven.waiting(&event).await?.status, driven.statuses()), (Status::Running, vec!["funded"]));
    driven.clock()?.advance(Duration::from_secs(120)).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!((run.status, &run.output["status"]), (Status::Completed, &json!("cancelled")), "{run:?}");
    assert_eq!(driven.statuses(), ["cancelled"]);
    assert_eq!(driven.stack.purple_flea.balance(OTHER), 100.into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_ours_that_is_lost_at_any_step_makes_no_second_escrow() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    for (number, step) in
        ["create-escrow", "wait-for-counterparty", "release-escrow", ""].into_iter().enumerate()
    {
        driven.clock()?.lose_answer(step);
        let (id, name) = (format!("e-{number}"), format!("E{number}"));
        driven.inngest.send(&json!({ "name": CREATED, "id": id, "data": escrow(&name) })).await?;
        // The lost answer is given again with the next attempt.
        driven.clock()?.advance(Duration::from_secs(120)).await?;
        driven.waiting(&id).await?;
        driven.confirm(&name, OTHER).await?;
        let run = driven.inngest.ended(&id).await?;
        assert_eq!(
            (run.status, &run.output["status"]),
            (Status::Completed, &json!("released")),
            "{step}: {run:?}"
        );
        assert_eq!(driven.statuses(), vec!["released"; number + 1], "{step}");
    }
    let paid = Decimal::new(2_475, 2) * Decimal::from(4);
    assert_eq!(driven.stack.purple_flea.balance(OTHER), Decimal::from(100) + paid);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_reply_is_lost_is_never_sent_again_and_a_release_is_read() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    driven.lose_reply_after(&[]);
    let run = driven.run(CREATED, escrow("E1")).await?;
    assert_eq!((error_of(&run).0, driven.statuses()), ("outcome_unknown", vec!["funded"]));
    // Another event of the same name makes no second escrow while the fate of the first one is unknown.
    let run = driven.run(CREATED, escrow("E1")).await?;
    assert_eq!((error_of(&run).0, driven.statuses()), ("escrow_taken", vec!["funded"]));
    // A release is taken at most once, so a worker may ask again. The escrow says that it is released.
    let event = driven.open("e-2", escrow("E2")).await?;
    driven.stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    driven.confirm("E2", OTHER).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!((run.status, &run.output["status"]), (Status::Completed, &json!("released")), "{run:?}");
    assert_eq!(driven.statuses(), ["funded", "released"]);
    assert_eq!(driven.stack.purple_flea.balance(OTHER), Decimal::new(12_475, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_again_makes_no_second_escrow() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    driven.open("e-1", escrow("E1")).await?;
    driven.clock()?.advance(DAY + DAY / 24).await?;
    driven.inngest.send(&json!({ "name": CREATED, "id": "e-1", "data": escrow("E1") })).await?;
    driven.inngest.rest().await?;
    assert_eq!(driven.inngest.runs_of("e-1").await?.len(), 2);
    driven.confirm("E1", OTHER).await?;
    // One run releases it. The other may come meanwhile, and tries again.
    driven.clock()?.advance(Duration::from_secs(600)).await?;
    driven.inngest.rest().await?;
    for run in driven.inngest.runs_of("e-1").await? {
        assert_eq!((run.status, &run.output["status"]), (Status::Completed, &json!("released")), "{run:?}");
    }
    assert_eq!(driven.statuses(), ["released"]);
    assert_eq!(driven.stack.purple_flea.balance(OTHER), Decimal::new(12_475, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_strangers_neither_release_an_escrow_nor_end_it_before_its_time() -> Result<()> {
    let driven = Driven::start(&[]).await?;
    let event = driven.open("e-1", escrow("E1")).await?;
    for _ in 0..5 {
        driven.confirm("E1", "a-stranger").await?;
    }
    // The run counts the wait from its event on, by the machine's clock.
    let few_minutes = Duration::from_secs(600);
    driven.clock()?.advance(7 * DAY - few_minutes).await?;
    driven.inngest.rest().await?;
    let runs = driven.inngest.runs_of(&event).await?;
    assert_eq!((runs[0].status, driven.statuses()), (Status::Running, vec!["funded"]), "{runs:?}");
    driven.clock()?.advance(2 * few_minutes).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!((run.status, &run.output["status"]), (Status::Completed, &json!("cancelled")), "{run:?}");
    assert_eq!(driven.statuses(), ["cancelled"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_live_dialect_a_delivery_that_no_event_tells_is_read_within_a_day() -> Result<()> {
    let (driven, key) = live().await?;
    let event = driven.open("e-1", escrow("E1")).await?;
    // By any confirmation the escrow itself reads `funded`.
    driven.confirm("E1", "a-stranger").await?;
    driven.clock()?.advance(DAY + DAY / 24).await?;
    assert_eq!((driven.waiting(&event).await?.status, driven.statuses()), (Status::Running, vec!["funded"]));
    driven.complete(&key).await?;
    driven.clock()?.advance(DAY + DAY / 24).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!((run.status, &run.output["status"]), (Status::Completed, &json!("released")), "{run:?}");
    assert_eq!(driven.statuses(), ["released"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_live_dialect_an_unconfirmed_escrow_stays_open_and_says_how_it_ends() -> Result<()> {
    let (driven, _) = live().await?;
    let held = driven.stack.purple_flea.balance(LIVE_AGENT);
    let event = driven.open("e-1", escrow("E1")).await?;
    let run = driven.inngest.ended(&event).await?;
    assert_eq!(
        (run.status, &run.output["status"], &run.output["reason"]),
        (Status::Completed, &json!("open"), &json!("no_cancel")),
        "{run:?}"
    );
    assert!(run.output["detail"].as_str().is_some_and(|detail| detail.contains("timeout")), "{run:?}");
    assert!(run.output["ends_at"].is_string(), "{run:?}");
    assert_eq!(driven.statuses(), ["funded"]);
    // Its timeout comes a day after the wait, and pays the sender back but for the fee.
    driven.stack.purple_flea.advance(8 * DAY + Duration::from_secs(600));
    assert_eq!(driven.statuses(), ["refunded"]);
    assert_eq!(held - driven.stack.purple_flea.balance(LIVE_AGENT), Decimal::new(25, 2));
    Ok(())
}
