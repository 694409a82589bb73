//! Owners hear their results over Realtime, with the libraries that they use: supabase-js and PyPI's `realtime`. Realtime
//! is the stack's stand-in; tests/stand_in_realtime.rs shows that it behaves as badly as the real one.

use crate::{
    clients::{LANGUAGES, Language, folder},
    front_door::soon,
    whole_stack::{count, sql},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::{
    host::Kind,
    local::{AGENT, Local},
    log::Log,
    postgrest::{key, user_key},
    process::{Process, Signal},
    realtime::{Options, Realtime},
    repository,
};
use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::ChildStdin};

/// A second agent.
const OTHER: &str = "agent-002";

/// The owners of the two agents.
pub const OWNER: &str = "11111111-1111-1111-1111-111111111111";
pub const ANOTHER: &str = "22222222-2222-2222-2222-222222222222";

/// The libraries' own time between two heartbeats.
const HEARTBEAT_MS: u32 = 25_000;

/// A program with a client's library, which joins channels and tells what comes.
pub struct Follower {
    process: Process,
    stdin: ChildStdin,
    pub log: Log,
    errors: Log,
}

impl Follower {
    /// Starts it at a project's URL, with the anon key, or with a user's token.
    pub fn start(language: Language, url: &str, token: Option<&str>) -> Result<Self> {
        Self::with_heartbeat(language, url, token, HEARTBEAT_MS)
    }

    /// Starts it with another time between two heartbeats.
    pub fn with_heartbeat(language: Language, url: &str, token: Option<&str>, every_ms: u32) -> Result<Self> {
        let folder = folder()?;
        let script = |name: &str| std::fs::read_to_string(repository().join("tests/clients").join(name));
        let (program, first) = match language {
            // Node.js before 22 has a WebSocket behind this option. A script that is an argument finds the libraries
            // of the current folder, and leaves standard input to the commands.
            Language::JavaScript => (
                Path::new("node").to_owned(),
                vec![
                    "--experimental-websocket".to_owned(),
                    "--no-warnings".to_owned(),
                    "--input-type=module".to_owned(),
                    "--eval".to_owned(),
                    script("follow.mjs")?,
                    "--".to_owned(),
                ],
            ),
            Language::Python => {
                (folder.join("python/bin/python"), vec!["-c".to_owned(), script("follow.py")?])
            }
        };
        let mut command = stack::process::plain_command(&program);
        command.args(first).args([url, &key("anon")?, token.unwrap_or_default(), &every_ms.to_string()]);
        command.current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command, Signal::KILL)?;
        let (log, errors) = (Log::default(), Log::default());
        let stdin = process.stdin()?;
        process.read_lines(&log, &errors)?;
        Ok(Self { process, stdin, log, errors })
    }

    /// Gives a command.
    pub async fn tell(&mut self, command: Value) -> Result<()> {
        Ok(self.stdin.write_all(format!("{command}\n").as_bytes()).await?)
    }

    /// Joins a channel, and waits for what becomes of that. Gives the status and the error.
    pub async fn join(&mut self, topic: &str, config: Value) -> Result<(String, Value)> {
        self.join_with(json!({ "topic": topic, "config": config })).await
    }

    /// Does the same with more members of the command.
    pub async fn join_with(&mut self, mut command: Value) -> Result<(String, Value)> {
        command["do"] = "join".into();
        let topic = command["topic"].clone();
        let before = self.lines().len();
        self.tell(command).await?;
        let is_status = |line: &Value| line["topic"] == topic && line["status"].is_string();
        let line = self.next(before, is_status).await?;
        Ok((line["status"].as_str().unwrap_or_default().to_owned(), line["error"].clone()))
    }

    /// Gives everything that it has told.
    pub fn lines(&self) -> Vec<Value> {
        self.log.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the first line from a number on that is wanted.
    pub async fn next(&self, from: usize, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let find = async {
            for number in from.. {
                let line = self.log.nth(number).await;
                if let Ok(line) = serde_json::from_str(&line)
                    && wanted(&line)
                {
                    return Some(line);
                }
            }
            None
        };
        let found = soon(find).await;
        found
            .with_context(|| format!("of {:?}\n{:?}", self.log.lines(), self.errors.lines()))?
            .context("no line")
    }

    /// Waits for the first line that is wanted.
    pub async fn wait_for(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.next(0, wanted).await
    }

    /// Gives the payloads of an event, in order.
    pub fn heard(&self, event: &str) -> Vec<Value> {
        let heard = self.lines().into_iter().filter(|line| line["event"] == event);
        heard.map(|line| line["payload"].clone()).collect()
    }

    /// Kills the program.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await
    }
}

/// Options of a Realtime that does not keep a test waiting: refusals take a tenth of a second.
pub fn quick() -> Options {
    Options { refusal_delay: Duration::from_millis(100), ..Options::default() }
}

