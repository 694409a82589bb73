//! Callers that hang up. Every host finishes the work of a complete request; an incomplete request has no effect.

use crate::{
    front_door::{assert_no_call, soon},
    whole_stack::{LOOK_EVERY, count, deposit, job, job_in, silence},
    wire::Wire,
};
use anyhow::{Context, Result};
use http::Request;
use stack::{
    host::Kind,
    http1,
    local::{AGENT, Local},
    webhook,
};
use std::{path::Path, time::Duration};

/// Purple Flea's delay. A caller has enough time to hang up before the answer.
const DELAY: Duration = Duration::from_secs(2);

/// Lists the hosts that this machine can start, and prints a line for each missing one.
fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::Embedded, Kind::Child];
    for (kind, program) in [(Kind::Wasmtime, "wasmtime"), (Kind::Spin, "spin")] {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&paths).any(|folder| Path::new(&folder).join(program).is_file()) {
            kinds.push(kind);
        } else {
            eprintln!("not run on {program}: it is not on the PATH");
        }
    }
    kinds
}

/// Starts the whole stack on a kind of host, with silenced triggers.
async fn start(kind: Kind, changes: &[(&str, &str)]) -> Result<Local> {
    let stack = Local::start(kind, changes, None, |_| {}).await?;
    stack.purple_flea.fund(AGENT, 1_000.into());
    silence(&stack).await?;
    Ok(stack)
}

/// Writes the head and the body of a signed notification of a deposit, with more headers.
fn notification(stack: &Local, id: i64, more: &str) -> Result<(String, String)> {
    let reference = format!("wallet-change-{id}");
    let body = format!("{{\"ledger\": true, \"reference\": \"{reference}\"}}");
    let url = format!("{}/execute-trade", stack.host.url);
    let request = webhook::signed(&url, &reference, body.as_bytes())?.body(())?;
    let authority = request.uri().authority().context("no authority")?;
    let mut head = format!("POST /execute-trade HTTP/1.1\r\nhost: {authority}\r\n{more}");
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str()?);
    }
    head += &format!("content-length: {}\r\n\r\n", body.len());
    Ok((head, body))
}

/// Waits until a deposit's job is executed, and asserts that the function placed one bet in one attempt.
async fn assert_executed_once(stack: &Local, id: i64) -> Result<()> {
    let job = job_in(stack, id, "executed").await?;
    assert_eq!((&job["attempts"], stack.purple_flea.bets().len()), (&1.into(), 1), "{job}");
    assert_eq!(count(stack, "select count(*) from public.trade_results").await?, 1);
    assert_eq!(stack.traps(), 0, "the component trapped");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_during_a_bet_leaves_one_bet_and_an_executed_job() -> Result<()> {
    for kind in kinds() {
        let stack = start(kind, &[("after_reply", "false")]).await?;
        stack.purple_flea.delay(Some(DELAY));
        let id = deposit(&stack, "100").await?;
        let (head, body) = notification(&stack, id, "")?;
        let mut caller = Wire::to(&stack.host.url).await?;
        caller.send(&(head + &body)).await?;
        soon(stack.purple_flea.reached(1)).await?;
        drop(caller);
        assert_executed_once(&stack, id).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_finishes_the_job_of_a_caller_that_hangs_up_after_an_early_reply() -> Result<()> {
    for kind in kinds() {
        let stack = start(kind, &[]).await?;
        stack.purple_flea.delay(Some(DELAY));
        let id = deposit(&stack, "100").await?;
        let (head, body) = notification(&stack, id, "prefer: respond-async\r\n")?;
        let mut caller = Wire::to(&stack.host.url).await?;
        caller.send(&(head + &body)).await?;
        assert_eq!(caller.reply().await?.status, 202);
        soon(stack.purple_flea.reached(1)).await?;
        drop(caller);
        assert_executed_once(&stack, id).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_before_its_body_is_complete_causes_no_bet() -> Result<()> {
    for kind in kinds() {
        let stack = start(kind, &[("after_reply", "false")]).await?;
        let id = deposit(&stack, "100").await?;
        let (head, body) = notification(&stack, id, "")?;
        let mut caller = Wire::to(&stack.host.url).await?;
        caller.send(&(head + &body[..body.len() / 2])).await?;
        drop(caller);
        // The function logs a request when it is done with it.
        let line = soon(stack.host.log.find(|line| line.contains("\"status\":4"))).await?;
        assert!(line.contains("execute_trade"), "{line}");
        let job = job(&stack, id).await?;
        assert_eq!((&job["state"], &job["attempts"]), (&"pending".into(), &0.into()), "{kind:?}: {job}");
        assert_no_call(&stack.purple_flea);
        // An instance asks the ledger once a second at most, and the start of the host has asked.
        soon(async {
            loop {
                let health = Request::get(format!("{}/health", stack.host.url)).body(vec![])?;
                if http1::send(health).await?.status() == 200 {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await
        .and_then(|healthy| healthy)
        .with_context(|| format!("{kind:?} is not healthy"))?;
    }
    Ok(())
}
