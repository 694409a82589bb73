//! The status of PostgREST's reply to each kind of failure.

use super::{Api, MARKS, code};
use crate::front_door::soon;
use anyhow::Result;
use http::{HeaderValue, Method};
use serde_json::json;
use stack::{postgres::SUPERUSER, postgrest};

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_maps_each_database_error_to_its_status() -> Result<()> {
    let api = Api::with(MARKS).await?;
    for (state, status) in [
        ("57014", 500),
        ("57P01", 503),
        ("57P02", 500),
        ("57P03", 500),
        ("25006", 405),
        ("53400", 500),
        ("08000", 503),
        ("28000", 403),
        ("PT402", 402),
        ("PT429", 429),
        ("PT503", 503),
        ("PTXYZ", 500),
        ("21000", 500),
        ("40P01", 500),
        ("55P03", 500),
        ("P0002", 500),
        ("XX000", 500),
        ("42883", 404),
    ] {
        let (answered, body) = api.call("mark_and_fail", &format!(r#"{{"state": "{state}"}}"#)).await?;
        assert_eq!((answered, code(&body)?.as_str()), (status, state), "{body}");
    }
    let (status, body) = api.call("mark_and_fail", r#"{"state": "PGRST"}"#).await?;
    assert_eq!((status, code(&body)?.as_str()), (500, "PGRST121"), "{body}");
    assert_eq!(api.marks().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_can_choose_its_status_its_headers_and_its_body() -> Result<()> {
    let refuse = "create function public.refuse() returns void language plpgsql as $$ begin raise sqlstate 'PGRST' using \
        message = '{\"code\": \"x\", \"message\": \"m\", \"hint\": \"h\"}', \
        detail = '{\"status\": 402, \"headers\": {\"x-why\": \"because\"}}'; end $$";
    let api = Api::with(refuse).await?;
    let token = format!("Bearer {}", postgrest::key("service_role")?);
    let headers = [("apikey", "any"), ("authorization", token.as_str())];
    let response = api.send(Method::POST, "rpc/refuse", &headers, "{}").await?;
    assert_eq!(response.headers().get("x-why").map(HeaderValue::as_bytes), Some(b"because".as_slice()));
    let expected = json!({ "code": "x", "message": "m", "details": null, "hint": "h" });
    assert_eq!(response.status(), 402);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(response.body())?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_answers_400_to_a_delete_without_where() -> Result<()> {
    let careless =
        "create function public.careless() returns void language sql as 'delete from public.marks'";
    let api = Api::with(&format!("{MARKS}; {careless}")).await?;
    let (status, body) = api.call("careless", "{}").await?;
    assert_eq!((status, code(&body)?.as_str()), (400, "21000"), "{body}");
    assert!(body.contains("DELETE requires a WHERE clause"), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_retries_a_serialization_failure_without_a_reply() -> Result<()> {
    let api = Api::with(&format!(
        "{MARKS}; create table public.rivals (); insert into public.rivals default values; \
         create sequence public.tries; \
         create function public.race() returns void language plpgsql as $$ begin \
           perform nextval('public.tries'); \
           if exists (select from public.rivals) then raise exception 'lost' using errcode = '40001'; end if; \
           insert into public.marks values (1); end $$"
    ))
    .await?;
    let tried = async |more: i64| {
        let tries = "select last_value from public.tries";
        let first: i64 = api.owner.query_one(tries, &[]).await?.get(0);
        while api.owner.query_one(tries, &[]).await?.get::<_, i64>(0) < first + more {}
        anyhow::Ok(())
    };
    tokio::select! {
        reply = api.call("race", "{}") => anyhow::bail!("PostgREST replied {reply:?}"),
        tried = soon(tried(20)) => tried??,
    }
    // The caller has hung up, and PostgREST goes on until the transaction wins.
    soon(tried(20)).await??;
    assert_eq!(api.marks().await?, 0);
    api.owner.batch_execute("truncate public.rivals").await?;
    soon(async {
        while api.marks().await? == 0 {}
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(api.call("race", "{}").await?.0, 204);
    assert_eq!(api.marks().await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_after_its_caller_has_hung_up() -> Result<()> {
    let api = Api::with(&format!(
        "{MARKS}; create table public.signs (); \
         create function public.wait() returns void language plpgsql as $$ begin \
           while not exists (select from public.signs) loop perform pg_sleep(0.02); end loop; \
           insert into public.marks values (1); end $$"
    ))
    .await?;
    let running = async {
        let calls = "select count(*) from pg_stat_activity where state = 'active' and query like '%wait%' \
            and pid <> pg_backend_pid()";
        let superuser = api.cluster.connect(SUPERUSER).await?;
        while superuser.query_one(calls, &[]).await?.get::<_, i64>(0) == 0 {}
        anyhow::Ok(())
    };
    tokio::select! {
        reply = api.call("wait", "{}") => anyhow::bail!("the call waits, but PostgREST replied {reply:?}"),
        running = soon(running) => running??,
    }
    api.owner.batch_execute("insert into public.signs default values").await?;
    soon(async {
        while api.marks().await? == 0 {}
        anyhow::Ok(())
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn get_requests_and_stable_functions_run_in_a_read_only_transaction() -> Result<()> {
    let api = Api::with(&format!(
        "{MARKS}; \
         create function public.add(a integer, b numeric default 1.5) returns numeric language sql stable as 'select a + b'; \
         create function public.sly() returns integer language plpgsql stable as $$ begin perform public.mark(1); return 1; end $$"
    ))
    .await?;
    let key = postgrest::key("service_role")?;
    assert_eq!(api.get(&key, "rpc/add?a=1&b=2.25").await?, (200, "3.25".to_owned()));
    assert_eq!(api.get(&key, "rpc/add?a=1").await?, (200, "2.5".to_owned()));
    let (status, body) = api.get(&key, "rpc/add?c=1").await?;
    assert_eq!((status, code(&body)?.as_str()), (404, "PGRST202"), "{body}");
    for refused in [api.get(&key, "rpc/mark?n=1").await?, api.call("sly", "{}").await?] {
        assert_eq!((refused.0, code(&refused.1)?.as_str()), (405, "25006"), "{refused:?}");
    }
    assert_eq!(api.marks().await?, 0);
    Ok(())
}
