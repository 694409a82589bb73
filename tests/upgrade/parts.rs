//! The optional parts of the database: `scripts/migrate --with frames`.

use super::{
    assert_same,
    files::{push, supabase},
    migration::{Checkout, Database, Said, run},
};
use anyhow::{Context, Result};
use serde_json::json;
use stack::{
    postgres::{Cluster, OWNER},
    repository,
};

/// Frames' tables and their events' types that a database has.
const FRAMES: &str = "select coalesce(array_agg(name order by name), '{}') from ( \
    select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' \
      and relname in ('channels', 'channel_timeline', 'frame_submissions', 'frame_media', 'approval_policies') \
    union all select type from public.event_types where type like 'frame.%') as f (name)";

async fn frames(database: &Database<'_>) -> Result<Vec<String>> {
    Ok(database.connect(OWNER).await?.query_one(FRAMES, &[]).await?.get(0))
}

/// Adds a function and a migration to the part of a checkout.
fn extend(checkout: &Checkout) -> Result<()> {
    let function = "create function purple_flea.more() returns int language sql as 'select 2';";
    std::fs::write(checkout.file("sql/frames/functions/998_more.sql"), function)?;
    let table = "create table purple_flea.more_frames (id int);";
    std::fs::write(checkout.file("sql/frames/migrations/9990_more.sql"), table)?;
    let index = "create index concurrently if not exists more_frames_idx on purple_flea.more_frames (id);";
    std::fs::write(checkout.file("sql/frames/migrations/9991_more.online.sql"), index)?;
    Ok(())
}

/// Tells whether a database has all of that.
async fn extended(database: &Database<'_>) -> Result<bool> {
    Ok(database.connect(OWNER).await?.query_one(EXTENDED, &[]).await?.get(0))
}

