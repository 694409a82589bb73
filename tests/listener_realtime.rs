//! The listener on Realtime: the doorbell, signals and presence; and that nothing is forgotten or doubled, whatever ends.

use crate::{
    front_door::soon,
    host_program::{command, free_address, metric},
    phoenix::Channel,
    receiver,
    sign_in::SignIn,
    whole_stack::{self, LOOK_EVERY, count, deposit, job_in, sql},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stack::{
    host::Kind,
    local::{AGENT, Local},
    log::Log,
    postgres::{OWNER as DATABASE_OWNER, SUPERUSER},
    postgrest::{forged_user_key, key, key_with, user_key},
    process::{Process, Signal},
    purple_flea::LIVE_AGENT,
    realtime::{Options, Realtime},
    sweeper::Sweeper,
    webhook,
};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};

/// A user who owns [`AGENT`].
const OWNER: &str = "11111111-1111-1111-1111-111111111111";

/// A user who owns [`OTHER`].
const ANOTHER: &str = "22222222-2222-2222-2222-222222222222";

/// Another user's agent.
const OTHER: &str = "agent-002";

/// The user as whom a listener signs in.
const LISTENER: &str = "99999999-9999-9999-9999-999999999999";

/// Times that a test need not wait long for.
const QUICK: [&str; 8] =
    ["--heartbeat-ms", "200", "--silence-ms", "700", "--topics-ms", "200", "--presence-ms", "1000"];

/// The stack, and Realtime on its database. Deposits notify by the doorbell, and pg_net reaches nobody.
struct Live {
    stack: Local,
}

/// A running listener. Dropping it ends it.
struct Listener {
    process: Process,
    log: Log,
    admin: String,
}

impl Live {
    async fn start(changes: &[(&str, &str)]) -> Result<Self> {
        let options = Options {
            events_per_s: 2500.0,
            refusal_delay: Duration::from_millis(300),
            idle_timeout: Duration::from_secs(5),
            ..Options::default()
        };
        let stack = Local::start_with_realtime(Kind::Embedded, changes, None, Some(options), |_| {}).await?;
        stack.purple_flea.fund(AGENT, 50_000_000.into());
        stack.purple_flea.fund(LIVE_AGENT, 50_000_000.into());
        // As an operator of a project whose owner may not grant it.
        let superuser = stack.cluster.connect(SUPERUSER).await?;
        let grant = "grant usage on schema realtime to purple_flea_worker; \
            grant select on realtime.messages to purple_flea_worker";
        superuser.batch_execute(grant).await?;
        let set = format!(
            "set client_min_messages = error; \
             select purple_flea.set_secret('purple_flea_function_url', 'http://127.0.0.1:1/execute-trade'); \
             insert into auth.users values ('{OWNER}'), ('{ANOTHER}'); \
             insert into public.agents (id, owner_id) values ('{OTHER}', '{ANOTHER}'); \
             update public.agents set owner_id = '{OWNER}' where id = '{AGENT}'; \
             update purple_flea.ledger set notify_by = 'realtime' where only_row"
        );
        sql(&stack, &set).await?;
        Ok(Self { stack })
    }

    fn realtime(&self) -> Result<&Realtime> {
        self.stack.realtime.as_ref().context("no Realtime")
    }

    fn realtime_mut(&mut self) -> Result<&mut Realtime> {
        self.stack.realtime.as_mut().context("no Realtime")
    }

    /// Starts a listener that joins as the worker, and waits until it hears the doorbell.
    async fn listener(&self, arguments: &[&str]) -> Result<Listener> {
        let listener = self.listener_with(arguments, &[]).await?;
        listener.joined("doorbell", 1).await?;
        Ok(listener)
    }

