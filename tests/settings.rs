//! A function that is not configured says so, and never bets.

use crate::front_door::{FrontDoor, assert_problem, reply, soon};
use anyhow::{Context, Result};
use http::Request;
use purple_flea_edge::config::{MEANINGS, SETTINGS, Setting};
use serde_json::json;
use stack::{
    host::{Build, Kind},
    http1, purple_flea, repository, webhook,
};
use std::{env, fs};

/// The head of the table that docs/configuration.md has of the settings.
const HEAD: &str = "| setting | default | limits | secret | meaning |\n| --- | --- | --- | --- | --- |\n";

/// The table of the settings, as the document has it.
fn settings_table() -> String {
    let row = |(Setting { name, default, limits, secret }, meaning): (Setting, &str)| {
        let default = if default.is_empty() { "none".to_owned() } else { format!("`{default}`") };
        let secret = if secret { "yes" } else { "no" };
        format!("| `{name}` | {default} | {limits} | {secret} | {} |\n", meaning.trim())
    };
    HEAD.to_owned() + &SETTINGS.into_iter().zip(MEANINGS).map(row).collect::<String>()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_good_when_the_settings_are_complete_and_shows_none_of_them() -> Result<()> {
    let door = FrontDoor::open().await?;
    let health = reply(Request::get(door.url("/health")).body(vec![])?).await?;
    assert_eq!(health.status, 200);
    assert_eq!(health.body["mode"], "standalone");
    assert_eq!(health.body["version"], env!("CARGO_PKG_VERSION"));
    let head = Request::head(door.url("/health")).body(vec![])?;
    let head = soon(http1::send(head)).await??;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    assert_eq!(head.headers()["content-length"], health.headers["content-length"]);
    let shown = health.body.to_string();
    assert!(!shown.contains(purple_flea::KEY) && !shown.contains(webhook::SECRET), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_or_wrong_setting_is_named_and_no_value_is() -> Result<()> {
    for build in [Build::Spin, Build::Wasi] {
        let changes = [("purple_flea_key", ""), ("webhook_secrets", "hunter2"), ("cashout_at", "0.5")];
        let door = FrontDoor::on(Kind::Embedded, build, &changes).await?;
        let health = reply(Request::get(door.url("/health")).body(vec![])?).await?;
        let bet = door.deposit(1, "100").await?;
        for reply in [health, bet] {
            assert_problem(&reply, 503, "not_configured", "no");
            assert_eq!(reply.body["settings"], json!(["webhook_secrets", "cashout_at", "purple_flea_key"]));
            assert_eq!(
                (&reply.body["retryable"], &reply.headers["retry-after"]),
                (&json!(true), &"60".parse()?)
            );
            assert!(!reply.body.to_string().contains("hunter2"), "{}", reply.body);
        }
        assert!(door.purple_flea.requests().is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_or_a_token_nobody_is_let_in() -> Result<()> {
    let door = FrontDoor::with(&[("webhook_secrets", "")]).await?;
    assert_problem(&door.deposit(1, "100").await?, 503, "not_configured", "no");
    assert!(door.purple_flea.requests().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_rule_the_bet() -> Result<()> {
    let changes =
        [("game", "coin-flip"), ("side", "tails"), ("wager_fraction", "0.5"), ("max_wager", "20.009")];
    let door = FrontDoor::with(&changes).await?;
    let reply = door.deposit(1, "100").await?;
    assert_eq!((&reply.body["game"], &reply.body["side"]), (&json!("coin-flip"), &json!("tails")));
    assert_eq!(reply.body["wager"].to_string(), "20.00");
    assert!(reply.body.get("cashout_at").is_none());
    Ok(())
}

/// `UPDATE_DOCS=1` writes the table anew.
#[test]
fn the_page_about_the_configuration_has_every_setting_with_its_default_limits_and_meaning() -> Result<()> {
    let path = repository().join("docs/configuration.md");
    let page = fs::read_to_string(&path)?;
    let begin = page.find(HEAD).context("the table is missing")?;
    let (before, rest) = page.split_at(begin);
    let end = rest.find("\n\n").context("the table has no end")? + 1;
    let (written, after) = rest.split_at(end);
    let table = settings_table();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{table}{after}"))?;
    } else {
        assert_eq!(written, table, "UPDATE_DOCS=1 cargo test --test promises settings writes the table anew");
    }
    Ok(())
}