/// Starts the stack with Realtime, and an agent of each of two owners.
pub async fn with_owners(options: Options) -> Result<Local> {
    let stack = Local::start_with_realtime(Kind::Embedded, &[], None, Some(options), |_| {}).await?;
    for agent in [AGENT, OTHER] {
        stack.purple_flea.fund(agent, 50_000_000.into());
    }
    let owners = format!(
        "insert into auth.users values ('{OWNER}'), ('{ANOTHER}'); insert into public.agents (id) values ('{OTHER}'); \
         update public.agents set owner_id = case id when '{AGENT}' then '{OWNER}' else '{ANOTHER}' end::uuid \
         where owner_id is null"
    );
    sql(&stack, &owners).await?;
    Ok(stack)
}

pub fn realtime(stack: &Local) -> Result<&Realtime> {
    stack.realtime.as_ref().context("no Realtime")
}

/// Makes deposits of an agent, one a transaction, and gives their references.
pub async fn deposit(stack: &Local, agent: &str, many: usize) -> Result<BTreeSet<String>> {
    let insert = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         values ('{agent}', 'deposit', 100, 100) returning 'wallet-change-' || id"
    );
    let mut references = BTreeSet::new();
    for _ in 0..many {
        references.insert(stack.owner.query_one(&insert, &[]).await?.get(0));
    }
    Ok(references)
}

/// Gives the references of all results that a follower heard, each as often as it came.
fn results(follower: &Follower) -> Vec<String> {
    let messages = follower.heard("trade_result");
    let results =
        messages.iter().flat_map(|message| message["results"].as_array().cloned().unwrap_or_default());
    results.filter_map(|result| result["reference"].as_str().map(str::to_owned)).collect()
}

