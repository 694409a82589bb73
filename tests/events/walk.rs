//! A submission's walk from received to promoted is the same list of events for a member over Realtime, for a server over
//! `GET /events`, and for a webhook. A stranger, a former member and a revoked key see nothing.

use super::{SCOPES, all_readable, api_key, get, next, revoke, tenant};
use crate::{
    asyncapi,
    front_door::{assert_problem, soon},
    receiver::{Answer, Got, Receiver},
    whole_stack::{sql, start_silent},
};
use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use serde_json::{Value, json};
use stack::{
    http1,
    local::Local,
    postgres::{OWNER, SUPERUSER},
    postgrest,
};
use std::collections::BTreeMap;
use tokio_postgres::Client;

/// Realtime's SQL, without its server.
const REALTIME: &str = include_str!("../stack/src/realtime.sql");

/// The users: a reviewer of the tenant, a member who leaves it during the walk, and a member of another tenant.
const REVIEWER: &str = "11111111-1111-1111-1111-111111111111";
const LEAVER: &str = "22222222-2222-2222-2222-222222222222";
const STRANGER: &str = "33333333-3333-3333-3333-333333333333";

/// The events of each submission, in the order in which somebody heard of them.
type Heard = BTreeMap<String, Vec<Value>>;

/// Everything of a walk.
struct Walk {
    stack: Local,
    superuser: Client,
    ours: String,
    theirs: String,
    channel: String,
}

impl Walk {
    /// Starts the stack with frames and Realtime's SQL, two tenants with their members, an agent and a channel. A slot keeps
    /// what Realtime reads of the database from here on.
    async fn start() -> Result<Self> {
        let stack = start_silent(&[]).await?;
        let superuser = stack.cluster.connect(SUPERUSER).await?;
        superuser.batch_execute(REALTIME).await?;
        stack.cluster.migrate_with(OWNER, &["--with", "frames"]).await?;
        let (ours, theirs) = (tenant(&stack.owner, "ours").await?, tenant(&stack.owner, "theirs").await?);
        let rows = format!(
            "insert into public.memberships (tenant_id, user_id, role) values \
               ('{ours}', '{REVIEWER}', 'admin'), ('{ours}', '{LEAVER}', 'admin'), ('{theirs}', '{STRANGER}', 'owner'); \
             insert into public.agents (id, tenant_id) values ('framer', '{ours}')"
        );
        sql(&stack, &rows).await?;
        superuser
            .batch_execute("select pg_create_logical_replication_slot('realtime', 'test_decoding')")
            .await?;
        let mut walk = Self { stack, superuser, ours, theirs, channel: String::new() };
        let row = json!({ "tenant_id": walk.ours, "name": "news" });
        walk.channel = walk.insert("channels", &row).await?;
        Ok(walk)
    }

