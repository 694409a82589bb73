//! The program `purple-flea-host`, as operators run it in production.

use crate::{
    front_door::{assert_no_call, soon},
    host_program::{Playing, Program, Start, free_address, metric, program},
    whole_stack::{LOOK_EVERY, deposit, job, start_silent},
};
use anyhow::{Context, Result};
use http::Request;
use stack::{
    http1,
    process::Signal,
    purple_flea::{Fault, How},
    webhook,
};
use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncReadExt, process::Command};

#[tokio::test(flavor = "multi_thread")]
async fn a_precompiled_component_places_a_bet_and_the_host_prints_its_log_lines() -> Result<()> {
    let host = Playing::start(Start::default()).await?;
    let (status, body) = host.deposit(1).await?;
    assert!(status == 200 && body.contains("executed"), "{status} {body}");
    assert_eq!(host.purple_flea.bets().len(), 1);
    soon(host.program.log.find(|line| line.contains("\"reference\":\"wallet-change-1\""))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_host_answers_open_requests_and_accepts_no_new_connection() -> Result<()> {
    let mut host = Playing::start(Start::default()).await?;
    host.purple_flea.delay(Some(Duration::from_millis(500)));
    let ending = async {
        soon(host.purple_flea.reached(1)).await?;
        host.program.process.signal(Signal::TERM)?;
        // Purple Flea has the bet. The host must close its listener now.
        soon(async {
            while http1::connect(&host.program.url.parse()?).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        })
        .await?
    };
    let (reply, ended) = tokio::join!(host.deposit(1), ending);
    ended?;
    let (status, body) = reply?;
    assert!(status == 200 && body.contains("executed"), "{status} {body}");
    assert!(soon(host.program.process.wait()).await??.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_at_the_end_of_its_grace_period_logs_the_requests_it_cuts_off() -> Result<()> {
    let mut host = Playing::start(Start { arguments: &["--grace-s", "1"], ..Start::default() }).await?;
    host.purple_flea.misbehave(Some(Fault { after_the_bet: true, how: How::Hang }));
    let ending = async {
        soon(host.purple_flea.reached(1)).await?;
        host.program.process.signal(Signal::TERM)
    };
    let (reply, signalled) = tokio::join!(host.deposit(1), ending);
    signalled?;
    assert!(reply.is_err(), "the host must cut the request off: {reply:?}");
    let line = soon(host.program.said.find(|line| line.contains("ended before it was done"))).await?;
    assert!(line.contains("requests without a reply: 1 from callers, 1 to others; instances: 1"), "{line}");
    assert!(soon(host.program.process.wait()).await??.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_logs_and_counts_work_after_a_reply_that_it_cuts_off() -> Result<()> {
    let stack = start_silent(&[("linger_ms", "0")]).await?;
    let admin = free_address()?;
    let arguments = ["--after-reply-s", "1", "--admin", &admin];
    let host =
        Program::start(&stack.options.settings, Start { arguments: &arguments, ..Start::default() }).await?;
    stack.purple_flea.misbehave(Some(Fault { after_the_bet: true, how: How::Hang }));
    let id = deposit(&stack, "100").await?;
    let reference = format!("wallet-change-{id}");
    let body = format!(r#"{{"ledger": true, "reference": "{reference}"}}"#);
    let notification = webhook::signed(&format!("{}/execute-trade", host.url), &reference, body.as_bytes())?;
    let notification = notification.header("prefer", "respond-async").body(body.into())?;
    assert_eq!(soon(http1::send(notification)).await??.status(), 202);
    let line = soon(host.said.find(|line| line.contains("was cut off"))).await?;
    assert!(
        line.contains("instance 1 was cut off: its work after a reply took 1 s (--after-reply-s)"),
        "{line}"
    );
    assert!(line.ends_with("outbound requests without a reply: 1"), "{line}");
    assert_eq!(metric(&admin, "purple_flea_cut_off_total").await?, 1);
    soon(async {
        while metric(&admin, "purple_flea_sent_in_flight").await? > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(job(&stack, id).await?["state"], "claimed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_sends_only_to_allowed_origins_and_counts_its_replies_and_calls() -> Result<()> {
    let admin = free_address()?;
    let arguments = ["--allow", "https://api.purpleflea.com", "--admin", &admin];
    let host = Playing::start(Start { arguments: &arguments, ..Start::default() }).await?;
    let (status, body) = host.deposit(1).await?;
    assert!(status == 503 && body.contains("\"executed\":\"no\""), "{status} {body}");
    assert_no_call(&host.purple_flea);
    let metrics = http1::send(Request::get(format!("http://{admin}/metrics")).body(vec![])?).await?;
    let metrics = String::from_utf8_lossy(metrics.body()).into_owned();
    for line in [
        "purple_flea_replies_total{status=\"5xx\"} 1",
        "purple_flea_sent_total 1",
        "purple_flea_traps_total 0",
    ] {
        assert!(metrics.lines().any(|had| had == line), "{line} is not in\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_names_a_component_that_it_cannot_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nothing = folder.path().join("nothing.wasm");
    let garbage = folder.path().join("garbage.cwasm");
    std::fs::write(&garbage, "neither a component nor what was made of one")?;
    for component in [&nothing, &garbage] {
        let mut child = Command::new(program()?).arg(component).stderr(Stdio::piped()).spawn()?;
        let mut said = String::new();
        soon(child.stderr.take().context("no stderr")?.read_to_string(&mut said)).await??;
        assert!(!soon(child.wait()).await??.success(), "the host started: {said}");
        assert!(said.contains(&component.display().to_string()), "{said}");
    }
    Ok(())
}
