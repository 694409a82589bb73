//! The fleet: owners say that their agents are there, and orchestrators give tasks to idle agents.

use crate::{
    front_door::{Reply, assert_problem, reply, with_operation},
    whole_stack::{count, sql, start_silent},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use http::{HeaderValue, Request};
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    postgres::{Cluster, OWNER as DATABASE_OWNER},
    postgrest::{key_with, user_key},
};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::Barrier;

/// A user who owns [`AGENT`].
const OWNER: &str = "11111111-1111-1111-1111-111111111111";

/// A user who owns [`OTHER`].
const ANOTHER: &str = "22222222-2222-2222-2222-222222222222";

/// Another user's agent.
const OTHER: &str = "agent-002";

/// Sends a heartbeat with a bearer token.
async fn heartbeat(stack: &Local, token: &str, arguments: &Value) -> Result<Reply> {
    let body = with_operation("/heartbeat", &arguments.to_string());
    let mut request = Request::post(format!("{}/heartbeat", stack.host.url)).body(body.into_bytes())?;
    request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    reply(request).await
}

/// Starts the stack with an agent of each of two users.
async fn with_owners() -> Result<Local> {
    let stack = start_silent(&[]).await?;
    let own = format!(
        "insert into auth.users values ('{OWNER}'), ('{ANOTHER}'); \
         insert into public.agents (id, owner_id) values ('{OTHER}', '{ANOTHER}'); \
         update public.agents set owner_id = '{OWNER}' where id = '{AGENT}'"
    );
    sql(&stack, &own).await?;
    Ok(stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_heartbeat_brings_the_owners_agent_back_online() -> Result<()> {
    let stack = with_owners().await?;
    sql(&stack, &format!("update public.agents set status = 'offline' where id = '{AGENT}'")).await?;
    let heard =
        heartbeat(&stack, &user_key(OWNER)?, &json!({ "agent_id": AGENT, "task": "Watch BTC" })).await?;
    assert_eq!(heard.status, 200, "{}", heard.body);
    assert_eq!((&heard.body["status"], &heard.body["task"]), (&json!("idle"), &json!("Watch BTC")));
    let there = format!(
        "select count(*) from public.agents where id = '{AGENT}' and status = 'idle' and task = 'Watch BTC' \
         and last_seen_at > clock_timestamp() - interval '1 minute'"
    );
    assert_eq!(count(&stack, &there).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_heartbeat_says_why_and_records_nothing() -> Result<()> {
    let stack = with_owners().await?;
    let owners = user_key(OWNER)?;
    for agent in [OTHER, "nobody"] {
        let refused = heartbeat(&stack, &owners, &json!({ "agent_id": agent })).await?;
        assert_problem(&refused, 403, "not_yours", "no");
    }
    // The service may act for every agent in the database, but not with its token on this route.
    let services = key_with(&json!({ "role": "service_role", "sub": OWNER }))?;
    let refused = heartbeat(&stack, &services, &json!({ "agent_id": OTHER })).await?;
    assert_problem(&refused, 403, "not_yours", "no");
    for arguments in [
        json!({ "agent_id": AGENT, "task": "x".repeat(201) }),
        json!({ "agent_id": AGENT, "task": "a\0b" }),
        json!({ "agent_id": AGENT, "task": 7 }),
        json!({ "agent_id": "" }),
        json!({ "agent_id": AGENT, "status": "trading" }),
        json!({ "task": "Watch BTC" }),
    ] {
        let refused = heartbeat(&stack, &owners, &arguments).await?;
        assert_problem(&refused, 400, "invalid_event", "no");
    }
    let seen = "select count(*) from public.agents where last_seen_at is not null or task is not null";
    assert_eq!(count(&stack, seen).await?, 0);
    let longest = heartbeat(&stack, &owners, &json!({ "agent_id": AGENT, "task": "ü".repeat(200) })).await?;
    assert_eq!(longest.status, 200, "{}", longest.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_at_once_give_each_idle_agent_one_task() -> Result<()> {
    const AGENTS: usize = 80;
    const CONNECTIONS: usize = 100;
    let cluster = Cluster::start().await?;
    cluster.migrate(DATABASE_OWNER).await?;
    let owner = cluster.connect(DATABASE_OWNER).await?;
    let hire = format!(
        "update purple_flea.trade_policies set claim_faucet = false where agent_id is null; \
         insert into public.agents (id) values ('boss'); \
         insert into public.agents (id, api_key, orchestrator_id, balance, balance_at, last_seen_at, status) \
         select 'a' || n, 'purple_flea_key:a' || n, 'boss', 100, now(), clock_timestamp() + interval '1 hour', \
           case when n <= {AGENTS} then 'idle' else 'offline' end \
         from generate_series(1, {AGENTS} + 20) as n"
    );
    owner.batch_execute("set client_min_messages = error").await?;
    owner.batch_execute(&hire).await?;
    let ready = Arc::new(Barrier::new(CONNECTIONS));
    let callers = (0..CONNECTIONS).map(async |caller| {
        let client = cluster.connect(DATABASE_OWNER).await?;
        ready.wait().await;
        // A connection sends the second call without waiting for the first one's answer.
        let calls = (0..2).map(|n| {
            let call = format!("select public.assign_task('boss', 'task {caller}.{n}', 100) ->> 'agent_id'");
            let client = &client;
            async move { anyhow::Ok(client.query_one(&call, &[]).await?.get::<_, Option<String>>(0)) }
        });
        join_all(calls).await.into_iter().collect::<Result<Vec<_>>>()
    });
    let mut assigned = Vec::new();
    for answers in join_all(callers).await {
        assigned.extend(answers?.into_iter().flatten());
    }
    assert_eq!(assigned.len(), AGENTS, "as many tasks as idle agents");
    assert_eq!(assigned.iter().collect::<BTreeSet<_>>().len(), AGENTS, "an agent got two tasks");
    let row = owner
        .query_one(
            "select count(distinct task), bool_and(status = 'idle') from public.agents where task_state = 'assigned'",
            &[],
        )
        .await?;
    assert_eq!(row.get::<_, i64>(0), i64::try_from(AGENTS).context("a number")?);
    assert!(row.get::<_, bool>(1), "an agent that is offline got a task");
    Ok(())
}
