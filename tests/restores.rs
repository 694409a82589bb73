//! A restore repeats no bet. These tests follow docs/restore.md with the real pg_dump and pg_restore.

use crate::{
    front_door::{assert_problem, reply, soon},
    whole_stack::{
        LOOK_EVERY, NOTIFY_ALL, count, deposit, job, job_in, notify, pass_time, send, sql, start_silent,
    },
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

/// Builds a command for one of PostgreSQL's own programs, which connects as the superuser.
fn program(cluster: &Cluster, name: &str) -> Command {
    let mut command = Command::new(cluster.bin().join(name));
    command.arg("--dbname").arg(cluster.url(SUPERUSER));
    command
}

/// Dumps a cluster's database into a file.
async fn dump(cluster: &Cluster, options: &[&str], file: &Path) -> Result<()> {
    let mut dump = program(cluster, "pg_dump");
    dump.args(["--format=custom", "--no-publications"]).args(options).arg("--file").arg(file);
    process::run(&mut dump).await.map(drop)
}

/// Restores a dump. pg_restore fails for objects that it cannot replace; the callers check the restored rows.
async fn restore(cluster: &Cluster, options: &[&str], file: &Path) -> Result<()> {
    // In a deadlock, Postgres ends the session that checks first. The other session checks after one second.
    program(cluster, "pg_restore")
        .env("PGOPTIONS", "-c deadlock_timeout=5s")
        .args(options)
        .arg(file)
        .output()
        .await?;
    Ok(())
}

/// Makes a backup of three deposits, then executes them, so the backup does not contain their bets.
async fn bets_after_a_backup(options: &[&str]) -> Result<(Local, TempDir, Vec<i64>)> {
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

/// Gives the URL of another database of the same server.
fn beside(url: &str, database: &str) -> String {
    url.rsplit_once('/').map_or_else(String::new, |(server, _)| format!("{server}/{database}"))
}

/// Claims up to ten jobs in a database, and gives the number of claimed jobs.
async fn claimed(cluster: &Cluster, database: &str) -> Result<i64> {
    let url = beside(&cluster.url(OWNER), database);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let claim = "select jsonb_array_length(public.claim_jobs('{}', 10) -> 'jobs')::bigint";
    Ok(client.query_one(claim, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_repeats_no_bet_and_loses_no_deposit() -> Result<()> {
    let (stack, folder, ids) = bets_after_a_backup(&["--schema=public", "--schema=purple_flea"]).await?;
    restore(&stack.cluster, &["--clean", "--if-exists"], &folder.path().join("backup")).await?;
    assert_eq!(job(&stack, ids[0]).await?["state"], "pending", "the restored job must not know its bet");
    let later_deposit = deposit(&stack, "100").await?;

    // PostgREST must first reload its schema.
    let waiting = soon(async {
        loop {
            let reply = notify(&stack, ids[0]).await?;
            if reply.status == 200 {
                return anyhow::Ok(reply);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await??;
    send(&stack, "notification-2", NOTIFY_ALL).await?;
    assert_eq!(
        (&waiting.body["status"], &waiting.body["reason"]),
        (&json!("waiting"), &json!("restore_unconfirmed"))
    );
    assert_eq!(
        stack.purple_flea.bets().len(),
        3,
        "the function bet before an operator confirmed the restore"
    );
    let health = reply(Request::get(format!("{}/health", stack.host.url)).body(vec![])?).await?.body;
    assert_eq!(health["status"], "degraded");
    assert!(
        health["why"].as_array().is_some_and(|why| why.contains(&json!("restore_unconfirmed"))),
        "{health}"
    );

    sql(&stack, "select purple_flea.confirm_restore(why => 'restored from the backup')").await?;
    assert_problem(&notify(&stack, ids[0]).await?, 502, "outcome_unknown", "unknown");
    // The confirmation notifies the function. Its worker may have claimed the job, and then the reply is a conflict.
    soon(async {
        while notify(&stack, later_deposit).await?.body["status"] != "executed" {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await
    .context("a deposit after the restore was not executed")??;
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
    let (stack, folder, _) = bets_after_a_backup(&["--schema=public", "--schema=purple_flea"]).await?;
    let another = Cluster::start().await?;
    // A new project has the functions before it gets the data.
    another.migrate(OWNER).await?;
    restore(&another, &["--clean", "--if-exists"], &folder.path().join("backup")).await?;
    let owner = another.connect(OWNER).await?;
    let jobs = "select count(*) from purple_flea.jobs where state = 'pending'";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 3, "the dump was not restored");
    assert_eq!(claimed(&another, "postgres").await?, 0);
    owner.batch_execute("select purple_flea.confirm_restore(nothing_lost => true, why => 'tested')").await?;
    assert_eq!(claimed(&another, "postgres").await?, 3, "a confirmed restore hands out its jobs");

    let superuser = another.connect(SUPERUSER).await?;
    owner
        .batch_execute("insert into public.wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)")
        .await?;
    drop(owner);
    let disconnect = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postgres' and pid <> pg_backend_pid()";
    superuser.batch_execute(disconnect).await?;
    drop(superuser);
    copy_database(&another).await?;
    assert_eq!(claimed(&another, "beside").await?, 0, "the copy handed out a job");
    assert_eq!(claimed(&another, "postgres").await?, 1, "the original keeps handing out jobs");
    drop(stack);
    Ok(())
}

/// Copies the database to `beside` over a connection to template1. Waits until no other connection uses the database.
async fn copy_database(cluster: &Cluster) -> Result<()> {
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
async fn data_loaded_into_another_installation_causes_no_bet_before_an_operator_confirms_it() -> Result<()> {
    let data = ["--data-only", "--schema=public", "--schema=purple_flea"];
    let (_stack, folder, ids) = bets_after_a_backup(&data).await?;
    let another = Cluster::start().await?;
    another.migrate(OWNER).await?;
    restore(&another, &["--data-only", "--disable-triggers"], &folder.path().join("backup")).await?;
    let owner = another.connect(OWNER).await?;
    let jobs = "select count(*) from purple_flea.jobs where state = 'pending'";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 3, "the data was not loaded");
    assert_eq!(claimed(&another, "postgres").await?, 0);
    let why = "select public.ledger_health() ->> 'why'";
    let why: String = owner.query_one(why, &[]).await?.get(0);
    let reasons: Vec<&str> = serde_json::from_str(&why)?;
    assert!(reasons.contains(&"restore_unconfirmed"), "health gives the reasons {why}");
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
    // Like an import, this restore runs the triggers, so each deposit gets a job.
    restore(&another, &["--data-only"], &folder.path().join("data")).await?;
    let owner = another.connect(OWNER).await?;
    let jobs = "select count(*) from purple_flea.jobs where kind = 'deposit'";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 3);
    owner.batch_execute("select purple_flea.sweep()").await?;
    let stakes = "select count(*) from jsonb_array_elements(public.claim_jobs('{}', 10) -> 'jobs') as j where j ->> 'kind' = 'deposit'";
    assert_eq!(owner.query_one(stakes, &[]).await?.get::<_, i64>(0), 0);
    let listed =
        "select count(*) from purple_flea.stuck_jobs where state = 'skipped' and reason = 'already_traded'";
    assert_eq!(owner.query_one(listed, &[]).await?.get::<_, i64>(0), 3);
    Ok(())
}
