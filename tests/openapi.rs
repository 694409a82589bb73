//! docs/openapi.json is correct: it describes every reply that any test gets, and it lists the router's paths.

use crate::{
    front_door::{ADAS_TOKEN, OPERATIONS, OPERATORS, Reply, assert_problem, reply},
    services::wait_for_row,
    whole_stack::{job, notify, pass_time, sql, start_silent},
};
use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use jsonschema::{Draft, Validator};
use purple_flea_edge::http::route::{self, Route};
use serde_json::{Value, json};
use stack::{
    local::Local,
    postgrest,
    purple_flea::{Fault, How},
    repository, webhook,
};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    sync::{LazyLock, Mutex, PoisonError},
};

/// The user who owns the agent of the examples for owners.
const OWNER: &str = "11111111-1111-1111-1111-111111111111";

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = fs::read_to_string(repository().join("docs/openapi.json")).expect("docs/openapi.json");
    serde_json::from_str(&text).expect("docs/openapi.json is JSON")
});

/// Compiled validators, by the text of their schema.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Validator>>> = LazyLock::new(Mutex::default);

/// Lists the paths of the document.
pub fn paths() -> BTreeSet<&'static str> {
    DOCUMENT["paths"].as_object().map(|paths| paths.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Checks that the document describes a reply for its path and method. Fails with the differences.
pub fn check(method: &Method, path: &str, reply: &Reply) -> Result<()> {
    let name = method.as_str().to_lowercase();
    let (status, content_type) = (reply.status.as_str(), reply.headers["content-type"].to_str()?);
    let route = Route::of(path);
    let known = route::paths().find(|(known, _)| *known == path);
    // A path with parameters is described by its template.
    let template = known.or_else(|| route::paths().find(|(_, other)| Some(*other) == route));
    let path = template.and_then(|(path, _)| DOCUMENT["paths"].get(path));
    // The reply to an unknown path is a problem.
    let operation = path.and_then(|path| path.get(&name).or_else(|| path.as_object()?.values().next()));
    let schema = match operation {
        Some(operation) => {
            let response = operation["responses"].get(status);
            let response =
                response.with_context(|| format!("{method} {path:?}: no {status} is described"))?;
            let shared =
                response["$ref"].as_str().and_then(|name| DOCUMENT.pointer(name.trim_start_matches('#')));
            let content = &shared.unwrap_or(response)["content"];
            content.get(content_type).with_context(|| format!("{content_type} is not described"))?["schema"]
                .clone()
        }
        None => json!({ "$ref": "#/components/schemas/Problem" }),
    };
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let validator = validators.entry(schema.to_string()).or_insert_with(|| {
        let mut whole = schema.clone();
        whole["components"] = DOCUMENT["components"].clone();
        jsonschema::options().with_draft(Draft::Draft202012).build(&whole).expect("a schema")
    });
    let errors: Vec<String> = validator
        .iter_errors(&reply.body)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    ensure!(
        errors.is_empty(),
        "{method} {status} does not match docs/openapi.json: {errors:?}\n{}",
        reply.body
    );
    Ok(())
}

#[test]
fn the_openapi_document_lists_the_routers_paths_and_methods() -> Result<()> {
    let routes: BTreeSet<&str> = route::paths().map(|(path, _)| path).collect();
    let paths = DOCUMENT["paths"].as_object().context("no paths")?;
    assert_eq!(paths.keys().map(String::as_str).collect::<BTreeSet<_>>(), routes);
    for (path, operations) in paths {
        let route = Route::of(path).context("no route")?;
        let operations = operations.as_object().context("no operations")?;
        let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT]
            .into_iter()
            .filter(|method| route.has(method));
        let methods: Vec<String> = methods.map(|method| method.as_str().to_ascii_lowercase()).collect();
        assert_eq!(operations.keys().collect::<Vec<_>>(), methods.iter().collect::<Vec<_>>());
    }
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    Ok(())
}

#[test]
fn every_example_matches_its_schema_and_names_the_operation_of_its_path() -> Result<()> {
    let mut seen = 0;
    for (path, operations) in DOCUMENT["paths"].as_object().context("no paths")? {
        let content = &operations["post"]["requestBody"]["content"]["application/json"];
        let several =
            content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
        for example in several.chain(content.get("example")) {
            seen += 1;
            let mut schema = content["schema"].clone();
            schema["components"] = DOCUMENT["components"].clone();
            let validator = jsonschema::options().with_draft(Draft::Draft202012).build(&schema)?;
            ensure!(validator.is_valid(example), "{path}: {example}");
            let operation =
                OPERATIONS.iter().find(|(known, _)| known == path).map(|(_, operation)| *operation);
            if let Some(operation) = operation {
                assert_eq!(example["operation"], operation, "{path}");
                let other = json!({ "operation": "execute_trade" });
                ensure!(!validator.is_valid(&other), "{path} takes another operation");
            }
        }
    }
    assert!(seen > 15, "only {seen} examples were found");
    Ok(())
}

