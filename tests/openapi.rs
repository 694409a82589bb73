//! docs/openapi.json is correct: it describes every reply that any test gets, and it lists the router's paths.

use crate::front_door::{OPERATIONS, Reply};
use anyhow::{Context, Result, ensure};
use http::Method;
use jsonschema::{Draft, Validator};
use purple_flea_edge::http::route::{self, Route};
use serde_json::{Value, json};
use stack::repository;
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    sync::{LazyLock, Mutex, PoisonError},
};

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
    let path = DOCUMENT["paths"].get(path);
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
        let expected = route.method().0.as_str().to_ascii_lowercase();
        assert_eq!(
            operations.as_object().context("no operations")?.keys().map(String::as_str).collect::<Vec<_>>(),
            [expected.as_str()]
        );
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
