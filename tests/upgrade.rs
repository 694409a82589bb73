//! A migrated database of any earlier release equals a new one and keeps its rows. A refused migration names the
//! obstacle, and leaves the database unchanged.

mod at_work;
mod files;
mod migration;
mod parts;
mod specification;

use anyhow::{Context, Result};
use migration::{Checkout, Database, run};
use serde_json::{Value, json};
use stack::postgres::{Cluster, OWNER, SUPERUSER};
use std::collections::BTreeMap;

/// The earlier releases, and whether the columns of their tables are in today's order.
const RELEASES: [(&str, bool); 4] = [("0.0.1", true), ("0.0.2", false), ("0.0.3", false), ("0.1.0", true)];

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_every_earlier_release_becomes_like_a_new_one_and_keeps_its_rows() -> Result<()> {
    let cluster = Cluster::start().await?;
    let fresh = Database::create(&cluster, "fresh").await?;
    let installed = run(fresh.migrate()?.arg("--json")).await?.json()?;
    assert_eq!(installed["changed"], true);
    let fresh = fresh.schema().await?;
    for (release, same_order) in RELEASES {
        let database = Database::create(&cluster, &format!("release_{}", release.replace('.', "_"))).await?;
        database.apply(OWNER, &format!("{release}.sql")).await?;
        database.apply(SUPERUSER, &format!("{release}.rows.sql")).await?;
        let before = database.rows().await?;
        assert!(
            before.values().all(|rows| !rows.is_empty()),
            "{release}: a table without rows proves nothing"
        );

        let migrated = run(database.migrate()?.arg("--json")).await?.json()?;
        assert_eq!(migrated["applied"], installed["applied"], "{release}");
        assert_survived(release, &before, &database.rows().await?);
        let schema = database.schema().await?;
        if same_order {
            assert_same(release, &fresh, &schema);
        } else {
            assert_same(release, &without_order(&fresh), &without_order(&schema));
        }
        let again = run(&mut database.migrate()?).await?;
        assert!(again.stdout.starts_with("migrate: nothing was changed"), "{release}: {again:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_policy_gets_kellys_limit_only_if_the_limit_skips_none_of_its_bets() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    database.apply(OWNER, "0.1.0.sql").await?;
    let owner = database.connect(OWNER).await?;
    let policies = "set client_min_messages = error; \
        insert into public.agents (id) select 'agent-' || n from generate_series(1, 5) as n; \
        insert into purple_flea.trade_policies (agent_id, game, cashout_at, wager_fraction) values \
          ('agent-1', 'crash', 2.48, 0.1), ('agent-2', 'crash', 2.49, 0.1), \
          ('agent-3', 'coin-flip', 1.5, 0.125), ('agent-4', 'coin-flip', 1.5, 0.126)";
    owner.batch_execute(policies).await?;
    run(&mut database.migrate()?).await?;
    owner.batch_execute("insert into purple_flea.trade_policies (agent_id) values ('agent-5')").await?;
    let limits = "select string_agg(coalesce(p.risk_factor::numeric(3, 2)::text, 'none'), ' ' order by p.agent_id nulls first) \
                  from purple_flea.trade_policies p";
    let limits: String = owner.query_one(limits, &[]).await?.get(0);
    assert_eq!(limits, "0.25 0.25 none 0.25 none 0.25");
    Ok(())
}

/// Asserts that every earlier row is there with every earlier value. There may be more columns and more rows.
#[track_caller]
fn assert_survived(
    release: &str,
    before: &BTreeMap<String, Vec<Value>>,
    after: &BTreeMap<String, Vec<Value>>,
) {
    for (table, rows) in before {
        let now = after.get(table).map(Vec::as_slice).unwrap_or_default();
        for row in rows {
            let mut row = row.clone();
            // Earlier releases had other names for these columns.
            for (was, name) in [("wallet_change", "request"), ("bet_key", "idempotency_key")] {
                if let Some(value) = row.as_object_mut().and_then(|row| row.remove(was)) {
                    row[name] = value;
                }
            }
            // A ledger that began without a row takes ids below 1, too.
            if table.ends_with(".ledger") && row["starts_after"] == 0 {
                row.as_object_mut().map(|row| row.remove("starts_after"));
            }
            // A direction that nobody has chosen is null now.
            if table.ends_with("trade_policies") && row["game"] != "trade" {
                row.as_object_mut().map(|row| row.remove("direction"));
            }
            // The limit of an account counts hi-lo, too, and that of a game counts requested bets.
            if row["calls"] == json!(["crash", "coin-flip"]) {
                row["calls"] = json!(["crash", "coin-flip", "hi-lo"]);
            }
            if let Some(calls) = row.get_mut("calls").and_then(Value::as_array_mut)
                && calls.iter().any(|call| call == "crash" || call == "coin-flip")
            {
                calls.push(json!("bet"));
            }
            let kept = |now: &&Value| {
                row.as_object()
                    .is_some_and(|row| row.iter().all(|(name, value)| now.get(name) == Some(value)))
            };
            assert!(now.iter().any(|now| kept(&now)), "{release}: {table} lost {row}");
        }
    }
}

/// Fails with the first lines that differ: a whole schema is too much to read.
#[track_caller]
fn assert_same(what: &str, wanted: &str, found: &str) {
    let differ = |one: &str, other: &str| -> Vec<String> {
        let other: std::collections::HashSet<&str> = other.lines().collect();
        one.lines().filter(|line| !other.contains(line)).take(5).map(str::to_owned).collect()
    };
    assert!(
        wanted == found,
        "{what}: missing {:#?}, too much {:#?}",
        differ(wanted, found),
        differ(found, wanted)
    );
}

/// Sorts a schema's columns, and its lines that follow their order (comments, the columns of views).
fn without_order(schema: &str) -> String {
    let mut lines: Vec<&str> = schema.lines().map(|line| line.trim_end_matches([',', ';'])).collect();
    let by_order = |line: &str| line.starts_with("    ") || line.starts_with("COMMENT ON COLUMN");
    for run in lines.chunk_by_mut(|one, next| by_order(one) && by_order(next)) {
        run.sort_unstable();
    }
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_applied_once_and_one_that_was_changed_or_is_missing_is_refused() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    let checkout = Checkout::copy().await?;
    run(&mut database.migrate_from(checkout.path())?)
        .await?
        .code
        .filter(|code| *code == 0)
        .context("not migrated")?;
    let owner = database.connect(OWNER).await?;
    let schema = database.schema().await?;

    std::fs::write(checkout.file("sql/migrations/9990_more.sql"), "create table purple_flea.more (id int);")?;
    let more = run(database.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!(more["applied"], json!(["9990_more"]));
    let recorded = "select release from purple_flea.schema_migrations where name = '9990_more' and checksum ~ '^[0-9a-f]{64}$'";
    assert_eq!(owner.query(recorded, &[]).await?.len(), 1);
    let again = run(database.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!((&again["changed"], &again["applied"]), (&json!(false), &json!([])), "{again}");

    let earlier = run(&mut database.migrate()?).await?;
    assert_eq!(earlier.code, Some(3), "{earlier:?}");
    assert!(
        earlier.stderr.contains("this database has migrations that release")
            && earlier.stderr.contains("9990_more"),
        "{earlier:?}"
    );

    std::fs::write(
        checkout.file("sql/migrations/9990_more.sql"),
        "create table purple_flea.more (id bigint);",
    )?;
    let changed = run(&mut database.migrate_from(checkout.path())?).await?;
    assert_eq!(changed.code, Some(3), "{changed:?}");
    assert!(changed.stderr.contains("were changed after this database got them: 9990_more"), "{changed:?}");
    assert!(changed.stderr.contains("nothing was changed"), "{changed:?}");

    // A failing migration rolls back the one before it, and the error names the file and the line.
    std::fs::write(checkout.file("sql/migrations/9990_more.sql"), "create table purple_flea.more (id int);")?;
    std::fs::write(checkout.file("sql/migrations/9991_two.sql"), "create table purple_flea.two (id int);")?;
    std::fs::write(checkout.file("sql/migrations/9992_bad.sql"), "select 1;\nselect nothing from nowhere;")?;
    let failed = run(&mut database.migrate_from(checkout.path())?).await?;
    assert_eq!(failed.code, Some(3), "{failed:?}");
    assert!(
        failed.stderr.contains("sql/migrations/9992_bad.sql: relation \"nowhere\" does not exist"),
        "{failed:?}"
    );
    assert!(failed.stderr.contains("LINE 2: "), "{failed:?}");
    owner
        .batch_execute(
            "drop table purple_flea.more; delete from purple_flea.schema_migrations where name = '9990_more'",
        )
        .await?;
    assert_same("after a failure", &schema, &database.schema().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_are_applied_again_when_they_differ_and_operators_grants_stay() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    run(&mut database.migrate()?).await?;
    let owner = database.connect(OWNER).await?;
    owner
        .batch_execute(
            "create role dashboard; grant usage on schema purple_flea to dashboard; \
             grant select on purple_flea.stuck_jobs to dashboard; \
             create view public.board as select reference from purple_flea.all_jobs; \
             create function purple_flea.forgotten() returns int language sql as 'select 1'",
        )
        .await?;
    let checkout = Checkout::copy().await?;
    std::fs::write(
        checkout.file("sql/functions/999_more.sql"),
        "create function purple_flea.more() returns int language sql as 'select 2';",
    )?;
    let migrated = run(database.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!((&migrated["functions"], &migrated["applied"]), (&json!(true), &json!([])), "{migrated}");
    let left = "select to_regprocedure('purple_flea.forgotten()') is null and purple_flea.more() = 2 \
                and has_table_privilege('dashboard', 'purple_flea.stuck_jobs', 'select') and to_regclass('public.board') is not null";
    assert!(owner.query_one(left, &[]).await?.get::<_, bool>(0));

    let back = run(database.migrate()?.arg("--json")).await?.json()?;
    assert_eq!(back["functions"], true, "the function goes back to an earlier release: {back}");
    let gone = "select to_regprocedure('purple_flea.more()') is null";
    assert!(owner.query_one(gone, &[]).await?.get::<_, bool>(0));
    let reapplied = run(database.migrate()?.args(["--json", "--reapply"])).await?.json()?;
    assert_eq!(reapplied["functions"], true, "{reapplied}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_could_not_be_built_while_the_ledger_works_is_built_the_next_time() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    run(&mut database.migrate()?).await?;
    let owner = database.connect(OWNER).await?;
    let twice = "insert into purple_flea.rate_stops values ('crash', 'a', now()), ('crash', 'b', now())";
    owner.batch_execute(twice).await?;
    let checkout = Checkout::copy().await?;
    let index = "create unique index concurrently if not exists stops_idx on purple_flea.rate_stops (call);";
    std::fs::write(checkout.file("sql/migrations/9990_index.online.sql"), index)?;

    let failed = run(&mut database.migrate_from(checkout.path())?).await?;
    assert_eq!(failed.code, Some(6), "{failed:?}");
    assert!(
        failed.stderr.contains("9990_index.online.sql") && failed.stderr.contains("run it again"),
        "{failed:?}"
    );
    owner.batch_execute("delete from purple_flea.rate_stops where account = 'b'").await?;
    let built = run(database.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!((&built["online"], &built["changed"]), (&json!(["9990_index.online"]), &json!(true)));
    let valid = "select indisvalid from pg_index where indexrelid = 'purple_flea.stops_idx'::regclass";
    assert!(owner.query_one(valid, &[]).await?.get::<_, bool>(0));
    let again = run(database.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!(again["changed"], false, "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_works_on_the_newest_postgresql_as_on_the_oldest() -> Result<()> {
    let cluster = Cluster::start_version(18).await?;
    cluster.migrate(OWNER).await?;
    let again = cluster.migrate(OWNER).await?;
    assert!(again.contains("nothing was changed"), "{again}");
    let owner = cluster.connect(OWNER).await?;
    // The statements run one by one, because a job is due by the time of the statement that checks.
    for statement in [
        "set client_min_messages = error",
        "update purple_flea.trade_policies set claim_faucet = false where agent_id is null",
        "insert into public.agents (id) values ('a')",
        "insert into public.wallet_changes (agent_id, change_type, new_balance) values ('a', 'deposit', 100)",
        "select public.claim_jobs('{}', 10, md5('one')::uuid, protocol => 2)",
        "select public.settle_jobs(json_build_array(json_build_object('reference', 'wallet-change-1', 'token', md5('one')::uuid, \
         'state', 'executed', 'result', '{\"game\": \"crash\", \"wager\": 10, \"payout\": 15, \"outcome\": \"win\", \"bet_id\": \"b\"}'::json)), 2)",
        "select purple_flea.declare_restore('tested')",
        "select purple_flea.confirm_restore(nothing_lost => true)",
        "select purple_flea.ring()",
    ] {
        owner.batch_execute(statement).await.context(statement)?;
    }
    let executed = "select count(*) from public.trade_results t join purple_flea.jobs j using (reference) where j.state = 'executed'";
    assert_eq!(owner.query_one(executed, &[]).await?.get::<_, i64>(0), 1);
    Ok(())
}
