//! Signals: what one agent publishes makes exactly its followers trade, once each.

use crate::{
    front_door::{Reply, assert_no_call, assert_problem, reply, soon, with_operation},
    services::request,
    whole_stack::{LOOK_EVERY, NOTIFY_ALL, count, send, sql, start_silent},
};
use anyhow::Result;
use futures_util::future::join_all;
use http::{HeaderValue, Request};
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    postgres::{Cluster, OWNER as DATABASE_OWNER},
    postgrest::{key_with, user_key},
};

/// A user who owns the sender and the followers but one.
const OWNER: &str = "11111111-1111-1111-1111-111111111111";

/// A user who owns the stranger.
const ANOTHER: &str = "22222222-2222-2222-2222-222222222222";

/// Another user's agent.
const STRANGER: &str = "agent-002";

/// A signal of [`AGENT`], with some members changed.
fn signal(changes: Value) -> Value {
    let mut signal =
        json!({ "agent_id": AGENT, "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 25 });
    let members = signal.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    signal
}

/// Publishes a signal with a bearer token.
async fn publish_as(stack: &Local, token: &str, signal: &Value) -> Result<Reply> {
    let body = with_operation("/signals", &signal.to_string());
    let mut request = Request::post(format!("{}/signals", stack.host.url)).body(body.into_bytes())?;
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    reply(request).await
}

/// Starts the stack with a fleet: [`AGENT`] is its orchestrator, `trader` trades, `player` flips a coin, `idle` has no
/// policy. The stranger is of no fleet.
async fn with_a_fleet(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = start_silent(changes).await?;
    let fleet = format!(
        "insert into auth.users values ('{OWNER}'), ('{ANOTHER}'); \
         update public.agents set owner_id = '{OWNER}' where id = '{AGENT}'; \
         insert into public.agents (id, owner_id, orchestrator_id) values \
           ('trader', '{OWNER}', '{AGENT}'), ('player', '{OWNER}', '{AGENT}'), ('idle', '{OWNER}', '{AGENT}'); \
         insert into public.agents (id, owner_id) values ('{STRANGER}', '{ANOTHER}'); \
         select public.set_signal_policy('trader', '{{\"max_size\": 10}}'); \
         select public.set_signal_policy('player', \
           '{{\"max_size\": 10, \"answers\": \"coin-flip\", \"wager\": 2, \"side\": \"tails\"}}'); \
         select public.set_signal_policy('{STRANGER}', '{{\"max_size\": 10}}')"
    );
    sql(&stack, &fleet).await?;
    for agent in ["trader", "player", STRANGER] {
        stack.purple_flea.fund(agent, 1_000.into());
    }
    Ok(stack)
}

/// Lets the function execute what is due until no job of a signal is pending or claimed.
async fn drain(stack: &Local) -> Result<()> {
    soon(async {
        loop {
            send(stack, "notification-1", NOTIFY_ALL).await?;
            let open = "select count(*) from purple_flea.jobs \
                        where reference like 'signal-%' and state in ('pending', 'claimed')";
            if count(stack, open).await? == 0 {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?
}

/// Counts the jobs of signals.
async fn jobs(stack: &Local) -> Result<i64> {
    count(stack, "select count(*) from purple_flea.jobs where reference like 'signal-%'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_signal_makes_exactly_the_followers_trade_once_each() -> Result<()> {
    let stack = with_a_fleet(&[]).await?;
    let published = request(&stack, "/signals", "btc-1", &signal(json!({}))).await?;
    assert_eq!(published.status, 200, "{}", published.body);
    assert_eq!(
        (&published.body["status"], &published.body["followers"], &published.body["jobs"]),
        (&json!("published"), &json!(3), &json!(2))
    );
    let again = request(&stack, "/signals", "btc-1", &signal(json!({}))).await?;
    assert_eq!((&again.body["status"], &again.body["jobs"]), (&json!("repeated"), &Value::Null));
    assert_eq!(again.body["signal_id"], published.body["signal_id"]);
    let other = request(&stack, "/signals", "btc-1", &signal(json!({ "size": 26 }))).await?;
    assert_problem(&other, 409, "reference_taken", "no");
    drain(&stack).await?;
    let results = "select coalesce(jsonb_agg(jsonb_build_array(agent_id, game, market, direction, wager) \
                   order by agent_id), '[]')::text from public.trade_results";
    let results: String = stack.owner.query_one(results, &[]).await?.get(0);
    assert_eq!(
        serde_json::from_str::<Value>(&results)?,
        serde_json::from_str::<Value>(
            r#"[["player", "coin-flip", null, null, 2.0000], ["trader", null, "BTC", "long", 10.0000]]"#
        )?
    );
    assert_eq!((stack.purple_flea.bets().len(), stack.purple_flea.positions().len()), (1, 1));
    let idle = "select count(*) from public.signal_answers \
                where agent_id = 'idle' and state = 'declined' and reason = 'no_signal_policy'";
    assert_eq!(count(&stack, idle).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_publishes_for_its_own_agents_alone() -> Result<()> {
    let stack = with_a_fleet(&[]).await?;
    let named = signal(json!({ "id": "btc-1" }));
    let strangers = publish_as(&stack, &user_key(ANOTHER)?, &named).await?;
    assert_problem(&strangers, 403, "not_yours", "no");
    let nobodys =
        publish_as(&stack, &user_key(OWNER)?, &signal(json!({ "id": "x", "agent_id": "none" }))).await?;
    assert_problem(&nobodys, 403, "not_yours", "no");
    // The service may act for every agent in the database, but not with its token on this route.
    let services = key_with(&json!({ "role": "service_role", "sub": OWNER }))?;
    assert_problem(&publish_as(&stack, &services, &named).await?, 403, "not_yours", "no");
    let nameless = publish_as(&stack, &user_key(OWNER)?, &signal(json!({}))).await?;
    assert_problem(&nameless, 400, "missing_reference", "no");
    assert_eq!(jobs(&stack).await?, 0);
    let own = publish_as(&stack, &user_key(OWNER)?, &named).await?;
    assert_eq!((&own.body["status"], &own.body["jobs"]), (&json!("published"), &json!(2)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_signal_says_why_and_makes_nobody_trade() -> Result<()> {
    let stack = with_a_fleet(&[]).await?;
    for (changes, reason) in [
        (json!({ "confidence": 1.01 }), "invalid_confidence"),
        (json!({ "confidence": "NaN" }), "invalid_confidence"),
        (json!({ "confidence": null }), "invalid_confidence"),
        (json!({ "confidence": "0.9" }), "invalid_confidence"),
        (json!({ "size": 0 }), "invalid_size"),
        (json!({ "size": -5 }), "invalid_size"),
        (json!({ "action": "HOLD" }), "invalid_action"),
        (json!({ "market": "" }), "invalid_market"),
        (json!({ "kind": "rumour" }), "invalid_kind"),
        (json!({ "expires_at": "2020-01-01T00:00:00Z" }), "signal_expired"),
        (json!({ "agent_id": "" }), "agent_id"),
        (json!({ "agent_id": 7 }), "agent_id"),
        (json!({ "market": "a\0b" }), "NUL"),
    ] {
        let refused = request(&stack, "/signals", "wrong-1", &signal(changes.clone())).await?;
        assert_problem(&refused, 400, "invalid_event", "no");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(reason), "{changes}: {detail}");
    }
    let endless = format!(
        r#"{{"agent_id": "{AGENT}", "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 1e999999}}"#
    );
    let with_text = async |text: &str| {
        let body = with_operation("/signals", text);
        reply(
            stack::webhook::signed(&format!("{}/signals", stack.host.url), "wrong-1", body.as_bytes())?
                .body(body.into())?,
        )
        .await
    };
    assert_problem(&with_text(&endless).await?, 400, "invalid_event", "no");
    assert_problem(&with_text(r#"{"agent_id": "a", "confidence": NaN}"#).await?, 400, "invalid_json", "no");
    assert_problem(&with_text(r#"[{"agent_id": "a"}]"#).await?, 400, "invalid_event", "no");
    let large = json!({ "agent_id": AGENT, "more": "x".repeat(262_144) }).to_string();
    assert_problem(&with_text(&large).await?, 413, "body_too_large", "no");
    let unknown = request(&stack, "/signals", "wrong-1", &signal(json!({ "agent_id": "nobody" }))).await?;
    assert_problem(&unknown, 422, "unknown_agent", "no");
    assert_eq!(
        (jobs(&stack).await?, count(&stack, "select count(*) from public.trade_signals").await?),
        (0, 0)
    );
    assert_no_call(&stack.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_claimed_after_the_end_of_its_signal_sends_nothing() -> Result<()> {
    let stack = with_a_fleet(&[]).await?;
    sql(&stack, "update purple_flea.trade_policies set paused = true").await?;
    // A paused agent declines. These become paused after they were asked.
    let paused = request(&stack, "/signals", "btc-0", &signal(json!({}))).await?;
    assert_eq!(paused.body["jobs"], 0);
    sql(&stack, "update purple_flea.trade_policies set paused = false").await?;
    assert_eq!(request(&stack, "/signals", "btc-1", &signal(json!({}))).await?.body["jobs"], 2);
    sql(
        &stack,
        "update purple_flea.jobs set expires_at = now() - interval '1 second', \
         created_at = created_at - interval '5 minutes' where reference like 'signal-%'",
    )
    .await?;
    drain(&stack).await?;
    let expired =
        "select count(*) from purple_flea.jobs where state = 'skipped' and reason = 'signal_expired'";
    assert_eq!(count(&stack, expired).await?, 2);
    assert_no_call(&stack.purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_signal_from_eight_connections_at_once_makes_one_job_for_each_follower() -> Result<()> {
    const FOLLOWERS: i64 = 50;
    let cluster = Cluster::start().await?;
    cluster.migrate(DATABASE_OWNER).await?;
    let owner = cluster.connect(DATABASE_OWNER).await?;
    let fleet = format!(
        "set client_min_messages = error; \
         update purple_flea.trade_policies set claim_faucet = false where agent_id is null; \
         insert into public.agents (id) values ('boss'); \
         insert into public.agents (id, orchestrator_id) select 'a' || n, 'boss' from generate_series(1, {FOLLOWERS}) n; \
         insert into public.signal_policies (agent_id, max_size) select 'a' || n, 5 from generate_series(1, {FOLLOWERS}) n"
    );
    owner.batch_execute(&fleet).await?;
    for (n, call) in [
        "public.publish_signal('{\"agent_id\": \"boss\", \"id\": \"s\", \"market\": \"BTC\", \"action\": \"BUY\", \"confidence\": 0.9, \"size\": 5}')",
        "public.take_broadcast_signal('boss', '{\"ts\": 1, \"market\": \"BTC\", \"action\": \"BUY\", \"confidence\": 0.9, \"size\": 5}')",
    ]
    .into_iter()
    .enumerate()
    {
        let callers = (0..8).map(async |_| {
            let client = cluster.connect(DATABASE_OWNER).await?;
            client.batch_execute("set client_min_messages = error").await?;
            let state = client.query_one(&format!("select {call} ->> 'state'"), &[]).await?;
            anyhow::Ok(state.get::<_, String>(0))
        });
        let mut states = join_all(callers).await.into_iter().collect::<Result<Vec<_>>>()?;
        states.sort();
        assert_eq!(states[0], "published");
        assert!(states[1..].iter().all(|state| state == "repeated"), "{states:?}");
        let row = owner
            .query_one("select count(*), count(distinct agent_id) from purple_flea.jobs", &[])
            .await?;
        let rounds = i64::try_from(n)? + 1;
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (FOLLOWERS * rounds, FOLLOWERS));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_row_is_locked_or_broken_waits_alone() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.migrate(DATABASE_OWNER).await?;
    let owner = cluster.connect(DATABASE_OWNER).await?;
    owner
        .batch_execute(
            "set client_min_messages = error; \
             update purple_flea.trade_policies set claim_faucet = false where agent_id is null; \
             insert into public.agents (id) values ('boss'); \
             insert into public.agents (id, orchestrator_id) values ('locked', 'boss'), ('broken', 'boss'), ('well', 'boss'); \
             insert into public.signal_policies (agent_id, max_size) values ('locked', 5), ('broken', 5), ('well', 5); \
             create function public.break() returns trigger language plpgsql as \
               'begin if new.agent_id = ''broken'' then raise exception ''broken''; end if; return new; end'; \
             create trigger break before insert on purple_flea.jobs for each row execute function public.break()",
        )
        .await?;
    let mut application = cluster.connect(DATABASE_OWNER).await?;
    let held = application.transaction().await?;
    held.execute("select from public.agents where id = 'locked' for update", &[]).await?;
    let publish = "select (public.publish_signal('{\"agent_id\": \"boss\", \"market\": \"BTC\", \
                   \"action\": \"BUY\", \"confidence\": 0.9, \"size\": 5}') ->> 'jobs')::bigint";
    assert_eq!(owner.query_one(publish, &[]).await?.get::<_, i64>(0), 1);
    let answers = "select string_agg(concat_ws(' ', agent_id, state, reason), ', ' order by agent_id) \
                   from public.signal_answers";
    let answered: String = owner.query_one(answers, &[]).await?.get(0);
    assert_eq!(answered, "broken waiting failed: P0001, locked waiting agent_locked, well asked");
    held.rollback().await?;
    owner.batch_execute("drop trigger break on purple_flea.jobs; select purple_flea.sweep()").await?;
    let answered: String = owner.query_one(answers, &[]).await?.get(0);
    assert_eq!(answered, "broken asked, locked asked, well asked");
    Ok(())
}
