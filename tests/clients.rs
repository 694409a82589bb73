//! Libraries that users take from npm and PyPI work with the function and with the database's API: `standardwebhooks`
//! signs (and verifies: tests/webhooks.rs), and supabase-js reads, inserts and calls. scripts/lib/toolchain.sh installs them below target.

use crate::{
    front_door::{FrontDoor, reply, row, soon},
    whole_stack::{LOOK_EVERY, sql, start},
};
use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    postgrest::{key, user_key},
    process, repository, webhook,
};
use std::{collections::HashMap, fs::File, path::PathBuf, process::Stdio};
use tokio::process::Command;

/// The libraries' folder, from the repository's root.
const FOLDER: &str = "target/clients";

/// Another secret than the function's.
const OTHER_SECRET: &str = "whsec_YW5vdGhlciBzZWNyZXQsIG5vdCB0aGUgcmlnaHQgb25l";

/// A second agent.
const OTHER: &str = "agent-002";

/// The owners of the two agents, by the ids of their tokens.
const OWNER: &str = "11111111-1111-1111-1111-111111111111";
const ANOTHER: &str = "22222222-2222-2222-2222-222222222222";

/// A language that the libraries are written for.
#[derive(Debug, Clone, Copy)]
pub enum Language {
    JavaScript,
    Python,
}

/// Both of them.
pub const LANGUAGES: [Language; 2] = [Language::JavaScript, Language::Python];

/// Gives the libraries' folder. Fails if the libraries are missing, or are not those of the lock files.
pub fn folder() -> Result<PathBuf> {
    let (folder, wanted) = (repository().join(FOLDER), repository().join("tests/clients"));
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    for lock in ["package-lock.json", "requirements.txt"] {
        ensure!(
            read(folder.join(lock)) == read(wanted.join(lock)),
            "{FOLDER} does not have the libraries of tests/clients/{lock}: `scripts/test a_clients_library` \
             installs them, and first Node.js, npm, Python and its venv, if they are missing"
        );
    }
    Ok(folder)
}

/// Runs a script of tests/clients, and gives what it prints.
async fn run(language: Language, script: &str, arguments: &[&str]) -> Result<String> {
    let folder = folder()?;
    let mut command = match language {
        Language::JavaScript => {
            let mut node = Command::new("node");
            node.args(["--input-type=module", "-"]);
            node
        }
        Language::Python => {
            let mut python = Command::new(folder.join("python/bin/python"));
            python.arg("-");
            python
        }
    };
    // A script from standard input finds the libraries of the current folder.
    let script = File::open(repository().join("tests/clients").join(script))?;
    command.args(arguments).current_dir(folder).stdin(Stdio::from(script)).kill_on_drop(true);
    let printed = soon(process::run(&mut command)).await?.with_context(|| format!("{language:?}"))?;
    Ok(printed.trim().to_owned())
}

/// Signs with a language's library.
async fn sign(language: Language, secret: &str, id: &str, unix_s: u64, body: &str) -> Result<String> {
    let script = match language {
        Language::JavaScript => "sign.mjs",
        Language::Python => "sign.py",
    };
    run(language, script, &[secret, id, &unix_s.to_string(), body]).await
}