    /// Calls PostgREST with a token, and gives the status and the body.
    async fn rest(&self, method: Method, path: &str, token: &str, body: &Value) -> Result<(u16, Value)> {
        let url = format!("{}/rest/v1/{path}", self.stack.postgrest.url);
        let body = if method == Method::GET { Vec::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(url).header("apikey", "any");
        let request = request.header("authorization", format!("Bearer {token}"));
        let request =
            request.header("content-type", "application/json").header("prefer", "return=representation");
        let answer = soon(http1::send(request.body(body)?)).await??;
        let status = answer.status().as_u16();
        Ok((status, serde_json::from_slice(answer.body()).with_context(|| format!("{status} of {path}"))?))
    }

    /// Inserts a row as the platform's server, and gives its id.
    async fn insert(&self, table: &str, row: &Value) -> Result<String> {
        let service = postgrest::key("service_role")?;
        let (status, rows) = self.rest(Method::POST, table, &service, row).await?;
        ensure!(status == 201, "{table}: {rows}");
        Ok(rows[0]["id"].as_str().context("no id")?.to_owned())
    }

    /// Moves the status of a row with a token.
    async fn moved(&self, table: &str, id: &str, status: &str, token: &str) -> Result<()> {
        let (answered, rows) = self
            .rest(Method::PATCH, &format!("{table}?id=eq.{id}"), token, &json!({ "status": status }))
            .await?;
        ensure!(answered == 200 && rows[0]["status"] == status, "{table} to {status}: {answered} {rows}");
        Ok(())
    }

    /// Submits a frame and gives its id.
    async fn submit(&self) -> Result<String> {
        let row = json!({ "tenant_id": self.ours, "channel_id": self.channel, "agent_id": "framer" });
        self.insert("frame_submissions", &row).await
    }

    /// Calls a function that gives a member of the tenant something once.
    async fn made_by(&self, user: &str, function: &str, arguments: &Value) -> Result<Value> {
        let (status, made) = self
            .rest(Method::POST, &format!("rpc/{function}"), &postgrest::user_key(user)?, arguments)
            .await?;
        ensure!(status == 200, "{function}: {status} {made}");
        Ok(made)
    }

    /// Makes a user's key of a tenant, as the user.
    async fn key_of(&self, user: &str, tenant: &str) -> Result<String> {
        let arguments = json!({ "tenant_id": tenant, "label": "a test", "scopes": SCOPES });
        let made = self.made_by(user, "create_api_key", &arguments).await?;
        Ok(made["key"].as_str().context("no key")?.to_owned())
    }

    /// Lists the rows of events that a user reads under row-level security.
    async fn rows_of(&self, user: &str) -> Result<Vec<Value>> {
        let token = postgrest::user_key(user)?;
        let path = "frame_events?select=id,payload";
        let (status, rows) = self.rest(Method::GET, path, &token, &Value::Null).await?;
        ensure!(status == 200, "{rows}");
        Ok(rows.as_array().context("no rows")?.clone())
    }

    /// Lists the payloads of the broadcasts that a user gets who joins a topic now.
    async fn broadcasts_of(&self, user: &str, topic: &str) -> Result<Vec<Value>> {
        let client = self.stack.cluster.connect(OWNER).await?;
        let joins = format!(
            "begin; set local role authenticated; set local realtime.topic = '{topic}'; \
             set local request.jwt.claims = '{{\"sub\": \"{user}\", \"role\": \"authenticated\"}}'"
        );
        client.batch_execute(&joins).await?;
        let messages = "select payload::text from realtime.messages m where m.topic = $1 and m.private";
        let rows = client.query(messages, &[&topic]).await?;
        rows.iter().map(|row| Ok(serde_json::from_str(row.get(0))?)).collect()
    }

    /// Lists the lines of the database's log of changes that begin with a table's insert, in the order of commits.
    async fn inserted(&self) -> Result<Vec<String>> {
        let changes =
            "select data from pg_logical_slot_peek_changes('realtime', null, null, 'include-xids', 'off')";
        let rows = self.superuser.query(changes, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| row.get::<_, String>(0))
            .filter(|line| line.contains(": INSERT: "))
            .collect())
    }
}

/// Sorts events by their submission. The other events of the tenant are left out.
fn heard(events: impl IntoIterator<Item = Value>) -> Result<Heard> {
    let mut heard = Heard::new();
    for event in events {
        asyncapi::check(&event)?;
        if let Some(submission) = event["submission_id"].as_str() {
            heard.entry(submission.to_owned()).or_default().push(event);
        }
    }
    Ok(heard)
}

/// Lists the types and the statuses of a submission's events.
fn steps<'a>(heard: &'a Heard, submission: &str) -> Vec<(&'a str, &'a str)> {
    let events = heard.get(submission).map(Vec::as_slice).unwrap_or_default();
    let text = |event: &'a Value, name: &str| event[name].as_str().unwrap_or_default();
    events.iter().map(|event| (text(event, "type"), text(event, "status"))).collect()
}