/// Waits until a follower has heard of all these.
async fn wait_for_results(follower: &Follower, wanted: &BTreeSet<String>) -> Result<()> {
    follower.wait_for(|_| wanted.is_subset(&results(follower).into_iter().collect())).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_hears_each_result_once_and_nobody_else_hears_any() -> Result<()> {
    let stack = with_owners(quick()).await?;
    let url = realtime(&stack)?.project_url();
    let private = json!({ "private": true });
    let mut owners = Vec::new();
    for (language, user) in LANGUAGES.into_iter().zip([OWNER, ANOTHER]) {
        let mut owner = Follower::start(language, url, Some(&user_key(user)?))?;
        let joined = owner.join(&format!("owner:{user}"), private.clone()).await?;
        assert_eq!(joined, ("SUBSCRIBED".to_owned(), Value::Null), "{language:?}");
        owners.push(owner);
    }
    let mut strangers = Vec::new();
    for (language, token) in [
        (Language::JavaScript, None),
        (Language::Python, None),
        (Language::JavaScript, Some(user_key(ANOTHER)?)),
        (Language::Python, Some(user_key(ANOTHER)?)),
    ] {
        let mut stranger = Follower::start(language, url, token.as_deref())?;
        let (status, error) = stranger.join(&format!("owner:{OWNER}"), private.clone()).await?;
        assert_eq!(status, "CHANNEL_ERROR", "{language:?}");
        assert!(error.to_string().contains("You do not have permissions to read"), "{error}");
        // A public channel of the same name is another one.
        let mut outsider = Follower::start(language, url, token.as_deref())?;
        assert_eq!(outsider.join(&format!("owner:{OWNER}"), json!({})).await?.0, "SUBSCRIBED");
        strangers.extend([stranger, outsider]);
    }
    let (own, others) = (deposit(&stack, AGENT, 5).await?, deposit(&stack, OTHER, 5).await?);
    for (owner, wanted) in owners.iter().zip([&own, &others]) {
        wait_for_results(owner, wanted).await?;
    }
    // A subscriber that hears too much has heard it before this message, which comes last.
    let last = format!("select realtime.send('{{}}', 'last', 'owner:{OWNER}', false)");
    sql(&stack, &last).await?;
    for stranger in strangers.iter().skip(1).step_by(2) {
        stranger.wait_for(|line| line["event"] == "last").await?;
    }
    for (owner, wanted) in owners.iter().zip([own, others]) {
        let heard = results(owner);
        assert_eq!(heard.iter().cloned().collect::<BTreeSet<_>>(), wanted);
        assert_eq!(heard.len(), wanted.len(), "a result came twice: {heard:?}");
    }
    assert!(strangers.iter().all(|stranger| results(stranger).is_empty()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_reads_by_id_after_each_join_misses_nothing_over_a_cut() -> Result<()> {
    let stack = with_owners(quick()).await?;
    let url = realtime(&stack)?.project_url();
    // It notices a cut after two heartbeats.
    let mut owner = Follower::with_heartbeat(Language::JavaScript, url, Some(&user_key(OWNER)?), 1_000)?;
    let topic = format!("owner:{OWNER}");
    assert_eq!(owner.join(&topic, json!({ "private": true })).await?.0, "SUBSCRIBED");
    let before = deposit(&stack, AGENT, 3).await?;
    wait_for_results(&owner, &before).await?;
    realtime(&stack)?.cut_silently();
    let missed = deposit(&stack, AGENT, 3).await?;
    let made = "select count(*) from public.trade_results";
    soon(async {
        while count(&stack, made).await? < 6 {
            tokio::time::sleep(crate::whole_stack::LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await??;
    // The client notices by its heartbeat alone, and joins again.
    let is_joined = |line: &Value| line["status"] == "SUBSCRIBED";
    let first = owner.lines().iter().position(is_joined).context("never joined")?;
    owner.next(first + 1, is_joined).await?;
    assert!(missed.iter().all(|reference| !results(&owner).contains(reference)), "nothing was missed");
    // What the documents' loop reads after each join: the rows by id, as the owner.
    let read = format!("{url}/rest/v1/trade_results?select=reference&order=id");
    let request = http::Request::get(read)
        .header("apikey", key("anon")?)
        .header("authorization", format!("Bearer {}", user_key(OWNER)?));
    let rows = stack::http1::send(request.body(vec![])?).await?.into_body();
    let rows: Vec<Value> = serde_json::from_slice(&rows)?;
    let read: BTreeSet<String> =
        rows.iter().filter_map(|row| row["reference"].as_str().map(str::to_owned)).collect();
    assert!(read.is_superset(&missed), "{read:?}");
    let after = deposit(&stack, AGENT, 3).await?;
    wait_for_results(&owner, &after).await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_table_reach_only_those_who_may_see_the_row_and_tell_the_others_nothing() -> Result<()> {
    let stack = with_owners(quick()).await?;
    let url = realtime(&stack)?.project_url();
    let all = json!([{ "event": "*", "table": "trade_results" }]);
    let large = json!([{ "event": "INSERT", "table": "wallet_changes", "filter": "change_amount=gte.50" }]);
    let unfiltered = json!([{ "event": "INSERT", "table": "wallet_changes" }]);
    let mut followers = Vec::new();
    for (language, user) in [
        (Language::JavaScript, Some(OWNER)),
        (Language::Python, Some(OWNER)),
        (Language::JavaScript, Some(ANOTHER)),
        (Language::JavaScript, None),
    ] {
        let token = user.map(user_key).transpose()?;
        let mut follower = Follower::start(language, url, token.as_deref())?;
        // The anonymous may not filter by a column that they may not read.
        let deposits = if user.is_some() { &large } else { &unfiltered };
        for (topic, changes) in [("results", &all), ("deposits", deposits)] {
            let joined = follower.join_with(json!({ "topic": topic, "changes": changes })).await?;
            assert_eq!(joined.0, "SUBSCRIBED", "{language:?} {user:?}: {joined:?}");
            // Only this says that changes come.
            let live = |line: &Value| line["topic"] == topic && line["system"]["status"] == "ok";
            follower.wait_for(live).await?;
        }
        followers.push(follower);
    }
    let small = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         values ('{AGENT}', 'deposit', 49.9999, 49.9999)"
    );
    sql(&stack, &small).await?;
    deposit(&stack, AGENT, 1).await?;
    for follower in &followers[..2] {
        let result =
            |line: &Value| line["topic"] == "results" && line["new"]["reference"] == "wallet-change-2";
        let result = follower.wait_for(result).await?;
        assert_eq!((&result["change"], &result["new"]["agent_id"]), (&json!("INSERT"), &json!(AGENT)));
        follower.wait_for(|line| line["topic"] == "deposits" && line["new"]["id"] == 2).await?;
        let small = |line: &Value| line["topic"] == "deposits" && line["new"]["id"] == 1;
        assert!(!follower.lines().iter().any(small), "the filter let a small deposit pass");
    }
    // The anonymous are told that something happened, and nothing more.
    let empty = |line: &Value| line["errors"][0] == "Error 401: Unauthorized";
    let anonymous = &followers[3];
    anonymous.wait_for(|line| line["topic"] == "results" && empty(line)).await?;
    for line in anonymous.lines().iter().filter(|line| line["change"].is_string()) {
        assert_eq!((&line["new"], &line["old"]), (&json!({}), &json!({})), "{line}");
    }
    assert!(followers[2].lines().iter().all(|line| line["change"].is_null()), "another owner saw a row");
    // A deletion reaches everybody, with a key that means nothing.
    sql(&stack, "delete from public.trade_results where reference = 'wallet-change-2'").await?;
    let deleted = |line: &Value| line["change"] == "DELETE" && line["old"]["id"].is_number();
    for follower in &followers[..3] {
        let deleted = follower.wait_for(deleted).await?;
        assert_eq!(deleted["old"].as_object().map(serde_json::Map::len), Some(1), "{deleted}");
    }
    Ok(())
}
