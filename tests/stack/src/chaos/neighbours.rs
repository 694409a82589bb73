//! Injects faults of one application, one agent or Purple Flea, which must not affect other agents.

use super::{plan::between, retry};
use anyhow::Result;
use fastrand::Rng;
use stack::{
    local::Local,
    postgres::{OWNER, SUPERUSER},
    purple_flea::{Fault, How},
    webhook,
};
use std::time::Duration;
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::Client;

/// Supabase's Vault. The restores leave it as it is.
const VAULT: &str = include_str!("../vault.sql");

/// The agent whose key Vault cannot decrypt.
pub(super) const UNREADABLE: &str = "agent-010";

/// The agent whose key ends with a line break.
const LINE_BREAK: &str = "agent-020";

/// The number of answers with an odd number in a round of [`super::plan::Act::OddNumbers`].
const ODD_NUMBERS: usize = 5;

/// How long an application keeps an agent's row locked, in milliseconds.
const HOLD_AGENT_MS: std::ops::Range<u64> = 1_000..3_000;

/// How long an application keeps the table of jobs locked, in milliseconds: less and more than the ledger lets a claim
/// wait.
const LOCK_JOBS_MS: std::ops::Range<u64> = 2_000..6_000;

/// The message of the application's trigger. The alarm of a refused job quotes it.
pub(super) const REFUSAL: &str = "the application refuses this escrow";

/// Gives an application's triggers. One raises at random, and its job waits alone. The other fails to get a lock, every
/// second time, for every tenth agent.
fn bad_triggers() -> String {
    format!(
        "create or replace function public.application_refuses() returns trigger language plpgsql as $$ begin \
           if random() < 0.5 then raise exception '{REFUSAL}'; end if; return new; end $$; \
         create or replace function public.application_is_busy() returns trigger language plpgsql as $$ begin \
           if new.agent_id in ('{UNREADABLE}', '{LINE_BREAK}') and random() < 0.5 then \
             raise exception 'the application holds a lock' using errcode = 'lock_not_available'; end if; return new; end $$; \
         create or replace trigger application before update on public.escrow_requests \
           for each row execute function public.application_refuses(); \
         create or replace trigger application before insert on public.trade_results \
           for each row execute function public.application_is_busy()"
    )
}

const NO_TRIGGERS: &str = "drop trigger if exists application on public.escrow_requests; \
                           drop trigger if exists application on public.trade_results";

/// Installs Vault, with two agents' own keys: one cannot be decrypted, and one ends with a line break.
pub(super) async fn move_in(stack: &Local) -> Result<()> {
    let superuser = stack.cluster.connect(SUPERUSER).await?;
    superuser.batch_execute(VAULT).await?;
    let set = "select purple_flea.set_secret($1, $2)";
    let url = format!("{}/execute-trade", stack.host.url);
    stack.owner.execute(set, &[&"purple_flea_function_url", &url]).await?;
    stack.owner.execute(set, &[&"purple_flea_webhook_secret", &webhook::SECRET]).await?;
    for agent in [UNREADABLE, LINE_BREAK] {
        give_key(stack, &stack.owner, agent).await?;
    }
    let spoil = "update vault.secrets s set secret = case s.name when $1 then 'cannot be decrypted' \
                   else vault.seal_secret(vault.open_secret(s.secret) || E'\\n') end \
                 where s.name in ($1, $2)";
    let named = |agent| format!("purple_flea_key:{agent}");
    superuser.execute(spoil, &[&named(UNREADABLE), &named(LINE_BREAK)]).await?;
    Ok(())
}

/// Gives an agent the key of its account.
pub(super) async fn give_key(stack: &Local, owner: &Client, agent: &str) -> Result<()> {
    let key = stack.purple_flea.register(agent);
    owner.execute("select purple_flea.set_agent_key($1, $2)", &[&agent, &key]).await?;
    Ok(())
}

/// Installs triggers of an application that raise, or removes them.
pub(super) async fn triggers(stack: &Local, raise: bool) -> Result<()> {
    retry(stack, OWNER, if raise { bad_triggers() } else { NO_TRIGGERS.to_owned() }.as_str()).await
}

/// Makes Purple Flea answer some of the next requests with a number that no database can hold.
pub(super) fn odd_numbers(stack: &Local) {
    for _ in 0..ODD_NUMBERS {
        stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::OddNumber });
    }
}

/// Locks an agent's row for a while, beside everything else.
pub(super) fn hold_agent(stack: &Local, chance: &mut Rng, beside: &mut JoinSet<()>) {
    let agent = chance.u32(1..=super::AGENTS);
    let lock = format!("select from public.agents where id = 'agent-{agent:03}' for update");
    hold(stack, lock, between(chance, HOLD_AGENT_MS), beside);
}

/// Locks the table of jobs, in the same way.
pub(super) fn lock_jobs(stack: &Local, chance: &mut Rng, beside: &mut JoinSet<()>) {
    let lock = "lock table purple_flea.jobs in access exclusive mode".to_owned();
    hold(stack, lock, between(chance, LOCK_JOBS_MS), beside);
}

fn hold(stack: &Local, lock: String, time: Duration, beside: &mut JoinSet<()>) {
    let url = stack.cluster.url(OWNER);
    beside.spawn(async move {
        let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await else {
            return;
        };
        let connection = tokio::spawn(connection);
        // A database that goes down meanwhile ends the lock, too.
        if client.batch_execute(&format!("begin; {lock}")).await.is_ok() {
            sleep(time).await;
        }
        drop(client);
        let _ = connection.await;
    });
}
