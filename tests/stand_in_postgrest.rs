//! PostgREST's stand-in is as strict and as fickle as PostgREST. Where the real one is there, these hold for it too.

use crate::front_door::soon;
use anyhow::Result;
use http::Request;
use stack::{
    http1,
    pg_net::PgNet,
    postgres::{Cluster, OWNER, SUPERUSER},
    postgrest::{self, PostgRest, Trouble},
    purple_flea::PurpleFlea,
};
use std::time::Duration;
use tokio_postgres::Client;

/// PostgREST in front of a cluster with some functions.
struct Api {
    cluster: Cluster,
    postgrest: PostgRest,
    owner: Client,
}

impl Api {
    /// The functions come first: a real one looks for them when it starts.
    async fn with(sql: &str) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let owner = cluster.connect(OWNER).await?;
        owner.batch_execute(sql).await?;
        let postgrest = PostgRest::start(&cluster).await?;
        Ok(Self { cluster, postgrest, owner })
    }

    /// Calls a function with the service's key: the status and the body as it is.
    async fn call(&self, function: &str, arguments: &str) -> Result<(u16, String)> {
        let token = format!("Bearer {}", postgrest::key("service_role")?);
        self.call_with(&[("apikey", "any"), ("authorization", &token)], function, arguments).await
    }

    async fn call_with(
        &self,
        headers: &[(&str, &str)],
        function: &str,
        arguments: &str,
    ) -> Result<(u16, String)> {
        let mut request = Request::post(format!("{}/rest/v1/rpc/{function}", self.postgrest.url))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = soon(http1::send(request.body(arguments.into())?)).await??;
        Ok((response.status().as_u16(), String::from_utf8(response.body().to_vec())?))
    }

    async fn marks(&self) -> Result<i64> {
        Ok(self.owner.query_one("select count(*) from public.marks", &[]).await?.get(0))
    }
}

/// A function that leaves a mark, and one that does so and fails.
const MARKS: &str = "create table public.marks (n integer); \
    create function public.mark(n integer) returns void language sql as 'insert into public.marks values (n)'; \
    create function public.mark_and_fail(state text) returns void language plpgsql as $$ begin \
      insert into public.marks values (0); \
      raise exception 'no' using errcode = state, detail = 'why', hint = 'how'; end $$";

const WHOAMI: &str = "create function public.whoami() returns text language sql \
      as $$ select current_user || ' by ' || (current_setting('request.jwt.claims')::json ->> 'iss') $$; \
    revoke execute on function public.whoami() from public, anon, authenticated";

fn code(body: &str) -> Result<String> {
    Ok(serde_json::from_str::<serde_json::Value>(body)?["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_refuses_who_has_no_apikey_or_a_broken_token() -> Result<()> {
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
        [("authenticated", (403, "42501")), ("postgres", (403, "42501")), ("ghost", (401, "22023"))]
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
async fn postgrest_finds_a_function_by_the_names_of_its_arguments_and_keeps_their_digits() -> Result<()> {
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
async fn postgrest_tells_nothing_from_null() -> Result<()> {
    let null = "create function public.null() returns jsonb language sql as 'select null::jsonb'";
    let api = Api::with(&format!("{MARKS}; {null}")).await?;
    assert_eq!(api.call("mark", r#"{"n": 1}"#).await?, (204, String::new()));
    assert_eq!(api.call("null", "{}").await?, (200, "null".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_undoes_what_failed_and_serves_on() -> Result<()> {
    let api = Api::with(MARKS).await?;
    for (state, status) in
        [("P0001", 400), ("23505", 409), ("40001", 500), ("53000", 503), ("22023", 400)].repeat(3)
    {
        let failed = api.call("mark_and_fail", &format!(r#"{{"state": "{state}"}}"#)).await?;
        let body: serde_json::Value = serde_json::from_str(&failed.1)?;
        let expected = serde_json::json!({ "code": state, "message": "no", "details": "why", "hint": "how" });
        assert_eq!((failed.0, &body), (status, &expected));
    }
    assert_eq!(api.call("mark", r#"{"n": 1}"#).await?.0, 204);
    assert_eq!(api.marks().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_may_lose_an_answer_and_what_was_done_stays_done() -> Result<()> {
    let api = Api::with(MARKS).await?;
    api.postgrest.misbehave_once(Trouble::BeforeTheCall);
    assert!(api.call("mark", r#"{"n": 1}"#).await.is_err());
    assert_eq!(api.marks().await?, 0);
    api.postgrest.misbehave_once(Trouble::AfterTheCall);
    assert!(api.call("mark", r#"{"n": 2}"#).await.is_err());
    assert_eq!(api.marks().await?, 1);
    api.postgrest.misbehave_once(Trouble::Hang);
    let done = async {
        while api.marks().await? < 2 {}
        anyhow::Ok(())
    };
    tokio::select! {
        answer = api.call("mark", r#"{"n": 3}"#) => anyhow::bail!("answered: {answer:?}"),
        done = soon(done) => done??,
    }
    assert_eq!(api.call("mark", r#"{"n": 4}"#).await?.0, 204);
    assert_eq!(api.marks().await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_takes_ten_connections_and_everybody_else_waits() -> Result<()> {
    let nap = "create function public.nap() returns void language sql as 'select pg_sleep(0.1)'";
    let api = Api::with(nap).await?;
    let calls = futures_util::future::join_all((0..25).map(|_| api.call("nap", "{}"))).await;
    for call in calls {
        assert_eq!(call?.0, 204);
    }
    // A real one has another to listen with.
    let used =
        "select count(*) from pg_stat_activity where usename = 'authenticator' and query !~* '^listen'";
    let used: i64 = api.cluster.connect(SUPERUSER).await?.query_one(used, &[]).await?.get(0);
    assert_eq!(used, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_and_pg_net_come_back_with_the_database() -> Result<()> {
    let api = Api::with(MARKS).await?;
    let _pg_net = PgNet::start(&api.cluster).await?;
    let purple_flea = PurpleFlea::start().await?;
    assert_eq!(api.call("mark", r#"{"n": 1}"#).await?.0, 204);
    api.cluster.crash().await?;
    // Only when others' connections break, too, has the server noticed; it answers again when it has recovered.
    while api.owner.query_one("select 1", &[]).await.is_ok() {}
    let client = soon(async {
        loop {
            if let Ok(client) = api.cluster.connect(SUPERUSER).await {
                return client;
            }
        }
    })
    .await?;
    soon(async {
        loop {
            match api.call("mark", r#"{"n": 2}"#).await? {
                (204, _) => return anyhow::Ok(()),
                (status, body) => assert!(status >= 500, "{status} {body}"),
            }
        }
    })
    .await??;
    let post = format!("select net.http_post('{}/casino/crash')", purple_flea.url);
    client.query_one(&post, &[]).await?;
    let responses = "select count(*) from net._http_response where status_code is not null";
    soon(async {
        while client.query_one(responses, &[]).await?.get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await?
}
