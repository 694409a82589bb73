//! The other ways: files for `supabase db push`, and the uninstallation.

use super::{
    assert_same,
    migration::{Checkout, Database, Said, run},
};
use anyhow::{Context, Result};
use serde_json::json;
use stack::{
    postgres::{Cluster, OWNER, SUPERUSER},
    repository,
};
use std::{collections::BTreeMap, path::Path};
use tempfile::TempDir;
use tokio::process::Command;

/// The parts of Supabase's Realtime that this project uses.
const REALTIME: &str = include_str!("../stack/src/realtime.sql");

/// Writes the file for `supabase db push` into a folder.
pub async fn supabase(checkout: &Path, folder: &TempDir, options: &[&str]) -> Result<serde_json::Value> {
    let mut command = Command::new(checkout.join("scripts/migrate"));
    run(command.arg("--supabase").arg(folder.path()).arg("--json").args(options)).await?.json()
}

/// Applies every file of a folder as the Supabase CLI does: in the order of their names, statement by statement.
pub async fn push(folder: &TempDir, database: &Database<'_>) -> Result<usize> {
    let mut files: Vec<_> = std::fs::read_dir(folder.path())?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let owner = database.connect(OWNER).await?;
    let mut statements = 0;
    for file in files {
        let sql = std::fs::read_to_string(&file)?;
        owner.batch_execute("begin").await?;
        for statement in split(&sql) {
            owner
                .execute(statement, &[])
                .await
                .with_context(|| statement.chars().take(200).collect::<String>())?;
            statements += 1;
        }
        owner.batch_execute("commit; reset all").await?;
    }
    Ok(statements)
}

