//! The stack's stand-in for Realtime behaves as badly as the real server was measured to. supabase-js and PyPI's
//! `realtime` are the clients. With REALTIME_URL and REALTIME_DATABASE_URL a real server is tested, as CONTRIBUTING.md
//! says; what needs other settings, or an end of the server, is then left out.

use crate::{
    clients::{LANGUAGES, Language},
    front_door::soon,
    realtime::{ANOTHER, Follower, OWNER, quick},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::{
    http1,
    postgres::{Cluster, OWNER as DATABASE_OWNER, SUPERUSER},
    postgrest::{key, key_with, user_key},
    realtime::{Options, Realtime},
    webhook::unix_s,
};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Everybody who has signed in hears and tracks on `open`; owners of `own:…` hear their own.
const POLICIES: &str = "create policy open_reads on realtime.messages for select to authenticated \
      using (realtime.topic() = 'open' or realtime.topic() = 'own:' || (select auth.uid())); \
    create policy open_writes on realtime.messages for insert to authenticated with check (realtime.topic() = 'open')";

/// Deletes what an earlier test has left in the database of a real server.
const CLEAN: &str = "drop policy if exists open_reads on realtime.messages; \
    drop policy if exists open_writes on realtime.messages; drop table if exists public.rows";

/// A database without the project's SQL, its Realtime, and a connection of the database's owner.
struct Bench {
    /// The URL that clients take for their project's.
    project: String,
    superuser: String,
    owner: Client,
    /// The stand-in; not there if a real server is tested.
    stand_in: Option<StandIn>,
}

struct StandIn {
    cluster: Cluster,
    realtime: Realtime,
}

impl Bench {
    /// Starts the stand-in with default settings, but for its delays; or finds the real server.
    async fn open() -> Result<Self> {
        let (Ok(url), Ok(superuser)) =
            (std::env::var("REALTIME_URL"), std::env::var("REALTIME_DATABASE_URL"))
        else {
            return Self::with(quick()).await;
        };
        connect(&superuser).await?.batch_execute(&format!("{CLEAN}; {POLICIES}")).await?;
        let project = url.strip_suffix("/realtime/v1/websocket").context("not the URL of a websocket")?;
        let project = project.replacen("ws", "http", 1);
        let owner = connect(&superuser).await?;
        owner.batch_execute(&format!("set role {DATABASE_OWNER}")).await?;
        Ok(Self { project, superuser, owner, stand_in: None })
    }

    /// Starts the stand-in.
    async fn with(options: Options) -> Result<Self> {
        let cluster = Cluster::start().await?;
        let realtime = Realtime::start(&cluster, options).await?;
        cluster.connect(SUPERUSER).await?.batch_execute(POLICIES).await?;
        let (owner, superuser) = (cluster.connect(DATABASE_OWNER).await?, cluster.url(SUPERUSER));
        let project = realtime.project_url().to_owned();
        Ok(Self { project, superuser, owner, stand_in: Some(StandIn { cluster, realtime }) })
    }

    fn stand_in(&mut self) -> Result<&mut StandIn> {
        self.stand_in.as_mut().context("a real server")
    }

    async fn superuser(&self) -> Result<Client> {
        connect(&self.superuser).await
    }

    fn follower(&self, language: Language, user: Option<&str>) -> Result<Follower> {
        let token = user.map(user_key).transpose()?;
        Follower::start(language, &self.project, token.as_deref())
    }

    /// Sends from the database.
    async fn send(&self, number: usize, event: &str, topic: &str, private: bool) -> Result<()> {
        let payload = json!({ "number": number }).to_string();
        let send = "select realtime.send($1::text::jsonb, $2, $3, $4)";
        self.owner.execute(send, &[&payload, &event, &topic, &private]).await?;
        Ok(())
    }
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn private() -> Value {
    json!({ "private": true })
}

fn numbers(follower: &Follower, event: &str) -> Vec<i64> {
    follower.heard(event).iter().filter_map(|payload| payload["number"].as_i64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_of_the_database_come_in_order_once_and_not_from_what_is_rolled_back() -> Result<()> {
    let bench = Bench::open().await?;
    let mut followers = Vec::new();
    for language in LANGUAGES {
        let mut follower = bench.follower(language, Some(OWNER))?;
        assert_eq!(follower.join("open", private()).await?.0, "SUBSCRIBED", "{language:?}");
        followers.push(follower);
    }
    for number in 0..20 {
        bench.send(number, "told", "open", true).await?;
    }
    bench
        .owner
        .batch_execute("begin; select realtime.send('{\"number\": 99}', 'told', 'open'); rollback")
        .await?;
    let many = "select realtime.send(jsonb_build_object('number', n), 'told', 'open') from generate_series(20, 39) n";
    bench.owner.batch_execute(many).await?;
    for follower in &followers {
        follower.wait_for(|line| line["payload"]["number"] == 39).await?;
        assert_eq!(numbers(follower, "told"), (0..40).collect::<Vec<_>>());
        // A broadcast of the database has an id.
        assert!(follower.lines().iter().any(|line| line["meta"]["id"].is_string()));
    }
    // Without a partition of the day a message is lost, and its sender learns nothing.
    let drop = "do $$ declare part regclass; begin for part in select inhrelid::regclass from pg_inherits \
                where inhparent = 'realtime.messages'::regclass loop execute 'drop table ' || part; end loop; end $$";
    bench.superuser().await?.batch_execute(drop).await?;
    bench.send(40, "told", "open", true).await?;
    let make = "select realtime.make_partitions((now() at time zone 'UTC')::date - 1, 3)";
    bench.superuser().await?.batch_execute(make).await?;
    bench.send(41, "told", "open", true).await?;
    for follower in &followers {
        follower.wait_for(|line| line["payload"]["number"] == 41).await?;
        assert!(!numbers(follower, "told").contains(&40));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_others_broadcasts_and_its_own_only_if_it_asks() -> Result<()> {
    let bench = Bench::open().await?;
    for topic in ["open", "public"] {
        let config = json!({ "private": topic == "open", "broadcast": { "ack": true, "self": true } });
        let mut heard_by = Vec::new();
        for (language, config) in LANGUAGES.into_iter().zip([config, json!({ "private": topic == "open" })]) {
            let mut follower = bench.follower(language, Some(OWNER))?;
            assert_eq!(follower.join(topic, config).await?.0, "SUBSCRIBED");
            heard_by.push(follower);
        }
        for (number, follower) in heard_by.iter_mut().enumerate() {
            let payload = json!({ "number": number });
            follower
                .tell(json!({ "do": "send", "topic": topic, "event": "said", "payload": payload }))
                .await?;
            follower.wait_for(|line| number == 1 || line["sent"] == "ok").await?;
        }
        heard_by[0].wait_for(|line| line["payload"]["number"] == 1).await?;
        heard_by[1].wait_for(|line| line["payload"]["number"] == 0).await?;
        // Whatever is still on its way comes before this one.
        let message = json!({ "topic": topic, "event": "last", "payload": {}, "private": topic == "open" });
        let url = format!("{}/realtime/v1/api/broadcast", &bench.project);
        let request = http::Request::post(url)
            .header("authorization", format!("Bearer {}", user_key(OWNER)?))
            .body(json!({ "messages": [message] }).to_string().into_bytes())?;
        assert_eq!(http1::send(request).await?.status(), 202);
        for follower in &heard_by {
            follower.wait_for(|line| line["event"] == "last").await?;
        }
        assert_eq!((numbers(&heard_by[0], "said").len(), numbers(&heard_by[1], "said")), (2, vec![0]));
    }
    // A policy that lets nobody write: the sender is not told, and nobody hears.
    let (mut teller, topic) = (bench.follower(Language::JavaScript, Some(OWNER))?, format!("own:{OWNER}"));
    let mut hearer = bench.follower(Language::Python, Some(OWNER))?;
    for follower in [&mut teller, &mut hearer] {
        assert_eq!(follower.join(&topic, private()).await?.0, "SUBSCRIBED");
    }
    teller.tell(json!({ "do": "send", "topic": topic, "event": "said", "payload": { "number": 7 } })).await?;
    teller.wait_for(|line| line["sent"] == "ok").await?;
    teller.tell(json!({ "do": "leave", "topic": topic })).await?;
    teller.wait_for(|line| line["left"] == "ok").await?;
    bench.send(8, "said", &topic, true).await?;
    hearer.wait_for(|line| line["payload"]["number"] == 8).await?;
    assert_eq!(numbers(&hearer, "said"), [8]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_takes_its_time_and_holds_everything_else_of_its_socket() -> Result<()> {
    let delay = Duration::from_secs(2);
    let bench = Bench::with(Options { refusal_delay: delay, ..quick() }).await?;
    let mut follower = bench.follower(Language::JavaScript, Some(OWNER))?;
    assert_eq!(follower.join("open", private()).await?.0, "SUBSCRIBED");
    let begin = Instant::now();
    follower.tell(json!({ "do": "join", "topic": format!("own:{ANOTHER}"), "config": private() })).await?;
    // The socket has begun to refuse when a heartbeat's answer does not come; a moment is enough.
    tokio::time::sleep(delay / 4).await;
    bench.send(1, "told", "open", true).await?;
    follower.wait_for(|line| line["payload"]["number"] == 1).await?;
    assert!(begin.elapsed() >= delay, "{:?}", begin.elapsed());
    let refused = follower.wait_for(|line| line["status"] == "CHANNEL_ERROR").await?;
    assert!(refused["error"].to_string().contains("Unauthorized"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_may_refuse_public_channels_and_a_socket_takes_a_hundred() -> Result<()> {
    let bench = Bench::with(Options { private_only: true, ..quick() }).await?;
    let mut follower = bench.follower(Language::JavaScript, Some(OWNER))?;
    let (status, error) = follower.join("public", json!({})).await?;
    assert_eq!(status, "CHANNEL_ERROR");
    assert!(error.to_string().contains("This project only allows private channels"), "{error}");
    let open = Bench::open().await?;
    let mut follower = open.follower(Language::JavaScript, None)?;
    for number in 0..100 {
        assert_eq!(follower.join(&format!("topic-{number}"), json!({})).await?.0, "SUBSCRIBED");
    }
    let (status, error) = follower.join("topic-100", json!({})).await?;
    assert_eq!(status, "CHANNEL_ERROR");
    assert!(error.to_string().contains("Too many channels"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_member_hears_until_its_token_is_refreshed_and_a_token_that_expires_closes() -> Result<()> {
    let bench = Bench::open().await?;
    let mut follower = bench.follower(Language::JavaScript, Some(OWNER))?;
    assert_eq!(follower.join("open", private()).await?.0, "SUBSCRIBED");
    let superuser = bench.superuser().await?;
    superuser.batch_execute("drop policy open_reads on realtime.messages").await?;
    bench.send(1, "told", "open", true).await?;
    follower.wait_for(|line| line["payload"]["number"] == 1).await?;
    let claims = |lives_s: u64| json!({ "sub": OWNER, "role": "authenticated", "aud": "authenticated", "exp": unix_s() + lives_s });
    follower.tell(json!({ "do": "token", "token": key_with(&claims(3_600))? })).await?;
    let system = follower.wait_for(|line| line["system"]["status"] == "error").await?;
    assert!(system["system"]["message"].to_string().contains("permission"), "{system}");
    follower.wait_for(|line| line["status"] == "CLOSED").await?;
    superuser
        .batch_execute(
            "create policy open_reads on realtime.messages for select to authenticated using (true)",
        )
        .await?;
    // Long enough for a client to start on a busy machine.
    let (token, url) = (key_with(&claims(15))?, &bench.project);
    let mut brief = Follower::start(Language::JavaScript, url, Some(&token))?;
    assert_eq!(brief.join("open", private()).await?.0, "SUBSCRIBED");
    let system = brief.wait_for(|line| line["system"]["status"] == "error").await?;
    assert!(system["system"]["message"].to_string().contains("Token has expired"), "{system}");
    brief.wait_for(|line| line["status"] == "CLOSED").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_rate_messages_vanish_without_a_sign() -> Result<()> {
    // A limit of ten a second and a tick of a second: the mean is taken over twelve seconds.
    let options = Options { events_per_s: 10.0, rate_tick: Duration::from_secs(1), ..quick() };
    let bench = Bench::with(options).await?;
    let mut follower = bench.follower(Language::JavaScript, Some(OWNER))?;
    assert_eq!(follower.join("open", private()).await?.0, "SUBSCRIBED");
    // One transaction passes whole, however large.
    let many = "select realtime.send(jsonb_build_object('number', n), 'told', 'open') from generate_series(1, 100) n";
    bench.owner.batch_execute(many).await?;
    follower.wait_for(|line| line["payload"]["number"] == 100).await?;
    // Then nothing, until the mean has fallen; and nobody is told.
    let gap = async {
        for number in 101.. {
            bench.send(number, "told", "open", true).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let heard = numbers(&follower, "told");
            let gaps = heard.windows(2).map(|pair| pair[1] - pair[0]);
            if let Some(gap) = gaps.max().filter(|gap| *gap > 1) {
                return Ok(gap);
            }
        }
        anyhow::bail!("nothing was lost")
    };
    let gap: i64 = soon(gap).await??;
    assert!(gap > 10, "only {gap} were lost");
    assert!(follower.lines().iter().all(|line| line["system"].is_null() && line["status"] != "CLOSED"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_ends_at_once_with_its_process_and_late_after_a_silent_cut() -> Result<()> {
    let idle_timeout = Duration::from_secs(6);
    let mut bench = Bench::with(Options { idle_timeout, ..quick() }).await?;
    let key_of = |name: &str| json!({ "presence": { "key": name, "enabled": true } });
    let mut watcher = bench.follower(Language::JavaScript, None)?;
    let command = json!({ "topic": "fleet", "config": key_of("watcher"), "presence": true });
    assert_eq!(watcher.join_with(command).await?.0, "SUBSCRIBED");
    let present = |watcher: &Follower| {
        let mut states = watcher.lines().into_iter().filter(|line| line["present"].is_object());
        states.next_back().map(|line| line["present"].clone()).unwrap_or_default()
    };
    let mut agents = Vec::new();
    for (language, name) in LANGUAGES.into_iter().zip(["js", "py"]) {
        let mut agent = bench.follower(language, None)?;
        assert_eq!(agent.join("fleet", key_of(name)).await?.0, "SUBSCRIBED");
        agent.tell(json!({ "do": "track", "topic": "fleet", "payload": { "status": "idle" } })).await?;
        watcher.wait_for(|line| line["present"][name][0]["status"] == "idle").await?;
        agents.push(agent);
    }
    agents[0].tell(json!({ "do": "untrack", "topic": "fleet" })).await?;
    watcher.wait_for(|_| present(&watcher)["js"].is_null()).await?;
    agents[1].kill().await?;
    let killed = Instant::now();
    watcher.wait_for(|_| present(&watcher)["py"].is_null()).await?;
    assert!(killed.elapsed() < idle_timeout, "{:?}", killed.elapsed());
    agents[0].tell(json!({ "do": "track", "topic": "fleet", "payload": { "status": "back" } })).await?;
    watcher.wait_for(|_| present(&watcher)["js"][0]["status"] == "back").await?;
    // A cut that nobody notices: a new watcher sees the agent that is no more, until the server gives it up.
    let cut = Instant::now();
    bench.stand_in()?.realtime.cut_silently();
    for agent in &mut agents {
        agent.kill().await?;
    }
    let mut late = bench.follower(Language::JavaScript, None)?;
    let command = json!({ "topic": "fleet", "config": key_of("late"), "presence": true });
    assert_eq!(late.join_with(command).await?.0, "SUBSCRIBED");
    late.wait_for(|line| line["present"]["js"][0]["status"] == "back").await?;
    late.wait_for(|_| present(&late)["js"].is_null()).await?;
    assert!(cut.elapsed() > idle_timeout - Duration::from_secs(2), "{:?}", cut.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_five_calls_about_presence_in_half_a_minute_close_the_channel() -> Result<()> {
    let bench = Bench::open().await?;
    let mut agent = bench.follower(Language::JavaScript, None)?;
    assert_eq!(agent.join("fleet", json!({ "presence": { "enabled": true } })).await?.0, "SUBSCRIBED");
    for number in 0..6 {
        let payload = json!({ "number": number });
        agent.tell(json!({ "do": "track", "topic": "fleet", "payload": payload })).await?;
    }
    let system = agent.wait_for(|line| line["system"]["status"] == "error").await?;
    assert!(system["system"]["message"].to_string().contains("presence rate limit"), "{system}");
    agent.wait_for(|line| line["status"] == "CLOSED").await?;
    let tracked = || agent.lines().iter().filter(|line| line["tracked"] == "ok").count();
    agent.wait_for(|_| tracked() == 5).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_replayed_after_a_restart_and_a_client_joins_again() -> Result<()> {
    let mut bench = Bench::with(quick()).await?;
    let mut follower = bench.follower(Language::JavaScript, Some(OWNER))?;
    assert_eq!(follower.join("open", private()).await?.0, "SUBSCRIBED");
    bench.stand_in()?.realtime.kill().await;
    bench.send(1, "told", "open", true).await?;
    let before = follower.lines().len();
    bench.stand_in()?.realtime.restart().await?;
    follower.next(before, |line| line["status"] == "SUBSCRIBED").await?;
    // Postgres goes, too, and Realtime follows it again.
    bench.stand_in()?.cluster.crash().await?;
    let cluster = &bench.stand_in()?.cluster;
    let back = async {
        loop {
            if let Ok(owner) = cluster.connect(DATABASE_OWNER).await {
                return owner;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let owner = soon(back).await?;
    bench.owner = owner;
    let heard = async {
        for number in 2.. {
            bench.send(number, "told", "open", true).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if !numbers(&follower, "told").is_empty() {
                break;
            }
        }
        anyhow::Ok(())
    };
    soon(heard).await??;
    assert!(!numbers(&follower, "told").contains(&1));
    Ok(())
}

/// A table of two owners' rows, published.
const ROWS: &str = "create table public.rows (id integer primary key, owner_id uuid, amount numeric(12,4)); \
    alter table public.rows enable row level security; \
    create policy owners on public.rows for select to authenticated using (owner_id = (select auth.uid())); \
    alter publication supabase_realtime add table public.rows";

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_raises_silences_everybody() -> Result<()> {
    let bench = Bench::open().await?;
    bench.owner.batch_execute(ROWS).await?;
    let changes = json!({ "topic": "rows", "changes": [{ "event": "*", "table": "rows" }] });
    let live = |line: &Value| line["system"]["status"] == "ok";
    let mut owner = bench.follower(Language::JavaScript, Some(OWNER))?;
    owner.join_with(changes.clone()).await?;
    owner.wait_for(live).await?;
    let insert = |id: i32| {
        format!(
            "insert into public.rows values ({id}, '{OWNER}', 12.5); insert into public.rows values (-{id}, '{ANOTHER}', 1)"
        )
    };
    bench.owner.batch_execute(&insert(1)).await?;
    let row = owner.wait_for(|line| line["new"]["id"] == 1).await?;
    assert_eq!(row["new"]["amount"], 12.5, "{row}");
    // auth.uid() casts `sub` to uuid, and a token of a third party has none.
    let token = key_with(&json!({ "sub": "auth0|7", "role": "authenticated", "exp": unix_s() + 3_600 }))?;
    let mut foreign = Follower::start(Language::JavaScript, &bench.project, Some(&token))?;
    foreign.join_with(changes).await?;
    foreign.wait_for(live).await?;
    bench.owner.batch_execute(&insert(2)).await?;
    // The row of the next poll comes when the foreigner has gone.
    tokio::time::sleep(Duration::from_secs(2)).await;
    foreign.kill().await?;
    let next = async {
        for id in 3.. {
            bench.owner.batch_execute(&insert(id)).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            if owner.lines().iter().any(|line| line["new"]["id"].as_i64() > Some(2)) {
                break;
            }
        }
        anyhow::Ok(())
    };
    soon(next).await??;
    assert!(!owner.lines().iter().any(|line| line["new"]["id"] == 2), "the policy silenced nobody");
    assert!(
        !owner.lines().iter().any(|line| line["new"]["id"].as_i64().is_some_and(|id| id < 0)),
        "another's row came"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_gone_at_the_poll_and_a_large_transaction_reach_nobody() -> Result<()> {
    let bench = Bench::open().await?;
    bench.owner.batch_execute(ROWS).await?;
    let mut owner = bench.follower(Language::JavaScript, Some(OWNER))?;
    let inserts = json!({ "event": "INSERT", "table": "rows" });
    owner.join_with(json!({ "topic": "rows", "changes": [inserts] })).await?;
    owner.wait_for(|line| line["system"]["status"] == "ok").await?;
    // Both transactions stand before the same poll.
    let gone = format!(
        "begin; insert into public.rows values (1, '{OWNER}', 1); commit; delete from public.rows where id = 1"
    );
    bench.owner.batch_execute(&gone).await?;
    let large =
        format!("insert into public.rows select n, '{OWNER}', 1 from generate_series(100001, 110000) as n");
    bench.owner.batch_execute(&large).await?;
    bench.owner.batch_execute(&format!("insert into public.rows values (2, '{OWNER}', 1)")).await?;
    owner.wait_for(|line| line["new"]["id"] == 2).await?;
    let ids: Vec<Value> = owner
        .lines()
        .iter()
        .filter(|line| line["change"].is_string())
        .map(|line| line["new"]["id"].clone())
        .collect();
    assert_eq!(ids, [2]);
    for wrong in [json!({ "table": "rows", "filter": "nothing=eq.1" }), json!({ "table": "none" })] {
        let mut changes = wrong.clone();
        changes["event"] = "*".into();
        let topic = changes.to_string();
        let joined = owner.join_with(json!({ "topic": topic, "changes": [changes] })).await?;
        assert_eq!(joined.0, "SUBSCRIBED", "{wrong}");
        let refused = owner.wait_for(|line| line["topic"] == topic && line["system"].is_object()).await?;
        assert_eq!(refused["system"]["status"], "error", "{refused}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_opens_no_socket_and_no_api() -> Result<()> {
    let bench = Bench::open().await?;
    let expired = key_with(&json!({ "role": "anon", "exp": unix_s() - 1 }))?;
    let without_end = key_with(&json!({ "role": "anon" }))?;
    for (key, words) in [
        ("", "API key"),
        (expired.as_str(), "expired"),
        (&without_end, "`role` and `exp`"),
        ("abc", "not a valid JWT"),
    ] {
        let query = if key.is_empty() { String::new() } else { format!("?apikey={key}") };
        let url = format!("{}/realtime/v1/websocket{query}", &bench.project);
        let refused = http1::send(http::Request::get(url).body(vec![])?).await?;
        assert_eq!(refused.status(), 401);
        let body = String::from_utf8_lossy(refused.body()).into_owned();
        assert!(body.contains(words), "{body}");
    }
    let url = format!("{}/realtime/v1/api/broadcast", &bench.project);
    let post = |token: Option<String>, body: &str| {
        let request = http::Request::post(&url)
            .header("authorization", token.map_or(String::new(), |t| format!("Bearer {t}")));
        request.body(body.as_bytes().to_vec()).context("a request")
    };
    assert_eq!(http1::send(post(None, "{}")?).await?.status(), 401);
    assert_eq!(http1::send(post(Some(key("anon")?), "{}")?).await?.status(), 422);
    Ok(())
}
