//! docs/asyncapi.json is correct: it describes every type of the feed and every event that any test gets, and it is a valid
//! AsyncAPI document.

use crate::clients;
use anyhow::{Context, Result, ensure};
use jsonschema::{Draft, Validator};
use serde_json::{Value, json};
use stack::{
    postgres::{Cluster, OWNER},
    repository,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    sync::{LazyLock, Mutex, PoisonError},
};
use tokio_postgres::Client;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = fs::read_to_string(repository().join("docs/asyncapi.json")).expect("docs/asyncapi.json");
    serde_json::from_str(&text).expect("docs/asyncapi.json is JSON")
});

/// Compiled validators, by the name of their schema.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Validator>>> = LazyLock::new(Mutex::default);

/// The meta-schema of AsyncAPI 3.0, from the root of the clients' libraries. scripts/lib/toolchain.sh installs it.
const META_SCHEMA: &str = "node_modules/@asyncapi/specs/schemas/3.0.0.json";

/// The messages that are no event: they carry events or results.
const CARRIERS: [&str; 5] = ["delivery", "inserted", "page", "signal", "trade_result"];

/// Checks an event, as it is in a page, in a webhook's body or in the column `payload`, against the schema of its type. Fails
/// with the differences. It is stricter than the document for clients: an event has no member that its schema does not name.
pub fn check(event: &Value) -> Result<()> {
    let name = event["type"].as_str().context("an event has no type")?;
    let schema = DOCUMENT["components"]["schemas"].get(name);
    ensure!(!CARRIERS.contains(&name), "{name} is no type of events");
    let schema = schema.with_context(|| format!("docs/asyncapi.json does not describe {name}"))?;
    let unknown: Vec<&String> = event
        .as_object()
        .into_iter()
        .flat_map(|event| event.keys())
        .filter(|key| schema["properties"].get(*key).is_none())
        .collect();
    ensure!(unknown.is_empty(), "docs/asyncapi.json does not describe {unknown:?} of {name}: {event}");
    matches(name, event)
}

/// Checks the payload of a broadcast: an event with the identity that the feed gave it.
pub fn check_broadcast(payload: &Value) -> Result<()> {
    let mut event = payload.clone();
    let id = event.as_object_mut().and_then(|event| event.remove("id"));
    ensure!(id.is_some_and(|id| id.is_i64()), "a broadcast does not name its event: {payload}");
    check(&event)
}

/// Checks a message on an owner's topic. It is stricter than the document for clients, too: a result has no member that the
/// document does not name.
pub fn check_results(payload: &Value) -> Result<()> {
    let described = &DOCUMENT["components"]["schemas"]["TradeResult"]["properties"];
    let results = payload["results"].as_array().context("a message has no results")?;
    for key in results.iter().filter_map(Value::as_object).flat_map(|result| result.keys()) {
        ensure!(described.get(key).is_some(), "docs/asyncapi.json does not describe {key}: {payload}");
    }
    matches("TradeResults", payload)
}

/// Checks a signal on an owner's topic. A signal has no member that the document does not name.
pub fn check_signal(payload: &Value) -> Result<()> {
    let described = &DOCUMENT["components"]["schemas"]["SignalTold"]["properties"];
    for key in payload.as_object().context("a signal is no object")?.keys() {
        ensure!(described.get(key).is_some(), "docs/asyncapi.json does not describe {key}: {payload}");
    }
    matches("SignalTold", payload)
}

/// Checks a value against a schema of the document.
fn matches(schema: &str, value: &Value) -> Result<()> {
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let validator = validators.entry(schema.to_owned()).or_insert_with(|| {
        let whole =
            json!({ "$ref": format!("#/components/schemas/{schema}"), "components": DOCUMENT["components"] });
        // AsyncAPI's schemas are those of draft 7, where a reference hides what is beside it.
        jsonschema::options()
            .with_draft(Draft::Draft7)
            .should_validate_formats(true)
            .build(&whole)
            .expect("a schema")
    });
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(errors.is_empty(), "no {schema} of docs/asyncapi.json: {errors:?}\n{value}");
    Ok(())
}

/// Lists the document's types of events with their summaries.
fn types() -> Result<BTreeMap<String, String>> {
    let messages = DOCUMENT["components"]["messages"].as_object().context("no messages")?;
    let events = messages.iter().filter(|(name, _)| !CARRIERS.contains(&name.as_str()));
    events
        .map(|(name, message)| {
            let summary = message["summary"].as_str().with_context(|| format!("{name} has no summary"))?;
            Ok((name.clone(), summary.to_owned()))
        })
        .collect()
}

