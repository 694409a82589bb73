//! The faucet and the daily claim through the whole stack: each credit is recorded once, and no other money is.

use crate::{
    front_door::{FrontDoor, Reply, assert_problem, reply, with_operation},
    services::{request, wait_for_row},
    whole_stack::{count, sql, start},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::{
    local::{AGENT, Local},
    purple_flea::{Fault, How, KEY, Limits, Request},
    sweeper::Sweeper,
    webhook,
};
use std::time::Duration;

/// A wallet's address.
const WALLET: &str = "0x00000000000000000000000000000000000000A1";

/// How often the tests sweep: much oftener than an installation, so that they need not wait.
const SWEEP_EVERY: Duration = Duration::from_millis(200);

/// Lists the requests that Purple Flea received on a path.
fn sent(stack: &Local, path: &str) -> Vec<Request> {
    stack.purple_flea.requests().into_iter().filter(|request| request.path == path).collect()
}

/// Waits until an agent has a number of deposits of an amount, and reads the last of them.
async fn credits(stack: &Local, agent: &str, amount: &str, number: usize) -> Result<Value> {
    let seen = format!(
        "select to_jsonb(w)::text from public.wallet_changes w where agent_id = '{agent}' and change_amount = {amount} \
         order by id offset {number} - 1 limit 1"
    );
    wait_for_row(stack, &seen).await
}

/// Waits until a job of an agent has a state, and reads the job.
async fn job(stack: &Local, kind: &str, agent: &str, condition: &str) -> Result<Value> {
    let seen = format!(
        "select to_jsonb(j)::text from purple_flea.jobs j where kind = '{kind}' and agent_id = '{agent}' and {condition}"
    );
    wait_for_row(stack, &seen).await
}

/// Registers an agent with a key of its own, and gives its name at Purple Flea.
async fn registered(stack: &Local, agent: &str) -> Result<String> {
    sql(
        stack,
        &format!("insert into public.agents (id, api_key) values ('{agent}', 'purple_flea_key:{agent}')"),
    )
    .await?;
    let account = format!(
        "select to_jsonb(pf_agent_id)::text from public.agents where id = '{agent}' and pf_agent_id is not null"
    );
    Ok(wait_for_row(stack, &account).await?.as_str().context("no account")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_daily_claim_shows_no_key_names_the_wallet_and_is_due_when_the_faucet_says() -> Result<()>
{
    let stack = start(&[]).await?;
    let setup = format!(
        "update public.agents set wallet_address = '{WALLET}' where id = '{AGENT}'; \
         update purple_flea.trade_policies set claim_daily = true, min_balance = 99999999"
    );
    sql(&stack, &setup).await?;
    let _sweeper = Sweeper::start(&stack.cluster, SWEEP_EVERY);
    credits(&stack, AGENT, "1", 1).await?;
    let done = job(&stack, "daily_claim", AGENT, "state = 'executed'").await?;
    assert!(done["result"]["tx_hash"].as_str().is_some_and(|hash| hash.starts_with("0x")), "{done}");
    let next = done["result"]["next_eligible_at"].as_str().context("no time")?;
    let next = humantime::parse_rfc3339(next)?;
    assert!(next > std::time::SystemTime::now() + Duration::from_secs(23 * 60 * 60), "{done}");
    let [status] = &sent(&stack, "/api/status")[..] else { anyhow::bail!("not one status") };
    let [claim] = &sent(&stack, "/api/claim")[..] else { anyhow::bail!("not one claim") };
    assert_eq!(status.query, format!("agent_id={AGENT}"));
    assert!(status.headers.get("authorization").is_none() && claim.headers.get("authorization").is_none());
    let body: Value = serde_json::from_str(&claim.body)?;
    assert_eq!(body, json!({"agent_id": AGENT, "wallet_address": WALLET}));
    // By another request the agent is not due yet, and learns when.
    let early = request(&stack, "/faucet/daily", "early", &json!({"agent_id": AGENT})).await?;
    assert_eq!(
        (&early.body["status"], &early.body["reason"], &early.body["next_eligible_at"]),
        (&json!("skipped"), &json!("not_eligible_yet"), &done["result"]["next_eligible_at"])
    );
    // The day passes at Purple Flea, and in the database.
    stack.purple_flea.advance(Duration::from_secs(24 * 60 * 60));
    let passed = "alter table purple_flea.jobs disable trigger jobs_guard; \
                  update purple_flea.jobs set changed_at = changed_at - interval '1 day', \
                    result = result || '{\"next_eligible_at\": \"2026-01-01T00:00:00Z\"}' \
                  where kind = 'daily_claim'; alter table purple_flea.jobs enable trigger jobs_guard";
    sql(&stack, passed).await?;
    credits(&stack, AGENT, "1", 2).await?;
    assert_eq!(sent(&stack, "/api/claim").len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daily_claim_of_the_casino_whose_reply_is_lost_is_one_deposit() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live")]).await?;
    stack.purple_flea.faucet_on_registration(false);
    let _sweeper = Sweeper::start(&stack.cluster, SWEEP_EVERY);
    let account = registered(&stack, "keyed").await?;
    // The status is told, and the reply to the claim is lost.
    stack
        .purple_flea
        .misbehave_once(Fault { after_the_bet: true, how: How::answer(200, r#"{"can_claim":true}"#) });
    stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    let policies = "insert into purple_flea.trade_policies (agent_id, claim_daily, min_balance) \
                    values ('keyed', true, 99999999), ('agent-001', true, 99999999)";
    sql(&stack, policies).await?;
    let deposit = credits(&stack, "keyed", "0.5", 1).await?;
    assert_eq!(deposit["new_balance"].to_string(), "0.5000");
    let done = job(&stack, "daily_claim", "keyed", "state = 'executed'").await?;
    assert_eq!(done["result"]["reason"], "already_claimed");
    assert_eq!(sent(&stack, "/api/v1/daily/claim").len(), 1);
    assert_eq!(stack.purple_flea.balance(&account).to_string(), "0.50");
    // The shared key's account makes no claim for an agent.
    let skipped = job(&stack, "daily_claim", AGENT, "state = 'skipped'").await?;
    assert_eq!(skipped["reason"], "no_daily_claim");
    sql(&stack, "select purple_flea.sweep()").await?;
    let jobs = "select count(*) from purple_flea.jobs where kind = 'daily_claim'";
    assert_eq!(count(&stack, jobs).await?, 2, "the next claims are due a day later");
    assert_eq!(count(&stack, "select count(*) from public.wallet_changes").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_agents_at_one_address_the_oldest_gets_the_faucets_claim_of_the_next_day() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live")]).await?;
    stack.purple_flea.limit(Some(Limits::default()));
    let _sweeper = Sweeper::start(&stack.cluster, SWEEP_EVERY);
    let agents = ["lucky", "young", "old", "late"];
    for agent in agents {
        stack.purple_flea.fund(&format!("ag_{agent}"), 0.into());
    }
    sql(&stack, "update purple_flea.trade_policies set claim_faucet = true, min_balance = 99999999").await?;
    sql(&stack, "insert into public.agents (id, pf_agent_id) values ('lucky', 'ag_lucky')").await?;
    credits(&stack, "lucky", "1", 1).await?;
    let more = "insert into public.agents (id, pf_agent_id, created_at) \
                values ('young', 'ag_young', now()), ('old', 'ag_old', now() - interval '1 day')";
    sql(&stack, more).await?;
    for agent in ["young", "old"] {
        let waits = job(&stack, "faucet", agent, "due_at > now() + interval '23 hours'").await?;
        assert_eq!((&waits["state"], &waits["reason"]), (&json!("pending"), &json!("rate_limited")));
    }
    let refused = stack.purple_flea.refused_for_rate();
    assert!((1..=2).contains(&refused), "{refused} claims were refused");
    // A later agent's claim is not sent at all.
    sql(&stack, "insert into public.agents (id, pf_agent_id) values ('late', 'ag_late')").await?;
    job(&stack, "faucet", "late", "due_at > now() + interval '23 hours'").await?;
    assert_eq!(stack.purple_flea.refused_for_rate(), refused, "a claim was sent in vain");
    // A sweep has given each claim its turn.
    let in_turn = "select to_jsonb(string_agg(agent_id, ' ' order by due_at))::text from purple_flea.jobs \
                   where kind = 'faucet' and state = 'pending' \
                   having bool_and(exists (select from purple_flea.rate_stops s where s.call = 'faucet address' \
                     and extract(epoch from due_at - s.until)::numeric in (0, 15, 30)))";
    assert_eq!(wait_for_row(&stack, in_turn).await?, "old young late");
    // The day passes. (The ledger keeps a place in each limit of a minute for a minute.) The second turn comes only
    // when this test is over, however slow the machine is.
    stack.purple_flea.advance(Duration::from_secs(24 * 60 * 60));
    let passed = "update purple_flea.rate_stops set until = until - interval '1 day'; \
                  update purple_flea.jobs j set due_at = now() + 100 * (j.due_at - first.at) \
                    from (select min(due_at) as at from purple_flea.jobs where kind = 'faucet' and state = 'pending') as first \
                    where j.kind = 'faucet' and j.state = 'pending'; \
                  delete from purple_flea.rate_slots";
    sql(&stack, passed).await?;
    credits(&stack, "old", "1", 1).await?;
    assert_eq!(count(&stack, "select count(*) from public.wallet_changes").await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escrows_payment_is_never_recorded_as_the_faucets_credit() -> Result<()> {
    let stack = start(&[("purple_flea_api", "live")]).await?;
    stack.purple_flea.limit(Some(Limits::default()));
    stack.purple_flea.faucet_on_registration(false);
    let account = registered(&stack, "payee").await?;
    // The address has made its claim today, and another agent's escrow pays.
    stack.purple_flea.fund("ag_other", 0.into());
    sql(&stack, "insert into public.agents (id, pf_agent_id) values ('other', 'ag_other')").await?;
    request(&stack, "/faucet", "other-claim", &json!({"agent_id": "other"})).await?;
    let escrow = json!({"amount_usd": 500, "description": "a debt", "counterparty_agent_id": account});
    let paid = stack_call(&stack, "/escrow/create", &escrow).await?;
    let id = paid["escrow_id"].as_str().context("no escrow")?;
    stack_call(&stack, &format!("/escrow/release/{id}"), &json!({})).await?;
    assert_eq!(stack.purple_flea.balance(&account), 495.into());
    let refused = request(&stack, "/faucet", "claim", &json!({"agent_id": "payee"})).await?;
    assert_problem(&refused, 503, "rate_limited", "no");
    let waits = job(&stack, "faucet", "payee", "state = 'pending' and reason = 'rate_limited'").await?;
    assert_eq!(waits["result"]["retry_after_s"], 86_400);
    let deposits = "select count(*) from public.wallet_changes where agent_id = 'payee'";
    assert_eq!(count(&stack, deposits).await?, 0);
    // A day later the faucet pays its dollar, and the dollar alone is a deposit.
    stack.purple_flea.advance(Duration::from_secs(24 * 60 * 60));
    let passed = "update purple_flea.rate_stops set until = now() - interval '1 second'; \
                  update purple_flea.jobs set due_at = now() where kind = 'faucet' and state = 'pending'; \
                  delete from purple_flea.rate_slots; select purple_flea.sweep()";
    sql(&stack, passed).await?;
    let deposit = credits(&stack, "payee", "1", 1).await?;
    assert_eq!(deposit["new_balance"].to_string(), "496.0000");
    assert_eq!(count(&stack, deposits).await?, 1);
    Ok(())
}

/// Calls Purple Flea as another client does, with the shared key.
async fn stack_call(stack: &Local, path: &str, body: &Value) -> Result<Value> {
    let call = http::Request::post(format!("{}{path}", stack.purple_flea.url))
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {KEY}"))
        .body(body.to_string().into_bytes())?;
    Ok(serde_json::from_slice(stack::http1::send(call).await?.body())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_specifications_environment_names_the_key_the_agent_and_its_wallet() -> Result<()> {
    let settings =
        [("purple_flea_key", ""), ("pf_agent_key", KEY), ("agent_id", AGENT), ("agent_wallet", WALLET)];
    let door = FrontDoor::with(&settings).await?;
    let send = async |path: &str, body: &str| -> Result<Reply> {
        let body = with_operation(path, body);
        reply(webhook::signed(&door.url(path), "by-hand-1", body.as_bytes())?.body(body.into())?).await
    };
    let claimed = send("/faucet/daily", "{}").await?;
    assert_eq!((&claimed.body["status"], &claimed.body["agent_id"]), (&json!("executed"), &json!(AGENT)));
    let claims = door.purple_flea.requests();
    let claim = claims.iter().find(|request| request.path == "/api/claim").context("no claim")?;
    assert_eq!(
        serde_json::from_str::<Value>(&claim.body)?,
        json!({"agent_id": AGENT, "wallet_address": WALLET})
    );
    let balance = send("/balance", "{}").await?;
    assert_eq!(balance.body["status"], "executed");
    let requests = door.purple_flea.requests();
    let read = requests.iter().find(|request| request.path == "/wallet/balance").context("no balance")?;
    assert_eq!(
        (read.query.as_str(), &read.headers["authorization"]),
        ("", &format!("Bearer {KEY}").parse()?)
    );
    Ok(())
}
