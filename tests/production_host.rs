//! `purple-flea-host`, the program, as one runs it in production.

use crate::{
    front_door::soon,
    host_program::{Playing, Start, program},
};
use anyhow::{Context, Result};
use http::Request;
use stack::http1;
use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncReadExt, process::Command};

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_was_compiled_ahead_of_time_bets_and_its_lines_are_printed() -> Result<()> {
    let host = Playing::start(Start::default()).await?;
    let (status, body) = host.deposit(1).await?;
    assert!(status == 200 && body.contains("executed"), "{status} {body}");
    assert_eq!(host.purple_flea.bets().len(), 1);
    soon(host.program.log.find(|line| line.contains("\"reference\":\"wallet-change-1\""))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_is_asked_to_end_it_answers_what_is_under_way_and_takes_nothing_more() -> Result<()> {
    let mut host = Playing::start(Start::default()).await?;
    host.purple_flea.delay(Some(Duration::from_millis(500)));
    let ending = async {
        soon(host.purple_flea.reached(1)).await?;
        host.program.signal("TERM")?;
        // The bet is out, and nobody listens any more.
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
    assert!(soon(host.program.child.wait()).await??.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_to_nobody_who_is_not_allowed_and_counts_what_it_does() -> Result<()> {
    let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let arguments = ["--allow", "https://api.purpleflea.com", "--admin", &admin];
    let host = Playing::start(Start { arguments: &arguments, ..Start::default() }).await?;
    let (status, body) = host.deposit(1).await?;
    assert!(status == 503 && body.contains("\"executed\":\"no\""), "{status} {body}");
    assert!(host.purple_flea.requests().is_empty());
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
async fn what_it_cannot_run_it_names() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nothing = folder.path().join("nothing.wasm");
    let garbage = folder.path().join("garbage.cwasm");
    std::fs::write(&garbage, "neither a component nor what was made of one")?;
    for component in [&nothing, &garbage] {
        let mut child = Command::new(program()?).arg(component).stderr(Stdio::piped()).spawn()?;
        let mut said = String::new();
        child.stderr.take().context("no stderr")?.read_to_string(&mut said).await?;
        assert!(!soon(child.wait()).await??.success());
        assert!(said.contains(&component.display().to_string()), "{said}");
    }
    Ok(())
}
