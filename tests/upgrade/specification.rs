//! A migration takes over the specification's own schema with its rows, or names every obstacle.

use super::{
    assert_same,
    migration::{Database, Said, run},
};
use anyhow::Result;
use serde_json::json;
use stack::postgres::{Cluster, OWNER};

/// Starts a cluster with the specification's own schema.
async fn specification() -> Result<Cluster> {
    let cluster = Cluster::start().await?;
    Database::first(&cluster).apply(OWNER, "specification.sql").await?;
    Ok(cluster)
}

/// Asserts that the output contains no raw key of the specification's agents.
#[track_caller]
fn assert_no_key(said: &Said) {
    assert!(!said.stdout.contains("raw_key") && !said.stderr.contains("raw_key"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_takes_over_the_specifications_schema_and_replaces_its_trigger() -> Result<()> {
    let cluster = specification().await?;
    let fresh = Database::create(&cluster, "fresh").await?;
    let owner = fresh.connect(OWNER).await?;
    owner.batch_execute("drop trigger on_wallet_deposit on wallet_changes; drop function notify_trade_agent; drop table agents, wallet_changes, trade_results, escrow_requests").await?;
    run(&mut fresh.migrate()?).await?;

    let database = Database::first(&cluster);
    let owner = database.connect(OWNER).await?;
    let sums = "select (select count(*) + sum(balance) from agents), (select sum(new_balance * id) from wallet_changes), \
                (select sum(payout + wager * id) from trade_results), (select sum(amount * id) from escrow_requests)";
    let sums = format!("select array[a, b, c, d]::float8[]::text from ({sums}) as s (a, b, c, d)");
    let before: String = owner.query_one(&sums, &[]).await?.get(0);
    let migrated = run(database.migrate()?.arg("--json")).await?;
    assert_no_key(&migrated);
    assert!(
        migrated.stderr.contains("trigger on_wallet_deposit on public.wallet_changes is dropped"),
        "{migrated:?}"
    );
    let migrated = migrated.json()?;
    assert_eq!(
        migrated["dropped"],
        json!(["trigger on_wallet_deposit on public.wallet_changes", "function notify_trade_agent()"])
    );
    assert_same("the specification's", &fresh.schema().await?, &database.schema().await?);
    assert_eq!(before, owner.query_one(&sums, &[]).await?.get::<_, String>(0));

    // Earlier deposits are not bet on. A new deposit is, once.
    let jobs = "select count(*) filter (where kind = 'deposit') from purple_flea.jobs";
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 0);
    owner.batch_execute("insert into wallet_changes (agent_id, change_type, new_balance) values ('agent-1', 'deposit', 100)").await?;
    assert_eq!(owner.query_one(jobs, &[]).await?.get::<_, i64>(0), 1);

    // The specification's SQL runs once more. The next migration drops its trigger again.
    owner
        .batch_execute(
            "create function notify_trade_agent() returns trigger language plpgsql as $$ begin perform net.http_post('https://edge.example'); return new; end $$; \
             create trigger on_wallet_deposit after insert on wallet_changes for each row execute function notify_trade_agent()",
        )
        .await?;
    let again = run(database.migrate()?.arg("--json")).await?.json()?;
    assert_eq!((&again["changed"], &again["functions"]), (&json!(true), &json!(false)), "{again}");
    assert_same("again", &fresh.schema().await?, &database.schema().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_rows_are_all_named_at_once_by_their_ids_and_nothing_is_changed() -> Result<()> {
    let cluster = specification().await?;
    let database = Database::first(&cluster);
    let owner = database.connect(OWNER).await?;
    owner
        .batch_execute(
            "alter table wallet_changes drop constraint wallet_changes_agent_id_fkey; \
             update agents set status = null where id = 'agent-1'; \
             update agents set balance = 0.00001 where id = 'agent-2'; \
             update agents set status = 'active' where id like 'agent-9%'; \
             update agents set api_key = 'purple_flea_webhook_secret' where id = 'agent-3'; \
             update wallet_changes set change_type = 'DEPOSIT' where id = 4; \
             update wallet_changes set agent_id = 'gone' where id = 5; \
             update trade_results set agent_id = null where id = 6; \
             update escrow_requests set receiver_id = sender_id where id <= 30",
        )
        .await?;
    let (schema, rows) = (database.schema().await?, database.rows().await?);
    let refused = run(&mut database.migrate()?).await?;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert_no_key(&refused);
    for named in [
        "agents: column status (not null) is broken by 1 row in id: 'agent-1'",
        "agents: column balance (numeric(12,4)) is broken by 1 row in id: 'agent-2'",
        "agents: agents_api_key_check",
        "is broken by 1 row in id: 'agent-3'",
        "is broken by 111 rows in id: 'agent-9', 'agent-90'",
        "wallet_changes_change_type_check",
        "wallet_changes: column agent_id (an id of agents) is broken by 1 row in id: '5'",
        "trade_results: column agent_id (not null) is broken by 1 row in id: '6'",
        "escrow_requests_parties_check",
        "'19', '20', …\n",
        "nothing was changed",
    ] {
        assert!(refused.stderr.contains(named), "{named} is not in {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("'21'"), "{}", refused.stderr);
    assert_same("after a refusal", &schema, &database.schema().await?);
    assert_eq!(rows, database.rows().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_other_types_become_ours_or_are_named() -> Result<()> {
    let cluster = Cluster::start().await?;
    let database = Database::first(&cluster);
    let owner = database.connect(OWNER).await?;
    owner
        .batch_execute(
            "create table agents (id varchar(40) constraint agents_key primary key, api_key text, balance double precision, status varchar(10) default 'idle', created_at timestamp default now()); \
             create table wallet_changes (id int generated always as identity, agent_id varchar(40) references agents on delete cascade, change_type text, change_amount real, new_balance real, created_at timestamp); \
             create table trade_results (id serial primary key, agent_id varchar(40), wager numeric(20,2)); \
             insert into agents values ('a', '', 12.5, 'idle', '2026-01-01 12:00'); \
             insert into wallet_changes (agent_id, change_type, change_amount, new_balance, created_at) values ('a', 'deposit', 1.5, 2.5, '2026-01-01 12:00'); \
             insert into trade_results (agent_id, wager) values ('a', 3)",
        )
        .await?;
    let migrated = run(database.migrate()?.arg("--json")).await?.json()?;
    assert_eq!(migrated["changed"], true);
    let row = "select balance::text || ' ' || (created_at at time zone 'UTC')::text || ' ' || (select new_balance::text from wallet_changes) from agents";
    assert_eq!(owner.query_one(row, &[]).await?.get::<_, String>(0), "12.5000 2026-01-01 12:00:00 2.5000");
    let next = "insert into wallet_changes (agent_id, change_type, new_balance) values ('a', 'deposit', 1) returning id";
    assert_eq!(owner.query_one(next, &[]).await?.get::<_, i64>(0), 2);

    let other = Cluster::start().await?;
    let database = Database::first(&other);
    let owner = database.connect(OWNER).await?;
    owner.batch_execute("create table wallet_changes (id uuid primary key, agent_id text); create view trade_results as select 1 as id").await?;
    let refused = run(&mut database.migrate()?).await?;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("wallet_changes: column id is uuid, and bigint is wanted"),
        "{refused:?}"
    );
    assert!(refused.stderr.contains("trade_results is no table"), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_trigger_that_sends_deposits_to_a_server_stops_the_migration_and_is_named() -> Result<()> {
    let cluster = specification().await?;
    let database = Database::first(&cluster);
    let owner = database.connect(OWNER).await?;
    owner
        .batch_execute(
            "create schema supabase_functions; \
             create function supabase_functions.http_request() returns trigger language plpgsql as $$ begin return new; end $$; \
             create trigger webhook after insert on wallet_changes for each row execute function supabase_functions.http_request('https://edge.example', 'POST'); \
             create function tell() returns void language plpgsql as $$ begin perform net.http_post('https://edge.example'); end $$; \
             create function indirectly() returns trigger language plpgsql as $$ begin perform public.tell(); return new; end $$; \
             create trigger roundabout after insert on wallet_changes for each row execute function indirectly(); \
             create function stamp() returns trigger language plpgsql as $$ begin return new; end $$; \
             create trigger harmless before insert on wallet_changes for each row execute function stamp()",
        )
        .await?;
    let schema = database.schema().await?;
    let refused = run(&mut database.migrate()?).await?;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("roundabout (function indirectly())"), "{refused:?}");
    assert!(refused.stderr.contains("webhook (function supabase_functions.http_request())"), "{refused:?}");
    assert!(
        !refused.stderr.contains("harmless") && !refused.stderr.contains("on_wallet_deposit"),
        "{refused:?}"
    );
    assert_same("after a refusal", &schema, &database.schema().await?);

    let one = run(database.migrate()?.args(["--allow-trigger", "webhook"])).await?;
    assert!(one.code == Some(3) && !one.stderr.contains("webhook (function"), "{one:?}");
    let both = run(database.migrate()?.args(["--allow-trigger", "webhook", "--allow-trigger", "roundabout"]))
        .await?;
    assert_eq!(both.code, Some(0), "{both:?}");
    Ok(())
}
