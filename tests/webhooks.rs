//! Webhook subscriptions get every event of their tenant, in order for each subject, whatever happens to listeners and
//! receivers; and no subscription reaches what is not public.

use crate::{
    clients,
    front_door::soon,
    host_program::{free_address, metric},
    receiver::{Answer, Got, Receiver, program},
    whole_stack::LOOK_EVERY,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stack::{
    postgres::{Cluster, OWNER},
    postgrest::PostgRest,
    process::Signal,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::process::Command;
use tokio_postgres::Client;

/// The tenant of agents without an owner.
const TENANT: &str = "00000000-0000-4000-8000-000000000001";

/// A database with the feed, and PostgREST before it.
struct Feed {
    owner: Client,
    postgrest: PostgRest,
    cluster: Cluster,
}

/// A subscription as its owner gets it.
struct Made {
    id: String,
    secret: String,
}

impl Feed {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start().await?;
        cluster.migrate(OWNER).await?;
        let postgrest = PostgRest::start(&cluster).await?;
        let owner = cluster.connect(OWNER).await?;
        owner
            .batch_execute(
                "set client_min_messages = error; update purple_flea.trade_policies set claim_faucet = false",
            )
            .await?;
        Ok(Self { owner, postgrest, cluster })
    }

    async fn subscribe(&self, url: &str, types: &[&str]) -> Result<Made> {
        let sql = "select public.create_event_subscription($1::text::uuid, $2, $3)::text";
        let made: String = self.owner.query_one(sql, &[&TENANT, &url, &types]).await?.get(0);
        let made: Value = serde_json::from_str(&made)?;
        let text = |name: &str| made[name].as_str().map(str::to_owned).context("no text");
        Ok(Made { id: text("id")?, secret: text("secret")? })
    }

    /// Makes many subscriptions, whose URLs end in numbers.
    async fn subscribe_many(&self, count: usize, url: &str) -> Result<()> {
        let many = format!(
            "select count(public.create_event_subscription('{TENANT}', '{url}' || n)) from generate_series(1, {count}) as n"
        );
        self.owner.execute(&many, &[]).await?;
        Ok(())
    }

    /// Makes an agent. It is asleep.
    async fn agent(&self, id: &str) -> Result<()> {
        self.owner.execute("insert into public.agents (id, status) values ($1, 'offline')", &[&id]).await?;
        Ok(())
    }

    /// Fires `agent.online` or `agent.offline` of an agent.
    async fn toggle(&self, id: &str) -> Result<()> {
        toggle(&self.owner, id).await
    }

    async fn text(&self, sql: &str) -> Result<Option<String>> {
        Ok(self.owner.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
    }

    /// Waits until a query's one text is as a test wants it.
    async fn until(&self, sql: &str, wanted: &str) -> Result<()> {
        let mut had = None;
        let waiting = async {
            loop {
                had = self.text(sql).await?;
                if had.as_deref() == Some(wanted) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        soon(waiting).await.with_context(|| format!("{sql} gives {had:?}"))?
    }

    /// Makes time pass for all deliveries.
    async fn pass_time(&self, interval: &str) -> Result<()> {
        let shift = format!(
            "update purple_flea.event_deliveries set due_at = due_at - interval '{interval}'; \
             update purple_flea.subscription_progress set due_at = due_at - interval '{interval}'; \
             update public.event_subscriptions set first_failure_at = first_failure_at - interval '{interval}'"
        );
        Ok(self.owner.batch_execute(&shift).await?)
    }
}

async fn toggle(client: &Client, id: &str) -> Result<()> {
    let toggle = "update public.agents \
        set status = case when status = 'offline' then 'idle' else 'offline' end where id = $1";
    client.execute(toggle, &[&id]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_gets_every_event_once_and_in_order_for_each_subject_from_two_listeners() -> Result<()>
{
    const WRITERS: usize = 6;
    const EVENTS: usize = 20;
    let feed = Feed::start().await?;
    let requests = Arc::new(AtomicUsize::new(0));
    // A few requests fail, so some events come again while others go on.
    let counted = requests.clone();
    let receiver = Receiver::start(move |_| match counted.fetch_add(1, Relaxed) {
        5 | 30 | 60 => Answer::Status(500),
        _ => Answer::Status(204),
    })
    .await?;
    feed.subscribe(&receiver.url("a", "/events"), &[]).await?;
    let _one = receiver.listener(&feed.postgrest, &[]).await?;
    let _two = receiver.listener(&feed.postgrest, &[]).await?;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        feed.agent(&format!("agent-{writer}")).await?;
        let client = feed.cluster.connect(OWNER).await?;
        writers.spawn(async move {
            client.batch_execute("set client_min_messages = error").await?;
            for turn in 0..EVENTS {
                // Transactions of several lengths, so that commits are in another order than beginnings.
                client.batch_execute("begin; select pg_current_xact_id()").await?;
                tokio::time::sleep(Duration::from_millis(((writer * 7 + turn * 3) % 20) as u64)).await;
                toggle(&client, &format!("agent-{writer}")).await?;
                client.batch_execute("commit").await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    let wanted = WRITERS * EVENTS;
    feed.until(
        "select (select count(*) from public.event_delivery_attempts where outcome = 'delivered')::text",
        &wanted.to_string(),
    )
    .await?;
    let failed =
        feed.text("select count(*)::text from public.event_delivery_attempts where status = 500").await?;
    assert_eq!(failed.as_deref(), Some("3"));

    let got = receiver.got();
    assert_eq!(got.len(), wanted + 3);
    let ids =
        got.iter().map(|got| got.header("webhook-id").map(str::to_owned)).collect::<Result<HashSet<_>>>()?;
    assert_eq!(ids.len(), wanted, "each event has one webhook-id");
    let mut by_agent: HashMap<String, Vec<Value>> = HashMap::new();
    for got in got.iter().filter(|got| got.answer == Some(Answer::Status(204))) {
        let event = got.event()?;
        let agent = event["agent_id"].as_str().context("no agent")?.to_owned();
        by_agent.entry(agent).or_default().push(event);
    }
    assert_eq!(by_agent.len(), WRITERS);
    for (agent, events) in by_agent {
        let sql = "select jsonb_agg(payload order by epoch, position, id)::text from public.frame_events where subject = $1";
        let stored: String = feed.owner.query_one(sql, &[&format!("agent:{agent}")]).await?.get(0);
        assert_eq!(Value::from(events), serde_json::from_str::<Value>(&stored)?, "{agent}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_that_hang_delay_no_other_receiver() -> Result<()> {
    const HANGING: usize = 999;
    let feed = Feed::start().await?;
    let receiver =
        Receiver::start(|got| if got.path.starts_with("/hang") { Answer::Hang } else { Answer::Status(200) })
            .await?;
    feed.agent("agent-1").await?;
    let url = receiver.url("hang", "/hang/");
    feed.subscribe_many(HANGING, &url).await?;
    feed.subscribe(&receiver.url("a", "/good"), &[]).await?;
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    for turn in 1..=3 {
        let fired = Instant::now();
        feed.toggle("agent-1").await?;
        let good = |got: &[Got]| got.iter().filter(|got| got.path == "/good").count() == turn;
        let got = receiver.until(good).await?;
        let came = got.iter().rfind(|got| got.path == "/good").context("none")?.at;
        let took = came.duration_since(fired);
        assert!(took < Duration::from_secs(5), "turn {turn} took {took:?}");
        // All of the hanging ones are asked before the next event.
        receiver
            .until(|got| got.iter().map(|got| &got.path).collect::<HashSet<_>>().len() == HANGING + 1)
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_a_thousand_subscriptions_within_five_seconds() -> Result<()> {
    const RECEIVERS: usize = 1_000;
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|_| Answer::Status(200)).await?;
    feed.agent("agent-1").await?;
    feed.subscribe_many(RECEIVERS, &receiver.url("a", "/")).await?;
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    let mut times = Vec::new();
    // Other tests share the machine, so the best of a few times counts.
    for turn in 1..=4 {
        let fired = Instant::now();
        feed.toggle("agent-1").await?;
        let got = receiver.until(|got| got.len() == turn * RECEIVERS).await?;
        let last = got.iter().map(|got| got.at).max().context("none")?;
        times.push(last.duration_since(fired));
        if times.last() < Some(&Duration::from_secs(5)) {
            println!("{times:?}");
            return Ok(());
        }
    }
    bail!("the last delivery took {times:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_again_after_an_error_and_as_late_as_the_receiver_asks() -> Result<()> {
    let feed = Feed::start().await?;
    let turns = Arc::new(AtomicUsize::new(0));
    let receiver = Receiver::start(move |_| match turns.fetch_add(1, Relaxed) {
        0 => Answer::Status(500),
        1 => Answer::With(429, "retry-after: 1800".to_owned()),
        _ => Answer::Status(200),
    })
    .await?;
    feed.agent("agent-1").await?;
    feed.subscribe(&receiver.url("a", "/"), &[]).await?;
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    feed.toggle("agent-1").await?;
    receiver.until(|got| got.len() == 1).await?;
    feed.until("select count(*)::text from public.event_delivery_attempts", "1").await?;
    feed.pass_time("7 seconds").await?;
    receiver.until(|got| got.len() == 2).await?;
    feed.until("select count(*)::text from public.event_delivery_attempts", "2").await?;
    let wait = "select round(extract(epoch from next_attempt_at - at))::text from public.event_delivery_attempts order by id desc limit 1";
    assert_eq!(feed.text(wait).await?.as_deref(), Some("1800"));
    feed.pass_time("1801 seconds").await?;
    let got = receiver.until(|got| got.len() == 3).await?;
    feed.until(
        "select string_agg(concat_ws(' ', attempt, outcome, status, error), ', ' order by id) from public.event_delivery_attempts",
        "1 failed 500 status, 2 failed 429 status, 3 delivered 200",
    )
    .await?;
    let ids: HashSet<&str> = got.iter().map(|got| got.header("webhook-id")).collect::<Result<_>>()?;
    assert_eq!(ids.len(), 1, "{ids:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_disabled_with_an_event_that_says_so() -> Result<()> {
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|got| Answer::Status(if got.path == "/gone" { 410 } else { 200 })).await?;
    feed.agent("agent-1").await?;
    let gone = feed.subscribe(&receiver.url("a", "/gone"), &["agent.online"]).await?;
    feed.subscribe(&receiver.url("b", "/told"), &["subscription.disabled"]).await?;
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    feed.toggle("agent-1").await?;
    let got = receiver.until(|got| got.iter().any(|got| got.path == "/told")).await?;
    let told = got.iter().find(|got| got.path == "/told").context("none")?.event()?;
    assert_eq!(told["type"], "subscription.disabled");
    assert_eq!(
        (&told["subscription_id"], &told["reason"]),
        (&gone.id.clone().into(), &"gone".into()),
        "{told}"
    );
    let state = "select concat_ws(' ', state, disabled_reason) from public.event_subscriptions where url like '%/gone'";
    feed.until(state, "disabled gone").await?;

    // Its owner enables it again, and nothing was lost.
    feed.toggle("agent-1").await?;
    feed.toggle("agent-1").await?;
    feed.owner.execute("select public.enable_event_subscription($1::text::uuid)", &[&gone.id]).await?;
    let asked = |got: &[Got]| got.iter().filter(|got| got.path == "/gone").count() == 2;
    let got = receiver.until(asked).await?;
    let (first, last) =
        (got.iter().find(|got| got.path == "/gone"), got.iter().rfind(|got| got.path == "/gone"));
    assert_eq!(first.context("none")?.header("webhook-id")?, last.context("none")?.header("webhook-id")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_subscription_reaches_an_address_that_is_not_public_by_a_name_or_a_redirect() -> Result<()> {
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|got| {
        let target = "location: https://b.receivers.example/secret".to_owned();
        if got.path.starts_with("/to-") { Answer::With(302, target) } else { Answer::Status(200) }
    })
    .await?;
    feed.agent("agent-1").await?;
    for host in ["a", "private", "metadata", "six", "mapped", "nat64"] {
        feed.subscribe(&receiver.url(host, "/"), &[]).await?;
    }
    {
        let _strict = receiver.strict_listener(&feed.postgrest, &[]).await?;
        feed.toggle("agent-1").await?;
        feed.until("select count(*)::text from public.event_delivery_attempts", "6").await?;
    }
    let errors = "select string_agg(distinct concat_ws(' ', outcome, error, status), ', ') from public.event_delivery_attempts";
    assert_eq!(feed.text(errors).await?.as_deref(), Some("failed address_refused"));
    assert!(receiver.got().is_empty(), "{:?}", receiver.got());

    // A listener that may reach the receiver follows no redirect to it.
    feed.owner.execute("delete from public.event_subscriptions where true", &[]).await?;
    feed.subscribe(&receiver.url("a", "/to-b"), &[]).await?;
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    feed.toggle("agent-1").await?;
    let last = "select concat_ws(' ', outcome, error, status) from public.event_delivery_attempts order by id desc limit 1";
    feed.until(last, "failed redirect 302").await?;
    assert_eq!(receiver.got().iter().map(|got| got.path.as_str()).collect::<Vec<_>>(), ["/to-b"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_library_verifies_what_the_listener_signs() -> Result<()> {
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|_| Answer::Status(200)).await?;
    feed.agent("agent-1").await?;
    let made = feed.subscribe(&receiver.url("a", "/a/path"), &[]).await?;
    let other = feed.subscribe(&receiver.url("b", "/"), &["agent.offline"]).await?;
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    feed.toggle("agent-1").await?;
    let got = receiver.until(|got| got.len() == 1).await?;
    let got = got.first().context("none")?;
    let stored = feed.text("select payload::text from public.frame_events").await?;
    assert_eq!(Some(&got.body), stored.as_ref());
    assert_eq!(got.header("content-type")?, "application/json");
    assert_eq!(got.header("host")?, format!("a.receivers.example:{}", receiver.port));
    for language in clients::LANGUAGES {
        let verified = clients::verify(language, &made.secret, &got.headers, &got.body).await?;
        assert_eq!(verified, "verified", "{language:?}");
        let refused = clients::verify(language, &other.secret, &got.headers, &got.body).await?;
        assert_eq!(refused, "refused", "{language:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_killed_loses_nothing() -> Result<()> {
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|_| Answer::AtTheGate).await?;
    feed.agent("agent-1").await?;
    feed.subscribe(&receiver.url("a", "/"), &[]).await?;
    let mut killed = receiver.listener(&feed.postgrest, &[]).await?;
    feed.toggle("agent-1").await?;
    feed.toggle("agent-1").await?;
    receiver.until(|got| got.len() == 1).await?;
    killed.process.kill().await?;
    let _next = receiver.listener(&feed.postgrest, &[]).await?;
    // The lease of the first listener still counts.
    feed.until("select (claimed_at is not null)::text from purple_flea.listeners", "true").await?;
    assert_eq!(receiver.got().len(), 1);
    feed.pass_time("91 seconds").await?;
    let got = receiver.until(|got| got.len() == 2).await?;
    assert_eq!(got[0].header("webhook-id")?, got[1].header("webhook-id")?);
    receiver.open_gate();
    receiver.until(|got| got.len() == 3).await?;
    receiver.open_gate();
    feed.until("select count(*)::text from public.event_delivery_attempts where outcome = 'delivered'", "2")
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_told_to_end_finishes_what_it_sends_and_claims_nothing_more() -> Result<()> {
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|_| Answer::AtTheGate).await?;
    feed.agent("agent-1").await?;
    feed.subscribe(&receiver.url("a", "/"), &[]).await?;
    let admin = free_address()?;
    let mut listener = receiver.listener(&feed.postgrest, &["--admin", &admin]).await?;
    feed.toggle("agent-1").await?;
    receiver.until(|got| got.len() == 1).await?;
    assert_eq!(metric(&admin, "purple_flea_listener_in_flight").await?, 1);
    listener.process.signal(Signal::TERM)?;
    soon(listener.said.find(|line| line.contains("ending"))).await?;
    feed.toggle("agent-1").await?;
    receiver.open_gate();
    assert!(soon(listener.process.wait()).await??.success());
    let states =
        "select string_agg(concat_ws(' ', outcome, attempt), ', ') from public.event_delivery_attempts";
    assert_eq!(feed.text(states).await?.as_deref(), Some("delivered 1"));
    assert_eq!(receiver.got().len(), 1);
    let line: Value =
        serde_json::from_str(&soon(listener.log.find(|line| line.contains("delivery"))).await?)?;
    assert_eq!(
        (&line["level"], &line["status"], &line["attempt"]),
        (&"info".into(), &200.into(), &1.into()),
        "{line}"
    );
    let all = listener.log.lines().join("\n") + &listener.said.lines().join("\n");
    assert!(!all.contains("whsec_") && !all.contains("receivers.example"), "{all}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_goes_on_while_postgrest_loses_replies() -> Result<()> {
    let feed = Feed::start().await?;
    let receiver = Receiver::start(|_| Answer::Status(200)).await?;
    feed.agent("agent-1").await?;
    feed.subscribe(&receiver.url("a", "/"), &[]).await?;
    feed.postgrest.misbehave_at_random(Some((7, 300)));
    let _listener = receiver.listener(&feed.postgrest, &[]).await?;
    for _ in 0..10 {
        feed.toggle("agent-1").await?;
    }
    let delivered = "select count(distinct event_id)::text from public.event_delivery_attempts where outcome = 'delivered'";
    let passing = async {
        loop {
            // A claim whose reply was lost is over after its lease.
            tokio::time::sleep(Duration::from_millis(500)).await;
            feed.pass_time("91 seconds").await?;
            if feed.text(delivered).await?.as_deref() == Some("10") {
                return anyhow::Ok(());
            }
        }
    };
    soon(passing).await??;
    let sql =
        "select string_agg(payload ->> 'type', ',' order by epoch, position, id) from public.frame_events";
    let stored = feed.text(sql).await?;
    let mut seen = HashSet::new();
    let mut came = Vec::new();
    for got in receiver.got() {
        if seen.insert(got.header("webhook-id")?.to_owned()) {
            came.push(got.event()?["type"].as_str().context("no type")?.to_owned());
        }
    }
    assert_eq!(Some(came.join(",")), stored);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_its_settings_names_them_and_ends() -> Result<()> {
    let output = soon(Command::new(program()?).env_clear().output()).await??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it runs");
    assert!(said.contains("SUPABASE_URL") && said.contains("SUPABASE_KEY"), "{said}");
    let help = soon(Command::new(program()?).arg("--help").output()).await??;
    assert!(String::from_utf8_lossy(&help.stdout).contains("--unsafe-test-addresses"));
    Ok(())
}
