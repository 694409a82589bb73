//! Purple Flea's services through the whole stack. The function executes each request of a row once, and the row shows
//! the outcome.

use crate::{
    escrows::{OTHER, escrow_row, insert_escrow, start_with_two_agents},
    front_door::{Reply, assert_problem, reply, soon, with_operation},
    whole_stack::{LOOK_EVERY, count, sql, start, start_silent},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    purple_flea::{LIVE_AGENT, Limits, TRADING_KEY},
    sweeper::Sweeper,
    webhook,
};
use std::time::Duration;

/// Adds the path's operation to a body, signs it, and sends it.
pub async fn request(stack: &Local, path: &str, webhook_id: &str, body: &Value) -> Result<Reply> {
    let (url, body) = (format!("{}{path}", stack.host.url), with_operation(path, &body.to_string()));
    reply(webhook::signed(&url, webhook_id, body.as_bytes())?.body(body.into())?).await
}

/// Waits until a query gives a row, and parses the row's JSON.
pub async fn wait_for_row(stack: &Local, sql: &str) -> Result<Value> {
    soon(async {
        loop {
            if let Some(row) = stack.owner.query_opt(sql, &[]).await.with_context(|| sql.to_owned())? {
                return Ok(serde_json::from_str(row.get(0))?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await?
}

/// Counts the requests that Purple Flea received on a path.
pub fn calls(stack: &Local, path: &str) -> usize {
    stack.purple_flea.requests().iter().filter(|request| request.path == path).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_purple_flea_is_recorded_in_the_requesting_row() -> Result<()> {
    let stack = start_with_two_agents(&[]).await?;
    // The sender's balance is now 10.
    stack.purple_flea.fund(AGENT, rust_decimal::Decimal::from(-49_999_990));
    for amount in ["99999999", "99999998"] {
        let too_much = insert_escrow(&stack, amount).await?;
        let row = escrow_row(&stack, too_much, "status = 'refused'").await?;
        assert_eq!(row["reason"], "insufficient_balance", "{row}");
    }
    let unknown =
        request(&stack, "/trade", "t-1", &json!({"agent_id": "nobody", "market": "BTC", "size": 5})).await?;
    assert_problem(&unknown, 422, "unknown_agent", "no");
    let unknown_market = json!({"agent_id": AGENT, "market": "NOWHERE", "size": 5});
    let rejected = request(&stack, "/trade", "t-2", &unknown_market).await?;
    assert_problem(&rejected, 422, "rejected", "no");
    assert_eq!(rejected.body["purple_flea_code"], "unknown_market");
    let unknown = request(&stack, "/escrow/release", "r-1", &json!({"escrow_id": 4711})).await?;
    assert_problem(&unknown, 422, "unknown_escrow", "no");
    for (values, code) in [
        (format!("'{AGENT}', '{AGENT}', 5"), "23514"),
        (format!("'{AGENT}', '{OTHER}', 0"), "23514"),
        (format!("'{AGENT}', '{OTHER}', 1000000000000"), "22003"),
        (format!("'{AGENT}', 'nobody', 5"), "23503"),
    ] {
        let insert =
            format!("insert into public.escrow_requests (sender_id, receiver_id, amount) values ({values})");
        let refused = stack.owner.batch_execute(&insert).await;
        assert_eq!(refused.unwrap_err().code().map(|code| code.code()), Some(code), "{values}");
    }
    let cents = insert_escrow(&stack, "0.001").await?;
    assert_eq!(escrow_row(&stack, cents, "status = 'refused'").await?["reason"], "invalid_amount");
    let positions = stack.purple_flea.positions();
    assert!(positions.is_empty(), "a refused request opened {positions:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_identical_concurrent_orders_open_one_position() -> Result<()> {
    for (api, trading_key) in [("gateway", ""), ("live", TRADING_KEY)] {
        let settings = [("purple_flea_api", api), ("purple_flea_trading_key", trading_key)];
        let stack = start(&settings).await?;
        let order = json!({"agent_id": AGENT, "market": "BTC", "direction": "short", "size": 25});
        let requests = (0..8).map(|_| request(&stack, "/order", "order-1", &order));
        let replies: Vec<Reply> = join_all(requests).await.into_iter().collect::<Result<_>>()?;
        assert!(replies.iter().all(|reply| [200, 409].contains(&reply.status.as_u16())), "{replies:?}");
        let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
        assert_eq!(
            (&row["game"], &row["market"], &row["direction"]),
            (&json!(null), &json!("BTC"), &json!("short"))
        );
        assert_eq!((stack.purple_flea.positions().len(), &row["reference"]), (1, &json!("order-1")), "{api}");
        let other =
            request(&stack, "/order", "order-1", &json!({"agent_id": AGENT, "market": "ETH", "size": 25}))
                .await?;
        assert_problem(&other, 409, "reference_taken", "no");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_opens_the_trade_of_its_agents_policy() -> Result<()> {
    let stack = start(&[]).await?;
    sql(&stack, "update purple_flea.trade_policies set game = 'trade', market = 'ETH', direction = 'short', size = 12.50").await?;
    sql(&stack, &format!("insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)")).await?;
    let row = wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t").await?;
    assert_eq!(
        (&row["market"], &row["game"], row["wager"].to_string().as_str()),
        (&json!("ETH"), &json!(null), "12.5000")
    );
    assert_eq!(stack.purple_flea.positions().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_its_own_key_never_bets_with_another_key() -> Result<()> {
    let stack = start(&[]).await?;
    let _sweeper = Sweeper::start(&stack.cluster, Duration::from_millis(200));
    sql(&stack, "insert into public.agents (id, api_key) values ('keyed', 'purple_flea_key:keyed')").await?;
    let registered =
        "select to_jsonb(id)::text from public.agents where id = 'keyed' and referral_code is not null";
    wait_for_row(&stack, registered).await?;
    stack.purple_flea.fund("keyed", 1_000.into());
    let deposit = "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values ('keyed', 'deposit', 100, 100)";
    sql(&stack, deposit).await?;
    wait_for_row(&stack, "select to_jsonb(t)::text from public.trade_results t where agent_id = 'keyed'")
        .await?;
    let key =
        wait_for_row(&stack, "select to_jsonb(purple_flea.secret('purple_flea_key:keyed'))::text").await?;
    let key = key.as_str().context("no key")?;
    let bets: Vec<_> =
        stack.purple_flea.requests().into_iter().filter(|r| r.path == "/casino/crash").collect();
    assert!(!bets.is_empty(), "Purple Flea received no bet");
    for bet in bets {
        assert_eq!(bet.headers["authorization"], format!("Bearer {key}"));
    }
    // No table of jobs, events, agents or requests contains the key.
    let everywhere = "select string_agg(t, '') from (select j::text as t from purple_flea.jobs j union all select e::text from purple_flea.job_events e \
        union all select a::text from public.agents a union all select q::text from net.http_request_queue q union all select r::text from net._http_response r) as x";
    let text: String = stack.owner.query_one(everywhere, &[]).await?.get(0);
    assert!(text.contains("purple_flea_key:keyed"), "the tables do not name the agent's secret");
    assert!(!text.contains(key), "a table contains the agent's key");
    let logged = stack.host.log.lines().iter().any(|line| line.contains(key));
    assert!(!logged, "the function logged the agent's key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_concurrent_deposits_stay_within_the_rate_limit_and_no_call_is_refused() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live")]).await?;
    // The ledger and the simulator both allow 60 calls a second instead of 60 a minute.
    stack.purple_flea.limit(Some(Limits { window: Duration::from_secs(1), ..Limits::default() }));
    let limits = "insert into purple_flea.rate_limits (api, calls, per, most, within) values \
        ('live', '{crash}', 'deployment', 60, '1 second'), ('live', '{crash,coin-flip}', 'account', 60, '1 second')";
    sql(&stack, limits).await?;
    let _sweeper = Sweeper::start(&stack.cluster, Duration::from_millis(100));
    let deposits = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
        select '{AGENT}', 'deposit', 100, 100 from generate_series(1, 500)"
    );
    sql(&stack, &deposits).await?;
    wait_for_row(&stack, "select to_jsonb(count(*))::text from public.trade_results having count(*) = 500")
        .await?;
    assert_eq!(stack.purple_flea.refused_for_rate(), 0, "Purple Flea refused calls over its limit");
    assert_eq!(stack.purple_flea.bets().len(), 500);
    let bets = stack.purple_flea.bets();
    let others: Vec<_> = bets.iter().filter(|bet| bet.agent_id != LIVE_AGENT).collect();
    assert!(others.is_empty(), "bets of other accounts: {others:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_webhook_works_for_each_table() -> Result<()> {
    const TOKEN: &str = "a-token-in-a-dashboards-header";
    let stack = start_silent(&[("webhook_token", TOKEN)]).await?;
    stack.purple_flea.fund(OTHER, 100.into());
    // Without this secret our own triggers send nothing, so only the dashboard's webhooks call the function.
    sql(&stack, "delete from purple_flea.secrets where name = 'purple_flea_webhook_secret'").await?;
    let webhook = async |kind: &str, table: &str, id: &str| -> Result<Reply> {
        let record = format!("select to_jsonb(t)::text from public.{table} t where id::text = '{id}'");
        let record: Value = serde_json::from_str(stack.owner.query_one(&record, &[]).await?.get(0))?;
        let body =
            json!({"type": kind, "table": table, "schema": "public", "record": record, "old_record": null});
        let request = Request::post(format!("{}/execute-trade", stack.host.url))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(body.to_string().into_bytes())?;
        reply(request).await
    };
    sql(&stack, "update purple_flea.trade_policies set claim_faucet = true").await?;
    sql(&stack, &format!("insert into public.agents (id) values ('{OTHER}')")).await?;
    assert_eq!(webhook("INSERT", "agents", OTHER).await?.body["status"], "drained");
    let id = insert_escrow(&stack, "2.50").await?;
    let made = webhook("INSERT", "escrow_requests", &id.to_string()).await?;
    assert_eq!((&made.body["status"], &made.body["escrow_status"]), (&json!("executed"), &json!("funded")));
    assert_eq!(
        webhook("UPDATE", "escrow_requests", &id.to_string()).await?.body["reason"],
        "unhandled_event"
    );
    sql(&stack, &format!("update public.escrow_requests set requested_status = 'released' where id = {id}"))
        .await?;
    let released = webhook("UPDATE", "escrow_requests", &id.to_string()).await?;
    assert_eq!(
        (&released.body["status"], &released.body["escrow_status"]),
        (&json!("executed"), &json!("released"))
    );
    let insert = format!(
        "insert into public.close_requests (agent_id, position_id) values ('{AGENT}', 'pos_1') returning id"
    );
    let id: i64 = stack.owner.query_one(&insert, &[]).await?.get(0);
    let close = webhook("INSERT", "close_requests", &id.to_string()).await?;
    assert_eq!((&close.body["status"], &close.body["reason"]), (&json!("skipped"), &json!("no_close")));
    let other = json!({"type": "INSERT", "table": "orders", "schema": "public", "record": {"id": 1}});
    let other = request(&stack, "/execute-trade", "x-1", &other).await?;
    assert_eq!(
        (&other.body["status"], &other.body["reason"]),
        (&json!("skipped"), &json!("unhandled_table"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_below_the_wager_skips_the_bet_before_purple_flea_can_refuse_it() -> Result<()> {
    let stack = start(&[]).await?;
    sql(&stack, "update purple_flea.trade_policies set check_balance = true").await?;
    // The shared key reads the balance of its own account.
    let held = stack.purple_flea.balance(LIVE_AGENT);
    stack.purple_flea.fund(LIVE_AGENT, rust_decimal::Decimal::from(5) - held);
    let deposit = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values ('{AGENT}', 'deposit', 100, 100)"
    );
    sql(&stack, &deposit).await?;
    let job =
        wait_for_row(&stack, "select to_jsonb(j)::text from purple_flea.jobs j where state = 'skipped'")
            .await?;
    assert_eq!(job["reason"], "insufficient_balance");
    assert_eq!(job["result"]["balance"].to_string().parse::<f64>()?, 5.0);
    // It is the balance of the shared key's account, which is no agent's.
    let agents = format!("select balance::bigint from public.agents where id = '{AGENT}'");
    assert_eq!(count(&stack, &agents).await?, 0);
    let bets = stack.purple_flea.bets();
    assert!(bets.is_empty(), "the function placed {bets:?}");
    let balance = request(&stack, "/balance", "look-1", &json!({"agent_id": AGENT})).await?;
    assert_eq!(balance.body["balance"].to_string().trim_end_matches(".0000"), "5");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_faucet_requests_claim_once_and_make_one_deposit() -> Result<()> {
    let stack = start_with_two_agents(&[]).await?;
    sql(&stack, "insert into public.agents (id) values ('newcomer')").await?;
    stack.purple_flea.fund("newcomer", 0.into());
    let agent = json!({"agent_id": "newcomer"});
    let names: Vec<String> = (0..8).map(|n| format!("claim-{n}")).collect();
    let requests = names.iter().map(|name| request(&stack, "/faucet", name, &agent));
    let replies: Vec<Reply> = join_all(requests).await.into_iter().collect::<Result<_>>()?;
    assert!(
        replies.iter().all(|reply| reply.status == 200 || reply.body["code"] == "in_flight"),
        "{replies:?}"
    );
    wait_for_row(&stack, "select to_jsonb(w)::text from public.wallet_changes w where agent_id = 'newcomer'")
        .await?;
    assert_eq!(calls(&stack, "/faucet/claim"), 1);
    assert_eq!(
        count(&stack, "select count(*) from public.wallet_changes where agent_id = 'newcomer'").await?,
        1
    );
    Ok(())
}
