//! `purple-flea-host`, the program, as one runs it in production.

use crate::front_door::{row, soon};
use anyhow::{Context, Result, bail};
use http::Request;
use stack::{
    host::{Build, local_settings},
    http1,
    local::AGENT,
    process,
    purple_flea::PurpleFlea,
    repository, webhook,
};
use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

fn program() -> Result<PathBuf> {
    let program = repository().join("target/debug/purple-flea-host");
    if !program.exists() {
        bail!("{} is not there; cargo build -p purple-flea-host makes it", program.display());
    }
    Ok(program)
}

/// A running one, that plays at a simulator.
struct Running {
    child: Child,
    url: String,
    purple_flea: PurpleFlea,
}

impl Running {
    async fn start(component: &Path, arguments: &[&str]) -> Result<Self> {
        let purple_flea = PurpleFlea::start().await?;
        purple_flea.fund(AGENT, 1_000.into());
        let mut command = process::command(&program()?, None, "KILL");
        command.env_clear().args(["--listen", "127.0.0.1:0"]).args(arguments).arg(component);
        for (name, value) in local_settings(&purple_flea.url) {
            command.env(name.to_ascii_uppercase(), value);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let listening = soon(said.next_line()).await??.context("it said nothing")?;
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let url = listening.split_whitespace().find(|word| word.starts_with("http://"));
        let url = url.with_context(|| listening.clone())?.to_owned();
        Ok(Self { child, url, purple_flea })
    }

    async fn deposit(&self, id: u64) -> Result<(u16, String)> {
        let body = row(id, "100");
        let request =
            webhook::signed(&format!("{}/", self.url), &format!("wallet-change-{id}"), body.as_bytes())?;
        let reply = http1::send(request.body(body.into_bytes())?).await?;
        Ok((reply.status().as_u16(), String::from_utf8_lossy(reply.body()).into_owned()))
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let id = self.child.id().context("it has ended")?.to_string();
        anyhow::ensure!(std::process::Command::new("kill").args(["-s", signal, &id]).status()?.success());
        Ok(())
    }
}

async fn compiled(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("edge.cwasm");
    let mut command = Command::new(program()?);
    command.arg("compile").arg(Build::Spin.artifact()?).arg("--output").arg(&path);
    let Output { status, stderr, .. } = command.output().await?;
    anyhow::ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    Ok(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_was_compiled_ahead_of_time_bets_and_its_lines_are_printed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut host = Running::start(&compiled(folder.path()).await?, &[]).await?;
    let (status, body) = host.deposit(1).await?;
    assert!(status == 200 && body.contains("executed"), "{status} {body}");
    assert_eq!(host.purple_flea.bets().len(), 1);
    let mut lines = BufReader::new(host.child.stdout.take().context("no stdout")?).lines();
    let line = soon(lines.next_line()).await??.context("no line")?;
    assert!(line.contains("\"reference\":\"wallet-change-1\""), "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_it_is_asked_to_end_it_answers_what_is_under_way_and_takes_nothing_more() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut host = Running::start(&compiled(folder.path()).await?, &[]).await?;
    host.purple_flea.delay(Some(Duration::from_millis(500)));
    let ending = async {
        soon(host.purple_flea.reached(1)).await?;
        host.signal("TERM")?;
        // The bet is out, and nobody listens any more.
        soon(async {
            while http1::connect(&host.url.parse()?).await.is_ok() {
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
    assert!(soon(host.child.wait()).await??.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_to_nobody_who_is_not_allowed_and_counts_what_it_does() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let arguments = ["--allow", "https://api.purpleflea.com", "--admin", &admin];
    let host = Running::start(&compiled(folder.path()).await?, &arguments).await?;
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
