//! The database's promises, in pgTAP, by `pg_prove`: as the superuser on a database that the owner migrated.

use anyhow::Result;
use stack::{
    postgres::{Cluster, OWNER, SUPERUSER, path_with},
    process, repository,
};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn the_database_keeps_its_promises() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.migrate(OWNER).await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute("create schema tap; create extension pgtap with schema tap; grant usage on schema tap to public; alter database postgres set search_path = public, tap").await?;
    let mut prove = Command::new("pg_prove");
    prove.current_dir(repository()).env("PATH", path_with(cluster.bin())?).args(["--verbose", "--dbname"]);
    prove.arg(cluster.url(SUPERUSER)).args(["--ext", ".sql", "--recurse", "tests/sql"]);
    let said = process::run(&mut prove).await?;
    println!("{}", said.lines().rev().take(3).collect::<Vec<_>>().join("\n"));
    Ok(())
}