/// Verifies a webhook with a language's library: `verified`, or `refused`.
pub async fn verify(
    language: Language,
    secret: &str,
    headers: &HashMap<String, String>,
    body: &str,
) -> Result<String> {
    let script = match language {
        Language::JavaScript => "verify.mjs",
        Language::Python => "verify.py",
    };
    run(language, script, &[secret, &serde_json::to_string(headers)?, body]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_library_signs_what_the_function_accepts_unless_it_was_tampered_with() -> Result<()> {
    let door = FrontDoor::open().await?;
    let (now, an_hour_s) = (webhook::unix_s(), 3_600);
    for (number, language) in (1..).zip(LANGUAGES) {
        let id = format!("wallet-change-{number}");
        // A library that signed other bytes than UTF-8 would not agree about this.
        let body = row(number, "100").replace("\"deposit\"", "\"deposit\", \"note\": \"für Käse – 5 €\"");
        let signature = sign(language, webhook::SECRET, &id, now, &body).await?;
        let old = sign(language, webhook::SECRET, &id, now - an_hour_s, &body).await?;
        let foreign = sign(language, OTHER_SECRET, &id, now, &body).await?;
        let send = async |id: &str, unix_s: u64, signature: &str, body: &str| {
            let request = Request::post(door.url("/execute-trade"))
                .header("content-type", "application/json")
                .header("webhook-id", id)
                .header("webhook-timestamp", unix_s)
                .header("webhook-signature", signature);
            reply(request.body(body.into())?).await
        };
        for (what, id, unix_s, signature, body) in [
            ("another body", id.as_str(), now, &signature, body.replace("100", "900")),
            ("another id", "wallet-change-9", now, &signature, body.clone()),
            ("another time", &id, now - 1, &signature, body.clone()),
            ("an old time", &id, now - an_hour_s, &old, body.clone()),
            ("another secret", &id, now, &foreign, body.clone()),
        ] {
            let refused = send(id, unix_s, signature, &body).await?;
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{language:?}, {what}: {}", refused.body);
        }
        assert_eq!(door.purple_flea.bets().len() as u64, number - 1, "{language:?}");
        // While a secret is replaced, the sender signs with both.
        let accepted = send(&id, now, &format!("{foreign} {signature}"), &body).await?;
        assert_eq!(accepted.body["status"], "executed", "{language:?}: {}", accepted.body);
        assert_eq!(door.purple_flea.bets().len() as u64, number, "{language:?}");
    }
    Ok(())
}

/// Makes calls with supabase-js, and gives its answers.
async fn supabase(stack: &Local, role: Role, calls: Value) -> Result<Vec<Value>> {
    let (key, token) = match role {
        Role::Anon => (key("anon")?, String::new()),
        Role::User(id) => (key("anon")?, user_key(id)?),
        Role::Service => (key("service_role")?, String::new()),
    };
    let arguments = [stack.postgrest.url.as_str(), &key, &token, &calls.to_string()];
    let printed = run(Language::JavaScript, "supabase.mjs", &arguments).await?;
    let answers: Vec<Value> = serde_json::from_str(&printed)?;
    assert_eq!(Some(answers.len()), calls.as_array().map(Vec::len));
    Ok(answers)
}

/// A caller of the API.
#[derive(Debug, Clone, Copy)]
enum Role {
    Anon,
    /// A signed-in user with this id.
    User(&'static str),
    Service,
}

/// Some of an agent's columns that its owner may read.
const AGENT_COLUMNS: &str = "id,balance,status,owner_id";

/// Starts the stack with two agents of two owners. As the service, supabase-js inserts a deposit for each, and an escrow
/// from the first to the second.
async fn with_rows() -> Result<(Local, Value)> {
    let stack = start(&[]).await?;
    let held = stack.purple_flea.balance(AGENT);
    stack.purple_flea.fund(AGENT, rust_decimal::Decimal::from(1_000) - held);
    stack.purple_flea.fund(OTHER, 1_000.into());
    let owners = format!(
        "insert into auth.users values ('{OWNER}'), ('{ANOTHER}'); insert into public.agents (id) values ('{OTHER}'); \
         update public.agents set owner_id = case id when '{AGENT}' then '{OWNER}' else '{ANOTHER}' end::uuid \
         where owner_id is null"
    );
    sql(&stack, &owners).await?;
    let deposit = |agent: &str| {
        let row =
            json!({ "agent_id": agent, "change_type": "deposit", "change_amount": 100, "new_balance": 100 });
        json!({ "insert": row, "into": "wallet_changes", "select": "agent_id, change_amount", "single": true })
    };
    let escrow = json!({ "sender_id": AGENT, "receiver_id": OTHER, "amount": 2.5 });
    let calls = json!([
        deposit(AGENT),
        deposit(OTHER),
        { "insert": escrow, "into": "escrow_requests", "select": "id, status", "single": true },
    ]);
    let answers = supabase(&stack, Role::Service, calls).await?;
    for (answer, agent) in answers.iter().zip([AGENT, OTHER]) {
        let data = json!({ "agent_id": agent, "change_amount": 100 });
        assert_eq!((&answer["status"], &answer["data"]), (&json!(201), &data), "{answer}");
    }
    let escrow = answers[2]["data"]["id"].clone();
    assert!(escrow.is_number(), "{answers:?}");
    Ok((stack, escrow))
}

/// Waits until supabase-js, as the service, reads that a query has these rows.
async fn wait_for(stack: &Local, call: Value, rows: &Value) -> Result<()> {
    soon(async {
        while supabase(stack, Role::Service, json!([call])).await?[0]["data"] != *rows {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_library_reads_each_table_as_far_as_its_role_may() -> Result<()> {
    let (stack, escrow) = with_rows().await?;
    let trades = json!({ "read": "trade_results", "select": "agent_id, reference", "order": "reference" });
    let both = json!([
        { "agent_id": AGENT, "reference": "wallet-change-1" },
        { "agent_id": OTHER, "reference": "wallet-change-2" },
    ]);
    wait_for(&stack, trades.clone(), &both).await?;
    let tables =
        ["agents", "wallet_changes", "trade_results", "escrow_requests", "agent_jobs", "referral_earnings"];
    let order = |table: &str| match table {
        "agent_jobs" => "reference",
        "referral_earnings" => "orchestrator_id",
        _ => "id",
    };
    let whole: Vec<Value> =
        tables.iter().map(|table| json!({ "read": table, "select": "*", "order": order(table) })).collect();
    for (role, refusal) in [(Role::Anon, 401), (Role::User(OWNER), 403), (Role::Service, 403)] {
        for (table, answer) in tables.iter().zip(supabase(&stack, role, json!(whole)).await?) {
            let refused = match (role, *table) {
                (Role::Anon, _) => true,
                // A column names the agent's secret.
                (Role::User(_), table) => table == "agents",
                // The view shows the caller's own jobs, and the service owns no agent.
                (Role::Service, table) => table == "agent_jobs",
            };
            let expected = if refused { (json!(refusal), json!("42501")) } else { (json!(200), Value::Null) };
            assert_eq!((answer["status"].clone(), answer["code"].clone()), expected, "{role:?}, {table}");
            assert_eq!(answer["data"].is_array(), !refused, "{role:?}, {table}: {answer}");
        }
    }
    for (user, agent, number) in [(OWNER, AGENT, 1), (ANOTHER, OTHER, 2)] {
        let reads = json!([
            { "read": "agents", "select": AGENT_COLUMNS },
            { "read": "wallet_changes", "select": "id,agent_id,change_amount" },
            trades,
            { "read": "escrow_requests", "select": "id,sender_id,receiver_id" },
            { "read": "agent_jobs", "select": "reference,state", "equals": { "kind": "deposit" }, "order": "reference" },
            { "read": "referral_earnings", "select": "*", "order": "orchestrator_id" },
            { "read": "wallet_changes", "select": "id", "equals": { "agent_id": agent }, "single": true },
            { "read": "wallet_changes", "select": "id", "equals": { "id": 3 - number } },
            { "read": "jobs", "select": "reference", "order": "reference", "schema": "purple_flea" },
        ]);
        let answers = supabase(&stack, Role::User(user), reads).await?;
        let agents = answers[0]["data"].as_array().context("no agents")?;
        assert_eq!(
            (agents.len(), &agents[0]["id"], &agents[0]["owner_id"]),
            (1, &json!(agent), &json!(user))
        );
        let reference = format!("wallet-change-{number}");
        for (answer, data) in answers[1..].iter().zip([
            json!([{ "id": number, "agent_id": agent, "change_amount": 100 }]),
            json!([{ "agent_id": agent, "reference": reference }]),
            json!([{ "id": escrow, "sender_id": AGENT, "receiver_id": OTHER }]),
            json!([{ "reference": reference, "state": "executed" }]),
            json!([]),
            json!({ "id": number }),
            json!([]),
        ]) {
            assert_eq!((&answer["status"], &answer["data"]), (&json!(200), &data), "{user}: {answer}");
        }
        assert_eq!((&answers[8]["status"], &answers[8]["code"]), (&json!(406), &json!("PGRST106")));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_library_calls_each_function_and_changes_each_table_as_far_as_its_role_may() -> Result<()> {
    let (stack, escrow) = with_rows().await?;
    let made = json!({ "read": "escrow_requests", "select": "status,pf_escrow_id" });
    soon(async {
        while supabase(&stack, Role::Service, json!([made])).await?[0]["data"][0]["pf_escrow_id"].is_null() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await??;
    let calls = json!([
        { "call": "may_act_for", "arguments": { "agent_id": AGENT } },
        { "call": "may_act_for", "arguments": { "escrow_id": escrow } },
        { "call": "ledger_health" },
        { "call": "operate", "arguments": { "operation": "status", "details": {}, "operator": "ada" } },
        { "call": "request_job", "arguments":
            { "kind": "balance", "reference": "by-a-library", "details": { "agent_id": AGENT } } },
        { "call": "settle_jobs", "arguments": { "outcomes": [] } },
        { "call": "no_such_function" },
        { "insert": { "agent_id": AGENT, "change_type": "deposit", "new_balance": 1 }, "into": "wallet_changes" },
        { "update": { "balance": 1 }, "of": "agents", "equals": { "id": AGENT } },
    ]);
    for (role, statuses) in [
        (Role::Anon, [401, 401, 401, 401, 401, 401, 404, 401, 401]),
        (Role::User(OWNER), [200, 200, 403, 403, 403, 403, 404, 403, 403]),
        (Role::User(ANOTHER), [200, 200, 403, 403, 403, 403, 404, 403, 403]),
        (Role::Service, [403, 403, 200, 200, 200, 200, 404, 201, 204]),
    ] {
        let answers = supabase(&stack, role, calls.clone()).await?;
        let answered: Vec<&Value> = answers.iter().map(|answer| &answer["status"]).collect();
        assert_eq!(answered, statuses.map(Value::from).iter().collect::<Vec<_>>(), "{role:?}: {answers:?}");
        if let Role::User(user) = role {
            let own = json!(user == OWNER);
            assert_eq!((&answers[0]["data"], &answers[1]["data"]), (&own, &own), "{user}");
        }
    }
    // The receiver's owner may dispute, and not release.
    let release = json!([{ "update": { "requested_status": "released" }, "of": "escrow_requests",
        "equals": { "id": escrow }, "select": "requested_status" }]);
    let released = json!([{ "requested_status": "released" }]);
    for (user, status, data) in [(ANOTHER, 403, json!(null)), (OWNER, 200, released)] {
        let answers = supabase(&stack, Role::User(user), release.clone()).await?;
        assert_eq!((&answers[0]["status"], &answers[0]["data"]), (&json!(status), &data), "{answers:?}");
    }
    let status = json!({ "read": "escrow_requests", "select": "status" });
    wait_for(&stack, status, &json!([{ "status": "released" }])).await
}
