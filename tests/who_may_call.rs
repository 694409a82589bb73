//! Which caller may call what: a request counts for the operation that its body names and for no other, and each
//! credential opens its own routes.

use crate::{
    front_door::{assert_problem, reply},
    whole_stack::{count, sql, start},
};
use anyhow::Result;
use http::Request;
use serde_json::json;
use stack::{
    local::{AGENT, Local},
    webhook,
};

/// A second agent, which receives escrows.
const OTHER: &str = "agent-002";

/// The stack with both agents funded and one open escrow from the first to the second, whose row has this id.
async fn with_an_escrow(changes: &[(&str, &str)]) -> Result<(Local, i64)> {
    let stack = start(changes).await?;
    stack.purple_flea.fund(OTHER, 100.into());
    sql(&stack, &format!("insert into public.agents (id) values ('{OTHER}')")).await?;
    let insert = format!(
        "insert into public.escrow_requests (sender_id, receiver_id, amount) values ('{AGENT}', '{OTHER}', 2.50) returning id"
    );
    let id = stack.owner.query_one(&insert, &[]).await?.get(0);
    Ok((stack, id))
}

/// The same signed bytes and headers, sent to two paths.
async fn signed_for_both(
    stack: &Local,
    body: &str,
    paths: [&str; 2],
) -> Result<[crate::front_door::Reply; 2]> {
    let signed = webhook::signed("http://anywhere.test/", "replayed-1", body.as_bytes())?;
    let head = signed.body(())?.into_parts().0;
    let send = async |path: &str| {
        let mut request = Request::post(format!("{}{path}", stack.host.url)).body(body.into())?;
        *request.headers_mut() = head.headers.clone();
        reply(request).await
    };
    Ok([send(paths[0]).await?, send(paths[1]).await?])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_is_replayed_as_a_release_releases_nothing() -> Result<()> {
    let (stack, id) = with_an_escrow(&[]).await?;
    let paths = ["/escrow/release", "/escrow/cancel"];
    // As it was signed before operations had names.
    let unnamed = json!({ "escrow_id": id }).to_string();
    let [release, cancel] = signed_for_both(&stack, &unnamed, paths).await?;
    for refused in [release, cancel] {
        assert_problem(&refused, 400, "missing_operation", "no");
    }
    let named = json!({ "operation": "escrow_cancel", "escrow_id": id }).to_string();
    let [release, cancel] = signed_for_both(&stack, &named, paths).await?;
    assert_problem(&release, 400, "other_operation", "no");
    assert_eq!(cancel.status, 200, "{}", cancel.body);
    let released = "select count(*) from purple_flea.jobs where kind = 'escrow_release'";
    assert_eq!(count(&stack, released).await?, 0);
    assert_eq!(stack.purple_flea.balance(OTHER), 100.into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_balance_that_is_replayed_as_a_registration_registers_nobody() -> Result<()> {
    let stack = start(&[]).await?;
    let paths = ["/register", "/balance"];
    let unnamed = json!({ "agent_id": AGENT }).to_string();
    let [registration, balance] = signed_for_both(&stack, &unnamed, paths).await?;
    for refused in [registration, balance] {
        assert_problem(&refused, 400, "missing_operation", "no");
    }
    let named = json!({ "operation": "balance", "agent_id": AGENT }).to_string();
    let [registration, balance] = signed_for_both(&stack, &named, paths).await?;
    assert_problem(&registration, 400, "other_operation", "no");
    assert_eq!(balance.body["status"], "executed", "{}", balance.body);
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where kind = 'registration'").await?, 0);
    Ok(())
}
