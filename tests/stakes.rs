//! The ledger reserves the stake that the function computes: `tests/cases/stakes.json` says how much, and both are held to it.
//!
//! A case has a `policy` (what differs from the defaults), a `deposit`, perhaps what was `spent` on the day, and what the
//! function decides: a `stake`, or why it stakes nothing (`skip`, `wait`). The ledger decides nothing. It reserves the
//! `stake`, or what is `reserved`, where it makes a job at all.

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use stack::{
    postgres::{Cluster, OWNER},
    repository,
};
use std::collections::BTreeMap;

/// Jobs of one claim.
const CLAIM_MOST: usize = 100;

/// The names and values of an object whose values are strings, as SQL.
fn columns(object: &Map<String, Value>) -> Result<(String, String)> {
    let (mut names, mut values) = (String::new(), String::new());
    for (name, value) in object {
        names += &format!(", {name}");
        values += &format!(", '{}'", value.as_str().with_context(|| format!("{name} is no string"))?);
    }
    Ok((names, values))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_reserves_what_the_function_stakes() -> Result<()> {
    let cases = std::fs::read_to_string(repository().join("tests/cases/stakes.json"))?;
    let cases: Vec<Value> = serde_json::from_str(&cases)?;
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
