//! Tokens, and the role and settings of a transaction.

use super::{Api, WHOAMI, code, text};
use crate::front_door::soon;
use anyhow::Result;
use http::{HeaderValue, Method};
use serde_json::json;
use stack::{postgres::SUPERUSER, postgrest};

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_refuses_calls_without_an_apikey_or_with_a_broken_token() -> Result<()> {
    let api = Api::with(WHOAMI).await?;
    let (status, body) = api.call_with(&[], "whoami", "{}").await?;
    assert_eq!((status, body.as_str()), (401, r#"{"message":"No API key found in request"}"#));
    let token = postgrest::key("service_role")?;
    for broken in ["Bearer nonsense".to_owned(), format!("Bearer {}x", &token[..token.len() - 3])] {
        let headers = [("apikey", "any"), ("authorization", broken.as_str())];
        let (status, body) = api.call_with(&headers, "whoami", "{}").await?;
        assert_eq!((status, code(&body)?.as_str()), (401, "PGRST301"), "{body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_runs_a_function_as_the_role_of_the_token() -> Result<()> {
    let api = Api::with(WHOAMI).await?;
    assert_eq!(api.call("whoami", "{}").await?, (200, r#""service_role by stack""#.to_owned()));
    let (status, body) = api.call_with(&[("apikey", "any")], "whoami", "{}").await?;
    assert_eq!((status, code(&body)?.as_str()), (401, "42501"), "anon: {body}");
    for (role, expected) in
        [("authenticated", (403, "42501")), ("postgres", (403, "42501")), ("ghost", (400, "22023"))]
    {
        let token = format!("Bearer {}", postgrest::key(role)?);
        let headers = [("apikey", "any"), ("authorization", token.as_str())];
        let (status, body) = api.call_with(&headers, "whoami", "{}").await?;
        assert_eq!((status, code(&body)?.as_str()), expected, "{role}: {body}");
    }
    assert_eq!(api.postgrest.calls(), ["whoami"; 5]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_refuses_an_invalid_token_with_a_challenge() -> Result<()> {
    let api = Api::with(WHOAMI).await?;
    let now = stack::webhook::unix_s();
    let user = "00000000-0000-4000-8000-000000000001";
    for (token, message) in [
        (postgrest::expired_user_key(user)?, "JWT expired"),
        (postgrest::forged_user_key(user)?, "JWSError JWSInvalidSignature"),
        (postgrest::key_with(&json!({ "role": "service_role", "nbf": now + 600 }))?, "JWTNotYetValid"),
        (postgrest::key_with(&json!({ "role": "service_role", "iat": now + 600 }))?, "JWTIssuedAtFuture"),
    ] {
        let token = format!("Bearer {token}");
        let headers = [("apikey", "any"), ("authorization", token.as_str())];
        let response = api.send(Method::POST, "rpc/whoami", &headers, "{}").await?;
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{message}\"");
        let given = response.headers().get("www-authenticate").map(HeaderValue::as_bytes);
        assert_eq!(given, Some(challenge.as_bytes()));
        let (status, body) = text(response)?;
        assert_eq!((status, code(&body)?.as_str()), (401, "PGRST301"), "{body}");
        assert!(body.contains(message), "{body}");
    }
    // PostgREST tolerates clocks that differ by up to half a minute.
    let tolerated =
        json!({ "role": "service_role", "exp": now - 10, "nbf": now + 10, "iat": now + 10, "iss": "late" });
    assert_eq!(api.call_as(&postgrest::key_with(&tolerated)?, "whoami", "{}").await?.0, 200);
    // PostgREST treats another scheme and an empty token like a missing token.
    for none in ["Basic YTpi", "Bearer", "Bearer "] {
        let response =
            api.send(Method::POST, "rpc/whoami", &[("apikey", "any"), ("authorization", none)], "{}").await?;
        let given = response.headers().get("www-authenticate").map(HeaderValue::as_bytes);
        assert_eq!(given, Some(b"Bearer".as_slice()), "{none}");
        let (status, body) = text(response)?;
        assert_eq!((status, code(&body)?.as_str()), (401, "42501"), "{none}: {body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_calls_a_function_and_reads_tables_as_authenticated_under_row_level_security() -> Result<()> {
    let api = Api::with(
        "create table public.things (id integer primary key, owner uuid not null, name text); \
         alter table public.things enable row level security; \
         create policy own on public.things for select to authenticated using ((select auth.uid()) = owner); \
         create view public.names with (security_invoker = true) as select name from public.things; \
         insert into public.things select n, ('00000000-0000-4000-8000-00000000000' || n % 2)::uuid, 'thing ' || n from generate_series(1, 6) as n; \
         create function public.me() returns jsonb language sql stable \
         as $$ select current_setting('request.jwt.claims')::jsonb || jsonb_build_object('uid', auth.uid(), 'user', current_user, \
           'method', current_setting('request.method'), 'path', current_setting('request.path'), \
           'agent', current_setting('request.headers')::json ->> 'apikey') $$",
    )
    .await?;
    let user = "00000000-0000-4000-8000-000000000001";
    let key = postgrest::user_key(user)?;
    let (status, body) = api.call_as(&key, "me", "{}").await?;
    let me: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!(status, 200, "{body}");
    for (name, value) in [
        ("sub", user),
        ("uid", user),
        ("role", "authenticated"),
        ("user", "authenticated"),
        ("aud", "authenticated"),
        ("method", "POST"),
        ("path", "/rpc/me"),
        ("agent", "any"),
    ] {
        assert_eq!(me[name], value, "{name} of {me}");
    }
    for (path, body) in [
        (
            "things?select=id,name&order=id.desc&limit=2",
            r#"[{"id":5,"name":"thing 5"}, \n {"id":3,"name":"thing 3"}]"#,
        ),
        ("things?id=gte.3&select=id&order=id&offset=1", r#"[{"id":5}]"#),
        ("things?id=eq.2", "[]"),
        ("things?name=eq.thing+1&owner=not&select=id", ""),
        ("names?name=eq.thing+3", r#"[{"name":"thing 3"}]"#),
    ] {
        let (status, read) = api.get(&key, path).await?;
        let expected = if body.is_empty() { 400 } else { 200 };
        assert_eq!(status, expected, "{path}: {read}");
        if expected == 200 {
            assert_eq!(read, body.replace("\\n", "\n"), "{path}");
        }
    }
    assert_eq!(api.get(&postgrest::key("anon")?, "things").await?, (200, "[]".to_owned()));
    let (status, body) = api.get(&key, "ghosts").await?;
    assert_eq!((status, code(&body)?.as_str()), (404, "42P01"), "{body}");
    let (status, body) = api.get(&key, "").await?;
    let described: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!((status, &described["swagger"]), (200, &json!("2.0")));
    assert!(described["paths"]["/things"].is_object() && described["paths"]["/rpc/me"].is_object(), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_applies_the_settings_of_the_role_to_each_transaction() -> Result<()> {
    let settings = "create role quick nologin; grant quick to authenticator; \
        alter role quick set statement_timeout = '300ms'; \
        alter role quick set default_transaction_isolation = 'serializable'; \
        create function public.settings() returns jsonb language sql as $$ select jsonb_build_object( \
          'search_path', current_setting('search_path'), 'statement_timeout', current_setting('statement_timeout'), \
          'lock_timeout', current_setting('lock_timeout'), 'isolation', current_setting('transaction_isolation'), \
          'read_only', current_setting('transaction_read_only')) $$; \
        create function public.nap() returns void language sql as 'select pg_sleep(60)'";
    let api = Api::with(settings).await?;
    let superuser = api.cluster.connect(SUPERUSER).await?;
    superuser
        .batch_execute("alter database postgres set default_transaction_isolation = 'repeatable read'")
        .await?;
    let search_path = r#""public", "extensions""#;
    for (role, timeout, isolation) in [
        ("service_role", "8s", "read committed"),
        ("anon", "3s", "read committed"),
        ("authenticated", "8s", "read committed"),
        ("quick", "300ms", "serializable"),
    ] {
        let (status, body) = api.call_as(&postgrest::key(role)?, "settings", "{}").await?;
        let seen: serde_json::Value = serde_json::from_str(&body)?;
        let expected = json!({
            "search_path": search_path, "statement_timeout": timeout, "lock_timeout": "8s",
            "isolation": isolation, "read_only": "off",
        });
        assert_eq!((status, seen), (200, expected), "{role}");
    }
    let (status, body) = api.call_as(&postgrest::key("quick")?, "nap", "{}").await?;
    assert_eq!((status, code(&body)?.as_str()), (500, "57014"), "{body}");
    // The next transaction does not inherit the settings of another role.
    let (_, body) = api.call("settings", "{}").await?;
    assert!(body.contains(r#""statement_timeout": "8s""#), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_reloads_changed_role_settings_when_the_schema_changes() -> Result<()> {
    let api = Api::with(
        "create role quick nologin; grant quick to authenticator; \
         create function public.timeout() returns text language sql as $$ select current_setting('statement_timeout') $$",
    )
    .await?;
    let key = postgrest::key("quick")?;
    assert_eq!(api.call_as(&key, "timeout", "{}").await?, (200, r#""8s""#.to_owned()));
    // A changed role fires no event trigger. A new table does, and its notification makes PostgREST reload everything.
    api.owner
        .batch_execute("alter role quick set statement_timeout = '5s'; create table public.t ()")
        .await?;
    soon(async {
        while api.call_as(&key, "timeout", "{}").await?.1 != r#""5s""# {}
        anyhow::Ok(())
    })
    .await?
}
