//! The whole stack against Purple Flea's released servers, where this machine has them (CONTRIBUTING.md, "Compare the
//! simulator with the real servers"). Without them the test says so and ends.

use crate::{
    front_door::soon,
    services::wait_for_row,
    whole_stack::{sql, start},
};
use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use serde_json::Value;
use stack::{http1, local::AGENT};
use std::env;

/// The daily bonus of a first day, in dollars: all the money that a new account can get by itself.
const BONUS: &str = "0.5";

/// Sends a request to a real server, and parses the reply. Fails if the server refuses it.
async fn ask(method: Method, url: &str, key: &str, body: &str) -> Result<Value> {
    let mut request = Request::builder().method(method).uri(url).header("content-type", "application/json");
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let reply = soon(http1::send(request.body(body.as_bytes().to_vec())?)).await??;
    let said = String::from_utf8_lossy(reply.body()).into_owned();
    ensure!(reply.status().is_success(), "{url}: {} {said}", reply.status());
    Ok(serde_json::from_str(&said)?)
}

/// Makes an account with the daily bonus, and gives its agent and its key.
async fn account(casino: &str) -> Result<(String, String)> {
    let made = ask(Method::POST, &format!("{casino}/api/v1/auth/register"), "", "{}").await?;
    let field = |name: &str| made[name].as_str().map(str::to_owned).context("no account");
    let (agent, key) = (field("agent_id")?, field("api_key")?);
    ask(Method::POST, &format!("{casino}/api/v1/daily/claim"), &key, "").await?;
    ask(Method::PUT, &format!("{casino}/api/v1/kelly/config"), &key, r#"{"risk_factor":1}"#).await?;
    Ok((agent, key))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("no number: {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_bets_and_an_escrow_pays_at_the_real_servers_where_there_are_any() -> Result<()> {
    let (casino, escrow) = (env::var("PURPLE_FLEA_LIVE_URL"), env::var("PURPLE_FLEA_LIVE_ESCROW_URL"));
    let (Ok(casino), Ok(escrow)) = (casino, escrow) else {
        eprintln!("nothing is tested: PURPLE_FLEA_LIVE_URL and PURPLE_FLEA_LIVE_ESCROW_URL are not both set");
        return Ok(());
    };
    let ((_, key), (them, _)) = (account(&casino).await?, account(&casino).await?);
    let stack = start(&[
        ("purple_flea_api", "live"),
        ("purple_flea_url", &casino),
        ("purple_flea_escrow_url", &escrow),
        ("purple_flea_key", &key),
    ])
    .await?;
    sql(&stack, "update purple_flea.trade_policies set min_balance = 0.1, wager_fraction = 0.1").await?;
    sql(
        &stack,
        &format!(
            "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
             values ('{AGENT}', 'deposit', {BONUS}, {BONUS})"
        ),
    )
    .await?;
    let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
    let bet_id = row["bet_id"].as_str().context("no bet")?;
    let bet = ask(Method::GET, &format!("{casino}/api/v1/fairness/audit/{bet_id}"), &key, "").await?;
    assert_eq!(row["outcome"] == "win", bet["won"] == true, "{row} {bet}");
    assert!((number(&row["wager"])? - 0.05).abs() < 1e-9, "{row}");
    // The column has four places.
    assert!((number(&row["payout"])? - number(&bet["amount_won"])?).abs() < 0.000_051, "{row} {bet}");
    sql(
        &stack,
        &format!(
            "insert into public.agents (id) values ('{them}'); \
             insert into public.escrow_requests (sender_id, receiver_id, amount) values ('{AGENT}', '{them}', 0.10)"
        ),
    )
    .await?;
    let row = "select to_jsonb(e)::text from public.escrow_requests e where";
    let made =
        wait_for_row(&stack, &format!("{row} (pf_escrow_id is not null or reason is not null)")).await?;
    let escrow_id = made["pf_escrow_id"].as_str().with_context(|| made.to_string())?;
    sql(&stack, "update public.escrow_requests set requested_status = 'released' where status = 'pending'")
        .await?;
    let released = wait_for_row(&stack, &format!("{row} status = 'released'")).await?;
    let shown = ask(Method::GET, &format!("{escrow}/escrow/{escrow_id}"), &key, "").await?;
    assert_eq!(shown["status"], "released");
    assert!(
        (number(&released["fee"])? - number(&shown["commission_usd"])?).abs() < 1e-9,
        "{released} {shown}"
    );
    assert!(stack.purple_flea.requests().is_empty(), "the simulator was asked, too");
    Ok(())
}
