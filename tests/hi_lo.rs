//! Hi-lo is a game of the `live` dialect: a deposit makes one bet on it, and a bet whose reply was lost is found.

use crate::{
    front_door::{FrontDoor, assert_no_call, assert_problem, row},
    services::wait_for_row,
    whole_stack::{NOTIFY_ALL, deposit, job_in, notify, pass_time, send, sql, start_silent},
};
use anyhow::{Context, Result};
use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero};
use serde_json::json;
use stack::purple_flea::{Fault, How, LIVE_AGENT};

/// A cent: a look-up finds a payout to the cent.
const CENT: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

#[tokio::test(flavor = "multi_thread")]
async fn the_guess_of_a_hi_lo_bet_comes_from_the_settings_or_from_the_caller() -> Result<()> {
    let live = [("purple_flea_api", "live"), ("game", "hi-lo"), ("guess", "lower")];
    let door = FrontDoor::with(&live).await?;
    door.purple_flea.fund(LIVE_AGENT, 1_000.into());
    let by_setting = door.deposit(1, "100").await?;
    let choice = format!(r#"{{"record": {}, "policy": {{"guess": "higher"}}}}"#, row(2, "100"));
    let by_caller = door.send(2, &choice).await?;
    let bets = door.purple_flea.bets();
    let requests = door.purple_flea.requests();
    assert_eq!((bets.len(), requests.len()), (2, 2));
    let replies = [(by_setting, "lower"), (by_caller, "higher")];
    for ((reply, guess), (bet, request)) in replies.iter().zip(bets.iter().zip(requests)) {
        assert_eq!((&reply.body["game"], &reply.body["guess"]), (&json!("hi-lo"), &json!(guess)));
        assert_eq!((bet.game, request.path.as_str()), ("hi-lo", "/api/v1/games/hilo"));
        assert!(request.body.contains(&format!(r#""guess":"{guess}""#)), "{}", request.body);
        let payout: Decimal = reply.body["payout"].to_string().parse()?;
        assert_eq!(payout, bet.payout.round_dp_with_strategy(4, MidpointAwayFromZero));
        assert_eq!(reply.body["outcome"], if bet.won { "win" } else { "loss" });
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hi_lo_bet_whose_reply_was_lost_is_found_by_its_client_seed() -> Result<()> {
    let stack = start_silent(&[("purple_flea_api", "live"), ("after_reply", "false")]).await?;
    sql(&stack, "update purple_flea.trade_policies set game = 'hi-lo' where agent_id is null").await?;
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::answer(500, "{}") });
    let id = deposit(&stack, "100").await?;
    assert_problem(&notify(&stack, id).await?, 502, "outcome_unknown", "unknown");
    pass_time(&stack, id, "104 seconds").await?;
    send(&stack, "notification-1", NOTIFY_ALL).await?;
    let job = job_in(&stack, id, "executed").await?;
    assert_eq!(job["result"]["guess"], "higher");
    let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
    let bets = stack.purple_flea.bets();
    let [bet] = &bets[..] else { panic!("{bets:?}") };
    assert_eq!((&row["game"], &row["bet_id"]), (&json!("hi-lo"), &json!(bet.bet_id)));
    assert_eq!(row["outcome"], if bet.won { "win" } else { "loss" });
    let payout: Decimal = row["payout"].to_string().parse().context("no payout")?;
    assert!((payout - bet.payout).abs() < CENT, "{payout} for {}", bet.payout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_has_no_hi_lo_and_nothing_is_sent() -> Result<()> {
    let door = FrontDoor::with(&[("game", "hi-lo")]).await?;
    let reply = door.deposit(1, "100").await?;
    assert_eq!((&reply.body["status"], &reply.body["reason"]), (&json!("skipped"), &json!("no_hi_lo")));
    assert_no_call(&door.purple_flea);
    Ok(())
}
