//! End to end: a deposit goes into Postgres, the trigger notifies the function, the function bets, and the outcome
//! comes back as a row. A notification that fails never keeps a deposit from being stored.

use crate::{
    front_door::assert_no_call,
    whole_stack::{job_in, start},
};
use anyhow::{Context, Result};
use serde_json::json;
use stack::{
    local::Local,
    pg_net::PgNet,
    postgres::{Cluster, OWNER, SUPERUSER},
    webhook,
};

async fn deposit(stack: &Local, columns: &str, values: &str) -> Result<i64> {
    let insert = format!(
        "insert into public.wallet_changes (agent_id, change_type, {columns}) values ('agent-001', 'deposit', {values}) returning id"
    );
    Ok(stack.owner.query_one(&insert, &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_row_becomes_one_bet_and_one_trade_result() -> Result<()> {
    let stack = start(&[]).await?;
    // The session's time zone must not change the outcome.
    stack.owner.batch_execute("set timezone = 'Asia/Kathmandu'").await?;
    let id = deposit(&stack, "change_amount, new_balance", "100, 12345678.1235").await?;
    let job = job_in(&stack, id, "executed").await?;
    let reply = &job["result"];
    assert_eq!((&reply["status"], &reply["agent_id"]), (&json!("executed"), &json!("agent-001")));
    assert_eq!(reply["wager"].to_string(), "1234567.81");
    // The specification's own test row omits change_amount.
    let id = deposit(&stack, "new_balance", "50").await?;
    assert_eq!(job_in(&stack, id, "executed").await?["result"]["wager"].to_string(), "5.00");
    assert_eq!(stack.purple_flea.bets().len(), 2);
    let rows = "select agent_id, game, wager::text, reference, bet_id from public.trade_results order by id";
    let rows = stack.owner.query(rows, &[]).await?;
    let wagers: Vec<&str> = rows.iter().map(|row| row.get(2)).collect();
    assert_eq!(wagers, ["1234567.8100", "5.0000"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_of_an_agent_with_unicode_in_its_id_becomes_a_bet() -> Result<()> {
    let stack = start(&[]).await?;
    let agent = "agent-ü-😀-\"quoted\"-\\";
    stack.purple_flea.fund(agent, 1_000.into());
    stack.owner.execute("insert into public.agents (id) values ($1)", &[&agent]).await?;
    let insert = "insert into public.wallet_changes (agent_id, change_type, new_balance) values ($1, 'deposit', 100) returning id";
    let id: i64 = stack.owner.query_one(insert, &[&agent]).await?.get(0);
    assert_eq!(job_in(&stack, id, "executed").await?["result"]["agent_id"], agent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_deposits_notify_the_function() -> Result<()> {
    let stack = start(&[]).await?;
    let others = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values \
                  ('agent-001', 'withdrawal', -50, 100), ('agent-001', 'payout', 50, 100)";
    stack.owner.batch_execute(others).await?;
    let id = deposit(&stack, "new_balance", "1").await?;
    assert_eq!(job_in(&stack, id, "skipped").await?["reason"], "below_min_balance");
    let notified = stack.host.log.lines().iter().filter(|line| line.contains("execute_trade")).count();
    assert_eq!(notified, 1, "the function logs one request for one deposit");
    assert_no_call(&stack.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_pg_nets_queue_nor_a_trigger_definition_contains_a_secret() -> Result<()> {
    let stack = start(&[]).await?;
    // pg_net sends a queued request after the commit, so an open transaction shows the queue.
    stack.owner.batch_execute("begin").await?;
    deposit(&stack, "new_balance", "100").await?;
    let queue = "select convert_from(body, 'UTF8'), headers::text, url from net.http_request_queue";
    let row = stack.owner.query_one(queue, &[]).await?;
    let shown =
        format!("{} {} {}", row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, String>(2));
    stack.owner.batch_execute("rollback").await?;
    let definitions = "select pg_get_functiondef('purple_flea.post(text, jsonb, text)'::regprocedure) || \
                       string_agg(pg_get_triggerdef(t.oid) || pg_get_functiondef(t.tgfoid), ' ') from pg_trigger t \
                       where tgrelid = 'public.wallet_changes'::regclass and not tgisinternal";
    let defined: String = stack.owner.query_one(definitions, &[]).await?.get(0);
    assert!(shown.starts_with("{\"ledger\": true, \"reference\": \"wallet-change-"), "{shown}");
    assert!(shown.contains("webhook-signature"), "the request is not signed: {shown}");
    assert!(defined.contains("http_post"), "the definitions are not complete: {defined}");
    assert!(!format!("{shown}{defined}").contains(&webhook::SECRET[6..]), "{shown}{defined}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_is_stored_even_if_its_notification_fails_and_a_warning_says_why() -> Result<()> {
    let cluster = Cluster::start().await?;
    let psql = |sql: &'static str| {
        let (program, url) = (cluster.bin().join("psql"), cluster.url(OWNER));
        async move {
            let output = tokio::process::Command::new(program)
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, &url])
                .output()
                .await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::ensure!(output.status.success(), "{said}");
            anyhow::Ok(said)
        }
    };
    const DEPOSIT: &str = "insert into public.wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)";
    // First without pg_net, which starts further down, and without any setting.
    let migrated = cluster.migrate(OWNER).await?;
    assert!(migrated.contains("migrations: 0001_tables, 0002_ledger"), "{migrated}");
    psql("insert into public.agents (id) values ('agent-001')").await?;
    let mut stored = 0_i64;
    let mut warns = async |because: &str| -> Result<()> {
        let said = psql(DEPOSIT).await?;
        assert!(said.contains("WARNING") && said.contains("the function was not called"), "{said}");
        assert!(said.contains(because), "{said}");
        assert!(!said.contains(&webhook::SECRET[6..]) && !said.contains("not a url"), "{said}");
        stored += 1;
        Ok(())
    };
    warns("purple_flea_function_url is not set").await?;
    // Release 0.1.0 accepted these two values; set_secret() refuses both.
    psql("insert into purple_flea.secrets (name, secret) values ('purple_flea_function_url', 'not a url')")
        .await?;
    warns("purple_flea_webhook_secret is not set").await?;
    psql("insert into purple_flea.secrets (name, secret) values ('purple_flea_webhook_secret', 'whsec_broken!')").await?;
    warns("this database has no pg_net").await?;
    let pg_net = PgNet::start(&cluster).await?;
    warns("not of the form").await?;
    psql("select purple_flea.set_secret('purple_flea_webhook_secret', 'whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=')")
        .await?;
    warns("look at purple_flea_function_url").await?;
    drop(pg_net);

    // Another session locks pg_net's queue, and then pg_net raises because the queue is missing.
    psql("select purple_flea.set_secret('purple_flea_function_url', 'http://127.0.0.1:9')").await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser.batch_execute("begin; lock table net.http_request_queue in access exclusive mode").await?;
    warns("a lock on pg_net's tables was not to be had in time").await?;
    superuser.batch_execute("rollback; drop table net.http_request_queue").await?;
    warns("SQLSTATE 42P01").await?;

    let count = "select count(*) from public.wallet_changes";
    assert_eq!(superuser.query_one(count, &[]).await?.get::<_, i64>(0), stored, "every deposit was stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_applies_twice_on_supabase_on_plain_postgres_and_over_the_specifications_tables() -> Result<()>
{
    let supabase = Cluster::start().await?;
    let plain = Cluster::start_plain().await?;
    let older = Cluster::start().await?;
    let specification = "
        create table agents (id text primary key, api_key text not null, balance numeric(12,4) default 0,
          status text default 'idle', created_at timestamptz default now());
        create table wallet_changes (id bigserial primary key, agent_id text references agents, change_type text not null,
          change_amount numeric(12,4), new_balance numeric(12,4), created_at timestamptz default now());
        create table trade_results (id bigserial primary key, agent_id text references agents, game text,
          wager numeric(12,4), outcome text, payout numeric(12,4), created_at timestamptz default now());
        create table escrow_requests (id bigserial primary key, sender_id text references agents,
          receiver_id text references agents, amount numeric(12,4), pf_escrow_id text, status text default 'pending',
          created_at timestamptz default now());
        insert into agents values ('agent-000', 'sk_live_a_raw_key');
        insert into wallet_changes (agent_id, change_type, new_balance) values ('agent-000', 'deposit', 5);";
    older.connect(OWNER).await?.batch_execute(specification).await?;
    for (cluster, role) in [(&supabase, OWNER), (&plain, SUPERUSER), (&older, OWNER)] {
        let dump = async || {
            let client = cluster.connect(role).await?;
            anyhow::Ok(client.query_one(SHAPE, &[]).await?.get::<_, String>(0))
        };
        cluster.migrate(role).await?;
        let once = dump().await?;
        cluster.migrate(role).await?;
        assert_eq!(dump().await?, once, "the second migration changed something");
        let client = cluster.connect(role).await?;
        let stored = "insert into public.agents (id) values ('agent-001') on conflict do nothing; \
                      insert into public.wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)";
        client.batch_execute(stored).await.context("a deposit could not be stored")?;
    }
    Ok(())
}

/// Describes everything that the SQL creates, as text.
const SHAPE: &str = "
    select string_agg(line, E'\\n' order by line) from (
        select format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default)
        from information_schema.columns where table_schema in ('public', 'purple_flea')
        union all select format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint
        where connamespace = 'public'::regnamespace
        union all select indexdef from pg_indexes where schemaname in ('public', 'purple_flea')
        union all select format('%s %s %s %s %s', tablename, policyname, roles, qual, with_check) from pg_policies
        union all select format('%s %s', oid::regclass, relacl) from pg_class where relnamespace = 'public'::regnamespace
        union all select format('%s %s', oid::regprocedure, proacl) from pg_proc
        where pronamespace in ('public'::regnamespace, 'purple_flea'::regnamespace)
        union all select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
        union all select format('%s %s', pubname, tablename) from pg_publication_tables
    ) as shape (line)";