/// Splits a file into its statements, at semicolons outside quotes and comments.
fn split(sql: &str) -> Vec<&str> {
    let (mut statements, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        let skipped = |end: &str, from: usize| {
            rest.get(from..)
                .and_then(|rest| rest.find(end))
                .map_or(rest.len(), |found| from + found + end.len())
        };
        at += match rest.as_bytes() {
            [b'-', b'-', ..] => skipped("\n", 0),
            [b'\'', ..] => skipped("'", 1),
            [b'$', ..] => {
                let tag = rest
                    .get(1..)
                    .and_then(|rest| rest.find('$'))
                    .map_or("$", |end| rest.get(..end + 2).unwrap_or("$"));
                skipped(tag, tag.len())
            }
            [b';', ..] => {
                statements.push(sql.get(start..at).unwrap_or_default());
                start = at + 1;
                1
            }
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    statements
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_for_supabase_make_the_same_database_and_both_ways_may_be_mixed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let fresh = Database::create(&cluster, "fresh").await?;
    run(&mut fresh.migrate()?).await?.json().ok();
    let (pushed, mixed) =
        (Database::create(&cluster, "pushed").await?, Database::create(&cluster, "mixed").await?);

    let folder = tempfile::tempdir()?;
    let first = supabase(repository(), &folder, &[]).await?;
    assert_eq!(first["changed"], true);
    assert_eq!(supabase(repository(), &folder, &[]).await?["changed"], false);
    let file = first["file"].as_str().context("no file")?;
    let sql = std::fs::read_to_string(file)?;
    assert!(!sql.to_lowercase().contains("index concurrently"), "{file}");
    assert!(!sql.lines().any(|line| line.starts_with('\\')), "{file}");

    assert!(push(&folder, &pushed).await? > 20);
    assert_same("pushed", &fresh.schema().await?, &pushed.schema().await?);
    let nothing = run(pushed.migrate()?.arg("--json")).await?.json()?;
    assert_eq!(nothing["changed"], false, "{nothing}");

    // A later release adds a file with its new parts. A database that has them already skips that file.
    let checkout = Checkout::copy().await?;
    let manifest = std::fs::read_to_string(checkout.file("Cargo.toml"))?;
    let version = manifest.lines().find(|line| line.starts_with("version = ")).context("no version")?;
    std::fs::write(checkout.file("Cargo.toml"), manifest.replacen(version, "version = \"9.9.0\"", 1))?;
    std::fs::write(checkout.file("sql/migrations/9990_more.sql"), "create table purple_flea.more (id int);")?;
    std::fs::write(
        checkout.file("sql/migrations/9991_more.online.sql"),
        "create index concurrently if not exists more_idx on purple_flea.more (id);",
    )?;
    let second = supabase(checkout.path(), &folder, &[]).await?;
    let sql = std::fs::read_to_string(second["file"].as_str().context("no file")?)?;
    assert!(sql.contains("create index if not exists more_idx"), "{second}");
    assert!(
        !sql.contains("create table purple_flea_wanted.agents"),
        "what the first file has is written again"
    );
    let migrated = run(mixed.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!(migrated["changed"], true);
    let schema = mixed.schema().await?;
    push(&folder, &mixed).await?;
    assert_same("mixed", &schema, &mixed.schema().await?);
    push(&folder, &pushed).await?;
    assert_same("pushed twice", &schema, &pushed.schema().await?);
    let nothing = run(pushed.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!((&nothing["changed"], &nothing["release"]), (&json!(false), &json!("9.9.0")), "{nothing}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_names_each_dropped_object_and_leaves_the_public_tables_plain() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    database.connect(SUPERUSER).await?.batch_execute(REALTIME).await?;
    run(&mut database.migrate()?).await?;
    let owner = database.connect(OWNER).await?;
    owner
        .batch_execute(
            "insert into agents (id) values ('a'); insert into wallet_changes (agent_id, change_type, new_balance) values ('a', 'deposit', 9)",
        )
        .await?;
    let (schema, rows) = (database.schema().await?, database.rows().await?);
    let asked = run(database.migrate()?.arg("--uninstall")).await?;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert_same("without --yes", &schema, &database.schema().await?);
    let named = "select format('drop trigger %s on %s.%s', t.tgname, n.nspname, c.relname) from pg_trigger t join pg_class c on c.oid = t.tgrelid \
                 join pg_namespace n on n.oid = c.relnamespace where not t.tgisinternal \
                 union all select 'drop function ' || oid::regprocedure from pg_proc where pronamespace in ('purple_flea'::regnamespace, 'public'::regnamespace) \
                 union all select format('drop view %s.%s', schemaname, viewname) from pg_views where schemaname in ('purple_flea', 'public') \
                 union all select 'drop table purple_flea.' || tablename from pg_tables where schemaname = 'purple_flea' \
                 union all select format('drop table %s from publication', tablename) from pg_publication_tables \
                 union all select format('drop policy %s on %s.%s', policyname, schemaname, tablename) from pg_policies \
                 union all select unnest(array['drop schema purple_flea', 'drop role purple_flea_worker', 'drop role purple_flea_operator'])";
    for line in owner.query(named, &[]).await? {
        let line: String = line.get(0);
        assert!(asked.stderr.contains(&line), "{line} is not in {}", asked.stderr);
    }

    let done = run(database.migrate()?.args(["--uninstall", "--yes", "--json"])).await?;
    assert_eq!(done.json()?["uninstalled"], true);
    let left = "select count(*) from pg_proc where pronamespace = 'public'::regnamespace or (prosrc like '%purple_flea%' and not starts_with(pronamespace::regnamespace::text, 'pg_temp'))";
    assert_eq!(owner.query_one(left, &[]).await?.get::<_, i64>(0), 0);
    let left = "select 'schema ' || nspname from pg_namespace where nspname like 'purple%' \
                union all select format('trigger %s on %s', tgname, tgrelid::regclass) from pg_trigger where not tgisinternal \
                union all select format('policy %s on %s', policyname, tablename) from pg_policies \
                union all select 'role ' || rolname from pg_roles where rolname like 'purple%'";
    let left: Vec<String> = owner.query(left, &[]).await?.iter().map(|row| row.get(0)).collect();
    assert!(left.is_empty(), "left behind: {left:?}; the script said {}", done.stderr);
    let public: BTreeMap<_, _> = rows.into_iter().filter(|(table, _)| table.starts_with("public.")).collect();
    assert!(public.len() > 5 && public.values().any(|rows| !rows.is_empty()), "{public:?}");
    assert_eq!(database.rows().await?, public);
    owner.batch_execute("insert into wallet_changes (agent_id, change_type, new_balance) values ('a', 'deposit', 8); delete from wallet_changes where new_balance = 8").await?;

    let nothing: Said = run(database.migrate()?.arg("--uninstall")).await?;
    assert!(nothing.stdout.contains("nothing of this project"), "{nothing:?}");
    run(database.migrate()?.arg("--json")).await?.json()?;
    assert_same("installed again", &schema, &database.schema().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_cannot_work_is_refused_with_the_reason_and_without_its_password() -> Result<()> {
    let refusals = [
        ("", 2, "there is no database URL"),
        (
            "postgresql://postgres.abc:s3cret@aws-0-eu-west-1.pooler.supabase.com:6543/postgres",
            2,
            "port 6543 is Supabase's transaction pooler",
        ),
        (
            "postgresql://postgres:s3cret@db.abc.supabase.co:6543/postgres?sslmode=require",
            2,
            "session pooler, which has IPv4",
        ),
        ("postgresql://postgres:s3cret@127.0.0.1/postgres?port=6543", 2, "transaction pooler"),
        (
            "postgresql://postgres:s3cret@aws-0-eu-west-1.pooler.supabase.com:5432/postgres",
            2,
            "postgres.PROJECT, not postgres",
        ),
        ("postgresql://postgres:[YOUR-PASSWORD]@db.abc.supabase.co:5432/postgres", 2, "[YOUR-PASSWORD]"),
        ("https://abc.supabase.co", 2, "of an API, not of the database"),
        ("postgresql://127.0.0.1/postgres?user=postgres&password=s3cret", 2, "PGPASSWORD"),
        ("postgresql://postgres:s3cret@127.0.0.1:1/postgres", 4, "127.0.0.1 cannot be reached from here"),
    ];
    for (url, code, reason) in refusals {
        let mut command = Command::new(repository().join("scripts/migrate"));
        let said = run(command.env("DATABASE_URL", url)).await?;
        assert_eq!(said.code, Some(code), "{url}: {said:?}");
        assert!(said.stderr.contains(reason), "{url}: {said:?}");
        assert!(!said.stderr.contains("s3cret") && !said.stdout.contains("s3cret"), "{url}: {said:?}");
    }
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    let mut as_nobody = database.migrate()?;
    let said = run(as_nobody.env("DATABASE_URL", database.url("nobody"))).await?;
    assert!(said.code == Some(4) && said.stderr.contains("role \"nobody\" does not exist"), "{said:?}");
    database.connect(OWNER).await?.batch_execute("create role visitor login").await?;
    let mut as_visitor = database.migrate()?;
    let said = run(as_visitor.env("DATABASE_URL", database.url("visitor"))).await?;
    assert!(said.code == Some(3) && said.stderr.contains("role visitor may not create schemas"), "{said:?}");
    Ok(())
}
