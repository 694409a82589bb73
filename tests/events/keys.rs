//! A key opens its own tenant's feed and records, as far as its scopes go, until it is revoked.

use super::{SCOPES, api_key, emit, get, next, page, references, revoke, tenant, tenant_of};
use crate::{
    front_door::{FrontDoor, assert_problem, reply, soon},
    whole_stack::{LOOK_EVERY, count, start_silent},
};
use anyhow::Result;
use http::Request;
use stack::local::AGENT;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_shows_its_own_tenants_events_and_no_others() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let (ours, theirs) = (tenant(&stack.owner, "ours").await?, tenant(&stack.owner, "theirs").await?);
    let our_key = api_key(&stack.owner, &ours, &SCOPES).await?;
    let their_key = api_key(&stack.owner, &theirs, &SCOPES).await?;
    for n in 1..=3 {
        emit(&stack.owner, &ours, "trade:a", &format!("ours-{n}")).await?;
        emit(&stack.owner, &theirs, "trade:a", &format!("theirs-{n}")).await?;
    }
    let first = page(&stack, "?types=trade.executed", &our_key).await?;
    assert_eq!(references(&first), ["ours-1", "ours-2", "ours-3"]);
    let tenants: Vec<_> =
        first["events"].as_array().unwrap().iter().map(|e| &e["event"]["tenant_id"]).collect();
    assert_eq!(tenants, vec![&serde_json::json!(ours); 3]);
    assert_eq!(
        references(&page(&stack, "?types=trade.executed", &their_key).await?),
        ["theirs-1", "theirs-2", "theirs-3"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_or_revoked_key_opens_nothing_from_the_next_call_on() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    let other = if key.ends_with('A') { "B" } else { "A" };
    for wrong in [format!("{}{other}", &key[..key.len() - 1]), format!("ek_{}", "a".repeat(43))] {
        for target in ["/events", "/records/agent/agent-001"] {
            assert_problem(&get(&stack, target, &wrong).await?, 401, "unauthorized", "no");
        }
    }
    page(&stack, "", &key).await?;
    revoke(&stack.owner, &key).await?;
    for target in ["/events", "/records/agent/agent-001"] {
        assert_problem(&get(&stack, target, &key).await?, 401, "unauthorized", "no");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_while_its_caller_waits_ends_the_wait() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    let from = page(&stack, "?after=latest&types=trade.executed", &key).await?;
    let query = format!("/events?after={}&types=trade.executed&wait_s=20", next(&from)?);
    let waits = get(&stack, &query, &key);
    let revoked = async {
        let seated = "select count(*) from purple_flea.feed_seats where until > now()";
        while count(&stack, seated).await? == 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        revoke(&stack.owner, &key).await
    };
    let (waited, revoked) = soon(async { tokio::join!(waits, revoked) }).await?;
    revoked?;
    assert_problem(&waited?, 401, "unauthorized", "no");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_only_what_its_scopes_name() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant_of(&stack.owner, AGENT).await?;
    let events = api_key(&stack.owner, &tenant, &["events:read"]).await?;
    let records = api_key(&stack.owner, &tenant, &["records:read"]).await?;
    let record = format!("/records/agent/{AGENT}");
    assert_eq!(get(&stack, "/events", &events).await?.status, 200);
    assert_problem(&get(&stack, &record, &events).await?, 403, "missing_scope", "no");
    assert_problem(&get(&stack, "/events", &records).await?, 403, "missing_scope", "no");
    let found = get(&stack, &record, &records).await?;
    assert_eq!((found.status.as_u16(), &found.body["record"]["id"]), (200, &AGENT.into()), "{}", found.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_tenant_is_as_unknown_as_one_that_never_was() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let theirs = tenant(&stack.owner, "theirs").await?;
    let key = api_key(&stack.owner, &theirs, &SCOPES).await?;
    let foreign = get(&stack, &format!("/records/agent/{AGENT}"), &key).await?;
    assert_problem(&foreign, 404, "unknown_record", "no");
    for target in [
        "/records/agent/nobody",
        "/records/nothing/1",
        "/records/escrow/not-a-number",
        "/records/trade/%F0%9F%90%9D",
    ] {
        let missing = get(&stack, target, &key).await?;
        assert_problem(&missing, 404, "unknown_record", "no");
        assert_eq!(missing.body, foreign.body, "{target}");
    }
    for target in ["/records/agent/%00", "/records/AGENT/1", "/records/agent/1?x=1"] {
        assert_problem(&get(&stack, target, &key).await?, 400, "invalid_parameter", "no");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_query_is_refused_and_reaches_neither_the_database_nor_the_log() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    let encoded = key.replacen('e', "%65", 1);
    for target in [
        format!("/events?key={key}"),
        format!("/events?api_key={key}"),
        format!("/events?access_token={encoded}"),
        format!("/events?after={encoded}"),
        format!("/records/agent/{AGENT}?token={key}"),
    ] {
        let url = format!("{}{target}", stack.host.url);
        let without = reply(Request::get(&url).body(vec![])?).await?;
        for refused in [without, get(&stack, &target, &key).await?] {
            assert_problem(&refused, 400, "key_in_query", "no");
            assert!(!refused.body.to_string().contains(&key), "{}", refused.body);
        }
    }
    let calls = stack.postgrest.calls();
    assert!(calls.iter().all(|call| !call.starts_with("read_")), "{calls:?}");
    page(&stack, "", &key).await?;
    let log = stack.host.log.lines().join("\n");
    assert!(log.contains("key_in_query") && !log.contains(&key), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_another_form_are_refused_before_the_database_is_asked() -> Result<()> {
    let stack = start_silent(&[]).await?;
    let tenant = tenant(&stack.owner, "ours").await?;
    let key = api_key(&stack.owner, &tenant, &SCOPES).await?;
    for (query, names) in [
        ("limit=0", "1 to 1000"),
        ("limit=10001", "1 to 1000"),
        ("limit=ten", "1 to 1000"),
        ("wait_s=21", "0 to 20"),
        ("wait_s=-1", "0 to 20"),
        ("types=", "separated by commas"),
        ("types=trade.executed,%20trade.skipped", "separated by commas"),
        ("since=1", "`after`"),
        ("limit=1&limit=2", "once"),
    ] {
        let refused = get(&stack, &format!("/events?{query}"), &key).await?;
        assert_problem(&refused, 400, "invalid_parameter", "no");
        assert!(refused.body["detail"].as_str().unwrap().contains(names), "{query}: {}", refused.body);
    }
    let calls = stack.postgrest.calls();
    assert!(calls.iter().all(|call| call != "read_events"), "{calls:?}");
    let unknown = get(&stack, "/events?types=trade.executed,trade.imagined", &key).await?;
    assert_problem(&unknown, 400, "unknown_type", "no");
    assert!(unknown.body["detail"].as_str().unwrap().contains("separated by commas"), "{}", unknown.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_the_feed_says_what_is_missing() -> Result<()> {
    let door = FrontDoor::open().await?;
    for path in ["/events", "/records/agent/agent-001"] {
        let request =
            Request::get(door.url(path)).header("authorization", format!("Bearer ek_{}", "a".repeat(43)));
        let refused = reply(request.body(vec![])?).await?;
        assert_problem(&refused, 503, "ledger_not_configured", "no");
        assert_eq!(refused.headers["cache-control"], "no-store");
        let post = Request::post(door.url(path)).header("content-type", "application/json");
        assert_problem(&reply(post.body("{}".into())?).await?, 405, "method_not_allowed", "no");
    }
    Ok(())
}
