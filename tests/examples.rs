//! The examples work as their documents say, beside the ledger, and take each result once, also over an end of their own.

use crate::{
    clients::{LANGUAGES, Language, folder},
    front_door::soon,
    realtime::{Follower, OWNER, deposit, quick, realtime, with_owners},
    whole_stack::count,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    log::Log,
    postgrest::{key, user_key},
    process::{Process, Signal, plain_command},
    repository,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{io::AsyncWriteExt, process::ChildStdin};

/// A running example.
struct Example {
    process: Process,
    stdin: ChildStdin,
    log: Log,
    errors: Log,
}

impl Example {
    /// Starts an agent with the libraries of the tests, which have the versions of the example's own lock file.
    fn start(stack: &Local, language: Language, state: &Path) -> Result<Self> {
        let folder = folder()?;
        let script = |name: &str| std::fs::read_to_string(repository().join("examples").join(name));
        let mut command = match language {
            Language::JavaScript => {
                let mut command = plain_command(Path::new("node"));
                command.args(["--experimental-websocket", "--no-warnings", "--input-type=module", "--eval"]);
                command.arg(script("javascript/agent.mjs")?);
                command
            }
            Language::Python => {
                let mut command = plain_command(&folder.join("python/bin/python"));
                command.arg("-c").arg(script("python/agent.py")?);
                command
            }
        };
        for (name, value) in [
            ("SUPABASE_URL", realtime(stack)?.project_url()),
            ("SUPABASE_KEY", &key("anon")?),
            ("SUPABASE_ACCESS_TOKEN", &user_key(OWNER)?),
            ("AGENT_ID", AGENT),
            ("AGENT_TASK", "Watch BTC"),
            ("REJOIN_MS", "100"),
        ] {
            command.env(name, value);
        }
        command.env("STATE_FILE", state).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command, Signal::KILL)?;
        let (log, errors, stdin) = (Log::default(), Log::default(), process.stdin()?);
        process.read_lines(&log, &errors)?;
        Ok(Self { process, stdin, log, errors })
    }

    fn lines(&self) -> Vec<Value> {
        self.log.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line. The condition may look at the log, so the log is not held meanwhile.
    async fn says(&self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let find = async {
            for number in 0.. {
                let line = self.log.nth(number).await;
                if serde_json::from_str(&line).is_ok_and(|line| wanted(&line)) {
                    return;
                }
            }
        };
        soon(find).await.with_context(|| format!("{:?}\n{:?}", self.log.lines(), self.errors.lines()))
    }

    /// Waits until it has listened, and has read what came before.
    async fn is_up(&self) -> Result<()> {
        self.says(|line| line["what"] == "caught_up").await
    }

    /// Gives the references of its results, each as often as it told it.
    fn results(&self) -> Vec<String> {
        let results = self.lines().into_iter().filter(|line| line["what"] == "result");
        results.filter_map(|line| line["reference"].as_str().map(str::to_owned)).collect()
    }

    async fn has_results(&self, wanted: &BTreeSet<String>) -> Result<()> {
        self.says(|_| wanted.is_subset(&self.results().into_iter().collect())).await
    }
}

/// Waits until the ledger has made so many bets.
async fn bets(stack: &Local, many: i64) -> Result<()> {
    soon(async {
        while count(stack, "select count(*) from public.trade_results").await? < many {
            tokio::time::sleep(crate::whole_stack::LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await?
}

/// Waits until a state file has the results with these references.
async fn saved(state: &Path, references: &BTreeSet<String>) -> Result<()> {
    let has_all = || {
        let text = std::fs::read_to_string(state).unwrap_or_default();
        references.iter().all(|reference| text.contains(&format!("\"{reference} executed\"")))
    };
    soon(async {
        while !has_all() {
            tokio::time::sleep(crate::whole_stack::LOOK_EVERY).await;
        }
    })
    .await
}

async fn an_agent_takes_each_result_once(language: Language) -> Result<()> {
    let stack = with_owners(quick()).await?;
    let folder = tempfile::tempdir()?;
    let state: PathBuf = folder.path().join("state.json");
    let before = deposit(&stack, AGENT, 2).await?;
    bets(&stack, 2).await?;
    let mut agent = Example::start(&stack, language, &state)?;
    agent.is_up().await?;
    agent.has_results(&before).await?;
    // It is there: by its heartbeat, and by presence.
    agent.says(|line| line["what"] == "present" && line["agents"] == json!([AGENT])).await?;
    let heard = format!(
        "select count(*) from public.agents where id = '{AGENT}' and task = 'Watch BTC' \
         and last_seen_at > clock_timestamp() - interval '1 minute'"
    );
    assert_eq!(count(&stack, &heard).await?, 1);
    // It sends a signal on its agent's own topic.
    let url = realtime(&stack)?.project_url();
    let mut follower = Follower::start(Language::JavaScript, url, Some(&user_key(OWNER)?))?;
    let topic = format!("trade-signals:{AGENT}");
    assert_eq!(follower.join(&topic, json!({ "private": true })).await?.0, "SUBSCRIBED");
    agent.says(|line| line["what"] == "joined" && line["topic"] == topic).await?;
    agent
        .stdin
        .write_all(
            b"no signal\n{\"market\": \"BTC\", \"action\": \"BUY\", \"confidence\": 0.9, \"size\": 5}\n",
        )
        .await?;
    agent.says(|line| line["what"] == "failed").await?;
    let signal = follower.wait_for(|line| line["event"] == "trade_signal").await?;
    assert_eq!((&signal["payload"]["market"], &signal["payload"]["size"]), (&json!("BTC"), &json!(5)));
    assert!(signal["payload"]["ts"].is_string(), "{signal}");
    let during = deposit(&stack, AGENT, 2).await?;
    agent.has_results(&during).await?;
    // The owner is told of signals on the same topic as of results.
    let told = format!("select realtime.send('{{\"signal_id\": \"s\"}}', 'signal', 'owner:{OWNER}')");
    crate::whole_stack::sql(&stack, &told).await?;
    agent.says(|line| line["what"] == "signal" && line["signal_id"] == "s").await?;
    // It saves just after it has told. A kill in between would make it tell again.
    saved(&state, &during).await?;
    agent.process.kill().await?;
    let away = deposit(&stack, AGENT, 2).await?;
    bets(&stack, 6).await?;
    let again = Example::start(&stack, language, &state)?;
    again.is_up().await?;
    again.has_results(&away).await?;
    let after = deposit(&stack, AGENT, 2).await?;
    again.has_results(&after).await?;
    let all: Vec<String> = agent.results().into_iter().chain(again.results()).collect();
    let wanted: BTreeSet<String> = [before, during, away, after].into_iter().flatten().collect();
    assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), wanted);
    ensure!(all.len() == wanted.len(), "a result was taken twice: {all:?}");
    // The ledger made one bet a deposit, and the example none.
    assert_eq!(stack.purple_flea.bets().len(), wanted.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_agent_in_javascript_takes_each_result_once() -> Result<()> {
    an_agent_takes_each_result_once(Language::JavaScript).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_agent_in_python_takes_each_result_once() -> Result<()> {
    an_agent_takes_each_result_once(Language::Python).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_example_without_settings_names_them_and_ends() -> Result<()> {
    for language in LANGUAGES {
        let (program, first, script) = match language {
            Language::JavaScript => {
                (PathBuf::from("node"), vec!["--input-type=module", "--eval"], "javascript/agent.mjs")
            }
            Language::Python => (folder()?.join("python/bin/python"), vec!["-c"], "python/agent.py"),
        };
        let script = std::fs::read_to_string(repository().join("examples").join(script))?;
        let mut command = tokio::process::Command::new(program);
        command.args(first).arg(script).current_dir(folder()?).env_remove("SUPABASE_URL");
        let output = soon(command.output()).await??;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("SUPABASE_KEY"), "{language:?}: {errors}");
    }
    Ok(())
}

#[test]
fn the_examples_have_the_versions_that_the_tests_have() -> Result<()> {
    let read = |path: &str| std::fs::read_to_string(repository().join(path));
    let version = |path: &str| -> Result<Value> {
        let lock: Value = serde_json::from_str(&read(path)?)?;
        Ok(lock["packages"]["node_modules/@supabase/supabase-js"]["version"].clone())
    };
    let own = version("examples/javascript/package-lock.json")?;
    assert!(own.is_string());
    assert_eq!(own, version("tests/clients/package-lock.json")?);
    let tested = read("tests/clients/requirements.txt")?;
    for line in read("examples/python/requirements.txt")?.lines().filter(|line| !line.starts_with('#')) {
        assert!(tested.contains(&format!("{line} \\")), "{line}");
    }
    Ok(())
}