    /// Starts a listener with some variables changed.
    async fn listener_with(&self, arguments: &[&str], changes: &[(&str, &str)]) -> Result<Listener> {
        let admin = free_address()?;
        let mut program = command("", &receiver::program()?);
        program.env_clear().args(["--poll-ms", "50", "--admin", &admin]).args(arguments);
        let function = format!("{}/execute-trade", self.stack.host.url);
        let (worker, anon) = (key("purple_flea_worker")?, key("anon")?);
        program.env("SUPABASE_URL", &self.stack.postgrest.url).env("SUPABASE_KEY", worker);
        program.env("SUPABASE_APIKEY", anon).env("REALTIME_URL", self.realtime()?.url());
        program.env("FUNCTION_URL", function).env("WEBHOOK_SECRET", webhook::SECRET);
        program.envs(changes.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut program, Signal::KILL)?;
        let (log, said) = (Log::default(), Log::default());
        process.read_lines(&log, &said)?;
        soon(said.find(|line| line.contains("claims deliveries"))).await?;
        Ok(Listener { process, log, admin })
    }

    /// Waits until every deposit's bet is executed, and checks that each was executed once.
    async fn all_traded(&self, deposits: i64) -> Result<()> {
        let owner = soon(self.owner()).await?;
        let left =
            "select count(*) from purple_flea.jobs j where j.kind = 'deposit' and j.state <> 'executed'";
        let waiting = async {
            while owner.query_one(left, &[]).await?.get::<_, i64>(0) > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        };
        let ended = soon(waiting).await;
        let states = "select string_agg(distinct concat_ws(' ', j.state, j.reason), ', ') \
            from purple_flea.jobs j where j.kind = 'deposit'";
        let states: Option<String> = owner.query_one(states, &[]).await?.get(0);
        ended.with_context(|| format!("the jobs are {states:?}"))??;
        let results = "select count(*) from public.trade_results t where t.reference like 'wallet-change-%'";
        assert_eq!(owner.query_one(results, &[]).await?.get::<_, i64>(0), deposits, "each has one result");
        assert_eq!(
            self.stack.purple_flea.bets().len() as i64,
            deposits,
            "and each is one bet at Purple Flea"
        );
        Ok(())
    }

