//! The linter of Supabase finds no error in the database's functions. tests/sql/999_linters.sql has the rules of its other
//! linter.

use anyhow::{Context, Result};
use stack::{
    pg_net::PgNet,
    postgres::{Cluster, OWNER, SUPERUSER},
};

/// The parts of Supabase's Vault that this project uses.
const VAULT: &str = include_str!("stack/src/vault.sql");

/// The parts of Supabase's Realtime that this project uses.
const REALTIME: &str = include_str!("stack/src/realtime.sql");

/// What `supabase db lint --fail-on error` asks, for every function in PL/pgSQL, with the tables of its triggers.
const LINT: &str = "select p.oid::regprocedure::text, lint.lineno, lint.message \
    from pg_proc p \
    join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql' \
    left join pg_trigger t on t.tgfoid = p.oid \
    cross join lateral extensions.plpgsql_check_function_tb( \
      p.oid, coalesce(t.tgrelid, 0), fatal_errors => false, \
      oldtable => t.tgoldtable, newtable => t.tgnewtable) as lint \
    where p.pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace) and lint.level = 'error'";

#[tokio::test(flavor = "multi_thread")]
async fn supabase_db_lint_finds_no_error_in_any_function() -> Result<()> {
    let cluster = Cluster::start().await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute(VAULT).await?;
    superuser.batch_execute(REALTIME).await?;
    let _pg_net = PgNet::start(&cluster).await?;
    cluster.migrate_with(OWNER, &["--with", "frames"]).await?;
    superuser
        .batch_execute("create extension plpgsql_check with schema extensions")
        .await
        .context("plpgsql_check is not there; on Debian: apt-get install postgresql-15-plpgsql-check")?;
    // A mistake shows that the linter looks.
    let mistake = "create function purple_flea.mistaken() returns void language plpgsql as $$ begin perform nowhere(); end $$";
    superuser.batch_execute(mistake).await?;
    let rows = superuser.query(LINT, &[]).await?;
    let errors: Vec<String> = rows
        .iter()
        .map(|row| {
            let (function, line, message): (&str, Option<i32>, &str) = (row.get(0), row.get(1), row.get(2));
            format!("{function}, line {}: {message}", line.unwrap_or_default())
        })
        .collect();
    assert_eq!(errors, ["purple_flea.mistaken(), line 1: function nowhere() does not exist"]);
    Ok(())
}