/// Gives the number that follows a name in a line of the log of changes.
fn number_in(line: &str, name: &str) -> Option<i64> {
    line.split_once(name)?.1.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// What a member hears by `postgres_changes`: the inserts in the order of the log, as far as the member may read the rows.
async fn heard_by_changes(walk: &Walk, user: &str) -> Result<Heard> {
    let readable: BTreeMap<i64, Value> = walk
        .rows_of(user)
        .await?
        .into_iter()
        .filter_map(|row| Some((row["id"].as_i64()?, row["payload"].clone())))
        .collect();
    let lines = walk.inserted().await?;
    let ids = lines
        .iter()
        .filter(|line| line.starts_with("table public.frame_events: "))
        .filter_map(|line| number_in(line, " id[bigint]:"));
    heard(ids.filter_map(|id| readable.get(&id).cloned()))
}

/// What a member hears by broadcast: the messages in the order of the log, if the member may join the topic.
async fn heard_by_broadcast(walk: &Walk, user: &str) -> Result<Heard> {
    let mut messages = BTreeMap::new();
    for payload in walk.broadcasts_of(user, &format!("tenant:{}", walk.ours)).await? {
        asyncapi::check_broadcast(&payload)?;
        let id = payload["id"].as_i64().context("a message without an id")?;
        let mut event = payload;
        event.as_object_mut().map(|event| event.remove("id"));
        messages.insert(id, event);
    }
    let lines = walk.inserted().await?;
    let ids = lines
        .iter()
        .filter(|line| line.starts_with("table realtime.messages_"))
        .filter_map(|line| number_in(line, "\"id\": "));
    heard(ids.filter_map(|id| messages.get(&id).cloned()))
}

/// What a server hears that follows the feed page by page.
async fn heard_by_following(walk: &Walk, key: &str) -> Result<Heard> {
    let (mut events, mut after) = (Vec::new(), String::new());
    loop {
        let reply = get(&walk.stack, &format!("/events?limit=3{after}"), key).await?;
        ensure!(reply.status == 200, "{}", reply.body);
        let page = reply.body["events"].as_array().context("no events")?;
        events.extend(page.iter().map(|event| event["event"].clone()));
        if page.is_empty() {
            return heard(events);
        }
        after = format!("&after={}", next(&reply.body)?);
    }
}

/// Lists the events that a path of the receiver got.
fn heard_at(got: &[Got], path: &str) -> Result<Heard> {
    let events: Result<Vec<Value>> = got.iter().filter(|got| got.path == path).map(Got::event).collect();
    heard(events?)
}

/// Makes a user's subscription to all events of a tenant.
async fn subscribe(walk: &Walk, user: &str, tenant: &str, url: &str) -> Result<()> {
    let arguments = json!({ "tenant_id": tenant, "url": url, "types": [] });
    walk.made_by(user, "create_event_subscription", &arguments).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_a_server_and_a_webhook_hear_of_a_submission_the_same_and_others_nothing() -> Result<()> {
    let walk = Walk::start().await?;
    let (service, reviewer) = (postgrest::key("service_role")?, postgrest::user_key(REVIEWER)?);
    let receiver = Receiver::start(|_| Answer::Status(204)).await?;
    subscribe(&walk, REVIEWER, &walk.ours, &receiver.url("a", "/ours")).await?;
    subscribe(&walk, STRANGER, &walk.theirs, &receiver.url("b", "/theirs")).await?;
    let _listener = receiver.listener(&walk.stack.postgrest, &[]).await?;
    let key = api_key(&walk.stack.owner, &walk.ours, &SCOPES).await?;
    let revoked = api_key(&walk.stack.owner, &walk.ours, &SCOPES).await?;
    let (leavers, strangers) =
        (walk.key_of(LEAVER, &walk.ours).await?, walk.key_of(STRANGER, &walk.theirs).await?);

    // Two submissions take turns. One is promoted, the other rejected.
    let promoted = walk.submit().await?;
    let rejected = walk.submit().await?;
    walk.moved("frame_submissions", &promoted, "processing", &service).await?;
    let media = json!({ "tenant_id": walk.ours, "submission_id": promoted, "path": "frames/1.png" });
    let media = walk.insert("frame_media", &media).await?;
    walk.moved("frame_media", &media, "processing", &service).await?;
    walk.moved("frame_submissions", &rejected, "processing", &service).await?;
    walk.moved("frame_media", &media, "ready", &service).await?;
    walk.moved("frame_submissions", &promoted, "needs_review", &service).await?;
    all_readable(&walk.stack.owner).await?;
    // Until now the leaver and the second key see what the others see.
    assert_eq!(steps(&heard_by_changes(&walk, LEAVER).await?, &promoted).len(), 5);
    assert_eq!(steps(&heard_by_broadcast(&walk, LEAVER).await?, &promoted).len(), 5);
    for open in [&leavers, &revoked] {
        assert_eq!(steps(&heard_by_following(&walk, open).await?, &promoted).len(), 5);
    }
    let left = format!("delete from public.memberships where user_id = '{LEAVER}'");
    sql(&walk.stack, &left).await?;
    revoke(&walk.stack.owner, &revoked).await?;
    walk.moved("frame_submissions", &promoted, "approved", &reviewer).await?;
    // An update that moves nothing is no event.
    walk.moved("frame_submissions", &promoted, "approved", &service).await?;
    walk.moved("frame_submissions", &rejected, "rejected", &reviewer).await?;
    walk.moved("frame_submissions", &promoted, "promoted", &reviewer).await?;

    all_readable(&walk.stack.owner).await?;
    let expected = heard_by_following(&walk, &key).await?;
    let moved = "frame.submission.status_changed";
    assert_eq!(
        steps(&expected, &promoted),
        [
            ("frame.submission.created", "received"),
            (moved, "processing"),
            ("frame.media.status_changed", "processing"),
            ("frame.media.status_changed", "ready"),
            (moved, "needs_review"),
            (moved, "approved"),
            (moved, "promoted"),
            ("frame.promoted", "promoted"),
        ]
    );
    assert_eq!(
        steps(&expected, &rejected),
        [
            ("frame.submission.created", "received"),
            (moved, "processing"),
            (moved, "rejected"),
            ("frame.rejected", "rejected"),
        ]
    );
    assert_eq!(heard_by_changes(&walk, REVIEWER).await?, expected, "a member by postgres_changes");
    assert_eq!(heard_by_broadcast(&walk, REVIEWER).await?, expected, "a member by broadcast");
    let got = receiver.until(|got| heard_at(got, "/ours").is_ok_and(|heard| heard == expected)).await;
    got.with_context(|| format!("a webhook that expects {expected:?}"))?;

    // After an event the client reads the record that it is about.
    let record = get(&walk.stack, &format!("/records/submission/{promoted}"), &key).await?;
    assert_eq!(
        (record.status.as_u16(), &record.body["record"]["status"]),
        (200, &json!("promoted")),
        "{}",
        record.body
    );

    for outsider in [LEAVER, STRANGER] {
        assert_eq!(heard_by_changes(&walk, outsider).await?, Heard::new(), "{outsider}");
        assert_eq!(heard_by_broadcast(&walk, outsider).await?, Heard::new(), "{outsider}");
    }
    assert_eq!(heard_by_following(&walk, &strangers).await?, Heard::new());
    let foreign = get(&walk.stack, &format!("/records/submission/{promoted}"), &strangers).await?;
    assert_problem(&foreign, 404, "unknown_record", "no");
    for closed in [&leavers, &revoked] {
        assert_problem(&get(&walk.stack, "/events", closed).await?, 401, "unauthorized", "no");
        let record = get(&walk.stack, &format!("/records/submission/{promoted}"), closed).await?;
        assert_problem(&record, 401, "unauthorized", "no");
    }
    // The stranger's webhook gets the stranger's events, and by then it would have got others.
    revoke(&walk.stack.owner, &strangers).await?;
    let is_fence = |got: &Got| got.path == "/theirs" && got.body.contains("api_key.revoked");
    let got = receiver.until(|got| got.iter().any(is_fence)).await?;
    assert_eq!(heard_at(&got, "/theirs")?, Heard::new());
    let tenants: Vec<Value> = got
        .iter()
        .filter(|got| got.path == "/theirs")
        .map(|got| Ok(got.event()?["tenant_id"].clone()))
        .collect::<Result<_>>()?;
    assert!(tenants.iter().all(|tenant| *tenant == walk.theirs), "{tenants:?}");
    Ok(())
}
