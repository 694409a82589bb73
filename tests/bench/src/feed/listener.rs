//! The program that sends webhooks, and the subscriptions that it sends them to.

use super::receivers::Receivers;
use crate::{
    peers::Machine,
    rig::Rig,
    server::{Recipe, Server, Stop},
    stage::{LOOK_EVERY, START_TIMEOUT},
};
use anyhow::{Context, Result, bail};
use stack::host::ledger_settings;
use tokio::time::sleep;
use tokio_postgres::Client;

/// Subscriptions of one tenant: as many as it may have.
pub const SUBSCRIPTIONS: usize = 1_000;

/// What the listener says when it is ready.
const READY: &str = "claims deliveries";

/// Starts a listener with its usual settings, that knows the receivers by their name and may send to them. It is killed
/// when the server is dropped.
pub async fn start(machine: &Machine, rig: &Rig, receivers: &Receivers) -> Result<Server> {
    let program = machine.root.join("target/host/purple-flea-listener");
    if !program.is_file() {
        bail!("{} is not there; scripts/bench builds it", program.display());
    }
    let environment = ledger_settings(&rig.postgrest.url)?
        .into_iter()
        .map(|(name, value)| (name.to_ascii_uppercase(), value))
        .collect();
    let recipe = Recipe { program, arguments: receivers.options(), environment, stop: Stop::Kill };
    let errors = machine.scratch.join("listener.log");
    let mut listener = Server::start(&recipe, &errors, true)?;
    while !std::fs::read_to_string(&errors).unwrap_or_default().contains(READY) {
        listener.must_live()?;
        if listener.started.elapsed() > START_TIMEOUT {
            bail!("the listener was not ready in time");
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(listener)
}

/// Makes [`SUBSCRIPTIONS`] of the tenant of agents without an owner, to all its events.
pub async fn subscribe(owner: &Client, receivers: &Receivers) -> Result<()> {
    let all = format!(
        "select count(public.create_event_subscription(purple_flea.operator_tenant(), '{}' || n)) \
         from generate_series(1, {SUBSCRIPTIONS}) as n",
        receivers.url()
    );
    owner.execute(&all, &[]).await.context("the subscriptions cannot be made")?;
    Ok(())
}

/// Deletes all subscriptions, and what they have pending, so that nothing of them is left to clean up later.
pub async fn unsubscribe(owner: &Client) -> Result<()> {
    owner.batch_execute("delete from public.event_subscriptions where true").await?;
    let tables = "purple_flea.event_deliveries, purple_flea.subscription_progress, public.event_subscriptions, \
                  public.event_delivery_attempts";
    Ok(owner.batch_execute(&format!("vacuum analyze {tables}")).await?)
}
