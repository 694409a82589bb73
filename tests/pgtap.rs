//! The database's promises, in pgTAP. `pg_prove` runs them as the superuser on a database that the owner migrated, with the
//! optional parts. The other tests have a database without them.

use crate::asyncapi;
use anyhow::{Context, Result};
use serde_json::Value;
use stack::{
    postgres::{Cluster, OWNER, SUPERUSER, path_with},
    process, repository,
};
use std::collections::BTreeSet;
use tokio::process::Command;
use tokio_postgres::Client;

/// Copies each event of the feed into the server's log, which a rolled back transaction reaches, too. Rows that a test
/// inserts by hand have no tenant in their payload.
const LOG_EVENTS: &str = "create function tap.log_event() returns trigger language plpgsql as \
    $$ begin raise log 'event fired: %', new.payload; return null; end $$; \
    create trigger log_event after insert on public.frame_events for each row \
    when (new.payload @> jsonb_build_object('type', new.type, 'tenant_id', new.tenant_id)) execute function tap.log_event()";

/// Checks each event that the tests have fired against docs/asyncapi.json, and gives the types of all of them. The events
/// that a test makes up for the feed itself begin with `test.`.
fn fired(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let log = std::fs::read_to_string(cluster.log_path())?;
    let mut types = BTreeSet::new();
    for (_, event) in log.lines().filter_map(|line| line.split_once("LOG:  event fired: ")) {
        let event: Value = serde_json::from_str(event)?;
        let name = event["type"].as_str().context("an event has no type")?;
        if !name.starts_with("test.") {
            asyncapi::check(&event)?;
            types.insert(name.to_owned());
        }
    }
    Ok(types)
}

/// Checks each message to an owner that tests/sql/083_tell_owners.sql has logged, and counts them.
fn told(cluster: &Cluster) -> Result<usize> {
    let log = std::fs::read_to_string(cluster.log_path())?;
    let messages = log.lines().filter_map(|line| line.split_once("LOG:  results told: "));
    let mut checked = 0;
    for (_, message) in messages {
        asyncapi::check_results(&serde_json::from_str(message)?)?;
        checked += 1;
    }
    Ok(checked)
}

/// Checks each signal that tests/sql/162_signal_answers.sql has logged, and counts them.
fn signalled(cluster: &Cluster) -> Result<usize> {
    let log = std::fs::read_to_string(cluster.log_path())?;
    let mut checked = 0;
    for (_, message) in log.lines().filter_map(|line| line.split_once("LOG:  signal told: ")) {
        asyncapi::check_signal(&serde_json::from_str(message)?)?;
        checked += 1;
    }
    Ok(checked)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_keeps_its_promises() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.migrate_with(OWNER, &["--with", "frames"]).await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute("create schema tap; create extension pgtap with schema tap; grant usage on schema tap to public; alter database postgres set search_path = public, tap").await?;
    superuser.batch_execute(LOG_EVENTS).await?;
    let mut prove = Command::new("pg_prove");
    prove.current_dir(repository()).env("PATH", path_with(cluster.bin())?).args(["--verbose", "--dbname"]);
    prove.arg(cluster.url(SUPERUSER)).args(["--ext", ".sql", "--recurse", "tests/sql"]);
    let said = process::run(&mut prove).await?;
    println!("{}", said.lines().rev().take(3).collect::<Vec<_>>().join("\n"));
    let listed = superuser.query("select type from public.event_types", &[]).await?;
    let listed: BTreeSet<String> = listed.iter().map(|row| row.get(0)).collect();
    assert_eq!(fired(&cluster)?, listed, "the tests fire an event of each type");
    assert!(told(&cluster)? > 5, "the tests log the messages to owners");
    assert!(signalled(&cluster)? >= 2, "the tests log the signals to owners");
    Ok(())
}

/// Runs each SQL statement of a page in a transaction of its own, and counts them.
async fn type_in(owner: &Client, page: &str) -> Result<usize> {
    let text = std::fs::read_to_string(repository().join(page))?;
    let mut ran = 0;
    for block in text.split("```sql").skip(1).filter_map(|rest| rest.split("```").next()) {
        // The block has a placeholder for the reader's own secret.
        if block.contains("set_secret") {
            continue;
        }
        let text: String =
            block.lines().map(|line| line.split("--").next().unwrap_or_default().to_owned() + "\n").collect();
        for statement in text.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            owner.batch_execute("begin").await?;
            owner
                .batch_execute(statement)
                .await
                .map_err(|error| anyhow::anyhow!("{page}: {statement}: {error:?}"))?;
            owner.batch_execute("rollback").await?;
            ran += 1;
        }
    }
    Ok(ran)
}

/// Runs every SQL statement that the documents give an operator: those for a new installation on one, the others on
/// jobs that are unknown.
#[tokio::test(flavor = "multi_thread")]
async fn every_statement_that_the_documents_give_operators_works() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.migrate(OWNER).await?;
    let owner = cluster.connect(OWNER).await?;
    owner.batch_execute("set client_min_messages = error").await?;
    let mut ran = type_in(&owner, "docs/deploy/supabase.md").await?;
    let unknown = "update purple_flea.trade_policies set claim_faucet = false; insert into public.agents (id) values ('agent-001'), ('agent-007'); \
        insert into public.wallet_changes (id, agent_id, change_type, new_balance) values (42, 'agent-001', 'deposit', 100); \
        insert into public.escrow_requests (id, sender_id, receiver_id, amount) values (42, 'agent-001', 'agent-007', 10)";
    let order = r#"select public.request_job('order', 'order-42', '{"agent_id": "agent-001", "market": "BTC", "direction": "long", "size": 25}')"#;
    let claimed = "select public.claim_jobs('{order-42}', 3); \
        update purple_flea.jobs set lease_until = clock_timestamp() - interval '2 minutes'; select purple_flea.expire(false);";
    owner.batch_execute(unknown).await?;
    owner.batch_execute(order).await?;
    owner.batch_execute(claimed).await?;
    for page in ["README.md", "docs/operations.md", "docs/services.md"] {
        ran += type_in(&owner, page).await?;
    }
    assert!(ran >= 20, "only {ran} statements were found");
    Ok(())
}
