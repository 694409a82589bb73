//! Runs `scripts/migrate`, and reads its results.

use anyhow::{Context, Result};
use serde_json::Value;
use stack::{
    postgres::{Cluster, OWNER, SUPERUSER, path_with},
    process, repository,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

/// A database of its own in a cluster, as hosted Supabase has it.
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Database<'a> {
    /// Copies the cluster's first database. No session may be connected to it.
    pub async fn create(cluster: &'a Cluster, name: &str) -> Result<Self> {
        let database = Self { cluster, name: name.to_owned() };
        let elsewhere = Self { cluster, name: "template1".to_owned() }.connect(SUPERUSER).await?;
        elsewhere.batch_execute(&format!("create database {name} template postgres owner {OWNER}")).await?;
        Ok(database)
    }

    /// Gives the database that the cluster came with.
    pub fn first(cluster: &'a Cluster) -> Self {
        Self { cluster, name: "postgres".to_owned() }
    }

    pub fn url(&self, role: &str) -> String {
        let url = self.cluster.url(role);
        let (server, _) = url.rsplit_once('/').unwrap_or((&url, ""));
        format!("{server}/{}", self.name)
    }

    pub async fn connect(&self, role: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(role), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Applies a file of tests/releases as a role, in one transaction.
    pub async fn apply(&self, role: &str, release: &str) -> Result<()> {
        let sql = std::fs::read_to_string(repository().join("tests/releases").join(release))?;
        let client = self.connect(role).await?;
        client.batch_execute("set client_min_messages = warning").await?;
        client.batch_execute(&format!("begin; {sql}; commit")).await.context(release.to_owned())
    }

    /// Makes the command for `scripts/migrate` of this repository.
    pub fn migrate(&self) -> Result<Command> {
        self.migrate_from(repository())
    }

    /// Makes the command for `scripts/migrate` of another checkout.
    pub fn migrate_from(&self, checkout: &Path) -> Result<Command> {
        let mut command = Command::new(checkout.join("scripts/migrate"));
        command.env("DATABASE_URL", self.url(OWNER)).env("PATH", path_with(self.cluster.bin())?);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Dumps the whole schema, without the lines that change from run to run.
    pub async fn schema(&self) -> Result<String> {
        let mut dump = Command::new(self.cluster.bin().join("pg_dump"));
        let dump = process::run(dump.arg("--schema-only").arg(self.url(OWNER))).await?;
        let noise = |line: &&str| !line.is_empty() && !line.starts_with("--") && !line.starts_with('\\');
        Ok(dump.lines().filter(noise).collect::<Vec<_>>().join("\n"))
    }

    /// Reads every row of every table of ours, as JSON, by the table's name.
    pub async fn rows(&self) -> Result<BTreeMap<String, Vec<Value>>> {
        let superuser = self.connect(SUPERUSER).await?;
        let tables = "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'purple_flea')";
        let mut rows = BTreeMap::new();
        for table in superuser.query(tables, &[]).await? {
            let table: String = table.get(0);
            let json = format!("select to_jsonb(t)::text from {table} as t order by 1");
            let of_table = superuser.query(&json, &[]).await?;
            let of_table: Vec<Value> =
                of_table.iter().map(|row| serde_json::from_str(row.get(0))).collect::<Result<_, _>>()?;
            rows.insert(table, of_table);
        }
        Ok(rows)
    }
}

/// The exit status and the output of a run.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Parses the output of `--json`.
    pub fn json(&self) -> Result<Value> {
        assert_eq!(self.code, Some(0), "{self:?}");
        Ok(serde_json::from_str(&self.stdout)?)
    }
}

/// Runs a command to its end, and accepts any exit status.
pub async fn run(command: &mut Command) -> Result<Said> {
    let Output { status, stdout, stderr } = command.output().await?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: status.code(), stdout: text(&stdout), stderr: text(&stderr) })
}

/// A changeable copy of the files that `scripts/migrate` consists of.
pub struct Checkout {
    folder: TempDir,
}

impl Checkout {
    pub async fn copy() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut copy = Command::new("cp");
        copy.current_dir(repository()).arg("-R").args(["sql", "scripts", "Cargo.toml"]).arg(folder.path());
        process::run(&mut copy).await?;
        Ok(Self { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
