//! `scripts/verify-fairness` checks a bet of the `live` dialect, once Purple Flea reveals the server seed.

use crate::{
    front_door::soon,
    services::wait_for_row,
    whole_stack::{deposit, notify, sql, start, start_silent},
};
use anyhow::{Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stack::{
    http1,
    local::{AGENT, Local},
    purple_flea::KEY,
    repository,
};

#[tokio::test(flavor = "multi_thread")]
async fn verify_fairness_accepts_a_live_bets_revealed_seed_and_rejects_another_seed() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live")]).await?;
    sql(&stack, &format!("insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)")).await?;
    let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
    assert_eq!(row["proof"]["nonce"], 0);
    let seed = &revealed_seed(&stack).await?;
    let check = async |seed: &str| {
        let output = tokio::process::Command::new(repository().join("scripts/verify-fairness"))
            .args(["--json", "--seed", seed, row["reference"].as_str().unwrap_or_default()])
            .env("DATABASE_URL", stack.cluster.url(stack::postgres::OWNER))
            .output()
            .await?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        anyhow::Ok((output.status.code(), said["fair"].clone()))
    };
    assert_eq!(check(seed).await?, (Some(0), json!(true)));
    assert_eq!(check("another seed").await?, (Some(1), json!(false)));
    Ok(())
}

/// Reveals the server seed of the shared key's account.
async fn revealed_seed(stack: &Local) -> Result<String> {
    let rotate = Request::post(format!("{}/api/v1/fairness/rotate", stack.purple_flea.url))
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(b"{}".to_vec())?;
    let revealed: Value = serde_json::from_slice(soon(http1::send(rotate)).await??.body())?;
    Ok(revealed["previous_seed"]["seed"].as_str().context("no seed")?.to_owned())
}

/// Runs the script on a result, and tells whether it calls the bet fair.
async fn is_fair(seed: &str, result: &Value) -> Result<bool> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), result.to_string())?;
    let output = tokio::process::Command::new(repository().join("scripts/verify-fairness"))
        .args(["--json", "--seed", seed, "--result"])
        .arg(file.path())
        .output()
        .await?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    Ok(said["fair"] == true)
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_fairness_deals_the_cards_of_a_live_hi_lo_bet_and_rejects_another_outcome() -> Result<()> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    let policy =
        "update purple_flea.trade_policies set game = 'hi-lo', guess = 'lower' where agent_id is null";
    sql(&stack, policy).await?;
    let mut results = Vec::new();
    for _ in 0..12 {
        let id = deposit(&stack, "77.70").await?;
        results.push(notify(&stack, id).await?.body);
    }
    let seed = revealed_seed(&stack).await?;
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["proof"]["nonce"], 2 * n, "a bet takes two nonces");
        assert!(is_fair(&seed, result).await?, "{result}");
        let mut other = result.clone();
        other["outcome"] = json!(if result["outcome"] == "win" { "loss" } else { "win" });
        assert!(!is_fair(&seed, &other).await?, "{other}");
        let mut other = result.clone();
        other["payout"] = json!(result["payout"].as_f64().context("no payout")? + 0.01);
        assert!(!is_fair(&seed, &other).await?, "{other}");
    }
    Ok(())
}

/// Purple Flea computes in binary doubles: 0.69 at 1.5 is told as 1.03, and a roll of 96.00 crashes at 24.87.
#[tokio::test(flavor = "multi_thread")]
async fn verify_fairness_accepts_what_purple_flea_computes_in_doubles_and_rejects_a_cent_less() -> Result<()>
{
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let roll_of = |client_seed: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"seed").expect("any length will do");
        mac.update(format!("{client_seed}:0").as_bytes());
        let hash = mac.finalize().into_bytes();
        (u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % 10_000, hex(&hash))
    };
    // The first client seed that rolls 96.00.
    let rolled = (0..).map(|n| format!("client-{n}")).find(|seed| roll_of(seed).0 == 9_600);
    let client_seed = rolled.context("no seed")?;
    let check = async |payout: &str, crash_point: &str| {
        let result = format!(
            r#"{{"game":"crash","cashout_at":1.5,"wager":0.69,"outcome":"win","payout":{payout},"crash_point":{crash_point},
            "proof":{{"server_seed_hash":"{}","client_seed":"{client_seed}","nonce":0,"result_hash":"{}"}}}}"#,
            hex(&Sha256::digest(b"seed")),
            roll_of(&client_seed).1,
        );
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), result)?;
        let output = tokio::process::Command::new(repository().join("scripts/verify-fairness"))
            .args(["--json", "--seed", "seed", "--result"])
            .arg(file.path())
            .output()
            .await?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        anyhow::Ok(said["fair"] == true)
    };
    assert!(check("1.03", "24.87").await?, "the payout as Purple Flea tells it");
    assert!(check("1.035", "24.87").await?, "the payout as Purple Flea credits it");
    assert!(!check("1.02", "24.87").await?, "a cent less");
    assert!(!check("1.035", "24.88").await?, "another crash point");
    Ok(())
}
