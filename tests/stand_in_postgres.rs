//! The local PostgreSQL is as strict with the API's roles as a hosted Supabase project. Each supported version exists.

use anyhow::Result;
use stack::postgres::{Cluster, OWNER};
use tokio_postgres::Client;

/// Functions that change every row: in SQL, in PL/pgSQL, in a CTE, by EXECUTE, and as security definer.
const CARELESS: &str = "create table public.marks (n integer); \
    create function public.careless_update() returns void language plpgsql as 'begin update public.marks set n = 1; end'; \
    create function public.careless_delete() returns void language sql as 'delete from public.marks'; \
    create function public.careless_part() returns void language plpgsql \
      as 'begin with gone as (delete from public.marks returning 1) insert into public.marks select * from gone; end'; \
    create function public.careless_text() returns void language plpgsql as $$ begin execute 'update public.marks set n = 2'; end $$; \
    create function public.careless_definer() returns void language plpgsql security definer \
      as 'begin delete from public.marks m; end'; \
    create function public.careful() returns void language plpgsql \
      as 'begin update public.marks set n = 1 where true; delete from public.marks where n = 1; end'";

const CARELESS_FUNCTIONS: [(&str, &str); 5] = [
    ("careless_update", "UPDATE requires a WHERE clause"),
    ("careless_delete", "DELETE requires a WHERE clause"),
    ("careless_part", "DELETE requires a WHERE clause"),
    ("careless_text", "UPDATE requires a WHERE clause"),
    ("careless_definer", "DELETE requires a WHERE clause"),
];

/// Reads a setting of a connection.
async fn show(client: &Client, setting: &str) -> Result<String> {
    Ok(client.query_one(&format!("show {setting}"), &[]).await?.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_refuses_an_update_or_delete_without_where_to_api_roles_and_not_to_the_owner() -> Result<()>
{
    let cluster = Cluster::start().await?;
    let owner = cluster.connect(OWNER).await?;
    owner.batch_execute(CARELESS).await?;
    for (function, _) in CARELESS_FUNCTIONS {
        owner.batch_execute(&format!("select public.{function}()")).await?;
    }
    owner.batch_execute("delete from public.marks").await?;
    for role in ["anon", "authenticated", "service_role"] {
        let api = cluster.connect("authenticator").await?;
        api.batch_execute(&format!("set role {role}; select public.careful()")).await?;
        for (function, message) in CARELESS_FUNCTIONS {
            let Err(error) = api.batch_execute(&format!("select public.{function}()")).await else {
                anyhow::bail!("{function} was carried out for {role}");
            };
            let refused = error.as_db_error().map(|error| (error.code().code(), error.message()));
            assert_eq!(refused, Some(("21000", message)), "{function} as {role}");
        }
        assert!(api.batch_execute("set safeupdate.enabled = off").await.is_err(), "{role} switched it off");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn api_connections_wait_eight_seconds_for_a_statement_and_for_a_lock() -> Result<()> {
    let cluster = Cluster::start().await?;
    let api = cluster.connect("authenticator").await?;
    assert_eq!([show(&api, "statement_timeout").await?, show(&api, "lock_timeout").await?], ["8s", "8s"]);
    let owner = cluster.connect(OWNER).await?;
    assert_eq!([show(&owner, "statement_timeout").await?, show(&owner, "lock_timeout").await?], ["0", "0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_postgresql_17_and_18_start_with_supabases_roles() -> Result<()> {
    for major in [17, 18] {
        assert!(Cluster::has_version(major).await, "PostgreSQL {major} is not installed");
        let cluster = Cluster::start_version(major).await?;
        let owner = cluster.connect(OWNER).await?;
        let version = show(&owner, "server_version").await?;
        assert_eq!(version.split('.').next(), Some(major.to_string().as_str()), "{version}");
        let signed = "select encode(extensions.hmac('a', 'b', 'sha256'), 'hex')";
        assert_eq!(owner.query_one(signed, &[]).await?.get::<_, String>(0).len(), 64);
        cluster.connect("authenticator").await?.batch_execute("set role anon; select 1").await?;
    }
    assert!(!Cluster::has_version(9).await, "has_version must not find the unsupported version 9");
    Ok(())
}
