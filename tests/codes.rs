//! SQL and Rust spell every code alike: the kinds of jobs, the states, the refusals and the reasons.

use anyhow::Result;
use purple_flea_edge::{
    domain::{
        job::{Kind, RequestKind, State},
        reason::{RetryReason, SkipReason},
    },
    http::problem::{Problem, code::Code},
};
use stack::postgres::{Cluster, OWNER};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// States that only the ledger gives a job: a claim makes it `claimed`, and the sweeper makes it `dead`.
const STATES_OF_THE_LEDGER: [&str; 2] = ["claimed", "dead"];

/// Refusals of a request that the function never meets, because it checks the request first.
const CHECKED_BEFORE: [&str; 3] = ["invalid_bet", "invalid_order", "unknown_kind"];

/// Refusals of a workflow's step, which become errors of the step (`src/workflows/money.rs`).
const OF_A_STEP: [&str; 4] = ["escrow_taken", "invalid_escrow", "under_way", "unknown_counterparty"];

/// Reasons that the ledger gives a job itself.
const REASONS_OF_THE_LEDGER: [&str; 11] = [
    "abandoned",
    "agents_key_malformed",
    "agents_key_unreadable",
    "already_traded",
    "closed_by_operator",
    "done_before",
    "lease_ran_out",
    "missed",
    "released",
    "restored",
    "run_ended",
];

async fn migrated() -> Result<(Cluster, Client)> {
    let cluster = Cluster::start().await?;
    cluster.migrate(OWNER).await?;
    let owner = cluster.connect(OWNER).await?;
    Ok((cluster, owner))
}

async fn texts(owner: &Client, query: &str) -> Result<BTreeSet<String>> {
    Ok(owner.query(query, &[]).await?.iter().map(|row| row.get(0)).collect())
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_and_the_function_know_the_same_kinds_of_jobs() -> Result<()> {
    let (_cluster, owner) = migrated().await?;
    let kinds = RequestKind::ALL.into_iter().map(Kind::Requested).chain([Kind::Deposit]);
    let ours = set(kinds.map(Kind::name));
    assert_eq!(texts(&owner, "select kind from purple_flea.job_kinds").await?, ours);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_and_the_function_know_the_same_states() -> Result<()> {
    let (_cluster, owner) = migrated().await?;
    let theirs = "select m[1] from pg_constraint c, regexp_matches(pg_get_constraintdef(c.oid), '''(\\w+)''', 'g') as m \
                  where c.conrelid = 'purple_flea.jobs'::regclass and c.conname = 'jobs_state_check'";
    let states = [State::Pending, State::Executed, State::Skipped, State::Rejected, State::Unknown];
    let ours = set(states.into_iter().map(State::name).chain(STATES_OF_THE_LEDGER));
    assert_eq!(texts(&owner, theirs).await?, ours);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_the_ledger_becomes_a_problem() -> Result<()> {
    let (_cluster, owner) = migrated().await?;
    let refusals = "select distinct m[1] from pg_proc p, regexp_matches(p.prosrc, 'refused(?:\\(|'', )''(\\w+)''', 'g') as m \
                    where p.pronamespace in ('purple_flea'::regnamespace, 'public'::regnamespace)";
    let refusals = texts(&owner, refusals).await?;
    assert!(refusals.len() >= 10, "only {refusals:?}");
    for code in &refusals {
        let problem = Problem::of_request(code).or_else(|| Problem::of_operation(code, String::new()));
        match problem {
            Some(problem) => assert_eq!(problem.code(), code),
            None if OF_A_STEP.contains(&code.as_str()) => {}
            None => assert!(CHECKED_BEFORE.contains(&code.as_str()), "the function does not know `{code}`"),
        }
    }
    for code in CHECKED_BEFORE.into_iter().chain(OF_A_STEP) {
        assert!(refusals.contains(code), "the ledger never refuses with `{code}`");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_decides_by_no_reason_that_neither_side_gives() -> Result<()> {
    let (_cluster, owner) = migrated().await?;
    let compared = "select distinct w[1] from pg_proc p, \
                    regexp_matches(p.prosrc, '\\mreason\\s*(?:=|<>|in|not in)\\s*(\\(?(?:''\\w+''[\\s,]*)+)', 'g') as m, \
                    regexp_matches(m[1], '''(\\w+)''', 'g') as w \
                    where p.pronamespace in ('purple_flea'::regnamespace, 'public'::regnamespace)";
    let compared = texts(&owner, compared).await?;
    assert!(compared.len() >= 10, "only {compared:?}");
    let mut given = set(REASONS_OF_THE_LEDGER);
    given.extend(SkipReason::ALL.into_iter().map(|reason| reason.name().to_owned()));
    given.extend(RetryReason::ALL.into_iter().map(|reason| reason.name().to_owned()));
    given.extend(Code::ALL.iter().map(|code| code.row().name.to_owned()));
    let unknown: Vec<_> = compared.difference(&given).collect();
    assert!(unknown.is_empty(), "no reason is called {unknown:?}");
    Ok(())
}
