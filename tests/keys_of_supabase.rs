//! The function's own keys at Supabase: a secret key is no bearer token, and a token that is refused for a moment is not
//! a wrong one.

use crate::front_door::{Reply, assert_problem, reply, soon};
use anyhow::Result;
use http::Request;
use serde_json::json;
use stack::{
    gateway::{Gateway, SECRET_KEY},
    host::{AFTER_REPLY, Build, Host, Kind, Options, ledger_settings, local_settings},
    local::AGENT,
    postgres::Cluster,
    postgrest::{self, PostgRest},
    purple_flea::PurpleFlea,
    webhook,
};

async fn notify(host: &Host, id: i64) -> Result<Reply> {
    let reference = format!("wallet-change-{id}");
    let body = json!({ "ledger": true, "reference": reference }).to_string();
    let url = format!("{}/execute-trade", host.url);
    reply(webhook::signed(&url, &reference, body.as_bytes())?.body(body.into())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_key_works_and_one_refused_token_loses_no_deposit() -> Result<()> {
    let cluster = Cluster::start().await?;
    let postgrest = PostgRest::start(&cluster).await?;
    let gateway = Gateway::start(&postgrest.url, &postgrest::key("service_role")?).await?;
    let purple_flea = PurpleFlea::start().await?;
    purple_flea.fund(AGENT, 1_000.into());
    let mut settings = local_settings(&purple_flea.url);
    settings.extend(ledger_settings(&gateway.url)?);
    for (name, value) in [
        ("supabase_key", SECRET_KEY),
        ("supabase_apikey", ""),
        ("supabase_operator_key", ""),
        ("after_reply", "false"),
    ] {
        settings.insert(name.to_owned(), value.to_owned());
    }
    let allowed_origins = Some(vec![purple_flea.url.clone(), gateway.url.clone()]);
    let options =
        Options { build: Build::Spin, settings, allowed_origins, listen: None, after_reply: AFTER_REPLY };
    let host = Host::start(Kind::Embedded, &options).await?;
    // No notification reaches the function but the test's own.
    let owner = cluster.install("http://127.0.0.1:9", AGENT).await?;
    let deposit = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
        values ($1, 'deposit', 100, 100) returning id";
    // The claim is refused, then the health.
    gateway.refuse_once();
    let id = owner.query_one(deposit, &[&AGENT]).await?.get(0);
    assert_eq!(notify(&host, id).await?.body["status"], "executed");
    gateway.refuse_once();
    let health = reply(Request::get(format!("{}/health", host.url)).body(vec![])?).await?;
    assert_eq!(health.status, 200, "{}", health.body);
    let line = soon(host.log.find(|line| line.contains("PGRST303"))).await?;
    assert!(line.contains(r#""event":"ledger""#) && !line.contains("refused_us"), "{line}");
    // A token that is refused again is wrong.
    gateway.refuse_once();
    gateway.refuse_once();
    let id = owner.query_one(deposit, &[&AGENT]).await?.get(0);
    assert_problem(&notify(&host, id).await?, 503, "ledger_refused_us", "no");
    assert_eq!(purple_flea.bets().len(), 1);
    let logged = host.log.lines().join("\n");
    assert!(!logged.contains(SECRET_KEY), "the function logged its key");
    Ok(())
}