const EXTENDED: &str = "select to_regprocedure('purple_flea.more()') is not null \
    and to_regclass('purple_flea.more_frames_idx') is not null";

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_part_is_applied_when_asked_for_and_stays_up_to_date_from_then_on() -> Result<()> {
    let cluster = Cluster::start().await?;
    let plain = Database::create(&cluster, "plain").await?;
    let database = Database::create(&cluster, "with_frames").await?;
    run(&mut plain.migrate()?).await?;
    run(&mut database.migrate()?).await?;
    assert_eq!(frames(&database).await?, Vec::<String>::new(), "nobody has asked for frames");

    let schema = database.schema().await?;
    let dry = run(database.migrate()?.args(["--with", "frames", "--dry-run"])).await?;
    assert!(dry.stdout.contains("frames/0001_frames") && dry.stdout.contains("rolled back"), "{dry:?}");
    assert_same("after a dry run", &schema, &database.schema().await?);
    let applied = run(database.migrate()?.args(["--with", "frames", "--json"])).await?.json()?;
    assert_eq!(applied["applied"], json!(["frames/0001_frames"]));
    assert_eq!(frames(&database).await?.len(), 11, "five tables and six types");
    for options in [vec![], vec!["--with", "frames"]] {
        let again = run(database.migrate()?.arg("--json").args(options)).await?.json()?;
        assert_eq!(again["changed"], false, "{again}");
    }

    let checkout = Checkout::copy().await?;
    extend(&checkout)?;
    let kept = run(database.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!(kept["applied"], json!(["frames/9990_more"]), "{kept}");
    assert_eq!(kept["online"], json!(["frames/9991_more.online"]), "{kept}");
    assert!(extended(&database).await?);
    let nothing = run(plain.migrate_from(checkout.path())?.arg("--json")).await?.json()?;
    assert_eq!(nothing["changed"], false, "a database without the part does not get it: {nothing}");

    // A release that does not have this part's migration is an earlier one.
    let earlier = run(&mut database.migrate()?).await?;
    assert_eq!(earlier.code, Some(3), "{earlier:?}");
    assert!(earlier.stderr.contains("frames/9990_more"), "{earlier:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_part_that_does_not_exist_or_has_no_room_is_refused_and_changes_nothing() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    run(&mut database.migrate()?).await?;
    for (part, reason) in [
        ("films", "there is no part films; the optional parts are: frames"),
        ("frames,films", "--with needs the name of a part"),
        ("", "--with needs the name of a part"),
    ] {
        let said = run(database.migrate()?.args(["--with", part])).await?;
        assert!(said.code == Some(2) && said.stderr.contains(reason), "{said:?}");
    }
    let owner = database.connect(OWNER).await?;
    owner.batch_execute("create table public.channels (id bigint primary key, topic text)").await?;
    let schema = database.schema().await?;
    let said = run(database.migrate()?.args(["--with", "frames"])).await?;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stderr.contains("none of this project's: public.channels"), "{said:?}");
    assert!(said.stderr.contains("nothing was changed"), "{said:?}");
    assert_same("after a refusal", &schema, &database.schema().await?);
    // Without the option the table is nobody's business.
    let nothing: Said = run(&mut database.migrate()?).await?;
    assert!(nothing.stdout.contains("nothing was changed"), "{nothing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_for_supabase_bring_an_optional_part_when_asked_for_and_keep_it() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (migrated, plain, pushed) = (
        Database::create(&cluster, "migrated").await?,
        Database::create(&cluster, "plain").await?,
        Database::create(&cluster, "pushed").await?,
    );
    run(migrated.migrate()?.args(["--with", "frames"])).await?;
    let (without, with) = (tempfile::tempdir()?, tempfile::tempdir()?);
    supabase(repository(), &without, &[]).await?;
    push(&without, &plain).await?;
    assert_eq!(frames(&plain).await?, Vec::<String>::new());

    supabase(repository(), &with, &["--with", "frames"]).await?;
    push(&with, &pushed).await?;
    assert_same("pushed", &migrated.schema().await?, &pushed.schema().await?);
    for options in [vec![], vec!["--with", "frames"]] {
        let again = supabase(repository(), &with, &options).await?;
        assert_eq!(again["changed"], false, "the folder keeps the part in mind: {again}");
    }

    // The folder without the part gets it later. Its database then has all of it.
    let later = supabase(repository(), &without, &["--with", "frames"]).await?;
    assert_eq!(later["changed"], true);
    push(&without, &plain).await?;
    assert_same("pushed later", &migrated.schema().await?, &plain.schema().await?);

    let checkout = Checkout::copy().await?;
    extend(&checkout)?;
    let file = supabase(checkout.path(), &with, &[]).await?;
    let sql = std::fs::read_to_string(file["file"].as_str().context("no file")?)?;
    assert!(
        !sql.contains("create table if not exists public.channels"),
        "what the first file has comes again"
    );
    push(&with, &pushed).await?;
    assert!(extended(&pushed).await?);
    // A folder that never heard of the part keeps it up to date in a database that has it.
    let ignorant = tempfile::tempdir()?;
    supabase(checkout.path(), &ignorant, &[]).await?;
    push(&ignorant, &migrated).await?;
    assert_same("pushed without the option", &pushed.schema().await?, &migrated.schema().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_leaves_the_tables_of_an_optional_part_and_migrating_again_takes_them_back() -> Result<()>
{
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    run(database.migrate()?.args(["--with", "frames"])).await?;
    let owner = database.connect(OWNER).await?;
    let rows = "set client_min_messages = error; insert into public.tenants (id, name) values (md5('t')::uuid, 't'); \
        insert into public.agents (id, tenant_id) values ('a', md5('t')::uuid); \
        insert into public.channels (id, tenant_id, name) values (md5('c')::uuid, md5('t')::uuid, 'c'); \
        insert into public.frame_submissions (id, tenant_id, channel_id, agent_id) \
          values (md5('s')::uuid, md5('t')::uuid, md5('c')::uuid, 'a'); \
        insert into public.approval_policies (tenant_id, approval) values (md5('t')::uuid, 'automatic'); \
        insert into public.frame_media (tenant_id, submission_id, path) values (md5('t')::uuid, md5('s')::uuid, 'p')";
    owner.batch_execute(rows).await?;
    for status in ["processing", "approved", "promoted"] {
        owner.execute("update public.frame_submissions set status = $1 where true", &[&status]).await?;
    }
    let (schema, rows) = (database.schema().await?, database.rows().await?);
    run(database.migrate()?.args(["--uninstall", "--yes", "--json"])).await?.json()?;
    let left = "select count(*) from pg_policies where schemaname = 'public'";
    assert_eq!(owner.query_one(left, &[]).await?.get::<_, i64>(0), 0);
    let now = database.rows().await?;
    for table in ["channels", "channel_timeline", "frame_submissions", "frame_media", "approval_policies"] {
        let table = format!("public.{table}");
        assert_eq!((now[&table].len(), now.get(&table)), (1, rows.get(&table)), "{table}");
    }
    // Without the option the tables stay plain.
    run(database.migrate()?.arg("--json")).await?.json()?;
    owner.execute("update public.frame_submissions set status = 'received' where true", &[]).await?;
    run(database.migrate()?.args(["--with", "frames", "--json"])).await?.json()?;
    assert_same("installed again", &schema, &database.schema().await?);
    let refused =
        owner.execute("update public.frame_submissions set status = 'promoted' where true", &[]).await;
    assert!(refused.is_err(), "the status machine does not hold again");
    Ok(())
}
