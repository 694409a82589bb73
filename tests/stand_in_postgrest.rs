//! The stand-in for PostgREST behaves like PostgREST, failures included. If the real PostgREST is installed, the same
//! tests run against it.

mod requests;
mod roles;
mod statuses;
mod tables;

use crate::front_door::soon;
use anyhow::Result;
use http::{HeaderName, HeaderValue, Method, Request, Response};
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
    /// Creates the functions before it starts PostgREST, which reads the schema at its start.
    async fn with(sql: &str) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let owner = cluster.connect(OWNER).await?;
        owner.batch_execute(sql).await?;
        let postgrest = PostgRest::start(&cluster).await?;
        Ok(Self { cluster, postgrest, owner })
    }

    /// Calls a function with the service's key, and gives the status and the body.
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
        let response = self.send(Method::POST, &format!("rpc/{function}"), headers, arguments).await?;
        text(response)
    }

    /// Calls a function with a bearer token.
    async fn call_as(&self, token: &str, function: &str, arguments: &str) -> Result<(u16, String)> {
        let token = format!("Bearer {token}");
        self.call_with(&[("apikey", "any"), ("authorization", &token)], function, arguments).await
    }

    /// Sends a GET request with a bearer token.
    async fn get(&self, token: &str, path: &str) -> Result<(u16, String)> {
        let token = format!("Bearer {token}");
        text(self.send(Method::GET, path, &[("apikey", "any"), ("authorization", &token)], "").await?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response<Vec<u8>>> {
        let url = format!("{}/rest/v1/{path}", self.postgrest.url);
        let mut request = Request::builder().method(method).uri(url).body(body.as_bytes().to_vec())?;
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
        }
        Ok(soon(http1::send(request)).await??.map(|body| body.to_vec()))
    }

    /// Counts the rows of the table `marks`.
    async fn marks(&self) -> Result<i64> {
        Ok(self.owner.query_one("select count(*) from public.marks", &[]).await?.get(0))
    }
}

/// A table of marks, a function that inserts a mark, and a function that inserts a mark and then fails.
const MARKS: &str = "create table public.marks (n integer); \
    create function public.mark(n integer) returns void language sql as 'insert into public.marks values (n)'; \
    create function public.mark_and_fail(state text) returns void language plpgsql as $$ begin \
      insert into public.marks values (0); \
      raise exception 'no' using errcode = state, detail = 'why', hint = 'how'; end $$";

/// A function that tells the current role and the issuer of the token. Only the service may call it.
const WHOAMI: &str = "create function public.whoami() returns text language sql \
      as $$ select current_user || ' by ' || (current_setting('request.jwt.claims')::json ->> 'iss') $$; \
    revoke execute on function public.whoami() from public, anon, authenticated";

/// Gives the status and the body of a response.
fn text(response: Response<Vec<u8>>) -> Result<(u16, String)> {
    Ok((response.status().as_u16(), String::from_utf8(response.into_body())?))
}

/// Gives the error code of a body.
fn code(body: &str) -> Result<String> {
    Ok(serde_json::from_str::<serde_json::Value>(body)?["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_rolls_back_a_failed_call_and_keeps_serving() -> Result<()> {
    let api = Api::with(MARKS).await?;
    for (state, status) in
        [("P0001", 400), ("23505", 409), ("40002", 500), ("53000", 503), ("22023", 400)].repeat(3)
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
async fn a_call_whose_reply_postgrest_loses_stays_committed() -> Result<()> {
    let api = Api::with(MARKS).await?;
    api.postgrest.misbehave_once(Trouble::BeforeTheCall);
    assert!(api.call("mark", r#"{"n": 1}"#).await.is_err(), "PostgREST must drop the call before it runs");
    assert_eq!(api.marks().await?, 0);
    api.postgrest.misbehave_once(Trouble::AfterTheCall);
    assert!(api.call("mark", r#"{"n": 2}"#).await.is_err(), "PostgREST must drop the reply");
    assert_eq!(api.marks().await?, 1);
    api.postgrest.misbehave_once(Trouble::Hang);
    let committed = async {
        while api.marks().await? < 2 {}
        anyhow::Ok(())
    };
    tokio::select! {
        reply = api.call("mark", r#"{"n": 3}"#) => anyhow::bail!("PostgREST must hang, but replied {reply:?}"),
        committed = soon(committed) => committed??,
    }
    assert_eq!(api.call("mark", r#"{"n": 4}"#).await?.0, 204);
    assert_eq!(api.marks().await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_uses_ten_connections_and_queues_further_calls() -> Result<()> {
    let nap = "create function public.nap() returns void language sql as 'select pg_sleep(0.1)'";
    let api = Api::with(nap).await?;
    let calls = futures_util::future::join_all((0..25).map(|_| api.call("nap", "{}"))).await;
    for call in calls {
        assert_eq!(call?.0, 204);
    }
    // The real PostgREST has one more connection, which listens for notifications.
    let used =
        "select count(*) from pg_stat_activity where usename = 'authenticator' and query !~* '^listen'";
    let used: i64 = api.cluster.connect(SUPERUSER).await?.query_one(used, &[]).await?.get(0);
    assert_eq!(used, 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_reconnects_to_a_restarted_database_only_after_its_retry_delay() -> Result<()> {
    let mut api = Api::with(MARKS).await?;
    api.postgrest.retry_after(Duration::from_millis(400));
    assert_eq!(api.call("mark", r#"{"n": 1}"#).await?.0, 204);
    api.cluster.stop().await?;
    // PostgREST notices a broken connection when it uses it. After that, all calls wait.
    let mut seen = Vec::new();
    soon(async {
        while !seen.contains(&"PGRST002".to_owned()) {
            let (status, body) = api.call("mark", r#"{"n": 2}"#).await?;
            assert_eq!(status, 503, "{body}");
            seen.push(code(&body)?);
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(seen[0], "PGRST001", "{seen:?}");
    // PostgREST retries after 0.4, 1.2 and 2.8 s. The database restarts between the second and the third retry.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    api.cluster.start_again().await?;
    let (status, body) = api.call("mark", r#"{"n": 3}"#).await?;
    assert_eq!((status, code(&body)?.as_str()), (503, "PGRST002"), "{body}");
    soon(async {
        while api.call("mark", r#"{"n": 4}"#).await?.0 != 204 {}
        anyhow::Ok(())
    })
    .await??;
    let owner = api.cluster.connect(OWNER).await?;
    let marks: Vec<i32> =
        owner.query("select n from public.marks", &[]).await?.iter().map(|row| row.get(0)).collect();
    assert_eq!(marks, [1, 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgrest_and_pg_net_recover_after_a_database_crash() -> Result<()> {
    let api = Api::with(MARKS).await?;
    let _pg_net = PgNet::start(&api.cluster).await?;
    let purple_flea = PurpleFlea::start().await?;
    assert_eq!(api.call("mark", r#"{"n": 1}"#).await?.0, 204);
    api.cluster.crash().await?;
    // The server has noticed the crash when it breaks other connections, too. It answers again after its recovery.
    soon(async { while api.owner.query_one("select 1", &[]).await.is_ok() {} }).await?;
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
