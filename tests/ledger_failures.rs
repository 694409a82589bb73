//! No single failure loses a deposit or repeats a bet: failures of the ledger, the function, the network between them,
//! and Purple Flea. (`scripts/chaos` combines failures; tests/model tries them at every step.)

use crate::{
    front_door::{ADAS_TOKEN, OPERATORS, Reply, assert_no_call, assert_problem, reply, soon},
    whole_stack::{
        LOOK_EVERY, NOTIFY_ALL, count, deposit, job, job_in, notify, pass_time, send, silence, sql, start,
        start_silent,
    },
};
use anyhow::Result;
use http::Request;
use serde_json::{Value, json};
use stack::{
    host::{AFTER_REPLY, Build, Host, Kind, Options, ledger_settings, local_settings},
    local::Local,
    postgres::Cluster,
    postgrest::{self, PostgRest, Trouble},
    purple_flea::{Fault, How, LIVE_AGENT},
    sweeper::Sweeper,
    webhook,
};
use std::time::Duration;

/// Asks for the function's health with an operator's token.
async fn health(stack: &Local) -> Result<Reply> {
    let request = Request::get(format!("{}/health", stack.host.url));
    reply(request.header("authorization", format!("Bearer {ADAS_TOKEN}")).body(vec![])?).await
}

