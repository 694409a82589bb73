//! A host without free file descriptors loses no bet, and callers cannot use the descriptors that the ledger needs.

use crate::{
    front_door::{assert_no_call, soon},
    host_program::{Playing, Program, Start, command, compiled, free_address, metric, program},
    whole_stack::{LOOK_EVERY, NOTIFY_ALL, count, deposit, job, job_in, sql, start_silent},
    wire::Wire,
};
use anyhow::{Context, Result, ensure};
use http::Request;
use stack::{http1, local::Local, webhook};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep},
};

/// Notifies the program of every due job on an existing connection, and gives the status of the reply.
async fn notify(wire: &mut Wire, webhook_id: &str) -> Result<u16> {
    let body = NOTIFY_ALL;
    let request = webhook::signed("http://host/", webhook_id, body.as_bytes())?.body(())?;
    let mut text = "POST /execute-trade HTTP/1.1\r\nhost: host\r\n".to_owned();
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\r\n", value.to_str()?);
    }
    wire.send(&format!("{text}content-length: {}\r\n\r\n{body}", body.len())).await?;
    Ok(wire.reply().await?.status)
}

/// Starts the whole stack for a program that takes the place of the embedded host.
async fn start_ledger() -> Result<Local> {
    start_silent(&[("after_reply", "false"), ("bets_at_once", "100")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_that_finds_no_free_descriptor_is_not_sent_and_is_placed_later() -> Result<()> {
    let stack = start_ledger().await?;
    // One thread has one set of kept connections, and the host keeps them for the length of this test.
    let arguments = ["--threads", "1", "--keep-ms", "600000"];
    let host =
        Program::start(&stack.options.settings, Start { arguments: &arguments, ..Start::default() }).await?;
    let mut wire = Wire::to(&host.url).await?;
    // Nothing is due yet, but this opens the connections to the function and to the ledger.
    assert_eq!(notify(&mut wire, "evt_first").await?, 200);
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(deposit(&stack, "100").await?);
    }
    host.process.allow_no_more_files()?;
    notify(&mut wire, "evt_exhausted").await?;
    for id in &ids {
        let job = job(&stack, *id).await?;
        assert_eq!((&job["state"], &job["reason"]), (&"pending".into(), &"not_reached".into()), "{job}");
    }
    assert_no_call(&stack.purple_flea);
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state = 'unknown'").await?, 0);

    host.process.limit_open_files(1024)?;
    sql(&stack, "update purple_flea.jobs set due_at = clock_timestamp() where state = 'pending'").await?;
    notify(&mut wire, "evt_again").await?;
    for id in &ids {
        job_in(&stack, *id, "executed").await?;
    }
    assert_eq!(stack.purple_flea.bets().len(), ids.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bets_that_use_every_connection_leave_the_ledger_its_own_and_none_becomes_unknown() -> Result<()> {
    let stack = start_ledger().await?;
    let (open_files, admin) = ("210:210", free_address()?);
    // Without kept connections, each call to the ledger needs a new one.
    let arguments = ["--threads", "1", "--keep-ms", "0", "--admin", &admin];
    let host = Program::start(&stack.options.settings, Start { arguments: &arguments, open_files }).await?;
    sql(
        &stack,
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         select 'agent-001', 'deposit', 100, 100 from generate_series(1, 200)",
    )
    .await?;
    // The host has 110 connections for bets, and two claims need 200. A bet takes longer than another may wait for a
    // connection.
    stack.purple_flea.delay(Some(Duration::from_secs(6)));
    let (mut one, mut other) = (Wire::to(&host.url).await?, Wire::to(&host.url).await?);
    let meanwhile = async {
        soon(async {
            while metric(&admin, "purple_flea_sent_in_flight").await? < 200 {
                sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        })
        .await??;
        let health = Request::get(format!("{}/health", host.url)).body(vec![])?;
        anyhow::Ok(soon(http1::send(health)).await??.status().as_u16())
    };
    let (_, _, health) =
        tokio::join!(notify(&mut one, "evt_one"), notify(&mut other, "evt_other"), meanwhile);
    assert_eq!(health?, 200, "the function did not reach the ledger");
    let bets = stack.purple_flea.bets().len();
    assert!((110..200).contains(&bets), "{bets} bets, but the host has 110 connections for bets");
    stack.purple_flea.delay(None);
    soon(async {
        while count(&stack, "select count(*) from purple_flea.jobs where state <> 'executed'").await? > 0 {
            sql(&stack, "update purple_flea.jobs set due_at = clock_timestamp() where state = 'pending'")
                .await?;
            notify(&mut Wire::to(&host.url).await?, "evt_rest").await?;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(stack.purple_flea.bets().len(), 200);
    assert!(!host.said.lines().iter().any(|line| line.contains("not accepted")), "{:?}", host.said.lines());
    Ok(())
}

/// Starts a program that must refuse to start, and gives its standard error.
async fn refusal(open_files: &str, arguments: &[&str]) -> Result<String> {
    let mut command = command(open_files, &program()?);
    let mut child = command
        .args(["--listen", "127.0.0.1:0", "--threads", "1"])
        .args(arguments)
        .arg(compiled().await?)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    soon(child.stderr.take().context("no stderr")?.read_to_string(&mut said)).await??;
    ensure!(!soon(child.wait()).await??.success(), "it started: {said}");
    Ok(said)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_accepts_as_many_connections_as_it_has_descriptors_for() -> Result<()> {
    let said = refusal("210:210", &["--connections", "11"]).await?;
    assert!(said.contains("--connections 11 is too many: 210 open files allow 10"), "{said}");
    let said = refusal("64:64", &[]).await?;
    assert!(said.contains("64 open files are too few"), "{said}");
    for (open_files, connections) in [("210:210", "10 connections"), ("210:8192", "1024 connections")] {
        let start = Start { arguments: &["--threads", "1"], open_files };
        let host = Playing::start(start).await?.program;
        let line = soon(host.said.find(|line| line.contains("listening on"))).await?;
        assert!(line.contains(connections), "{line}");
    }
    Ok(())
}

/// Counts the file descriptors that a program has open.
fn open_files(host: &Program) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", host.process.id()?))?.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_free_descriptor_pauses_and_accepts_its_callers_later() -> Result<()> {
    const REFUSALS: usize = 6;
    let admin = free_address()?;
    let arguments = ["--admin", &admin, "--threads", "1"];
    let host = Playing::start(Start { arguments: &arguments, ..Start::default() }).await?.program;
    for url in [format!("{}/health", host.url), format!("http://{admin}/live")] {
        let open = open_files(&host)?;
        host.process.allow_no_more_files()?;
        let (before, started) = (host.said.lines().len(), Instant::now());
        let waiting = tokio::spawn(http1::send(Request::get(url).body(vec![])?));
        let last = soon(host.said.nth(before + REFUSALS - 1)).await?;
        assert!(last.contains("a connection was not accepted"), "{last}");
        // The host pauses for 100 ms after each refusal. Without a pause, six lines appear within a millisecond.
        assert!(
            started.elapsed() >= Duration::from_millis(100 * (REFUSALS as u64 - 1)),
            "the host did not pause"
        );
        host.process.limit_open_files(1024)?;
        assert_eq!(soon(waiting).await???.status(), 200);
        // The end of the connection frees its descriptor.
        soon(async {
            while open_files(&host)? > open {
                sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        })
        .await??;
    }
    Ok(())
}
