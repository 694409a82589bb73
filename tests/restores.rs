//! A restore bets on nothing again: docs/restore.md, tried as it is written, with the real pg_dump and pg_restore.

use crate::{
    front_door::{assert_problem, reply, soon},
    whole_stack::{LOOK_EVERY, count, deposit, job, job_in, notify, pass_time, send, sql, start_silent},
};
use anyhow::{Context, Result};
use http::Request;
use serde_json::json;
use stack::{
    local::Local,
    postgres::{Cluster, OWNER, SUPERUSER},
    process,
};
use std::path::Path;
use tempfile::TempDir;
use tokio::process::Command;

/// One of PostgreSQL's own programs, as the superuser.
fn program(cluster: &Cluster, name: &str) -> Command {
    let mut command = Command::new(cluster.bin().join(name));
    command.arg("--dbname").arg(cluster.url(SUPERUSER));
    command
}

/// Writes a dump of our schemas.
async fn dump(cluster: &Cluster, options: &[&str], file: &Path) -> Result<()> {
    let mut dump = program(cluster, "pg_dump");
    dump.args(["--format=custom", "--no-publications"]).args(options).arg("--file").arg(file);
    process::run(&mut dump).await.map(drop)
}

/// Restores a dump. What is there once and for all stays as it is, and pg_restore says so: that is no reason to fail.
async fn restore(cluster: &Cluster, options: &[&str], file: &Path) -> Result<()> {
    // In a deadlock with a neighbour, Postgres ends the session that looks for it first: the neighbour's, after a second.
    program(cluster, "pg_restore")
        .env("PGOPTIONS", "-c deadlock_timeout=5s")
        .args(options)
        .arg(file)
        .output()
        .await?;
    Ok(())
}

/// Three deposits, dumped, then bet on: what a backup does not know.
async fn bet_since_the_backup(options: &[&str]) -> Result<(Local, TempDir, Vec<i64>)> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(deposit(&stack, "100").await?);
    }
    let folder = tempfile::tempdir()?;
    dump(&stack.cluster, options, &folder.path().join("backup")).await?;
    assert_eq!(send(&stack, "notification-1", NOTIFY_ALL).await?.body["jobs"], 3);
    assert_eq!(stack.purple_flea.bets().len(), 3);
    Ok((stack, folder, ids))
}

/// The URL of another database of the same server.
fn beside(url: &str, database: &str) -> String {
    url.rsplit_once('/').map_or_else(String::new, |(server, _)| format!("{server}/{database}"))
}

