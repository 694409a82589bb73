//! The stand-ins are as unpleasant as what they stand for. Where the real pg_net is there, these hold for it too.

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

    async fn post(&self, body: &str, timeout_ms: i32) -> Result<i64> {
        let post = format!(
            "select net.http_post(url => '{}/casino/crash', body => '{body}', timeout_milliseconds => {timeout_ms})",
            self.purple_flea.url
        );
        Ok(self.client.query_one(&post, &[]).await?.get(0))
    }

    /// A response, as soon as it is there: its status and whether it timed out.
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
async fn pg_net_shows_no_response_of_a_batch_before_its_slowest() -> Result<()> {
    let net = Net::start().await?;
    net.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::Hang });
    net.client.batch_execute("begin").await?;
    let ids = [net.post("{}", 1500).await?, net.post("{}", 1500).await?];
    net.client.batch_execute("commit").await?;
    net.response(ids[0]).await?;
    let both = "select count(*) filter (where timed_out), count(*) from net._http_response";
    let row = net.client.query_one(both, &[]).await?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_net_follows_a_redirect_without_the_body() -> Result<()> {
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
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_nets_tables_do_not_survive_a_crash_and_everybody_may_read_them() -> Result<()> {
    let net = Net::start().await?;
    let tables = "select relname::text, relpersistence::text, has_table_privilege('anon', oid, 'select') from pg_class \
                  where relnamespace = 'net'::regnamespace and relkind = 'r' order by 1";
    for (row, name) in
        net.client.query(tables, &[]).await?.iter().zip(["_http_response", "http_request_queue"])
    {
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, bool>(2)), (name, "u", true));
    }
    for call in [
        "url => null",
        "url => 'nonsense'",
        "url => 'http://x', headers => '{\"Content-Type\": \"text/plain\"}'",
    ] {
        assert!(net.client.query_one(&format!("select net.http_post({call})"), &[]).await.is_err(), "{call}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulator_takes_the_same_bet_twice_and_its_ledger_adds_up() -> Result<()> {
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
