//! The ledger reserves the stake that the function computes. Both must agree with `tests/cases/stakes.json`.
//!
//! A case has a `policy` (its differences from the defaults), a `deposit`, in some cases the day's `spent`, and the
//! function's decision. The decision is a `stake`, or the reason for none (`skip`, `wait`). The ledger decides nothing.
//! If it makes a job, it reserves the `stake`, or `reserved` if the case has that.

use anyhow::{Context, Result, bail};
use purple_flea_edge::{
    domain::reason::Hold,
    jobs::{self, Task},
    ledger::{job::Job, object::Object},
};
use serde_json::{Map, Value, json};
use stack::{
    postgres::{Cluster, OWNER},
    repository,
};
use std::collections::BTreeMap;

/// Jobs of one claim.
const CLAIM_MOST: usize = 100;

fn cases() -> Result<Vec<Value>> {
    let cases = std::fs::read_to_string(repository().join("tests/cases/stakes.json"))?;
    Ok(serde_json::from_str(&cases)?)
}

/// Makes a claimed job of a case, as the ledger hands it out under this policy.
fn claimed(case: &Value) -> Result<Value> {
    let mut job = json!({
        "reference": "wallet-change-1", "idempotency_key": "wallet-change-1-0123456789abcdef", "attempt": 1, "kind": "deposit",
        "row": {"id": 1, "agent_id": "agent-001", "change_type": "deposit"},
        "policy": {
            "game": "crash", "cashout_at": "1.5", "side": "heads", "guess": "higher", "market": null, "direction": "long", "size": null,
            "check_balance": false, "min_balance": "5", "min_change": "0", "wager_fraction": "0.1", "max_wager": null,
            "risk_factor": 0.25, "daily_wager_limit": null, "daily_loss_limit": null, "paused": false,
        },
    });
    for (into, from) in [("policy", &case["policy"]), ("row", &case["deposit"])] {
        let given = from.as_object().with_context(|| format!("{into} is missing"))?.clone();
        job[into].as_object_mut().context("no object")?.extend(given);
    }
    // Postgres writes numerics as numbers.
    let wager_fraction = job["policy"]["wager_fraction"].as_str().context("no fraction")?.parse()?;
    job["policy"]["wager_fraction"] = Value::Number(wager_fraction);
    if let Some(spent) = case["spent"].as_object() {
        for (name, amount) in spent {
            job["spent"][name] = Value::Number(amount.as_str().context("no amount")?.parse()?);
        }
    }
    Ok(job)
}

#[test]
fn the_function_computes_each_cases_stake_or_reason() -> Result<()> {
    let cases = cases()?;
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    for case in &cases {
        let text = claimed(case)?.to_string();
        let read = |text| Job::read(&Object::read(text).ok()?).ok()?.columns.as_ref().and_then(jobs::decode);
        let Some(Task::Deposit(task)) = read(&text) else { bail!("{} is not read", case["name"]) };
        let (key, value) = match task.policy.decide(&task.row, task.spent.as_ref()) {
            Ok(stake) => ("stake", stake.amount().to_string()),
            Err(Hold::Skip(reason)) => ("skip", reason.name().to_owned()),
            Err(Hold::Retry(reason)) => ("wait", reason.name().to_owned()),
        };
        assert_eq!(case[key], value, "{}: {key}", case["name"]);
    }
    Ok(())
}

/// Writes the names and the values of an object of strings as SQL.
fn columns(object: &Map<String, Value>) -> Result<(String, String)> {
    let (mut names, mut values) = (String::new(), String::new());
    for (name, value) in object {
        names += &format!(", {name}");
        values += &format!(", '{}'", value.as_str().with_context(|| format!("{name} is no string"))?);
    }
    Ok((names, values))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_reserves_the_functions_stake() -> Result<()> {
    let cases = cases()?;
    assert!((1..=CLAIM_MOST).contains(&cases.len()), "one claim takes all of them");
    let cluster = Cluster::start().await?;
    cluster.migrate(OWNER).await?;
    let owner = cluster.connect(OWNER).await?;
    owner
        .batch_execute(
            "set client_min_messages = error; update purple_flea.trade_policies set claim_faucet = false where agent_id is null",
        )
        .await?;
    for (n, case) in cases.iter().enumerate() {
        let (names, values) = columns(case["policy"].as_object().context("a case has no policy")?)?;
        let mut deposit = case["deposit"].as_object().context("a case has no deposit")?.clone();
        deposit.entry("change_type").or_insert_with(|| "deposit".into());
        let (deposit_names, deposit_values) = columns(&deposit)?;
        let agent = format!(
            "insert into public.agents (id) values ('case-{n}'); \
             insert into purple_flea.trade_policies (agent_id{names}) values ('case-{n}'{values}); \
             insert into public.wallet_changes (agent_id{deposit_names}) values ('case-{n}'{deposit_values})"
        );
        owner.batch_execute(&agent).await.with_context(|| case["name"].to_string())?;
    }

    let claim = format!("select public.claim_jobs('{{}}', {CLAIM_MOST}, protocol => 2)::text");
    let claimed: Value = serde_json::from_str(owner.query_one(&claim, &[]).await?.get(0))?;
    let jobs = claimed["jobs"].as_array().context("a claim has no jobs")?;
    let reserved: BTreeMap<&str, String> = jobs
        .iter()
        .filter_map(|job| Some((job["row"]["agent_id"].as_str()?, job["stake"].to_string())))
        .collect();
    for (n, case) in cases.iter().enumerate() {
        let wanted = case.get("stake").unwrap_or(&case["reserved"]).as_str();
        // The column has four digits, a stake two.
        let wanted = wanted.map(|stake| format!("{stake}00"));
        assert_eq!(reserved.get(format!("case-{n}").as_str()), wanted.as_ref(), "{}", case["name"]);
        let decided = ["stake", "skip", "wait"].iter().filter(|key| case[**key].is_string()).count();
        assert_eq!(decided, 1, "{} is decided in one way", case["name"]);
    }
    Ok(())
}
