//! Checks the contract with Purple Flea against readable files. For each service and dialect, a file shows every
//! request byte for byte, and the outcome of every reply.
//!
//! Each case of a file gives a job (`job`) and Purple Flea's replies (`←`). The test derives the requests (`→`) and the
//! outcome (`=`), and compares them with the file. `UPDATE_CONTRACT=1 cargo test contract` writes the derived lines into
//! the files; review the difference.

use futures::FutureExt;
use purple_flea_edge::{
    config,
    jobs::{self, Context},
    ledger::{job::Job, object::Object},
    log::Line,
    runtime::{Answer, Limits, Runtime, SendError},
};
use serde_json::{Value, json, value::to_raw_value};
use std::{
    cell::RefCell,
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The keys of the cases, and the names that the files give them.
const KEYS: [(&str, &str); 4] = [
    ("pf_shared", "the shared key"),
    ("sk_trade_shared", "the shared key for trading"),
    ("sk_live_own", "the agent's own key"),
    ("sk_trade_own", "the agent's own key for trading"),
];

/// How the files write a request that gets no reply.
const NO_REPLY: &str = "no reply within the time limit";
const REFUSED: &str = "the connection was refused";
const RESET: &str = "the connection was reset";

#[test]
fn requests_and_outcomes_match_the_contract_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(files.len() >= 10, "contract files are missing: {files:?}");
    let mut differences = Vec::new();
    for path in files {
        let written = fs::read_to_string(&path).unwrap();
        let live = path.file_name().unwrap().to_str().unwrap().starts_with("live");
        let derived = derive_file(&written, live);
        if env::var_os("UPDATE_CONTRACT").is_some() {
            fs::write(&path, derived).unwrap();
        } else if derived != written {
            let pairs = written.lines().zip(derived.lines()).enumerate();
            let mut lines = pairs.filter(|(_, (was, is))| was != is).map(|(n, (was, is))| {
                format!("{}:{}\n  written: {was}\n  derived: {is}", path.display(), n + 1)
            });
            differences.push(lines.next().unwrap_or_else(|| format!("{}: the end differs", path.display())));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Copies what a file gives, and derives the rest of it.
fn derive_file(written: &str, live: bool) -> String {
    let (head, cases) = written.split_once("\n## ").unwrap();
    let mut derived = head.trim_end().to_owned() + "\n";
    for case in cases.split("\n## ") {
        let (title, text) = case.split_once('\n').unwrap();
        derived += &format!("\n## {title}\n\n{}", derive_case(text, live));
    }
    derived
}

/// Executes the job of one case, and writes the requests, the replies and the outcome.
fn derive_case(text: &str, live: bool) -> String {
    let job = text.lines().find_map(|line| line.strip_prefix("job ")).unwrap();
    let purple_flea =
        ScriptedRuntime { replies: RefCell::new(replies(text)), transcript: RefCell::default() };
    let settings = config::check(|name| {
        Some(match name {
            "purple_flea_api" if live => "live".to_owned(),
            "purple_flea_url" if live => "https://casino.test".to_owned(),
            "purple_flea_escrow_url" if live => "https://escrow.test".to_owned(),
            "purple_flea_faucet_url" if live => "https://faucet.test".to_owned(),
            "purple_flea_trading_url" if live => "https://trading.test/prefix".to_owned(),
            "purple_flea_trading_key" if live => KEYS[1].0.to_owned(),
            "purple_flea_url" => "https://api.test".to_owned(),
            "purple_flea_workflow_url" => "https://test/api".to_owned(),
            "purple_flea_daily_url" => "https://faucet.test".to_owned(),
            "purple_flea_key" => KEYS[0].0.to_owned(),
            "webhook_token" => "0123456789abcdef".to_owned(),
            _ => return None,
        })
    });
    let claimed_job = to_raw_value(&with_defaults(serde_json::from_str(job).unwrap())).unwrap();
    let read = Job::read(&Object::read(claimed_job.get()).unwrap()).unwrap();
    let Job { reference, idempotency_key, columns, .. } = &read;
    let columns = columns.as_ref().unwrap();
    let task = jobs::decode(columns).unwrap();
    let context = Context {
        purple_flea: &settings.unwrap().purple_flea,
        account: &columns.account,
        idempotency_key,
        deadline: Some(Duration::from_secs(30)),
        good_until: columns.good_for,
        runtime: &purple_flea,
    };
    let outcome = jobs::execute(&task, &context).now_or_never().unwrap();
    assert!(purple_flea.replies.borrow().is_empty(), "the function sent fewer requests than replies: {text}");
    let mut state = format!("{:?}", outcome.state()).to_lowercase();
    if let Some(secret) = outcome.secret() {
        state += &format!(", with a key for the vault: {}", secret.expose());
    }
    format!("job {job}\n{}= {state}\n  {}\n", purple_flea.transcript.take(), outcome.body(reference).get())
}

/// Completes a case's job with defaults to a job as the ledger hands it out.
fn with_defaults(given: Value) -> Value {
    let kind = given["kind"].as_str().unwrap();
    let reference = if kind == "deposit" { "wallet-change-42".to_owned() } else { format!("{kind}-7") };
    let mut job = json!({
        "reference": reference, "idempotency_key": format!("{reference}-0123456789abcdef"), "attempt": 1,
        "row": {"id": 42, "agent_id": "agent-001", "change_type": "deposit", "change_amount": 100, "new_balance": 100},
        "policy": {
            "game": "crash", "cashout_at": 1.5, "side": "heads", "guess": "higher", "market": null, "direction": null, "size": null,
            "leverage": null,
            "check_balance": false, "min_balance": 5, "min_change": 0, "wager_fraction": 0.1, "max_wager": null,
            "risk_factor": 0.25, "daily_wager_limit": null, "daily_loss_limit": null, "paused": false,
        },
    });
    for (name, value) in given.as_object().unwrap() {
        match value {
            Value::Object(more) if name == "policy" => {
                job["policy"].as_object_mut().unwrap().extend(more.clone());
            }
            value => job[name] = value.clone(),
        }
    }
    job
}

/// Parses a case's replies, in order. A reply is a status with headers and a body, or one of three connection errors.
fn replies(text: &str) -> VecDeque<Result<Answer, SendError>> {
    let mut replies = VecDeque::new();
    for part in text.split("\n← ").skip(1) {
        let mut lines = part.lines();
        let head = lines.next().unwrap();
        let reply = match head {
            NO_REPLY => Err(SendError::TimedOut),
            REFUSED => Err(SendError::NotSent("connection_refused")),
            RESET => Err(SendError::Broken("connection_terminated")),
            status => {
                let mut response = http::Response::builder().status(status);
                let mut body = Vec::new();
                for line in lines.map_while(|line| line.strip_prefix("  ")) {
                    match line.split_once(": ") {
                        Some((name, value)) if !line.starts_with(['{', '<', '[']) => {
                            response = response.header(name, value);
                        }
                        _ => body = line.as_bytes().to_vec(),
                    }
                }
                let (head, ()) = response.body(()).unwrap().into_parts();
                Ok(Answer { head, body, whole: true })
            }
        };
        replies.push_back(reply);
    }
    replies
}

/// Gives the replies of a case in order, and writes each request and its reply into a transcript.
struct ScriptedRuntime {
    replies: RefCell<VecDeque<Result<Answer, SendError>>>,
    transcript: RefCell<String>,
}

impl Runtime for ScriptedRuntime {
    async fn send(&self, request: http::Request<Vec<u8>>, _: Limits) -> Result<Answer, SendError> {
        let mut lines = format!("→ {} {}\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            let value = value.to_str().unwrap();
            let key = value.strip_prefix("Bearer ").map(|key| KEYS.iter().find(|(known, _)| *known == key));
            lines += &match key {
                Some(key) => format!("  {name}: {}\n", key.unwrap().1),
                None => format!("  {name}: {value}\n"),
            };
        }
        let body = String::from_utf8(request.into_body()).unwrap();
        if !body.is_empty() {
            lines += &format!("  {body}\n");
        }
        let reply = self.replies.borrow_mut().pop_front().unwrap_or(Err(SendError::TimedOut));
        lines += &match &reply {
            Err(SendError::TimedOut) => format!("← {NO_REPLY}\n"),
            Err(SendError::NotSent(_)) => format!("← {REFUSED}\n"),
            Err(SendError::Broken(_)) => format!("← {RESET}\n"),
            Ok(answer) => {
                let mut text = format!("← {}\n", answer.head.status.as_u16());
                for (name, value) in &answer.head.headers {
                    text += &format!("  {name}: {}\n", value.to_str().unwrap());
                }
                text + &format!("  {}\n", String::from_utf8_lossy(&answer.body))
            }
        };
        *self.transcript.borrow_mut() += &lines;
        reply
    }

    fn now(&self) -> SystemTime {
        humantime::parse_rfc3339("2026-11-21T02:28:00Z").unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _: Duration) {}

    fn random(&self) -> u128 {
        0
    }

    fn log(&self, _: &Line) {}
}