/// Reads the types that a database fires.
async fn fired_by(owner: &Client) -> Result<BTreeMap<String, String>> {
    let rows = owner.query("select type, description from public.event_types", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_asyncapi_document_lists_the_types_of_the_feed_and_no_other() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.migrate(OWNER).await?;
    let owner = cluster.connect(OWNER).await?;
    let mut listed = types()?;
    let without = fired_by(&owner).await?;
    cluster.migrate_with(OWNER, &["--with", "frames"]).await?;
    assert_eq!(fired_by(&owner).await?, listed);
    listed.retain(|name, _| !name.starts_with("frame."));
    assert_eq!(without, listed, "a database without frames fires no event of frames");
    let columns = "select array_agg(attname::text) from pg_attribute \
        where attrelid = 'public.frame_events'::regclass and attnum > 0 and not attisdropped";
    let columns: Vec<String> = owner.query_one(columns, &[]).await?.get(0);
    let row = DOCUMENT["components"]["schemas"]["Row"]["properties"].as_object().context("no row")?;
    assert_eq!(
        row.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        columns.iter().map(String::as_str).collect()
    );
    Ok(())
}

#[test]
fn each_type_has_a_message_a_schema_and_an_example_on_every_way() -> Result<()> {
    let components = &DOCUMENT["components"];
    let types: Vec<String> = types()?.into_keys().collect();
    for name in &types {
        let message = &components["messages"][name];
        let schema = &components["schemas"][name];
        assert_eq!(message["payload"]["$ref"], format!("#/components/schemas/{name}"));
        assert_eq!((&message["name"], &schema["properties"]["type"]["const"]), (&json!(name), &json!(name)));
        let examples = message["examples"].as_array().context("no examples")?;
        ensure!(!examples.is_empty(), "{name} has no example");
        for example in examples {
            check(&example["payload"])?;
            matches("Event", &example["payload"])?;
        }
        assert_eq!(
            DOCUMENT["channels"]["topic"]["messages"][name]["$ref"],
            format!("#/components/messages/{name}")
        );
    }
    let named = |list: &Value, of: fn(&Value) -> &Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().filter_map(|item| Some(of(item).as_str()?.to_owned())).collect()
    };
    assert_eq!(
        named(&components["schemas"]["Event"]["oneOf"], |one| &one["$ref"]),
        types.iter().map(|name| format!("#/components/schemas/{name}")).collect()
    );
    let row = &components["schemas"]["Row"]["properties"];
    assert_eq!(named(&row["type"]["enum"], |one| one), types.iter().cloned().collect());
    assert_eq!(
        DOCUMENT["channels"]["topic"]["messages"].as_object().map(serde_json::Map::len),
        Some(types.len())
    );
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    Ok(())
}

#[test]
fn the_example_of_results_matches_and_a_wrong_result_does_not() -> Result<()> {
    let right = DOCUMENT["components"]["messages"]["trade_result"]["examples"][0]["payload"].clone();
    check_results(&right)?;
    let wrong = [
        ("state", json!("pending")),
        ("wager", json!("10")),
        ("reference", json!("a/b")),
        ("agent_id", Value::Null),
        ("bet_id", json!("b-1")),
    ];
    for (member, value) in wrong {
        let mut message = right.clone();
        message["results"][0][member] = value;
        assert!(check_results(&message).is_err(), "the check accepts {message}");
    }
    assert!(check_results(&json!({ "results": [] })).is_err(), "the check accepts a message without results");
    Ok(())
}

#[test]
fn the_example_of_a_signal_matches_and_a_wrong_signal_does_not() -> Result<()> {
    let right = DOCUMENT["components"]["messages"]["signal"]["examples"][0]["payload"].clone();
    check_signal(&right)?;
    for (member, value) in [
        ("signal_id", json!("x")),
        ("kind", json!("gossip")),
        ("confidence", json!(1.01)),
        ("agent_ids", json!("a")),
        ("owner", json!("o")),
    ] {
        let mut message = right.clone();
        message[member] = value;
        assert!(check_signal(&message).is_err(), "the check accepts {message}");
    }
    Ok(())
}

#[test]
fn the_asyncapi_document_is_valid_for_version_3_0() -> Result<()> {
    let path = clients::folder()?.join(META_SCHEMA);
    let schema: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let validator =
        jsonschema::options().with_draft(Draft::Draft7).build(&schema).context("the meta-schema")?;
    let errors: Vec<String> =
        validator.iter_errors(&DOCUMENT).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(errors.is_empty(), "docs/asyncapi.json is no AsyncAPI document: {errors:#?}");
    let mut wrong = DOCUMENT.clone();
    wrong["operations"]["broadcast"]["action"] = json!("shout");
    ensure!(!validator.is_valid(&wrong), "the meta-schema accepts everything");
    // The meta-schema does not follow references.
    let mut references = Vec::new();
    collect(&DOCUMENT, &mut references);
    ensure!(references.len() > 100, "only {} references were found", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').context("a reference leads out of the document")?;
        ensure!(DOCUMENT.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    Ok(())
}

/// Collects the targets of all references in a value.
fn collect<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            into.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| collect(value, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        _ => {}
    }
}

#[test]
fn the_event_check_refuses_an_event_that_the_document_does_not_describe() -> Result<()> {
    // The contract's own example.
    let right = json!({
        "type": "frame.submission.status_changed",
        "tenant_id": "3f0c2f6e-0f0a-4b0e-9a52-6a5d7c1d9e10",
        "submission_id": "8c1f5a52-6d5b-4a5e-8d39-0b7a6f3c2d11",
        "agent_id": "1a2b3c4d-5e6f-4a5b-8c7d-9e0f1a2b3c4d",
        "channel_id": "5b1d7f90-2c3e-4f6a-8b7c-9d0e1f2a3b4c",
        "status": "needs_review",
        "occurred_at": "2026-05-21T10:00:00Z"
    });
    check(&right)?;
    let wrong = [
        ("type", json!("frame.submission.moved")),
        ("type", json!("page")),
        ("type", json!("frame.promoted")),
        ("tenant_id", json!("ours")),
        ("submission_id", Value::Null),
        ("status", json!("lost")),
        ("status", json!(1)),
        ("occurred_at", json!("2026-05-21T10:00:00+02:00")),
        ("occurred_at", json!("2026-13-21T10:00:00Z")),
        ("secret", json!("pf_live")),
    ];
    for (member, value) in wrong {
        let mut event = right.clone();
        event[member] = value;
        assert!(check(&event).is_err(), "the check accepts {event}");
    }
    for member in right.as_object().into_iter().flat_map(|event| event.keys()) {
        let mut event = right.clone();
        event.as_object_mut().map(|event| event.remove(member));
        assert!(check(&event).is_err(), "the check accepts an event without {member}");
    }
    Ok(())
}
