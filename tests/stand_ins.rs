//! The stand-in for pg_net behaves like pg_net, failures included, and the simulator's balances add up. If the real
//! pg_net is installed, the same tests run against it.

use crate::front_door::soon;
use anyhow::Result;
use http::Request;
use stack::{
    http1,
    pg_net::PgNet,
    postgres::{Cluster, SUPERUSER},
    purple_flea::{self, Fault, How, PurpleFlea},
};
use std::time::Duration;
use tokio_postgres::Client;

/// A cluster with pg_net, and a simulator that receives its requests.
struct Net {
    _cluster: Cluster,
    _pg_net: PgNet,
    client: Client,
    purple_flea: PurpleFlea,
}

impl Net {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        let pg_net = PgNet::start(&cluster).await?;
        let client = cluster.connect(SUPERUSER).await?;
        Ok(Self { _cluster: cluster, _pg_net: pg_net, client, purple_flea: PurpleFlea::start().await? })
    }

    /// Queues a request to the simulator, and gives its id.
    async fn post(&self, body: &str, timeout_ms: i32) -> Result<i64> {
        let post = format!(
            "select net.http_post(url => '{}/casino/crash', body => '{body}', timeout_milliseconds => {timeout_ms})",
            self.purple_flea.url
        );
        Ok(self.client.query_one(&post, &[]).await?.get(0))
    }

    /// Waits for a response, and gives its status and whether it timed out.
    async fn response(&self, id: i64) -> Result<(Option<i32>, Option<bool>)> {
        let sql = "select status_code, timed_out from net._http_response where id = $1";
        soon(async {
            loop {
                if let Some(row) = self.client.query_opt(sql, &[&id]).await? {
                    return Ok((row.get(0), row.get(1)));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_sends_a_request_twice_when_a_kept_connection_dies() -> Result<()> {
    let net = Net::start().await?;
    let first = net.post(r#"{"n": 1}"#, 5000).await?;
    net.response(first).await?;
    net.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    let second = net.post(r#"{"n": 2}"#, 5000).await?;
    assert_eq!(net.response(second).await?.0, Some(401));
    let bodies: Vec<String> = net.purple_flea.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [r#"{"n": 1}"#, r#"{"n": 2}"#, r#"{"n": 2}"#]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_does_not_repeat_a_partly_answered_request() -> Result<()> {
    let net = Net::start().await?;
    let first = net.post(r#"{"n": 1}"#, 5000).await?;
    net.response(first).await?;
    net.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::BreakOff });
    let second = net.post(r#"{"n": 2}"#, 5000).await?;
    assert_eq!(net.response(second).await?.0, None);
    assert_eq!(net.purple_flea.requests().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_shows_the_responses_of_a_batch_only_after_its_slowest() -> Result<()> {
    let net = Net::start().await?;
    net.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::Hang });
    net.client.batch_execute("begin").await?;
    for _ in 0..2 {
        net.post("{}", 1500).await?;
    }
    net.client.batch_execute("commit").await?;
    let counts = "select count(*) filter (where timed_out), count(*) from net._http_response";
    let (late, all) = soon(async {
        loop {
            let row = net.client.query_one(counts, &[]).await?;
            if row.get::<_, i64>(1) > 0 {
                return anyhow::Ok((row.get::<_, i64>(0), row.get::<_, i64>(1)));
            }
        }
    })
    .await??;
    assert_eq!((late, all), (1, 2), "both responses must appear together");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_sends_200_requests_at_once_and_the_rest_a_second_later() -> Result<()> {
    let net = Net::start().await?;
    let url = &net.purple_flea.url;
    let many = format!("select net.http_post('{url}/casino/crash') from generate_series(1, 201)");
    net.client.batch_execute(&many).await?;
    let created =
        "select extract(epoch from max(created) - min(created))::float8, count(*) from net._http_response";
    let apart_s = soon(async {
        loop {
            let row = net.client.query_one(created, &[]).await?;
            if row.get::<_, i64>(1) == 201 {
                return anyhow::Ok(row.get::<_, f64>(0));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await??;
    assert!(apart_s >= 1.0, "only {apart_s} s passed between the batches");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_does_not_retry_an_error_status_or_a_refused_connection() -> Result<()> {
    let net = Net::start().await?;
    net.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
    let failed = net.post("{}", 5000).await?;
    assert_eq!(net.response(failed).await?, (Some(500), Some(false)));
    let next = net.post("{}", 5000).await?;
    net.response(next).await?;
    assert_eq!(net.purple_flea.requests().len(), 2);
    let refused = "select net.http_post('http://127.0.0.1:9/')";
    let id: i64 = net.client.query_one(refused, &[]).await?.get(0);
    assert_eq!(net.response(id).await?.0, None);
    let error = "select error_msg from net._http_response where id = $1";
    let error: String = net.client.query_one(error, &[&id]).await?.get(0);
    assert!(error.contains("Couldn't connect to server"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_follows_redirects_and_only_a_307_keeps_the_body() -> Result<()> {
    let net = Net::start().await?;
    let mut how = How::answer(302, "{}");
    if let How::Answer { headers, .. } = &mut how {
        headers.push(("location", "/elsewhere".to_owned()));
    }
    net.purple_flea.misbehave_once(Fault { after_the_bet: false, how });
    let id = net.post(r#"{"n": 1}"#, 5000).await?;
    assert_eq!(net.response(id).await?.0, Some(404));
    let requests = net.purple_flea.requests();
    assert_eq!((requests[1].path.as_str(), requests[1].body.as_str()), ("/elsewhere", ""));

    let mut how = How::answer(307, "{}");
    if let How::Answer { headers, .. } = &mut how {
        headers.push(("location", "/kept".to_owned()));
    }
    net.purple_flea.misbehave_once(Fault { after_the_bet: false, how });
    let id = net.post(r#"{"n": 2}"#, 5000).await?;
    net.response(id).await?;
    let requests = net.purple_flea.requests();
    assert_eq!((requests[3].path.as_str(), requests[3].body.as_str()), ("/kept", r#"{"n": 2}"#));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_nets_tables_are_unlogged_and_readable_by_anon() -> Result<()> {
    let net = Net::start().await?;
    let tables = "select relname::text, relpersistence::text, has_table_privilege('anon', oid, 'select') from pg_class \
                  where relnamespace = 'net'::regnamespace and relkind = 'r' order by 1";
    let rows = net.client.query(tables, &[]).await?;
    let seen: Vec<(&str, &str, bool)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(seen, [("_http_response", "u", true), ("http_request_queue", "u", true)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_raises_in_the_callers_transaction_on_invalid_arguments() -> Result<()> {
    let net = Net::start().await?;
    for call in [
        "url => null",
        "url => 'nonsense'",
        "url => 'http://x', headers => '{\"Content-Type\": \"text/plain\"}'",
    ] {
        assert!(net.client.query_one(&format!("select net.http_post({call})"), &[]).await.is_err(), "{call}");
    }
    // pg_net adds a content type to a request without one.
    let bare = format!(
        "select net.http_post('{}/casino/crash', headers => '{{\"x\": \"y\"}}')",
        net.purple_flea.url
    );
    let id: i64 = net.client.query_one(&bare, &[]).await?.get(0);
    net.response(id).await?;
    assert_eq!(net.purple_flea.requests()[0].headers["content-type"], "application/json");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_accepts_the_same_bet_twice_and_its_balances_add_up() -> Result<()> {
    let purple_flea = PurpleFlea::start().await?;
    purple_flea.fund("agent-001", 100.into());
    for _ in 0..2 {
        let request = Request::post(format!("{}/casino/crash", purple_flea.url))
            .header("authorization", format!("Bearer {}", purple_flea::KEY))
            .header("idempotency-key", "the-same")
            .body(br#"{"agent_id":"agent-001","wager":10,"cashout_at":1.5}"#.to_vec())?;
        assert_eq!(http1::send(request).await?.status(), 200);
    }
    let bets = purple_flea.bets();
    assert_eq!(bets.len(), 2);
    let left = bets.iter().fold(100.into(), |balance, bet| balance - bet.wager + bet.payout);
    assert_eq!(purple_flea.balance("agent-001"), left);
    Ok(())
}
