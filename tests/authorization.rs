//! Which caller may call which route. The function executes a request only as the operation that its body names. Each
//! credential opens only its own routes.

use crate::{
    events::{SCOPES, api_key, tenant_of},
    front_door::{ADAS_TOKEN, OPERATORS, Reply, assert_problem, reply, soon, with_operation},
    openapi,
    whole_stack::{LOOK_EVERY, count, sql, start},
};
use anyhow::Result;
use http::{HeaderValue, Method, Request};
use rust_decimal::Decimal;
use serde_json::json;
use stack::{
    http1,
    local::{AGENT, Local},
    postgrest::{self, Trouble, key_with, user_key},
    purple_flea::LIVE_AGENT,
    webhook,
};
use std::collections::BTreeSet;

/// A second agent, which receives escrows.
const OTHER: &str = "agent-002";

/// Starts the stack with a balance that fits the column `balance`.
async fn start_modest(changes: &[(&str, &str)]) -> Result<Local> {
    let stack = start(changes).await?;
    // The shared key reads the balance of its own account.
    for agent in [AGENT, LIVE_AGENT] {
        let held = stack.purple_flea.balance(agent);
        stack.purple_flea.fund(agent, Decimal::from(1_000) - held);
    }
    Ok(stack)
}

/// Starts the stack with two funded agents and one open escrow from the first to the second, and gives the escrow's id.
async fn with_an_escrow(changes: &[(&str, &str)]) -> Result<(Local, i64)> {
    let stack = start_modest(changes).await?;
    stack.purple_flea.fund(OTHER, 100.into());
    sql(&stack, &format!("insert into public.agents (id) values ('{OTHER}')")).await?;
    let insert = format!(
        "insert into public.escrow_requests (sender_id, receiver_id, amount) values ('{AGENT}', '{OTHER}', 2.50) returning id"
    );
    let id: i64 = stack.owner.query_one(&insert, &[]).await?.get(0);
    let made =
        format!("select count(*) from public.escrow_requests where id = {id} and pf_escrow_id is not null");
    soon(async {
        while count(&stack, &made).await? == 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    })
    .await??;
    Ok((stack, id))
}

