//! Who is present on a topic, in the words of Phoenix: for each key the metas of all channels that track it.

use serde_json::{Map, Value, json};

/// All that is tracked on one topic.
#[derive(Default)]
pub(super) struct Presences {
    tracked: Vec<Tracked>,
}

struct Tracked {
    channel: u64,
    key: String,
    meta: Value,
}

impl Presences {
    pub(super) fn is_empty(&self) -> bool {
        self.tracked.is_empty()
    }

    /// Gives everything, grouped by key.
    pub(super) fn state(&self) -> Value {
        let mut state = Map::new();
        for one in &self.tracked {
            let entry = state.entry(one.key.clone()).or_insert_with(|| json!({ "metas": [] }));
            if let Some(metas) = entry["metas"].as_array_mut() {
                metas.push(one.meta.clone());
            }
        }
        state.into()
    }

    /// Tracks a channel, or changes what it tracks. Gives the difference.
    pub(super) fn track(&mut self, channel: u64, key: &str, meta: &Value) -> Value {
        let mut meta = meta.clone();
        meta["phx_ref"] = format!("{:016x}", fastrand::u64(..)).into();
        let old = self.tracked.iter_mut().find(|one| one.channel == channel);
        let leaves = match old {
            Some(old) => {
                meta["phx_ref_prev"] = old.meta["phx_ref"].clone();
                json!({ key: { "metas": [std::mem::replace(&mut old.meta, meta.clone())] } })
            }
            None => {
                self.tracked.push(Tracked { channel, key: key.to_owned(), meta: meta.clone() });
                json!({})
            }
        };
        json!({ "joins": { key: { "metas": [meta] } }, "leaves": leaves })
    }

    /// Forgets a channel. Gives the difference, if it was tracked.
    pub(super) fn untrack(&mut self, channel: u64) -> Option<Value> {
        let place = self.tracked.iter().position(|one| one.channel == channel)?;
        let one = self.tracked.remove(place);
        Some(json!({ "joins": {}, "leaves": { one.key: { "metas": [one.meta] } } }))
    }
}
