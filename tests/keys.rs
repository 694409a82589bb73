//! Agents' keys and other secrets. An upgrade gives each agent its own secrets. Secrets that an operator sets appear in
//! no SQL statement, and Postgres logs none.

use crate::front_door::soon;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::{
    postgres::{Cluster, OWNER, SUPERUSER},
    repository,
};
use std::process::{Output, Stdio};
use tokio::{io::AsyncWriteExt, process::Command};
use tokio_postgres::Client;

/// The parts of Supabase's Vault that this project uses.
const VAULT: &str = include_str!("stack/src/vault.sql");

/// The SQL of release 0.1.0. Its triggers on agents are disabled, because they would request registrations.
const RELEASE: [&str; 2] = [
    include_str!("releases/0.1.0.sql"),
    "alter table public.agents disable trigger purple_flea_greet; alter table public.agents disable trigger purple_flea_ring",
];

/// The specification's own table of agents.
const SPECIFICATION: &str = "create table public.agents (id text primary key, api_key text not null, \
    balance numeric(12,4) default 0, status text default 'idle', created_at timestamptz default now())";

/// Starts a cluster with hosted Supabase's roles, with or without Vault, and connects as the owner.
async fn database(vault: bool) -> Result<(Cluster, Client)> {
    let cluster = Cluster::start().await?;
    if vault {
        cluster.connect(SUPERUSER).await?.batch_execute(VAULT).await?;
    }
    let owner = cluster.connect(OWNER).await?;
    Ok((cluster, owner))
}

/// Writes the SQL that stores a secret as release 0.1.0 did.
fn store_secret(vault: bool, name: &str, value: &str) -> String {
    if vault {
        format!("select vault.create_secret('{value}', '{name}', 'Purple Flea Edge');")
    } else {
        format!("insert into purple_flea.secrets (name, secret) values ('{name}', '{value}');")
    }
}

