//! The feed through the function: a tenant's programs read its events and records with API keys.

mod cursors;
mod followers;
mod keys;
mod waiting;
mod walk;

use crate::{
    asyncapi,
    front_door::{Reply, reply, soon},
    whole_stack::LOOK_EVERY,
};
use anyhow::{Context, Result};
use http::Request;
use serde_json::{Value, json};
use stack::local::Local;
use tokio_postgres::Client;

/// The scopes that a key can have.
pub const SCOPES: [&str; 2] = ["events:read", "records:read"];

/// The type of the events that these tests write themselves.
const TYPE: &str = "trade.executed";

/// Makes a tenant and gives its id.
async fn tenant(owner: &Client, name: &str) -> Result<String> {
    let insert = "insert into public.tenants (name) values ($1) returning id::text";
    Ok(owner.query_one(insert, &[&name]).await?.get(0))
}

/// Gives the id of an agent's tenant.
pub async fn tenant_of(owner: &Client, agent: &str) -> Result<String> {
    Ok(owner.query_one("select purple_flea.tenant_of($1)::text", &[&agent]).await?.get(0))
}

/// Makes a key of a tenant, as the service does, and gives the key itself.
pub async fn api_key(owner: &Client, tenant: &str, scopes: &[&str]) -> Result<String> {
    let made = "select public.create_api_key($1::text::uuid, 'a test', $2) ->> 'key'";
    let key: Option<String> = owner.query_one(made, &[&tenant, &scopes]).await?.get(0);
    key.context("no key was made")
}

/// Revokes a key.
async fn revoke(owner: &Client, key: &str) -> Result<()> {
    let revoke = "select public.revoke_api_key(k.id) from public.api_keys k where k.prefix = left($1, 11)";
    owner.query_one(revoke, &[&key]).await?;
    Ok(())
}

/// Writes an event in a transaction of its own, and waits until it can be read. The reference distinguishes it from others
/// of its subject.
async fn emit(owner: &Client, tenant: &str, subject: &str, reference: &str) -> Result<()> {
    owner.batch_execute(&emitting(tenant, subject, reference)).await?;
    all_readable(owner).await
}

/// Waits until all committed events can be read. Any other transaction, such as the server's own, holds them back.
async fn all_readable(owner: &Client) -> Result<()> {
    let held = "select exists (select from public.frame_events e, purple_flea.feed_now() n where e.position >= n.below)";
    soon(async {
        while owner.query_one(held, &[]).await?.get(0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    })
    .await?
}

/// Gives the SQL that writes an event.
fn emitting(tenant: &str, subject: &str, reference: &str) -> String {
    let payload = json!({ "agent_id": "agent-001", "reference": reference, "status": "executed" });
    format!("select purple_flea.emit('{TYPE}', '{tenant}', '{subject}', '{payload}')")
}

/// Sends a GET request with a key.
async fn get(stack: &Local, target: &str, key: &str) -> Result<Reply> {
    let request = Request::get(format!("{}{target}", stack.host.url));
    reply(request.header("authorization", format!("Bearer {key}")).body(vec![])?).await
}

/// Reads a page that must succeed.
async fn page(stack: &Local, query: &str, key: &str) -> Result<Value> {
    let reply = get(stack, &format!("/events{query}"), key).await?;
    anyhow::ensure!(reply.status == 200, "{}", reply.body);
    assert_eq!(reply.headers["cache-control"], "no-store");
    for event in reply.body["events"].as_array().context("no events")? {
        asyncapi::check(&event["event"])?;
    }
    Ok(reply.body)
}

/// Lists the references of a page's events.
fn references(page: &Value) -> Vec<&str> {
    let events = page["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["event"]["reference"].as_str()).collect()
}

/// Gives a page's own cursor.
fn next(page: &Value) -> Result<&str> {
    page["next"].as_str().context("a page without a cursor")
}