/// Makes the agents, the deposits and the escrows that the examples name.
async fn with_the_examples_rows() -> Result<Local> {
    let key = postgrest::key("purple_flea_operator")?;
    let changes = [("operator_tokens", OPERATORS), ("supabase_operator_key", &key), ("after_reply", "false")];
    let stack = start_silent(&changes).await?;
    let rows = format!(
        "insert into public.agents (id, owner_id) values ('agent-007', null), ('scout', '{OWNER}'); \
         insert into public.escrow_requests (sender_id, receiver_id, amount) \
         values ('agent-001', 'agent-007', 5), ('agent-001', 'agent-007', 5)"
    );
    for agent in ["agent-007", "scout"] {
        stack.purple_flea.fund(agent, 0.into());
    }
    sql(&stack, &rows).await?;
    // The worker that these rows call would also claim what comes next.
    let made = "select to_jsonb(count(pf_escrow_id))::text from public.escrow_requests having count(pf_escrow_id) = 2";
    wait_for_row(&stack, made).await?;
    let deposit = |id: i64| {
        format!(
            "insert into public.wallet_changes (id, agent_id, change_type, change_amount, new_balance) \
             values ({id}, 'agent-001', 'deposit', 100, 100)"
        )
    };
    for id in [43, 44] {
        stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how: How::answer(500, "{}") });
        sql(&stack, &deposit(id)).await?;
        assert_problem(&notify(&stack, id).await?, 502, "outcome_unknown", "unknown");
        pass_time(&stack, id, "104 seconds").await?;
        assert_eq!(job(&stack, id).await?["state"], "unknown");
    }
    for id in [7, 42] {
        sql(&stack, &deposit(id)).await?;
    }
    Ok(stack)
}

/// Gives the `webhook-id` of an example: the row's own reference, or a new name.
fn name_of(example: &Value, number: usize) -> String {
    let row = example.get("record").unwrap_or(example);
    match (example["reference"].as_str(), row["id"].as_i64()) {
        (Some(reference), _) => reference.to_owned(),
        (None, Some(id)) => format!("wallet-change-{id}"),
        (None, None) => format!("example-{number}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_accepted_as_it_stands() -> Result<()> {
    let stack = with_the_examples_rows().await?;
    let mut sent = 0;
    for (path, operations) in DOCUMENT["paths"].as_object().context("no paths")? {
        let content = &operations["post"]["requestBody"]["content"]["application/json"];
        let several =
            content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
        for example in several.chain(content.get("example")) {
            sent += 1;
            let (url, body) = (format!("{}{path}", stack.host.url), example.to_string());
            let token = match path.as_str() {
                "/operator" => Some(ADAS_TOKEN.to_owned()),
                "/heartbeat" => Some(postgrest::user_key(OWNER)?),
                _ => None,
            };
            let request = match token {
                Some(token) => Request::post(&url)
                    .header("authorization", format!("Bearer {token}"))
                    .header("content-type", "application/json"),
                None => webhook::signed(&url, &name_of(example, sent), body.as_bytes())?,
            };
            let reply = reply(request.body(body.into())?).await?;
            ensure!(reply.status.is_success(), "{path} {example}: {}", reply.body);
        }
    }
    assert!(sent > 15, "only {sent} examples were found");
    Ok(())
}

#[test]
fn the_reply_check_refuses_a_reply_that_the_document_does_not_describe() -> Result<()> {
    let reply = |status: u16, content_type: &str, body: Value| -> Result<Reply> {
        let headers = [("content-type", content_type)];
        let headers =
            headers.into_iter().map(|(n, v)| Ok((n.parse()?, v.parse()?))).collect::<Result<_>>()?;
        Ok(Reply { status: status.try_into()?, headers, body })
    };
    let skipped = json!({"status": "skipped", "reason": "unhandled_table", "detail": "…"});
    check(&Method::POST, "/execute-trade", &reply(200, "application/json", skipped.clone())?)?;
    let mut chatty = skipped.clone();
    chatty["secret"] = json!("pf_live");
    let html = reply(200, "text/html", skipped.clone())?;
    for wrong in [reply(200, "application/json", chatty)?, reply(201, "application/json", skipped)?, html] {
        assert!(check(&Method::POST, "/execute-trade", &wrong).is_err(), "the check accepts {wrong:?}");
    }
    Ok(())
}