/// Waits until a member of the health reply has a value. The function looks at the ledger once a second.
async fn wait_for_health(stack: &Local, member: &str, value: &Value) -> Result<Reply> {
    soon(async {
        loop {
            let reply = health(stack).await?;
            if reply.body[member] == *value {
                return Ok(reply);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_configured_ledger_is_refused_and_no_bet_is_placed() -> Result<()> {
    for half in ["supabase_url", "supabase_key"] {
        let stack = start_silent(&[(half, "")]).await?;
        let reply = notify(&stack, deposit(&stack, "100").await?).await?;
        assert_problem(&reply, 503, "not_configured", "no");
        assert_eq!(reply.body["settings"], json!([half]));
        assert_no_call(&stack.purple_flea);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_refusing_or_unreachable_ledger_is_reported_and_no_bet_is_placed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let postgrest = PostgRest::start(&cluster).await?;
    let purple_flea = stack::purple_flea::PurpleFlea::start().await?;
    let anon = postgrest::key("anon")?;
    let worker = postgrest::key("purple_flea_worker")?;
    let migrated = Cluster::start().await?;
    migrated.migrate(stack::postgres::OWNER).await?;
    let with_ledger = PostgRest::start(&migrated).await?;
    let nowhere = "http://127.0.0.1:9".to_owned();
    for (url, key, code) in [
        (&postgrest.url, &worker, "ledger_missing"),
        (&with_ledger.url, &anon, "ledger_refused_us"),
        (&with_ledger.url, &"not-a-token".to_owned(), "ledger_refused_us"),
        (&nowhere, &worker, "ledger_not_reached"),
    ] {
        let mut settings = local_settings(&purple_flea.url);
        settings.extend(ledger_settings(url)?);
        settings.insert("supabase_key".into(), key.clone());
        let options = Options {
            build: Build::Spin,
            settings,
            allowed_origins: None,
            listen: None,
            after_reply: AFTER_REPLY,
        };
        let host = Host::start(Kind::Embedded, &options).await?;
        let body = r#"{"ledger": true, "reference": "wallet-change-1"}"#;
        let request = webhook::signed(&format!("{}/", host.url), "wallet-change-1", body.as_bytes())?;
        assert_problem(&reply(request.body(body.into())?).await?, 503, code, "no");
        let health = reply(Request::get(format!("{}/health", host.url)).body(vec![])?).await?;
        assert_problem(&health, 503, code, "no");
        assert!(!host.log.lines().join("\n").contains(key.as_str()), "the function logged its key");
    }
    assert_no_call(&purple_flea);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_our_functions_is_reported_as_ledger_missing() -> Result<()> {
    let stack = start_silent(&[]).await?;
    sql(&stack, "drop function public.claim_jobs; drop function public.ledger_health").await?;
    let id = deposit(&stack, "100").await?;
    assert_problem(&notify(&stack, id).await?, 503, "ledger_missing", "no");
    assert_problem(&health(&stack).await?, 503, "ledger_missing", "no");
    assert_eq!(job(&stack, id).await?["state"], "pending");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_purple_flea_refuses_stops_the_worker_and_rejects_no_job() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false"), ("bets_at_once", "2")]).await?;
    stack.purple_flea.misbehave(Some(Fault { after_the_bet: false, how: How::answer(401, "{}") }));
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(deposit(&stack, "100").await?);
    }
    assert_problem(&notify(&stack, ids[0]).await?, 503, "purple_flea_refused_us", "no");
    assert_eq!(stack.purple_flea.requests().len(), 2, "the worker went on after its first claim");
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state = 'pending'").await?, 6);
    let refused = wait_for_health(&stack, "code", &json!("purple_flea_refused_us")).await?;
    assert_problem(&refused, 503, "purple_flea_refused_us", "no");

    stack.purple_flea.misbehave(None);
    sql(&stack, "select purple_flea.retry_job(reference) from purple_flea.jobs").await?;
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 6);
    // This stack has no sweeper, which health now reports instead.
    wait_for_health(&stack, "why", &json!(["no_sweeper"])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_reply_is_lost_is_retried_and_takes_its_job_once() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    for trouble in [Trouble::AfterTheCall, Trouble::BeforeTheCall] {
        let id = deposit(&stack, "100").await?;
        stack.postgrest.misbehave_once(trouble);
        assert_eq!(notify(&stack, id).await?.body["status"], "executed");
        assert_eq!(job(&stack, id).await?["attempts"], 1);
    }
    assert_eq!(stack.purple_flea.bets().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_whose_reply_is_lost_is_retried_and_counts_once() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    stack.purple_flea.delay(Some(Duration::from_millis(200)));
    let id = deposit(&stack, "100").await?;
    let settled = async {
        soon(stack.purple_flea.reached(1)).await?;
        // Purple Flea has the bet, so the next call to the ledger is its settlement.
        stack.postgrest.misbehave_once(Trouble::AfterTheCall);
        anyhow::Ok(())
    };
    let (reply, armed) = tokio::join!(notify(&stack, id), settled);
    armed?;
    assert_eq!(reply?.body["status"], "executed");
    assert_eq!(stack.postgrest.calls(), ["claim_jobs", "settle_jobs", "settle_jobs"]);
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 1);
    assert_eq!(
        count(&stack, "select count(*) from purple_flea.job_events where kind <> 'transition'").await?,
        0
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_settled_is_logged_in_full_and_never_bet_again() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    let id = deposit(&stack, "100").await?;
    sql(&stack, "revoke execute on function public.settle_jobs from purple_flea_worker").await?;
    assert_eq!(notify(&stack, id).await?.body["status"], "executed");
    let line = soon(stack.host.log.find(|line| line.contains("not_settled"))).await?;
    let line: Value = serde_json::from_str(&line)?;
    let bet = stack.purple_flea.bets().remove(0);
    assert_eq!((&line["level"], &line["result"]["bet_id"]), (&json!("error"), &json!(bet.bet_id)));
    assert_eq!(line["reference"], format!("wallet-change-{id}"));

    pass_time(&stack, id, "31 seconds").await?;
    sql(&stack, "grant execute on function public.settle_jobs to purple_flea_worker").await?;
    assert_problem(&notify(&stack, id).await?, 502, "outcome_unknown", "unknown");
    assert_eq!(
        (job(&stack, id).await?["reason"].clone(), stack.purple_flea.bets().len()),
        (json!("lease_ran_out"), 1)
    );

    // The operator records the outcome from the log. A second time changes nothing.
    let log = tempfile::NamedTempFile::new()?;
    std::fs::write(log.path(), stack.host.log.lines().join("\n"))?;
    for answer in ["settled", "settled_before"] {
        let mut record = tokio::process::Command::new(stack::repository().join("scripts/ops"));
        record.args(["--json", "record-logged"]).arg(log.path());
        record.env("DATABASE_URL", stack.cluster.url(stack::postgres::OWNER));
        record.env("PATH", stack::postgres::path_with(stack.cluster.bin())?);
        let printed: Value = serde_json::from_str(&stack::process::run(&mut record).await?)?;
        assert_eq!(printed["outcomes"], json!({ format!("wallet-change-{id}"): answer }));
    }
    assert_eq!(job(&stack, id).await?["result"]["bet_id"], json!(bet.bet_id));
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_bet_does_not_delay_the_results_of_other_bets() -> Result<()> {
    let stack = start_silent(&[]).await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Hang });
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(deposit(&stack, "100").await?);
    }
    let notification = send(&stack, "notification-1", NOTIFY_ALL);
    let others = async {
        soon(async {
            while count(&stack, "select count(*) from public.trade_results").await? < 3 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        })
        .await??;
        count(&stack, "select count(*) from purple_flea.jobs where state = 'claimed'").await
    };
    let (reply, claimed) = tokio::join!(notification, others);
    assert_eq!(
        (reply?.body["jobs"].clone(), claimed?),
        (json!(4), 1),
        "three results must be there while the fourth bet still hangs"
    );
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state = 'unknown'").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_leaves_its_claimed_jobs_unknown_and_the_others_pending() -> Result<()> {
    let mut stack = Local::start(Kind::Child, &[("bets_at_once", "3")], None, |_| {}).await?;
    stack.purple_flea.fund(stack::local::AGENT, 1_000_000.into());
    silence(&stack).await?;
    stack.purple_flea.misbehave(Some(Fault { after_the_bet: true, how: How::Hang }));
    let many = "insert into public.wallet_changes (agent_id, change_type, new_balance) \
                select 'agent-001', 'deposit', 100 from generate_series(1, 10)";
    sql(&stack, many).await?;
    let request = webhook::signed(&format!("{}/", stack.host.url), "notification-1", NOTIFY_ALL.as_bytes())?;
    let accepted = reply(request.header("prefer", "respond-async").body(NOTIFY_ALL.into())?).await?;
    assert_eq!(accepted.status, 202);
    soon(stack.purple_flea.reached(3)).await?;
    stack.restart_host(Duration::ZERO).await?;
    stack.purple_flea.misbehave(None);
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state = 'claimed'").await?, 3);
    sql(&stack, "update purple_flea.jobs set lease_until = clock_timestamp() where state = 'claimed'")
        .await?;
    assert_eq!(send(&stack, "notification-2", NOTIFY_ALL).await?.body["jobs"], 7);
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state = 'executed'").await?, 7);
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state = 'unknown'").await?, 3);
    assert_eq!(stack.purple_flea.bets().len(), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_crash_loses_no_deposit() -> Result<()> {
    let stack = start(&[]).await?;
    let id = deposit(&stack, "100").await?;
    job_in(&stack, id, "executed").await?;
    // A crash empties pg_net's queue, so this deposit's notification is lost.
    silence(&stack).await?;
    let lost = deposit(&stack, "100").await?;
    stack.cluster.crash().await?;
    let _sweeper = Sweeper::start(&stack.cluster, Duration::from_millis(200));
    let state = "select state from purple_flea.jobs where wallet_change_id = $1";
    soon(async {
        loop {
            if let Ok(owner) = stack.cluster.connect(stack::postgres::OWNER).await
                && let Ok(row) = owner.query_one(state, &[&lost]).await
                && row.get::<_, &str>(0) == "executed"
            {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?;
    assert_eq!(stack.purple_flea.bets().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_reports_a_missing_sweeper_and_a_sweeper_makes_up_for_a_lost_notification() -> Result<()> {
    let stack = start_silent(&[("operator_tokens", OPERATORS)]).await?;
    let before = health(&stack).await?.body;
    assert_eq!(
        (&before["mode"], &before["sweeper"], &before["due"]),
        (&json!("ledger"), &json!("missing"), &json!(0))
    );
    let id = deposit(&stack, "100").await?;
    wait_for_health(&stack, "due", &json!(1)).await?;
    let _sweeper = Sweeper::start(&stack.cluster, Duration::from_millis(200));
    job_in(&stack, id, "executed").await?;
    wait_for_health(&stack, "sweeper", &json!("ok")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_looks_up_an_unknown_live_bet_and_records_what_it_finds() -> Result<()> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    let failed = || Fault { after_the_bet: true, how: How::answer(500, "{}") };
    stack.purple_flea.misbehave_once(failed());
    let there = deposit(&stack, "100").await?;
    assert_problem(&notify(&stack, there).await?, 502, "outcome_unknown", "unknown");
    stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
    let not_there = deposit(&stack, "100").await?;
    notify(&stack, not_there).await?;

    let url = format!("{}/reconcile", stack.host.url);
    let body = r#"{"operation": "reconcile"}"#;
    let reconcile =
        async || reply(webhook::signed(&url, "by-hand-1", body.as_bytes())?.body(body.into())?).await;
    assert_eq!(
        reconcile().await?.body,
        json!({"status": "reconciled", "found": 0, "not_found": 0}),
        "a look-up before its time"
    );
    for id in [there, not_there] {
        pass_time(&stack, id, "104 seconds").await?;
    }
    assert_eq!(reconcile().await?.body, json!({"status": "reconciled", "found": 1, "not_found": 1}));

    let bet = stack.purple_flea.bets().remove(0);
    let job = job_in(&stack, there, "executed").await?;
    assert_eq!(bet.client_seed.as_deref(), job["idempotency_key"].as_str());
    assert_eq!((&job["result"]["bet_id"], &job["reason"]), (&json!(bet.bet_id), &json!("found_in_history")));
    let payout = "select payout::text from public.trade_results";
    assert_eq!(stack.owner.query_one(payout, &[]).await?.get::<_, &str>(0), format!("{:.4}", bet.payout));
    let job = self::job(&stack, not_there).await?;
    assert_eq!((&job["state"], &job["reason"]), (&json!("unknown"), &json!("not_found")));

    let unsigned = Request::post(&url).header("content-type", "application/json").body(body.into())?;
    assert_problem(&reply(unsigned).await?, 401, "unauthorized", "no");
    assert_eq!(
        stack.purple_flea.balance(LIVE_AGENT),
        rust_decimal::Decimal::from(50_000_000) - bet.wager + bet.payout
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_gateway_bet_waits_for_an_operator() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
    let id = deposit(&stack, "100").await?;
    notify(&stack, id).await?;
    pass_time(&stack, id, "104 seconds").await?;
    // A notification without a reference also starts the look-ups that are due.
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    let job = job(&stack, id).await?;
    assert_eq!((&job["state"], &job["reason"]), (&json!("unknown"), &json!("no_history")));

    sql(
        &stack,
        &format!("select purple_flea.release_job('wallet-change-{id}', 'Purple Flea has no such bet')"),
    )
    .await?;
    assert_eq!(notify(&stack, id).await?.body["status"], "executed");
    let keys: Vec<_> =
        stack.purple_flea.requests().iter().map(|r| r.headers["idempotency-key"].clone()).collect();
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]), "every attempt has the same idempotency key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_is_too_short_for_a_bet_sends_nothing() -> Result<()> {
    let stack = start_silent(&[("after_reply", "false")]).await?;
    // A bet needs a lease of 8 s for its request and one second in reserve.
    let short = "select replace(pg_get_functiondef('purple_flea.timing()'::regprocedure), '30 seconds', '8900 milliseconds')";
    let short: String = stack.owner.query_one(short, &[]).await?.get(0);
    sql(&stack, &short).await?;
    let id = deposit(&stack, "100").await?;
    let waiting = notify(&stack, id).await?;
    assert_eq!(
        (&waiting.body["status"], &waiting.body["reason"]),
        (&json!("waiting"), &json!("out_of_time"))
    );
    assert_eq!(stack.postgrest.calls(), ["claim_jobs", "settle_jobs"]);
    let job = job(&stack, id).await?;
    assert_eq!((&job["state"], &job["reason"]), (&json!("pending"), &json!("out_of_time")));
    assert_no_call(&stack.purple_flea);

    sql(&stack, &short.replace("8900 milliseconds", "9500 milliseconds")).await?;
    assert_eq!(notify(&stack, id).await?.body["status"], "executed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_pg_cron_sweeps_by_itself() -> Result<()> {
    let cluster = Cluster::start_with_cron().await?;
    cluster.migrate(stack::postgres::OWNER).await?;
    let owner = cluster.connect(stack::postgres::OWNER).await?;
    let jobs = owner.query("select jobname, schedule, command from cron.job order by jobname", &[]).await?;
    let names: Vec<&str> = jobs.iter().map(|job| job.get(0)).collect();
    assert_eq!(names, ["purple-flea-prune", "purple-flea-sweep"]);
    let version: String =
        owner.query_one("select extversion from pg_extension where extname = 'pg_cron'", &[]).await?.get(0);
    let knows_seconds = !matches!(version.as_str(), "1.0" | "1.1" | "1.2" | "1.3" | "1.4" | "1.4-1");
    assert_eq!(
        jobs[1].get::<_, &str>(1),
        if knows_seconds { "10 seconds" } else { "* * * * *" },
        "{version}"
    );
    // A second migration adds no second job.
    cluster.migrate(stack::postgres::OWNER).await?;
    assert_eq!(owner.query_one("select count(*) from cron.job", &[]).await?.get::<_, i64>(0), 2);
    soon(async {
        let swept = "select swept_at is not null from purple_flea.ledger";
        while !owner.query_one(swept, &[]).await?.get::<_, bool>(0) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await??;
    // The prune job deletes the records of old runs.
    let superuser = cluster.connect(stack::postgres::SUPERUSER).await?;
    superuser
        .batch_execute(
            "update cron.job_run_details set end_time = now() - interval '2 hours', status = 'succeeded'; \
             insert into cron.job_run_details (jobid, runid, status, start_time, end_time) \
             select j.jobid, 1000000 + n, 'failed', begun, ended from cron.job j, \
             (values (0, null::timestamptz, null::timestamptz), (1, now() - interval '2 hours', null), \
               (2, null, now() - interval '2 hours'), (3, now(), null), (2000, null, null)) as r (n, begun, ended) \
             where j.jobname = 'purple-flea-sweep'",
        )
        .await?;
    owner.batch_execute(jobs[0].get(2)).await?;
    let left = "select count(*) from cron.job_run_details where end_time < now() - interval '1 hour'";
    assert_eq!(owner.query_one(left, &[]).await?.get::<_, i64>(0), 0);
    // A run that failed may have no end, or no times at all. Then its number tells that it is old.
    let left = "select runid - 1000000 from cron.job_run_details where status = 'failed' and runid >= 1000000 order by 1";
    let left: Vec<i64> = owner.query(left, &[]).await?.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, [3, 2000]);
    Ok(())
}
