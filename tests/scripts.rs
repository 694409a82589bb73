//! The scripts do what their usage says, and stop everything they started.

use crate::front_door::{FrontDoor, soon};
use anyhow::{Context, Result};
use serde_json::Value;
use stack::{
    postgres::{Cluster, OWNER},
    repository, webhook,
};
use std::{
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::Command,
};

/// Builds a command for a script.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(repository().join("scripts").join(name));
    // Cargo sets these variables for its tests. A script's own cargo would rebuild everything because of them.
    for (name, _) in std::env::vars()
        .filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
    {
        command.env_remove(name);
    }
    command.current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

async fn output(command: &mut Command) -> Result<Output> {
    soon(command.output()).await?.with_context(|| format!("{command:?} does not run"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_script_prints_its_usage_and_refuses_unknown_options() -> Result<()> {
    for name in [
        "bench",
        "build",
        "chaos",
        "dev",
        "invoke",
        "migrate",
        "ops",
        "release",
        "test",
        "tour",
        "verify-fairness",
    ] {
        let help = output(script(name).arg("--help")).await?;
        let usage = text(&help.stdout);
        assert!(help.status.success() && usage.starts_with("Usage: scripts/"), "{name}: {usage}");
        let unknown = output(script(name).arg("--no-such-option")).await?;
        assert_eq!(unknown.status.code(), Some(2), "{name}: {}", text(&unknown.stderr));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_once_prints_the_row_and_the_settled_job_and_stops_everything_it_started() -> Result<()> {
    let output = output(script("dev").arg("--once")).await?;
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let stdout = text(&output.stdout);
    let reply: Value = serde_json::from_str(stdout.lines().last().context("no output")?)?;
    assert_eq!((&reply["status"], &reply["wager"].to_string()), (&"executed".into(), &"10.00".to_owned()));
    assert_eq!(reply["reference"], "wallet-change-1");
    let row: Value = serde_json::from_str(stdout.lines().rev().nth(1).context("no row")?)?;
    let row = &row["trade_results"];
    assert_eq!((&row["reference"], &row["bet_id"]), (&reply["reference"], &reply["bet_id"]));
    assert_nothing_listens(&said).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_prints_a_verdict_without_a_violation() -> Result<()> {
    // The run alone takes two minutes, most of them the ledger's own waits, and the other tests run beside it.
    const LIMIT: Duration = Duration::from_secs(900);
    let mut chaos = script("chaos");
    chaos.args(["--deposits", "200", "--api", "live", "--json"]);
    let output = tokio::time::timeout(LIMIT, chaos.output()).await.context("chaos did not end in time")??;
    let said = text(&output.stderr);
    let verdict: Value = serde_json::from_str(text(&output.stdout).lines().last().context(said.clone())?)?;
    assert!(output.status.success(), "{verdict}");
    assert_eq!(
        (&verdict["deposits"], &verdict["violations"]),
        (&200.into(), &serde_json::json!([])),
        "{verdict}"
    );
    assert!(verdict["bets"].as_u64() > Some(100), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_shows_every_step_in_both_dialects() -> Result<()> {
    for api in ["gateway", "live"] {
        let output = output(script("tour").args(["--api", api, "--json"])).await?;
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        let steps: Vec<Value> =
            text(&output.stdout).lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let names: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
        let (disputed, only_live) =
            if api == "live" { (" escrow complete dispute", " hi-lo close") } else { ("", "") };
        let life = format!(
            "register register faucet bet faucet bet escrow release referral{disputed} daily trade{only_live}"
        );
        assert_eq!(names.join(" "), life, "{said}");
        assert!(steps.iter().all(|step| step["seen"].is_object()), "{steps:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_runs_until_it_is_interrupted_and_stops_everything_it_started() -> Result<()> {
    let mut child = script("dev").stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    let mut said = String::new();
    soon(async {
        while let Some(line) = lines.next_line().await? {
            said.push_str(&line);
            said.push('\n');
            if line.starts_with("Deposits, trades and") {
                break;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    let database =
        said.split_whitespace().find(|word| word.starts_with("postgresql://")).context("no URL was said")?;
    let deposit = "insert into wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)";
    let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(deposit).await?;
    let shown = soon(async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("trade ") {
                return anyhow::Ok(line);
            }
        }
        anyhow::bail!("it ended")
    })
    .await??;
    assert!(shown.contains("wallet-change-1"), "{shown}");
    signal(&child, "INT").await?;
    let status = soon(child.wait()).await??;
    assert!(status.success(), "an interrupt must end dev without an error: {status}");
    assert_nothing_listens(&said).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_dev_once_says_so_and_fails() -> Result<()> {
    let mut child = script("dev").arg("--once").stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    soon(async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("==> Purple Flea") {
                break;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    signal(&child, "TERM").await?;
    assert_eq!(soon(child.wait()).await??.code(), Some(143));
    let mut said = String::new();
    while let Some(line) = soon(lines.next_line()).await?? {
        said.push_str(&line);
    }
    assert!(said.contains("interrupted before the end"), "{said}");
    Ok(())
}

/// Sends a signal with the shell's own `kill`, because not every system has the program `kill`.
async fn signal(child: &tokio::process::Child, name: &str) -> Result<()> {
    let pid = child.id().context("it has ended")?;
    let kill = format!("kill -{name} {pid}");
    anyhow::ensure!(
        output(Command::new("bash").args(["-c", &kill])).await?.status.success(),
        "{kill} failed"
    );
    Ok(())
}

/// Asserts that no listener is left at any address of the loopback interface that a script printed.
async fn assert_nothing_listens(said: &str) {
    let addresses: Vec<&str> = said
        .split("127.0.0.1:")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next())
        .collect();
    assert!(addresses.len() >= 3, "{said}");
    for port in addresses {
        let address = format!("127.0.0.1:{port}");
        let gone = soon(async {
            while TcpStream::connect(&address).await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        assert!(gone.await.is_ok(), "{address} still listens");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invoke_signs_and_sends_a_file_and_its_printed_command_does_the_same() -> Result<()> {
    let door = FrontDoor::with(&[("webhook_token", "a-token-for-calls-by-hand")]).await?;
    let invoke = || {
        let mut command = script("invoke");
        command.env("FUNCTION_URL", door.url("/execute-trade")).arg("docs/deposit.json");
        command
    };
    let sent = output(invoke().env("WEBHOOK_SECRET", webhook::SECRET)).await?;
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let reply: Value = serde_json::from_slice(&sent.stdout)?;
    assert_eq!((&reply["status"], &reply["reference"]), (&"executed".into(), &"wallet-change-1001".into()));

    let by_token = output(invoke().env("WEBHOOK_TOKEN", "a-token-for-calls-by-hand")).await?;
    assert!(by_token.status.success(), "{}", text(&by_token.stderr));

    let printed = output(invoke().env("WEBHOOK_SECRET", webhook::SECRET).arg("--print")).await?;
    let line = text(&printed.stdout);
    assert!(line.starts_with("curl ") && !line.contains(&webhook::SECRET[6..]), "{line}");
    let ran = output(Command::new("bash").current_dir(repository()).args(["-c", &line])).await?;
    assert_eq!(serde_json::from_slice::<Value>(&ran.stdout)?["status"], "executed", "{line}");
    assert_eq!(door.purple_flea.bets().len(), 3);

    let refused =
        output(invoke().env("WEBHOOK_SECRET", "whsec_YW5vdGhlciBzZWNyZXQsIG5vdCB0aGUgcmlnaHQgb25l")).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&refused.stdout)?["code"], "unauthorized");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invoke_adds_the_paths_operation_and_leaves_the_rest_of_the_body_unchanged() -> Result<()> {
    let door = FrontDoor::open().await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("body.json");
    let invoke = |path: &str, body: &str, options: &[&str]| -> Result<Command> {
        std::fs::write(&file, body)?;
        let mut command = script("invoke");
        command.env("FUNCTION_URL", door.url(path)).env("WEBHOOK_SECRET", webhook::SECRET);
        command.args(["--id", "by-hand-1"]).args(options).arg(&file);
        Ok(command)
    };
    let order = "\n { \"agent_id\": \"agent-001\", \"market\": \"BTC\", \"size\": 25.10 }\n\n";
    for path in ["/trade", "/trade?from=a-gateway"] {
        let sent = output(&mut invoke(path, order, &[])?).await?;
        assert!(sent.status.success(), "{}", text(&sent.stderr));
        assert_eq!(serde_json::from_slice::<Value>(&sent.stdout)?["status"], "executed");
    }
    let printed = output(&mut invoke("/trade", order, &["--print"])?).await?;
    let line = text(&printed.stdout);
    assert!(line.contains("operation") && line.contains("25.10"), "{line}");
    let ran = output(Command::new("bash").current_dir(repository()).args(["-c", &line])).await?;
    assert_eq!(serde_json::from_slice::<Value>(&ran.stdout)?["status"], "executed", "{line}");

    let agent = r#"{"agent_id": "agent-001"}"#;
    // The environment names the agent of a body that names none, and no other body's.
    let claimed = output(invoke("/faucet/daily", "{}", &[])?.env("AGENT_ID", "agent-001")).await?;
    assert_eq!(serde_json::from_slice::<Value>(&claimed.stdout)?["status"], "executed", "{claimed:?}");
    let claimed = output(invoke("/faucet/daily", agent, &[])?.env("AGENT_ID", "nobody")).await?;
    assert_eq!(
        serde_json::from_slice::<Value>(&claimed.stdout)?["reason"],
        "not_eligible_yet",
        "{claimed:?}"
    );
    for (path, body, options, code) in [
        ("/register", agent, &[][..], "ledger_not_configured"),
        ("/escrow/release", "{}", &[][..], "invalid_event"),
        ("/reconcile", "{}", &[][..], "ledger_not_configured"),
        ("/balance", agent, &["--operation", "faucet"][..], "other_operation"),
        ("/operator", "{}", &["--operation", "history"][..], "not_allowed"),
    ] {
        let sent = output(&mut invoke(path, body, options)?).await?;
        let reply: Value = serde_json::from_slice(&sent.stdout)?;
        assert_eq!(reply["code"], code, "{path}: {reply}");
    }
    let contradiction = invoke("/trade", r#"{"operation": "order"}"#, &["--operation", "trade"]);
    let refused = output(&mut contradiction?).await?;
    let said = text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("names the operation order"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_and_a_failed_migration_change_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let owner = cluster.connect(OWNER).await?;
    let migrate = |url: String| {
        let mut command = script("migrate");
        command.env("DATABASE_URL", url);
        command
    };
    let tables = async || -> Result<i64> {
        let count = "select count(*) from pg_tables where schemaname in ('public', 'purple_flea')";
        Ok(owner.query_one(count, &[]).await?.get(0))
    };
    let dry = output(migrate(cluster.url(OWNER)).arg("--dry-run")).await?;
    assert!(dry.status.success(), "{}", text(&dry.stderr));
    assert_eq!(tables().await?, 0, "the dry run created tables");

    // A view takes a table's name, so the migration fails and must undo its earlier steps.
    owner.batch_execute("create view public.trade_results as select 1").await?;
    let failed = output(&mut migrate(cluster.url(OWNER))).await?;
    assert!(!failed.status.success(), "the migration succeeded although a view takes a table's name");
    assert!(text(&failed.stderr).contains("sql/migrations/0001_tables.sql"), "{}", text(&failed.stderr));
    assert_eq!(tables().await?, 0, "the failed migration created tables");

    let unknown_role = output(&mut migrate(cluster.url("nobody"))).await?;
    assert!(!unknown_role.status.success(), "a role that does not exist migrated the database");
    Ok(())
}