/// Sends the same signed bytes and headers to two paths.
async fn send_to_both(stack: &Local, body: &str, paths: [&str; 2]) -> Result<[Reply; 2]> {
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
async fn a_cancellation_replayed_as_a_release_releases_nothing() -> Result<()> {
    let (stack, id) = with_an_escrow(&[]).await?;
    let paths = ["/escrow/release", "/escrow/cancel"];
    // Earlier releases signed bodies without an operation.
    let unnamed = json!({ "escrow_id": id }).to_string();
    let [release, cancel] = send_to_both(&stack, &unnamed, paths).await?;
    for refused in [release, cancel] {
        assert_problem(&refused, 400, "missing_operation", "no");
    }
    let cancellation = json!({ "operation": "escrow_cancel", "escrow_id": id }).to_string();
    let [release, cancel] = send_to_both(&stack, &cancellation, paths).await?;
    assert_problem(&release, 400, "other_operation", "no");
    assert_eq!(cancel.status, 200, "{}", cancel.body);
    let released = "select count(*) from purple_flea.jobs where kind = 'escrow_release'";
    assert_eq!(count(&stack, released).await?, 0);
    assert_eq!(stack.purple_flea.balance(OTHER), 100.into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_request_replayed_as_a_registration_registers_no_agent() -> Result<()> {
    let stack = start_modest(&[]).await?;
    let paths = ["/register", "/balance"];
    let unnamed = json!({ "agent_id": AGENT }).to_string();
    let [registration, balance] = send_to_both(&stack, &unnamed, paths).await?;
    for refused in [registration, balance] {
        assert_problem(&refused, 400, "missing_operation", "no");
    }
    let balance_request = json!({ "operation": "balance", "agent_id": AGENT }).to_string();
    let [registration, balance] = send_to_both(&stack, &balance_request, paths).await?;
    assert_problem(&registration, 400, "other_operation", "no");
    assert_eq!(balance.body["status"], "executed", "{}", balance.body);
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where kind = 'registration'").await?, 0);
    Ok(())
}

/// The users of these tests, by the ids of their tokens.
const OWNER: &str = "11111111-1111-1111-1111-111111111111";
const ANOTHER: &str = "22222222-2222-2222-2222-222222222222";

/// The webhook token of these tests.
const TOKEN: &str = "a-token-for-calls-by-hand";

/// Every credential on every route: `opens`, or the status of the refusal.
const MATRIX: &str = "
    route                       | nothing | signature | wrong signature | webhook token | wrong token | owner | another owner | forged | expired | operator | wrong operator | api key
    /                           | 401     | opens     | 401             | opens         | 401         | 401   | 401           | 401    | 401     | 403      | 401            | 401
    /execute-trade              | 401     | opens     | 401             | opens         | 401         | 401   | 401           | 401    | 401     | 403      | 401            | 401
    /functions/v1/execute-trade | 401     | opens     | 401             | opens         | 401         | 401   | 401           | 401    | 401     | 403      | 401            | 401
    /register                   | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /faucet                     | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /faucet/daily               | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /balance                    | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /trade                      | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /order                      | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /bet                        | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /close                      | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /escrow                     | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /escrow/release             | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /escrow/cancel              | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /escrow/complete            | 401     | opens     | 401             | opens         | 401         | 403   | opens         | 401    | 401     | 403      | 401            | 401
    /escrow/dispute             | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /escrow/status              | 401     | opens     | 401             | opens         | 401         | opens | opens         | 401    | 401     | 403      | 401            | 401
    /heartbeat                  | 401     | 403       | 401             | 403           | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /signals                    | 401     | opens     | 401             | opens         | 401         | opens | 403           | 401    | 401     | 403      | 401            | 401
    /reconcile                  | 401     | opens     | 401             | opens         | 401         | 401   | 401           | 401    | 401     | 403      | 401            | 401
    /operator/status            | 401     | 403       | 401             | 403           | 401         | 401   | 401           | 401    | 401     | opens    | 401            | 401
    /operator                   | 401     | 403       | 401             | 403           | 401         | 401   | 401           | 401    | 401     | opens    | 401            | 401
    /events                     | 401     | 403       | 401             | 403           | 401         | 401   | 401           | 401    | 401     | 403      | 401            | opens
    /records/{kind}/{id}        | 401     | 403       | 401             | 403           | 401         | 401   | 401           | 401    | 401     | 403      | 401            | opens
    /webhooks/purple-flea       | 401     | 401       | 401             | 401           | 401         | 401   | 401           | 401    | 401     | 401      | 401            | 401
    /health                     | opens   | opens     | opens           | opens         | opens       | opens | opens         | opens  | opens   | opens    | opens          | opens";

/// Writes a body that a path accepts.
fn body(path: &str, escrow_id: i64) -> String {
    let arguments = match path {
        "/" | "/execute-trade" | "/functions/v1/execute-trade" => json!({ "ledger": true }),
        "/trade" | "/order" => json!({ "agent_id": AGENT, "market": "BTC", "direction": "long", "size": 25 }),
        "/bet" => json!({ "agent_id": AGENT, "game": "coin-flip", "side": "heads", "wager": 5 }),
        "/signals" => {
            json!({ "agent_id": AGENT, "market": "BTC", "action": "BUY", "confidence": 0.9, "size": 5 })
        }
        "/close" => json!({ "agent_id": AGENT, "position_id": "pos_1" }),
        "/escrow" => json!({ "sender_id": AGENT, "receiver_id": OTHER, "amount": 2.50 }),
        path if path.starts_with("/escrow/") => json!({ "escrow_id": escrow_id }),
        "/reconcile" => json!({}),
        "/operator" => json!({ "operation": "history", "reference": format!("escrow-{escrow_id}") }),
        "/operator/status" | "/events" | "/records/{kind}/{id}" | "/health" => return String::new(),
        _ => json!({ "agent_id": AGENT }),
    };
    with_operation(path, &arguments.to_string())
}

/// Builds a request with a credential of the matrix.
fn request(
    url: &str,
    credential: &str,
    webhook_id: &str,
    body: &str,
    api_key: &str,
) -> Result<Request<Vec<u8>>> {
    let url = url.replace("{kind}/{id}", &format!("agent/{AGENT}"));
    let mut request = webhook::signed(&url, webhook_id, body.as_bytes())?.body(body.into())?;
    if body.is_empty() {
        *request.method_mut() = Method::GET;
    }
    let headers = request.headers_mut();
    let bearer = match credential {
        "signature" => return Ok(request),
        "wrong signature" => {
            headers.insert("webhook-signature", HeaderValue::from_static("v1,AAAA"));
            return Ok(request);
        }
        "nothing" => None,
        "webhook token" => Some(TOKEN.to_owned()),
        "wrong token" => Some("a-token-for-calls-by-hanD".to_owned()),
        "owner" => Some(user_key(OWNER)?),
        "another owner" => Some(user_key(ANOTHER)?),
        "forged" => Some(format!("{}x", user_key(OWNER)?)),
        "expired" => Some(key_with(&json!({ "role": "authenticated", "sub": OWNER, "exp": 1_000_000_000 }))?),
        "operator" => Some(ADAS_TOKEN.to_owned()),
        "api key" => Some(api_key.to_owned()),
        "wrong operator" => Some(ADAS_TOKEN.replace('6', "7")),
        other => anyhow::bail!("{other}"),
    };
    headers.remove("webhook-timestamp");
    headers.remove("webhook-signature");
    if let Some(token) = bearer {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    }
    Ok(request)
}

/// Starts the stack with all credentials. Two users own one agent each.
async fn with_owners() -> Result<(Local, i64)> {
    let operator_key = postgrest::key("purple_flea_operator")?;
    let changes = [
        ("webhook_token", TOKEN),
        ("operator_tokens", OPERATORS),
        ("supabase_operator_key", operator_key.as_str()),
        ("after_reply", "false"),
    ];
    let (stack, id) = with_an_escrow(&changes).await?;
    for (user, agent) in [(OWNER, AGENT), (ANOTHER, OTHER)] {
        let own = format!(
            "insert into auth.users values ('{user}'); update public.agents set owner_id = '{user}' where id = '{agent}'"
        );
        sql(&stack, &own).await?;
    }
    Ok((stack, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_credential_opens_exactly_the_routes_of_the_matrix() -> Result<()> {
    let (stack, escrow_id) = with_owners().await?;
    let rows: Vec<Vec<&str>> =
        MATRIX.trim().lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    let (head, rows) = rows.split_first().unwrap();
    let api_key = api_key(&stack.owner, &tenant_of(&stack.owner, AGENT).await?, &SCOPES).await?;
    let mut wrong = Vec::new();
    let mut number = 0;
    for row in rows {
        for (credential, expected) in head.iter().zip(row).skip(1) {
            number += 1;
            let (path, body) = (row[0], body(row[0], escrow_id));
            let url = format!("{}{path}", stack.host.url);
            let reply =
                reply(request(&url, credential, &format!("matrix-{number}"), &body, &api_key)?).await?;
            // An open route may still answer 409 or 422, for example because an escrow can be released only once.
            let status = match reply.status.as_u16() {
                401 | 403 => reply.status.as_str().to_owned(),
                200 | 409 | 422 => "opens".to_owned(),
                other => format!("{other} {}", reply.body),
            };
            if status != *expected {
                wrong.push(format!("{path} with {credential}: {status} instead of {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let paths: BTreeSet<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(paths, openapi::paths(), "the matrix must have every path");
    // The database checked each user's token once on each path that opens to users.
    let checks = stack.postgrest.calls().iter().filter(|call| *call == "may_act_for").count();
    assert_eq!(checks, 16 * ["owner", "another owner", "forged", "expired"].len(), "calls of may_act_for");
    let log = stack.host.log.lines().join("\n");
    for secret in [TOKEN, ADAS_TOKEN, &user_key(OWNER)?, webhook::SECRET, &api_key] {
        assert!(!log.contains(secret), "the function logged a credential");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_can_end_escrows_that_the_users_agents_send_but_not_those_they_receive() -> Result<()> {
    let (stack, id) = with_owners().await?;
    let end = async |user: &str, path: &str, id: i64| {
        let body = with_operation(path, &json!({ "escrow_id": id }).to_string());
        let token = user_key(user)?;
        reply(bearer(&stack, path, &token, &body)?).await
    };
    for path in ["/escrow/release", "/escrow/cancel"] {
        // The receiver's owner can read the row but cannot end the escrow. A missing row gets the same reply.
        assert_problem(&end(ANOTHER, path, id).await?, 403, "not_yours", "no");
        assert_problem(&end(OWNER, path, id + 1).await?, 403, "not_yours", "no");
    }
    let calls = stack.postgrest.calls();
    assert!(calls.iter().all(|call| call != "request_job"), "{calls:?}");
    assert_eq!(stack.purple_flea.balance(OTHER), 100.into());
    let released = end(OWNER, "/escrow/release", id).await?;
    assert_eq!(released.body["escrow_status"], "released", "{}", released.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_can_act_only_for_the_users_own_agents() -> Result<()> {
    let (stack, _) = with_owners().await?;
    sql(&stack, "insert into public.agents (id) values ('unowned')").await?;
    let ask = async |token: &str, agent: &str| {
        let body = with_operation("/balance", &json!({ "agent_id": agent }).to_string());
        reply(bearer(&stack, "/balance", token, &body)?).await
    };
    let owners = user_key(OWNER)?;
    assert_eq!(ask(&owners, AGENT).await?.body["status"], "executed");
    for agent in [OTHER, "unowned", "nobody", "' or true --"] {
        assert_problem(&ask(&owners, agent).await?, 403, "not_yours", "no");
    }
    // Tokens of other roles own no agent, even if the role may do more in the database.
    let of_role = |role: &str| key_with(&json!({ "role": role, "sub": OWNER }));
    assert_problem(&ask(&of_role("anon")?, AGENT).await?, 401, "unauthorized", "no");
    for role in ["service_role", "purple_flea_worker", "purple_flea_operator"] {
        assert_problem(&ask(&of_role(role)?, AGENT).await?, 403, "not_yours", "no");
    }
    // A token without a user id owns no agent.
    assert_problem(
        &ask(&key_with(&json!({ "role": "authenticated" }))?, AGENT).await?,
        403,
        "not_yours",
        "no",
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_token_that_the_ledger_cannot_verify_opens_nothing() -> Result<()> {
    let (stack, _) = with_owners().await?;
    let body = body("/balance", 0);
    let send = async |token: &str| reply(bearer(&stack, "/balance", token, &body)?).await;
    let ledger_calls = || stack.postgrest.calls().len();
    stack.postgrest.misbehave_once(Trouble::BeforeTheCall);
    assert_problem(&send(&user_key(OWNER)?).await?, 503, "ledger_not_reached", "no");
    let before = ledger_calls();
    for garbage in ["..", "a.b", "a.b.c.d", "a..c", "a.b.c=", &format!("a.{}.c", "b".repeat(9_000))] {
        assert_problem(&send(garbage).await?, 401, "unauthorized", "no");
    }
    assert_eq!(ledger_calls(), before, "the function asked the ledger about a malformed token");
    assert_problem(&send("eyJhbGciOiJIUzI1NiJ9.e30.c2ln").await?, 401, "unauthorized", "no");
    // This header is larger than the host's limit. The host refuses it and keeps serving.
    let enormous = http1::send(bearer(&stack, "/balance", &"x".repeat(1024 * 1024), &body)?);
    if let Ok(refused) = soon(enormous).await? {
        assert!(refused.status().is_client_error(), "{refused:?}");
    }
    assert_eq!(send(&user_key(OWNER)?).await?.body["status"], "executed");
    let two_agents = json!({ "operation": "balance", "agent_id": AGENT, "agent_id2": OTHER }).to_string();
    let refused = reply(bearer(&stack, "/balance", &user_key(OWNER)?, &two_agents)?).await?;
    assert_problem(&refused, 400, "invalid_event", "no");
    Ok(())
}

/// Builds a request with a bearer token.
fn bearer(stack: &Local, path: &str, token: &str, body: &str) -> Result<Request<Vec<u8>>> {
    Ok(Request::post(format!("{}{path}", stack.host.url))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(body.into())?)
}