/// Reads one text with SQL.
async fn text(client: &Client, sql: &str) -> Result<String> {
    Ok(client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
}

/// Reads every agent's `api_key`, and every secret with its value.
async fn keys(client: &Client) -> Result<Value> {
    let agents = text(client, "select jsonb_object_agg(id, api_key)::text from public.agents").await?;
    let vault = text(client, "select (to_regclass('vault.secrets') is not null)::text").await? == "true";
    let from = if vault {
        "select jsonb_object_agg(name, decrypted_secret)::text from vault.decrypted_secrets where secret ~ '^sealed'"
    } else {
        "select jsonb_object_agg(name, secret)::text from purple_flea.secrets"
    };
    let (agents, secrets): (Value, Value) =
        (serde_json::from_str(&agents)?, serde_json::from_str(&text(client, from).await?)?);
    Ok(json!({"agents": agents, "secrets": secrets}))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_gives_each_agent_its_own_secrets() -> Result<()> {
    for vault in [false, true] {
        let (cluster, owner) = database(vault).await?;
        for sql in RELEASE {
            owner.batch_execute(sql).await?;
        }
        let secrets: String = [
            ("bobs_key", "sk_of_bob"),
            ("bobs_key.trading", "sk_trade_of_bob"),
            ("bobs_key.unused", "sk_unused_of_bob"),
            ("pool", "sk_of_the_pool"),
            ("purple_flea_agent_by-hand", "sk_by_hand"),
            ("purple_flea_function_url", "https://function.test/"),
        ]
        .map(|(name, value)| store_secret(vault, name, value))
        .concat();
        owner.batch_execute(&secrets).await?;
        // Three triggers of an application: one that the upgrade must not fire, one disabled, one for replicas.
        let agents = "insert into public.agents (id, api_key) values ('bob', 'bobs_key'), ('one', 'pool'), ('two', 'pool'), \
              ('by-hand', ''), ('shared', ''), ('registering', 'registerings_key'), ('raw', 'sk_live_a_key_by_mistake'), ('blank', ' '); \
            insert into purple_flea.jobs (reference, bet_key, kind, agent_id, request, expires_at) \
              values ('registration-registering', 'r-1', 'registration', 'registering', '{}', now() + interval '1 day'), \
                     ('balance-bob', 'b-1', 'balance', 'bob', '{}', now() + interval '1 day'); \
            insert into purple_flea.rate_slots values ('balance-bob', gen_random_uuid(), 'balance', 'bobs_key', now() + interval '1 day', '1 minute'); \
            insert into purple_flea.rate_stops values ('crash', 'pool', now() + interval '1 day'); \
            create function public.tell() returns trigger language plpgsql as 'begin raise exception ''an agent was told of''; end'; \
            create trigger tell after update on public.agents for each row execute function public.tell(); \
            create trigger tell_off before update on public.agents for each row execute function public.tell(); \
            create trigger tell_replica before update on public.agents for each row execute function public.tell(); \
            alter table public.agents disable trigger tell_off; alter table public.agents enable replica trigger tell_replica";
        owner.batch_execute(agents).await?;
        let said = cluster.migrate(OWNER).await?;
        assert_eq!(
            keys(&owner).await?,
            json!({
                "agents": {
                    "bob": "purple_flea_key:bob", "one": "purple_flea_key:one", "two": "purple_flea_key:two", "by-hand": "",
                    "shared": "", "registering": "purple_flea_key:registering", "raw": "purple_flea_key:raw", "blank": "",
                },
                "secrets": {
                    "purple_flea_key:bob": "sk_of_bob", "purple_flea_trading_key:bob": "sk_trade_of_bob",
                    "purple_flea_unused_key:bob": "sk_unused_of_bob", "purple_flea_key:one": "sk_of_the_pool",
                    "purple_flea_key:two": "sk_of_the_pool", "purple_flea_key:by-hand": "sk_by_hand",
                    "purple_flea_key:raw": "sk_live_a_key_by_mistake", "purple_flea_function_url": "https://function.test/",
                },
            }),
            "vault: {vault}\n{said}"
        );
        let triggers = "select string_agg(tgname || ' ' || tgenabled::text, ', ' order by tgname) from pg_trigger \
            where tgrelid = 'public.agents'::regclass and tgname like 'tell%'";
        assert_eq!(text(&owner, triggers).await?, "tell O, tell_off D, tell_replica R");
        let accounts = "select (select string_agg(account, ',') from purple_flea.rate_slots) || ' ' || \
            (select string_agg(account, ',' order by account) from purple_flea.rate_stops)";
        assert_eq!(
            text(&owner, accounts).await?,
            "purple_flea_key:bob purple_flea_key:one,purple_flea_key:two"
        );
        let jobs = "select string_agg(reference, ' ' order by reference) from purple_flea.jobs";
        assert_eq!(
            text(&owner, jobs).await?,
            "balance-bob registration-registering",
            "the upgrade requested a registration"
        );
        cluster.migrate(OWNER).await.context("the second migration")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_copies_an_applications_secret_and_skips_an_unreadable_one() -> Result<()> {
    let (cluster, owner) = database(true).await?;
    for sql in RELEASE {
        owner.batch_execute(sql).await?;
    }
    let secrets = "select vault.create_secret('sk_of_an_application', 'applications', 'an application''s'), \
        vault.create_secret('x', 'lost', 'Purple Flea Edge'); \
        insert into public.agents (id, api_key) values ('borrower', 'applications'), ('loser', 'lost')";
    owner.batch_execute(secrets).await?;
    let garble = "update vault.secrets set secret = 'cannot be decrypted' where name = 'lost'";
    cluster.connect(SUPERUSER).await?.batch_execute(garble).await?;
    let said = cluster.migrate(OWNER).await?;
    assert_eq!(
        keys(&owner).await?,
        json!({
            "agents": {"borrower": "purple_flea_key:borrower", "loser": "purple_flea_key:loser"},
            "secrets": {"applications": "sk_of_an_application", "purple_flea_key:borrower": "sk_of_an_application"},
        }),
        "{said}"
    );
    let names = "select string_agg(name || ': ' || description, ', ' order by name) from vault.secrets";
    assert_eq!(
        text(&owner, names).await?,
        "applications: an application's, lost: Purple Flea Edge, purple_flea_key:borrower: Purple Flea Edge"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_stops_without_changes_if_one_secret_belongs_to_two_agents() -> Result<()> {
    let (cluster, owner) = database(false).await?;
    for sql in RELEASE {
        owner.batch_execute(sql).await?;
    }
    let secrets = store_secret(false, "bobs_key", "sk_of_bob")
        + &store_secret(false, "bobs_key.trading", "sk_whose_is_it");
    let agents =
        "insert into public.agents (id, api_key) values ('bob', 'bobs_key'), ('forger', 'bobs_key.trading')";
    owner.batch_execute(&format!("{secrets}{agents}")).await?;
    let before = keys(&owner).await?;
    let said = format!("{:#}", cluster.migrate(OWNER).await.unwrap_err());
    assert!(said.contains("the key of agent forger is the trading key of agent bob"), "{said}");
    assert!(!said.contains("sk_"), "{said}");
    assert_eq!(keys(&owner).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_migration_moves_the_specifications_raw_keys_into_the_vault_and_logs_none() -> Result<()> {
    let (cluster, owner) = database(true).await?;
    owner.batch_execute(SPECIFICATION).await?;
    let rows = "insert into public.agents (id, api_key) \
        select 'agent-' || n, 'raw_key_of_' || n from generate_series(1, 10000) as n; \
        insert into public.agents (id, api_key) values ('spaced', E' raw_key_of_spaced\\n'), ('empty', ''), \
        ('odd-1', 'raw_key with a blank'), ('odd-2', 'raw_key')";
    owner.batch_execute(rows).await?;
    let log = "alter database postgres set log_statement = 'all'; alter database postgres set log_min_duration_statement = 0";
    cluster.connect(SUPERUSER).await?.batch_execute(log).await?;

    let said = format!("{:#}", cluster.migrate(OWNER).await.unwrap_err());
    assert!(said.contains("2 agents") && said.contains("odd-1, odd-2"), "{said}");
    owner.batch_execute("update public.agents set api_key = '' where id like 'odd%'").await?;
    let migrated = cluster.migrate(OWNER).await?;
    let moved = "select (count(*) || ' ' || count(distinct d.decrypted_secret)) from public.agents a \
        join vault.decrypted_secrets d on d.name = a.api_key \
        where a.api_key = 'purple_flea_key:' || a.id and d.decrypted_secret = 'raw_key_of_' || replace(a.id, 'agent-', '')";
    assert_eq!(text(&owner, moved).await?, "10001 10001");
    let left = "select count(*)::text from public.agents where api_key like '%raw%'";
    assert_eq!(text(&owner, left).await?, "0");
    let log = std::fs::read_to_string(cluster.log_path())?;
    assert!(log.contains("purple_flea_agents"), "Postgres did not log the migration's statements");
    for place in [&said, &migrated, &log] {
        assert!(!place.contains("raw_key_of_"), "a raw key is in {}", &place[..place.len().min(2_000)]);
    }
    Ok(())
}

/// Runs `scripts/ops` with a value on its standard input.
async fn ops(cluster: &Cluster, words: &[&str], value: &str) -> Result<Output> {
    let mut command = Command::new(repository().join("scripts/ops"));
    command.args(words).env("DATABASE_URL", cluster.url(OWNER)).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    // A script that refuses its arguments reads nothing, so this write may fail.
    let _ = stdin.write_all(value.as_bytes()).await;
    drop(stdin);
    Ok(soon(child.wait_with_output()).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_an_operator_sets_appear_in_no_statement_and_no_log() -> Result<()> {
    let (cluster, owner) = database(false).await?;
    cluster.migrate(OWNER).await?;
    owner.batch_execute("insert into public.agents (id) values ('bob'), ('an \"odd'' one')").await?;
    let log = "alter database postgres set log_statement = 'all'; alter database postgres set log_min_duration_statement = 0; \
        alter database postgres set log_min_error_statement = 'debug5'; alter database postgres set log_parameter_max_length_on_error = -1";
    cluster.connect(SUPERUSER).await?.batch_execute(log).await?;
    let url = "https://function-of-a-test.test/execute-trade";
    for (words, value) in [
        (&["set-secret", "purple_flea_function_url"][..], &*format!("{url}\r\n")),
        (&["set-agent-key", "bob"], "sk_secret_of_bob\n\n"),
        (&["set-agent-key", "--trading", "bob"], "sk_secret\\n\\.of_bob"),
        (&["set-secret", "purple_flea_key:an \"odd' one"], "\tsk_secret'); select 1; --"),
    ] {
        let output = ops(&cluster, &[&["--json"], words].concat(), value).await?;
        // The script refuses the last value, because a key contains no blank.
        let valid = !value.contains("; select");
        assert_eq!(output.status.success(), valid, "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        let said = [output.stdout.clone(), output.stderr.clone()]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .concat();
        assert!(!said.contains("sk_secret") && !said.contains(url), "{said}");
        if valid {
            let said: Value = serde_json::from_slice(&output.stdout)?;
            assert_eq!(said["command"], words[0]);
        }
    }
    assert_eq!(
        keys(&owner).await?["secrets"],
        json!({"purple_flea_function_url": url, "purple_flea_key:bob": "sk_secret_of_bob", "purple_flea_trading_key:bob": "sk_secret\\n\\.of_bob"})
    );
    assert_eq!(
        text(&owner, "select api_key from public.agents where id = 'bob'").await?,
        "purple_flea_key:bob"
    );
    for (words, value, code, because) in [
        (&["set-secret", "purple_flea_function_url"][..], "ftp://sk_secret", 1, "cannot be one"),
        (&["set-secret", "stripe"], "sk_secret_of_theirs", 1, "a secret is called"),
        (&["set-secret", "purple_flea_key:bob"], "sk_secret_schlüssel", 1, "visible ASCII"),
        (&["set-secret", "purple_flea_key:bob"], "", 1, "empty"),
        (&["set-agent-key", "nobody"], "sk_secret_of_nobody", 1, "no such agent"),
        (&["set-agent-key"], "sk_secret", 2, "--help"),
        (&["set-secret", "a", "b"], "sk_secret", 2, "--help"),
        (&["sell-secret"], "sk_secret", 2, "unknown command"),
    ] {
        let output = ops(&cluster, words, value).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(because) && !said.contains("sk_secret"), "{words:?}: {said}");
    }
    let log = std::fs::read_to_string(cluster.log_path())?;
    assert!(log.contains("purple_flea.set_agent_key"), "Postgres did not log the statements");
    assert!(!log.contains("sk_secret") && !log.contains(url), "a secret is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_does_not_log_the_key_of_a_slow_registration() -> Result<()> {
    // Owners of newer Supabase projects may change the first setting. Owners of older projects may change the second:
    // there Postgres logs no call that settles a key.
    for (setting, calls) in [("log_parameter_max_length", 2), ("log_min_duration_statement", 1)] {
        settle_slowly(setting, calls).await.context(setting)?;
    }
    Ok(())
}

/// Settles two registrations, one with a key and one without, and asserts how many of the two calls Postgres logs.
/// Postgres logs statements that take longer than 20 ms, with their parameters. The owner may change one setting.
async fn settle_slowly(setting: &str, logged_calls: usize) -> Result<()> {
    let (cluster, owner) = database(false).await?;
    cluster.migrate(OWNER).await?;
    let superuser = cluster.connect(SUPERUSER).await?;
    superuser
        .batch_execute(&format!(
            "grant set on parameter {setting} to postgres; \
             alter database postgres set log_min_duration_statement = 20; \
             create function public.dawdle() returns trigger language plpgsql as 'begin perform pg_sleep(0.05); return new; end'; \
             create trigger dawdle before update on purple_flea.jobs for each row execute function public.dawdle()",
        ))
        .await?;
    let agents = "insert into public.agents (id, api_key) values ('new', 'purple_flea_key:new'), ('other', 'purple_flea_key:other')";
    owner.batch_execute(agents).await?;
    let service = cluster.connect(OWNER).await?;
    service.batch_execute("set role service_role").await?;
    let claimed = "select (public.claim_jobs('{registration-new,registration-other}', 2) -> 'token')::text";
    let token: Value = serde_json::from_str(&text(&service, claimed).await?)?;
    let settle = async |reference: &str, outcome: Value| -> Result<String> {
        let mut outcome = outcome;
        outcome["reference"] = reference.into();
        outcome["token"] = token.clone();
        let outcomes = json!([outcome]).to_string();
        let said = service.query_one("select public.settle_jobs($1::text::json)::text", &[&outcomes]).await?;
        Ok(said.get(0))
    };
    let plain = json!({"state": "pending", "result": {"reason": "a_reason_that_is_logged"}});
    let said = settle("registration-other", plain).await?;
    assert!(said.contains("settled"), "{said}");
    let key =
        json!({"state": "executed", "result": {"account": "ag_1"}, "secret": "sk_secret_of_a_registration"});
    let said = settle("registration-new", key).await?;
    assert!(said.contains("\"settled\""), "{said}");
    let stored = "select secret from purple_flea.secrets where name = 'purple_flea_key:new'";
    assert_eq!(text(&owner, stored).await?, "sk_secret_of_a_registration");
    let shown = text(&service, "show log_parameter_max_length").await?;
    assert_eq!(shown, "-1", "the setting must not outlast its transaction");
    let log = std::fs::read_to_string(cluster.log_path())?;
    assert!(
        log.contains("a_reason_that_is_logged"),
        "Postgres did not log the parameters of a slow statement: {log}"
    );
    assert_eq!(log.matches("settle_jobs($1").count(), logged_calls, "{log}");
    assert!(!log.contains("sk_secret"), "{log}");
    Ok(())
}