    /// Connects as the owner, also after the database was away.
    async fn owner(&self) -> tokio_postgres::Client {
        loop {
            match self.stack.cluster.connect(DATABASE_OWNER).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Listener {
    /// Waits until a topic was joined so many times.
    async fn joined(&self, topic: &str, times: usize) -> Result<()> {
        self.said(times, |line| line["code"] == "joined" && line["topic"] == topic).await
    }

    /// Waits until the log has so many lines of a kind.
    async fn said(&self, times: usize, is_meant: impl Fn(&Value) -> bool) -> Result<()> {
        let waiting = async {
            while self.count(&is_meant) < times {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        soon(waiting).await.with_context(|| self.log.lines().join("\n"))
    }

    fn count(&self, is_meant: impl Fn(&Value) -> bool) -> usize {
        let lines = self.log.lines();
        lines.iter().filter(|line| serde_json::from_str(line).is_ok_and(|line| is_meant(&line))).count()
    }

    async fn metric(&self, name: &str) -> Result<u64> {
        metric(&self.admin, &format!("purple_flea_listener_{name}")).await
    }
}

/// Waits until a query's number is what a test waits for.
async fn until(stack: &Local, query: &str, wanted: i64) -> Result<()> {
    let mut had = 0;
    let waiting = async {
        loop {
            had = count(stack, query).await?;
            if had == wanted {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    soon(waiting).await.with_context(|| format!("{query} gives {had}"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn deposits_ring_the_doorbell_and_are_traded_although_pg_net_reaches_nobody() -> Result<()> {
    // Without long-polling each deposit needs a bell.
    let live = Live::start(&[("linger_ms", "0")]).await?;
    let listener = live.listener(&QUICK).await?;
    for _ in 0..10 {
        let id = deposit(&live.stack, "100").await?;
        job_in(&live.stack, id, "executed").await?;
    }
    live.all_traded(10).await?;
    assert_eq!(count(&live.stack, "select count(*) from net.http_request_queue").await?, 0);
    let rung = "select count(*) from realtime.messages m where m.topic = 'doorbell'";
    ensure!(count(&live.stack, rung).await? > 0, "no bell rang");
    ensure!(listener.metric("rings_total{outcome=\"taken\"}").await? >= 1);
    assert_eq!(listener.metric("rings_total{outcome=\"failed\"}").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_that_relies_on_another_ones_bell_is_found_when_its_transaction_ends() -> Result<()> {
    let live = Live::start(&[("linger_ms", "0")]).await?;
    let _listener = live.listener(&QUICK).await?;
    let late = live.owner().await;
    late.batch_execute("set client_min_messages = error").await?;
    let insert = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         values ('{AGENT}', 'deposit', 100, 100)"
    );
    let mut relied = 0;
    let mut deposits = 0;
    let began = Instant::now();
    for _ in 0..5 {
        let id = deposit(&live.stack, "100").await?;
        late.batch_execute("begin").await?;
        late.batch_execute(&insert).await?;
        let bells = "select count(*) from realtime.messages m where m.xmin::text::bigint = txid_current()";
        relied += i64::from(late.query_one(bells, &[]).await?.get::<_, i64>(0) == 0);
        job_in(&live.stack, id, "executed").await?;
        // Longer than the first look after the bell, so a later one has to find it.
        tokio::time::sleep(Duration::from_millis(400)).await;
        late.batch_execute("commit").await?;
        deposits += 2;
        live.all_traded(deposits).await?;
    }
    ensure!(relied >= 3, "only {relied} of 5 relied on another one's bell");
    let bells = count(&live.stack, "select count(*) from realtime.messages where topic = 'doorbell'").await?;
    let most = began.elapsed().as_secs() as i64 * 10 + 13;
    ensure!(bells <= most, "{bells} bells, and at most {most} were allowed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_depositors_at_once_ring_ten_times_a_second_and_every_deposit_is_traded() -> Result<()> {
    const DEPOSITORS: i64 = 8;
    const DEPOSITS: i64 = 20;
    let live = Live::start(&[("linger_ms", "0")]).await?;
    let _listener = live.listener(&QUICK).await?;
    let began = Instant::now();
    let mut depositors = tokio::task::JoinSet::new();
    for depositor in 0..DEPOSITORS {
        let client = live.owner().await;
        depositors.spawn(async move {
            client.batch_execute("set client_min_messages = error").await?;
            for turn in 0..DEPOSITS {
                let insert = format!(
                    "begin; insert into public.wallet_changes \
                     (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)"
                );
                client.batch_execute(&insert).await?;
                // Every fifth takes its time, and every seventh is rolled back.
                let turn = depositor * DEPOSITS + turn;
                if turn % 5 == 0 {
                    tokio::time::sleep(Duration::from_millis(50 * (turn % 7) as u64)).await;
                }
                client.batch_execute(if turn % 7 == 0 { "rollback" } else { "commit" }).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(depositor) = depositors.join_next().await {
        depositor??;
    }
    let all = DEPOSITORS * DEPOSITS;
    live.all_traded(all - (0..all).filter(|turn| turn % 7 == 0).count() as i64).await?;
    let bells = count(&live.stack, "select count(*) from realtime.messages where topic = 'doorbell'").await?;
    let most = began.elapsed().as_secs() as i64 * 10 + 13;
    ensure!(bells <= most, "{bells} bells, and at most {most} were allowed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_cut_in_silence_is_noticed_and_replaced() -> Result<()> {
    let live = Live::start(&[]).await?;
    let listener = live.listener(&QUICK).await?;
    let id = deposit(&live.stack, "100").await?;
    job_in(&live.stack, id, "executed").await?;
    for times in 2..4 {
        live.realtime()?.cut_silently();
        // Its bell is lost. The call after the next join finds it.
        let id = deposit(&live.stack, "100").await?;
        listener.joined("doorbell", times).await?;
        job_in(&live.stack, id, "executed").await?;
    }
    ensure!(listener.count(|line| line["code"] == "silent") >= 2);
    ensure!(listener.metric("realtime_disconnects_total").await? >= 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_the_listener_realtime_and_postgres_in_turn_forgets_and_doubles_no_deposit() -> Result<()> {
    const DEPOSITS: i64 = 300;
    let mut live = Live::start(&[]).await?;
    live.stack.postgrest.retry_after(Duration::from_millis(100));
    let _sweeper = Sweeper::start(&live.stack.cluster, Duration::from_secs(1));
    let mut one = live.listener(&QUICK).await?;
    let _two = live.listener(&QUICK).await?;
    let mut made = 0;
    let mut owner = live.owner().await;
    while made < DEPOSITS {
        match made {
            50 => one.process.kill().await?,
            90 => one = live.listener_with(&QUICK, &[]).await?,
            100 => live.realtime_mut()?.kill().await,
            140 => live.realtime_mut()?.restart().await?,
            180 => live.stack.cluster.crash().await?,
            240 => live.realtime()?.cut_silently(),
            _ => {}
        }
        let insert = format!(
            "set client_min_messages = error; \
             insert into public.wallet_changes (id, agent_id, change_type, change_amount, new_balance) \
             values ({}, '{AGENT}', 'deposit', 100, 100) on conflict do nothing",
            10_000 + made
        );
        // A depositor whose connection breaks makes the same deposit again.
        while owner.batch_execute(&insert).await.is_err() {
            owner = soon(live.owner()).await?;
        }
        made += 1;
    }
    live.all_traded(DEPOSITS).await
}

/// Lets [`AGENT`] answer the signals of [`OTHER`] with a coin flip.
async fn follow(live: &Live) -> Result<()> {
    let policy = json!({ "max_size": 100, "answers": "coin-flip", "side": "heads", "wager": 1 });
    let follow = format!(
        "select public.set_signal_policy('{AGENT}', '{policy}'); \
         select public.follow_signals('{AGENT}', '{OTHER}')"
    );
    sql(&live.stack, &follow).await
}

fn signal(ts: i64) -> Value {
    json!({ "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 10, "ts": ts })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_broadcast_of_a_signal_is_taken_once_from_two_listeners() -> Result<()> {
    let live = Live::start(&[]).await?;
    follow(&live).await?;
    let topic = format!("trade-signals:{OTHER}");
    let (one, two) = (live.listener(&QUICK).await?, live.listener(&QUICK).await?);
    one.joined(&topic, 1).await?;
    two.joined(&topic, 1).await?;
    let mut sender = Channel::join(&live.realtime()?.url(), &topic, &user_key(ANOTHER)?, true).await?;
    for ts in 0..5 {
        sender.broadcast("trade_signal", signal(ts)).await?;
    }
    let is_taken = |line: &Value| line["event"] == "signal" && line["topic"] == OTHER;
    for listener in [&one, &two] {
        listener.said(5, is_taken).await?;
    }
    assert_eq!(count(&live.stack, "select count(*) from public.trade_signals").await?, 5);
    let executed = "select count(*) from purple_flea.jobs where kind = 'bet' and state = 'executed'";
    let states = "select string_agg(concat_ws(' ', j.reference, j.state, j.reason), ', ') \
        from purple_flea.jobs j where j.kind = 'bet'";
    if let Err(error) = until(&live.stack, executed, 5).await {
        let states: Option<String> = live.stack.owner.query_one(states, &[]).await?.get(0);
        return Err(error.context(states.unwrap_or_default()));
    }
    assert_eq!(count(&live.stack, "select count(*) from purple_flea.jobs where kind = 'bet'").await?, 5);
    let published = one.metric("signals_total{outcome=\"published\"}").await?
        + two.metric("signals_total{outcome=\"published\"}").await?;
    assert_eq!(published, 5, "the database published each once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_sends_no_signal_and_the_public_topic_makes_nobody_trade() -> Result<()> {
    let live = Live::start(&[]).await?;
    follow(&live).await?;
    let topic = format!("trade-signals:{OTHER}");
    let mut arguments = QUICK.to_vec();
    let careless = live.listener(&arguments).await?;
    arguments.push("--accept-public-signals");
    let listener = live.listener(&arguments).await?;
    listener.joined(&topic, 1).await?;
    listener.joined("trade-signals", 1).await?;
    careless.joined(&topic, 1).await?;
    let stranger = Channel::join(&live.realtime()?.url(), &topic, &user_key(OWNER)?, true).await;
    ensure!(stranger.is_err(), "a stranger joined a private topic");
    // A public channel of the same name is another channel.
    let mut public = Channel::join(&live.realtime()?.url(), &topic, &key("anon")?, false).await?;
    public.broadcast("trade_signal", signal(1)).await?;
    let mut public = Channel::join(&live.realtime()?.url(), "trade-signals", &key("anon")?, false).await?;
    let mut named = signal(2);
    named["agent_id"] = OTHER.into();
    public.broadcast("trade_signal", named).await?;
    // The setting of the database refuses it.
    listener.said(1, |line| line["event"] == "signal" && line["code"] == "refused").await?;
    assert_eq!(
        careless.count(|line| line["topic"] == "trade-signals"),
        0,
        "nobody has asked for public signals"
    );
    let mut sender = Channel::join(&live.realtime()?.url(), &topic, &user_key(ANOTHER)?, true).await?;
    sender.broadcast("trade_signal", signal(3)).await?;
    until(&live.stack, "select count(*) from public.trade_signals", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_message_is_counted_and_the_listener_goes_on() -> Result<()> {
    let live = Live::start(&[("linger_ms", "0")]).await?;
    follow(&live).await?;
    let topic = format!("trade-signals:{OTHER}");
    let listener = live.listener(&QUICK).await?;
    listener.joined(&topic, 1).await?;
    let mut sender = Channel::join(&live.realtime()?.url(), &topic, &user_key(ANOTHER)?, true).await?;
    let too_large = "x".repeat(300 * 1024);
    for (event, payload) in [
        ("trade_signal", json!([1, 2])),
        ("trade_signal", json!({ "ts": 1, "text": too_large })),
        ("signal", signal(1)),
        ("due", json!({ "ledger": true })),
        ("trade_signal", json!({})),
        ("trade_signal", json!({ "ts": 1, "confidence": "much" })),
        ("trade_signal", json!({ "ts": 1, "market": "B\u{0}TC" })),
        (
            "trade_signal",
            json!({ "ts": 1, "confidence": 1.01, "market": "BTC", "action": "BUY", "size": 10 }),
        ),
        ("trade_signal", json!({ "ts": 1, "confidence": 0.9, "market": "BTC", "action": "BUY", "size": -1 })),
    ] {
        sender.broadcast(event, payload).await?;
    }
    sql(&live.stack, "select realtime.send('{}', 'burn', 'doorbell', true)").await?;
    let refused = "signals_total{outcome=\"refused\"}";
    soon(async {
        while listener.metric(refused).await? < 5
            || listener.metric("realtime_dropped_total{reason=\"unknown_event\"}").await? < 3
        {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(listener.metric("realtime_dropped_total{reason=\"too_large\"}").await?, 1);
    assert_eq!(listener.metric("realtime_dropped_total{reason=\"no_object\"}").await?, 1);
    assert_eq!(count(&live.stack, "select count(*) from public.trade_signals").await?, 0);
    assert_eq!(listener.metric("realtime_disconnects_total").await?, 0, "no message ended a socket");
    let id = deposit(&live.stack, "100").await?;
    job_in(&live.stack, id, "executed").await?;
    sender.broadcast("trade_signal", signal(2)).await?;
    until(&live.stack, "select count(*) from public.trade_signals", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracked_agent_is_there_while_it_is_tracked_and_nobody_tracks_another_ones() -> Result<()> {
    let live = Live::start(&[]).await?;
    sql(&live.stack, "update public.agents set status = 'offline'").await?;
    let topic = format!("agent-fleet:{OWNER}");
    let mut arguments = QUICK.to_vec();
    arguments[7] = "1000";
    let listener = live.listener(&arguments).await?;
    listener.joined(&topic, 1).await?;
    ensure!(Channel::join(&live.realtime()?.url(), &topic, &user_key(ANOTHER)?, true).await.is_err());
    let mut foreign = Channel::join(&live.realtime()?.url(), &topic, &user_key(OWNER)?, true).await?;
    foreign.track(json!({ "agent_id": OTHER })).await?;
    let mut own = Channel::join(&live.realtime()?.url(), &topic, &user_key(OWNER)?, true).await?;
    own.track(json!({ "agent_id": AGENT, "status": "watching" })).await?;
    let there = format!(
        "select count(*) from public.agents where id = '{AGENT}' and status = 'idle' and last_seen_at is not null"
    );
    until(&live.stack, &there, 1).await?;
    listener.said(1, |line| line["code"] == "not_the_owners" && line["topic"] == OWNER).await?;
    let others = format!(
        "select count(*) from public.agents where id = '{OTHER}' and last_seen_at is null and status = 'offline'"
    );
    assert_eq!(count(&live.stack, &others).await?, 1, "nothing is noted for an agent of somebody else's");

    // While it is tracked, a later report finds it back.
    let silent = format!(
        "update public.agents set last_seen_at = clock_timestamp() - interval '31 seconds' where id = '{AGENT}'"
    );
    sql(&live.stack, &format!("{silent}; select purple_flea.end_heartbeats()")).await?;
    until(&live.stack, &there, 1).await?;
    // Once it is not, no report comes any more.
    own.leave().await?;
    let noted =
        "select count(*) from public.agents where last_seen_at > clock_timestamp() - interval '3 seconds'";
    until(&live.stack, noted, 0).await?;
    sql(&live.stack, &format!("{silent}; select purple_flea.end_heartbeats()")).await?;
    assert_eq!(count(&live.stack, &there).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_and_the_listener_says_so_and_goes_on() -> Result<()> {
    let live = Live::start(&[]).await?;
    for token in [forged_user_key(OWNER)?, user_key(OWNER)?] {
        let listener = live.listener_with(&QUICK, &[("SUPABASE_KEY", &token)]).await?;
        let refused = |line: &Value| line["code"] == "channel_refused" && line["topic"] == "doorbell";
        listener.said(1, refused).await?;
        assert_eq!(listener.metric("realtime_channels").await?, 0);
        let log = listener.log.lines().join("\n");
        ensure!(!log.contains(&token) && !log.contains(webhook::SECRET), "the log has a secret");
    }
    let expired = key_with(&json!({ "role": "purple_flea_worker", "exp": webhook::unix_s() - 60 }))?;
    let listener = live.listener_with(&QUICK, &[("SUPABASE_KEY", &expired)]).await?;
    listener.said(1, |line| line["code"] == "token_expired").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_is_renewed_before_it_expires_and_the_channel_stays() -> Result<()> {
    let live = Live::start(&[("linger_ms", "0")]).await?;
    let named = format!("update purple_flea.ledger set listener_user = '{LISTENER}' where only_row");
    sql(&live.stack, &named).await?;
    let sign_in = SignIn::start(&live.stack.postgrest.url, LISTENER, 6).await?;
    let changes = [
        ("SUPABASE_URL", sign_in.url.as_str()),
        ("REALTIME_EMAIL", "a@example.com"),
        ("REALTIME_PASSWORD", "geheim"),
    ];
    let listener = live.listener_with(&QUICK, &changes).await?;
    listener.joined("doorbell", 1).await?;
    // The first token is over, and the second.
    soon(sign_in.until(4)).await?;
    let id = deposit(&live.stack, "100").await?;
    job_in(&live.stack, id, "executed").await?;
    assert_eq!(
        listener.count(|line| line["code"] == "joined" && line["topic"] == "doorbell"),
        1,
        "it never left"
    );
    let grants = sign_in.grants();
    ensure!(
        grants[0] == "password" && grants[1..].iter().all(|grant| grant == "refresh_token"),
        "{grants:?}"
    );
    // Without its session the user signs in again.
    sign_in.forget();
    soon(async {
        while sign_in.grants().iter().filter(|grant| *grant == "password").count() < 2 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?;
    let log = listener.log.lines().join("\n");
    ensure!(!log.contains("geheim") && !log.contains("eyJ"), "the log has a secret: {log}");
    let id = deposit(&live.stack, "100").await?;
    whole_stack::job_in(&live.stack, id, "executed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_told_to_end_says_good_bye_and_ends() -> Result<()> {
    let live = Live::start(&[]).await?;
    let mut listener = live.listener(&QUICK).await?;
    listener.process.signal(Signal::TERM)?;
    let status = soon(listener.process.wait()).await??;
    ensure!(status.success(), "{status}");
    ensure!(listener.count(|line| line["event"] == "end" && line["level"] == "info") == 1);
    Ok(())
}
