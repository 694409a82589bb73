//! Operators update database and function one after the other. In between, no deposit is bet on twice, and none is
//! forgotten.

use crate::{
    front_door::{assert_problem, reply},
    whole_stack::{count, deposit, job_in, notify, pass_time, sql, start_silent},
};
use anyhow::Result;
use http::Request;
use serde_json::json;
use stack::{
    host::{AFTER_REPLY, Build, Host, Kind, Options, ledger_settings, local_settings},
    postgres::{Cluster, OWNER},
    postgrest::PostgRest,
    purple_flea::{Fault, How, PurpleFlea},
    repository, webhook,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_releases_function_goes_on_working_with_todays_database() -> Result<()> {
    let mut stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    stack.options.build = Build::Release010;
    stack.options.listen = None;
    // The old function does not know the later settings.
    stack.host = Host::start(Kind::Embedded, &stack.options).await?;
    let id = deposit(&stack, "100").await?;
    let executed = notify(&stack, id).await?;
    assert_eq!(executed.body["status"], "executed", "{}", executed.body);
    assert_eq!(notify(&stack, id).await?.headers["idempotent-replayed"], "true");

    // Either function looks up a bet that was under way when the database was updated.
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::answer(500, "{}") });
    let unknown = deposit(&stack, "100").await?;
    assert_problem(&notify(&stack, unknown).await?, 502, "outcome_unknown", "unknown");
    pass_time(&stack, unknown, "104 seconds").await?;
    let another = deposit(&stack, "100").await?;
    notify(&stack, another).await?;
    job_in(&stack, unknown, "executed").await?;
    assert_eq!(stack.purple_flea.bets().len(), 3);
    assert_eq!(count(&stack, "select count(*) from public.trade_results").await?, 3);

    // After a restore the old function bets no more than today's.
    sql(&stack, "select purple_flea.declare_restore('tested')").await?;
    let waiting = deposit(&stack, "100").await?;
    let told = notify(&stack, waiting).await?;
    assert_eq!(
        (&told.body["status"], &told.body["reason"]),
        (&json!("waiting"), &json!("restore_unconfirmed"))
    );
    assert_eq!(stack.purple_flea.bets().len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn todays_function_bets_nothing_with_the_last_releases_database_and_gives_the_reason() -> Result<()> {
    let cluster = Cluster::start().await?;
    let owner = cluster.connect(OWNER).await?;
    let released = std::fs::read_to_string(repository().join("tests/releases/0.1.0.sql"))?;
    owner.batch_execute(&format!("set client_min_messages = error; begin; {released}; commit")).await?;
    owner
        .batch_execute(
            "update purple_flea.trade_policies set claim_faucet = false; insert into public.agents (id) values ('agent-001'); \
             insert into public.wallet_changes (agent_id, change_type, new_balance) values ('agent-001', 'deposit', 100)",
        )
        .await?;
    let (postgrest, purple_flea) = (PostgRest::start(&cluster).await?, PurpleFlea::start().await?);
    purple_flea.fund("agent-001", 1_000.into());
    let mut settings = local_settings(&purple_flea.url);
    settings.extend(ledger_settings(&postgrest.url)?);
    settings.insert("after_reply".to_owned(), "false".to_owned());
    let (build, allowed_origins, listen) = (Build::Spin, None, None);
    let options = Options { build, settings, allowed_origins, listen, after_reply: AFTER_REPLY };
    let host = Host::start(Kind::Embedded, &options).await?;
    let ring = async || {
        let body = r#"{"ledger": true, "reference": "wallet-change-1"}"#;
        let request = webhook::signed(&format!("{}/", host.url), "wallet-change-1", body.as_bytes())?;
        reply(request.body(body.into())?).await
    };
    assert_problem(&ring().await?, 503, "ledger_mismatch", "no");
    let health = reply(Request::get(format!("{}/health", host.url)).body(vec![])?).await?;
    assert_problem(&health, 503, "ledger_mismatch", "no");
    assert!(purple_flea.requests().is_empty());

    cluster.migrate(OWNER).await?;
    assert_eq!(ring().await?.body["status"], "executed");
    assert_eq!(purple_flea.bets().len(), 1);
    Ok(())
}
