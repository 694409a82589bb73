//! How PostgREST chooses the function for a request, and how it passes arguments.

use super::{Api, MARKS, code, text};
use anyhow::Result;
use http::Method;
use serde_json::json;
use stack::postgrest;

#[tokio::test(flavor = "multi_thread")]
async fn a_function_without_arguments_accepts_any_valid_json_body() -> Result<()> {
    let api = Api::with(
        "create function public.one() returns integer language sql as 'select 1'; \
         create function public.settle(outcomes jsonb) returns integer language sql as 'select 1'; \
         create function public.whole(jsonb) returns jsonb language sql as 'select $1'; \
         create function public.rows(n integer) returns table (a integer, b text) language sql \
           as $$ select a, 'x' from generate_series(1, n) as a $$; \
         create function public.numbers() returns setof integer language sql as 'select generate_series(1, 2)'",
    )
    .await?;
    for body in ["", "{}", "null", "[]", "[{}]", r#""x""#, "1"] {
        assert_eq!(api.call("one", body).await?, (200, "1".to_owned()), "{body:?}");
    }
    for body in ["{", "nonsense"] {
        let (status, answer) = api.call("one", body).await?;
        assert_eq!((status, code(&answer)?.as_str()), (400, "PGRST102"), "{body:?}: {answer}");
    }
    // PostgREST finds a function with a single JSON parameter whatever the parameter's name, but passes no argument.
    let (status, body) = api.call("settle", "{}").await?;
    assert_eq!((status, code(&body)?.as_str()), (404, "42883"), "{body}");
    assert_eq!(api.call("settle", r#"{"outcomes": []}"#).await?, (200, "1".to_owned()));
    assert_eq!(api.call("whole", r#"{"a": 1.50}"#).await?, (200, r#"{"a": 1.50}"#.to_owned()));
    assert_eq!(api.call("settle", r#"[{"outcomes": []}]"#).await?, (200, "1".to_owned()));
    assert_eq!(api.call("numbers", "{}").await?, (200, "[1, 2]".to_owned()));
    let (_, rows) = api.call("rows", r#"{"n": 2}"#).await?;
    let rows: serde_json::Value = serde_json::from_str(&rows)?;
    assert_eq!(rows, json!([{ "a": 1, "b": "x" }, { "a": 2, "b": "x" }]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_checks_the_content_type_the_accept_header_and_the_method() -> Result<()> {
    let one = "create function public.one() returns integer language sql as 'select 1'; \
        create function public.add(a integer) returns integer language sql as 'select a + 1'";
    let api = Api::with(one).await?;
    let token = format!("Bearer {}", postgrest::key("service_role")?);
    for (name, value, function, arguments, expected) in [
        ("content-type", "application/json; charset=utf-8", "one", "{}", (200, "")),
        ("content-type", "text/plain", "one", "{}", (404, "PGRST202")),
        ("content-type", "application/x-www-form-urlencoded", "add", "a=1", (200, "")),
        ("content-type", "image/png", "one", "{}", (400, "PGRST102")),
        ("accept", "text/html", "one", "{}", (406, "PGRST107")),
        ("accept", "text/html, */*;q=0.1", "one", "{}", (200, "")),
        ("accept", "text/html", "none", "{}", (404, "PGRST202")),
    ] {
        let headers = [("apikey", "any"), ("authorization", token.as_str()), (name, value)];
        let (status, body) = api.call_with(&headers, function, arguments).await?;
        let code = if status == 200 { String::new() } else { code(&body)? };
        assert_eq!((status, code.as_str()), expected, "{value}: {body}");
    }
    let headers = [("apikey", "any"), ("authorization", token.as_str())];
    let (status, body) = text(api.send(Method::PUT, "rpc/one", &headers, "{}").await?)?;
    assert_eq!((status, code(&body)?.as_str()), (405, "PGRST101"), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_finds_a_function_by_its_argument_names_and_keeps_the_digits_of_numbers() -> Result<()> {
    let api = Api::with(
        "create function public.echo(names text[], odds jsonb, \"limit\" integer default 7, of uuid default null) \
         returns jsonb language sql as $$ select jsonb_build_object('names', names, 'odds', odds, 'limit', \"limit\", 'of', of) $$; \
         create function public.twice(a integer) returns integer language sql as 'select 1'; \
         create function public.twice(a text) returns integer language sql as 'select 2'",
    )
    .await?;
    let (status, body) = api.call("echo", r#"{"odds": {"x": 1.5000}, "names": ["a", "b,\"'"]}"#).await?;
    let expected = r#"{"of": null, "odds": {"x": 1.5000}, "limit": 7, "names": ["a", "b,\"'"]}"#;
    assert_eq!((status, body.as_str()), (200, expected));
    let given = r#"{"names": [], "odds": null, "limit": 1, "of": "00000000-0000-0000-0000-00000000000A"}"#;
    let (status, body) = api.call("echo", given).await?;
    let expected = r#"{"of": "00000000-0000-0000-0000-00000000000a", "odds": null, "limit": 1, "names": []}"#;
    assert_eq!((status, body.as_str()), (200, expected));
    for (function, arguments, signature) in [
        ("nothing", "{}", "nothing without parameters"),
        ("echo", r#"{"names": []}"#, "echo(names)"),
        ("echo", r#"{"names": [], "odds": 1, "other": 1}"#, "echo(names, odds, other)"),
    ] {
        let (status, body) = api.call(function, arguments).await?;
        assert_eq!((status, code(&body)?.as_str()), (404, "PGRST202"), "{body}");
        let message = format!("Could not find the function public.{signature} in the schema cache");
        assert!(body.contains(&message), "{body}");
    }
    let (status, body) = api.call("twice", r#"{"a": 1}"#).await?;
    assert_eq!((status, code(&body)?.as_str()), (300, "PGRST203"), "{body}");
    let (status, body) = api.call("echo", "{").await?;
    assert_eq!((status, code(&body)?.as_str()), (400, "PGRST102"), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_distinguishes_void_from_null() -> Result<()> {
    let null = "create function public.null() returns jsonb language sql as 'select null::jsonb'";
    let api = Api::with(&format!("{MARKS}; {null}")).await?;
    assert_eq!(api.call("mark", r#"{"n": 1}"#).await?, (204, String::new()));
    assert_eq!(api.call("null", "{}").await?, (200, "null".to_owned()));
    Ok(())
}
