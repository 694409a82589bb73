//! Who is tracked on one presence topic: the agents that clients of their owner have named. What they track is their own
//! word, so everything is bounded, and what is no agent's name is left out.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Most entries of a topic: as many as the database takes in one report.
const ENTRIES_LIMIT: usize = 1000;

/// Longest name of an agent, in bytes: as in the database.
const NAME_LIMIT_BYTES: usize = 128;

/// The entries of one topic, by the server's reference of each.
#[derive(Debug, Default)]
pub(crate) struct Tracked(BTreeMap<String, String>);

impl Tracked {
    /// Takes the whole state. Gives how many entries were dropped.
    pub(crate) fn replace(&mut self, state: &Value) -> usize {
        self.0.clear();
        self.add(state)
    }

    /// Takes those who have come and gone. Gives how many entries were dropped.
    pub(crate) fn change(&mut self, diff: &Value) -> usize {
        let none = Value::Null;
        // An entry that changes goes with its old reference and comes with a new one.
        for (_, meta) in metas(diff.get("leaves").unwrap_or(&none)) {
            if let Some(reference) = reference(meta) {
                self.0.remove(reference);
            }
        }
        self.add(diff.get("joins").unwrap_or(&none))
    }

    fn add(&mut self, joins: &Value) -> usize {
        let mut dropped = usize::from(!joins.is_object() && !joins.is_null());
        for (key, meta) in metas(joins) {
            let agent = meta.get("agent_id").and_then(Value::as_str).unwrap_or(key);
            let fits = !agent.is_empty() && agent.len() <= NAME_LIMIT_BYTES && !agent.contains('\0');
            match reference(meta) {
                Some(reference) if fits && self.0.len() < ENTRIES_LIMIT => {
                    self.0.insert(reference.to_owned(), agent.to_owned());
                }
                _ => dropped = dropped.saturating_add(1),
            }
        }
        dropped
    }

    /// The agents, each once.
    pub(crate) fn agents(&self) -> BTreeSet<&str> {
        self.0.values().map(String::as_str).collect()
    }
}

/// The entries of `{key: {"metas": [entry, …]}}`, each with its key.
fn metas(state: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let keys = state.as_object().into_iter().flatten();
    keys.flat_map(|(key, value)| {
        let metas = value.get("metas").and_then(Value::as_array).into_iter().flatten();
        metas.map(move |meta| (key.as_str(), meta))
    })
}

fn reference(meta: &Value) -> Option<&str> {
    meta.get("phx_ref").and_then(Value::as_str).filter(|text| text.len() <= NAME_LIMIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agents(tracked: &Tracked) -> Vec<&str> {
        tracked.agents().into_iter().collect()
    }

    #[test]
    fn an_agent_is_tracked_until_its_last_entry_is_gone() {
        let mut tracked = Tracked::default();
        let state = json!({
            "one": { "metas": [{ "phx_ref": "a", "agent_id": "agent-1" }, { "phx_ref": "b", "agent_id": "agent-1" }] },
            "agent-2": { "metas": [{ "phx_ref": "c" }] },
        });
        assert_eq!(tracked.replace(&state), 0);
        assert_eq!(agents(&tracked), ["agent-1", "agent-2"]);
        let gone = |reference: &str| json!({ "joins": {}, "leaves": { "x": { "metas": [{ "phx_ref": reference }] } } });
        tracked.change(&gone("a"));
        assert_eq!(agents(&tracked), ["agent-1", "agent-2"]);
        tracked.change(&gone("b"));
        assert_eq!(agents(&tracked), ["agent-2"]);
        let update = json!({
            "joins": { "agent-2": { "metas": [{ "phx_ref": "d", "phx_ref_prev": "c", "agent_id": "agent-3" }] } },
            "leaves": { "agent-2": { "metas": [{ "phx_ref": "c" }] } },
        });
        tracked.change(&update);
        assert_eq!(agents(&tracked), ["agent-3"]);
        tracked.replace(&json!({}));
        assert!(agents(&tracked).is_empty());
    }

    #[test]
    fn what_cannot_be_an_agent_is_dropped_and_the_rest_stays() {
        let mut tracked = Tracked::default();
        let state = json!({
            "long": { "metas": [{ "phx_ref": "a", "agent_id": "x".repeat(129) }] },
            "empty": { "metas": [{ "phx_ref": "b", "agent_id": "" }] },
            "without": { "metas": [{ "agent_id": "agent-1" }] },
            "number": { "metas": [{ "phx_ref": 7 }, 7, null] },
            "nothing": null,
            "agent-2": { "metas": [{ "phx_ref": "z", "agent_id": ["a"] }] },
        });
        assert_eq!(tracked.replace(&state), 6);
        assert_eq!(agents(&tracked), ["agent-2"]);
        for hostile in
            [json!([]), json!("x"), json!({ "joins": [], "leaves": 7 }), json!({ "leaves": { "a": [] } })]
        {
            tracked.change(&hostile);
        }
        assert_eq!(agents(&tracked), ["agent-2"]);
        let many: serde_json::Map<String, Value> = (0..3000)
            .map(|n| (format!("agent-{n}"), json!({ "metas": [{ "phx_ref": n.to_string() }] })))
            .collect();
        assert_eq!(tracked.replace(&Value::Object(many)), 2000);
        assert_eq!(tracked.agents().len(), ENTRIES_LIMIT);
    }
}
