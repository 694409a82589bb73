//! The status of PostgREST's reply to each kind of failure.

use super::{Api, MARKS, code};
use crate::front_door::soon;
use anyhow::Result;
use http::{HeaderValue, Method};
use serde_json::json;
use stack::postgrest;
use std::time::Duration;

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
    let api = Api::with(
        "create sequence public.tries; \
         create function public.race(losses integer) returns bigint language plpgsql as $$ begin \
           if nextval('public.tries') <= losses then raise exception 'lost' using errcode = '40001'; end if; \
           return currval('public.tries'); end $$",
    )
    .await?;
    assert_eq!(api.call("race", r#"{"losses": 20}"#).await?, (200, "21".to_owned()));
    let endless = api.call("race", r#"{"losses": 1000000000}"#);
    assert!(tokio::time::timeout(Duration::from_secs(1), endless).await.is_err(), "PostgREST replied");
    // The caller has hung up, so PostgREST must stop its retries.
    let last = "select last_value from public.tries";
    soon(async {
        let mut seen: i64 = 0;
        loop {
            let now = api.owner.query_one(last, &[]).await?.get(0);
            if now == seen {
                return anyhow::Ok(());
            }
            seen = now;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
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