/// How many jobs a claim on a database takes.
async fn claimed(cluster: &Cluster, database: &str) -> Result<i64> {
    let url = beside(&cluster.url(OWNER), database);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let claim = "select jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs')::bigint";
    Ok(client.query_one(claim, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_repeats_no_bet_and_loses_no_deposit() -> Result<()> {
    let (stack, folder, ids) = bet_since_the_backup(&["--schema=public", "--schema=purple_flea"]).await?;
    restore(&stack.cluster, &["--clean", "--if-exists"], &folder.path().join("backup")).await?;
    assert_eq!(job(&stack, ids[0]).await?["state"], "pending", "the restore has forgotten its bet");
    let since = deposit(&stack, "100").await?;

    // PostgREST finds the functions anew.
    let told = soon(async {
        loop {
            let told = notify(&stack, ids[0]).await?;
            if told.status == 200 {
                return anyhow::Ok(told);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await??;
    send(&stack, "notification-2", NOTIFY_ALL).await?;
    assert_eq!(
        (&told.body["status"], &told.body["reason"]),
        (&json!("waiting"), &json!("restore_unconfirmed"))
    );
    assert_eq!(stack.purple_flea.bets().len(), 3, "a stake before the operator's word");
    let health = reply(Request::get(format!("{}/health", stack.host.url)).body(vec![])?).await?.body;
    assert_eq!(health["status"], "degraded");
    assert!(
        health["why"].as_array().is_some_and(|why| why.contains(&json!("restore_unconfirmed"))),
        "{health}"
    );

    sql(&stack, "select purple_flea.confirm_restore(why => 'restored from the backup')").await?;
    assert_problem(&notify(&stack, ids[0]).await?, 502, "outcome_unknown", "unknown");
    // The operator's word rings. The worker that comes may have the job already: until it is done, the answer is a conflict.
    soon(async {
        while notify(&stack, since).await?.body["status"] != "executed" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await
    .context("what came since the restore goes on")??;
    for id in &ids {
        pass_time(&stack, *id, "104 seconds").await?;
    }
    send(&stack, "notification-3", NOTIFY_ALL).await?;
    for id in &ids {
        assert_eq!(job_in(&stack, *id, "executed").await?["reason"], "found_in_history");
    }
    assert_eq!(stack.purple_flea.bets().len(), 4);
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 4);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_releases_all_restored_bets_that_no_look_up_found_with_one_call() -> Result<()> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(deposit(&stack, "100").await?);
    }
    sql(&stack, "select purple_flea.declare_restore('a snapshot'); select purple_flea.confirm_restore(why => 'a snapshot')")
        .await?;
    for id in &ids {
        pass_time(&stack, *id, "104 seconds").await?;
    }
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    assert_eq!(job(&stack, ids[0]).await?["reason"], "not_found");
    assert_eq!(count(&stack, "select purple_flea.release_restored('checked by hand')::bigint").await?, 3);
    send(&stack, "notification-2", NOTIFY_ALL).await?;
    for id in &ids {
        job_in(&stack, *id, "executed").await?;
    }
    assert_eq!(stack.purple_flea.bets().len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_in_another_cluster_and_a_copied_database_hand_out_no_stake() -> Result<()> {
    let (stack, folder, _) = bet_since_the_backup(&["--schema=public", "--schema=purple_flea"]).await?;
    let another = Cluster::start().await?;
    // As a new project has them before its data comes.
    another.migrate(OWNER).await?;
    restore(&another, &["--clean", "--if-exists"], &folder.path().join("backup")).await?;
    let owner = another.connect(OWNER).await?;
    let jobs = "select count(*) from purple_flea.jobs where state = 'pending'";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 3, "the dump was not restored");
    assert_eq!(claimed(&another, "postgres").await?, 0);
    owner.batch_execute("select purple_flea.confirm_restore(nothing_lost => true, why => 'tested')").await?;
    assert_eq!(claimed(&another, "postgres").await?, 3, "and with the operator's word it does");

    let superuser = another.connect(SUPERUSER).await?;
    owner
        .batch_execute("insert into public.wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)")
        .await?;
    drop(owner);
    let copy = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postgres' and pid <> pg_backend_pid()";
    superuser.batch_execute(copy).await?;
    drop(superuser);
    copied(&another).await?;
    assert_eq!(claimed(&another, "beside").await?, 0);
    assert_eq!(claimed(&another, "postgres").await?, 1, "the original goes on");
    drop(stack);
    Ok(())
}

/// Copies the database beside itself, from another one, as soon as no connection is left to it.
async fn copied(cluster: &Cluster) -> Result<()> {
    let url = beside(&cluster.url(SUPERUSER), "template1");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    soon(async {
        while let Err(error) = client.batch_execute("create database beside template postgres").await {
            let in_use = error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE);
            anyhow::ensure!(in_use, "{error:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn data_loaded_into_another_installation_causes_no_bet_before_an_operator_confirms_it() -> Result<()>
{
    let data = ["--data-only", "--schema=public", "--schema=purple_flea"];
    let (_stack, folder, ids) = bet_since_the_backup(&data).await?;
    let another = Cluster::start().await?;
    another.migrate(OWNER).await?;
    restore(&another, &["--data-only", "--disable-triggers"], &folder.path().join("backup")).await?;
    let owner = another.connect(OWNER).await?;
    let jobs = "select count(*) from purple_flea.jobs where state = 'pending'";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 3, "the data was not loaded");
    assert_eq!(claimed(&another, "postgres").await?, 0);
    let why = "select public.ledger_health() -> 'why' ? 'restore_unconfirmed'";
    assert!(owner.query_one(why, &[]).await?.get::<_, bool>(0));
    owner.batch_execute("select purple_flea.confirm_restore(why => 'tested')").await?;
    let unknown = "select count(*) from purple_flea.jobs where state = 'unknown' and changed_by = 'restore'";
    assert_eq!(owner.query_one(unknown, &[]).await?.get::<_, i64>(0), i64::try_from(ids.len())?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deposits_loaded_with_their_results_cause_no_second_bet() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    for _ in 0..3 {
        let id = deposit(&stack, "100").await?;
        notify(&stack, id).await?;
    }
    let folder = tempfile::tempdir()?;
    dump(&stack.cluster, &["--data-only", "--schema=public"], &folder.path().join("data")).await?;
    let another = Cluster::start().await?;
    another.migrate(OWNER).await?;
    // With the triggers, as an import runs them: each deposit gets a job.
    restore(&another, &["--data-only"], &folder.path().join("data")).await?;
    let owner = another.connect(OWNER).await?;
    let jobs = "select count(*) from purple_flea.jobs where kind = 'deposit'";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 3);
    owner.batch_execute("select purple_flea.ring()").await?;
    let stakes = "select count(*) from jsonb_array_elements(public.claim_jobs('{}', 10) -> 'jobs') as j where j ->> 'kind' = 'deposit'";
    assert_eq!(owner.query_one(stakes, &[]).await?.get::<_, i64>(0), 0);
    let listed =
        "select count(*) from purple_flea.stuck_jobs where state = 'skipped' and reason = 'already_traded'";
    assert_eq!(owner.query_one(listed, &[]).await?.get::<_, i64>(0), 3);
    Ok(())
}
