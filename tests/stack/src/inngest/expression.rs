//! The expressions of waits: `event.<path> == async.<path>`, joined by `&&`. `event` is the event that started the run,
//! `async` the one that arrives.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Returns whether an expression holds. Fails for one of another form.
pub fn holds(expression: &str, event: &Value, arriving: &Value) -> Result<bool> {
    let mut all = true;
    for part in expression.split("&&") {
        let (left, right) = part.split_once("==").with_context(|| format!("{part:?} is no comparison"))?;
        all &= value(left, event, arriving)? == value(right, event, arriving)?;
    }
    Ok(all)
}

fn value(path: &str, event: &Value, arriving: &Value) -> Result<Option<Value>> {
    let mut names = path.trim().split('.');
    let mut value = match names.next() {
        Some("event") => Some(event),
        Some("async") => Some(arriving),
        _ => bail!("{path:?} begins with neither `event` nor `async`"),
    };
    for name in names {
        value = value.and_then(|value| value.get(name));
    }
    Ok(value.cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_paths_of_both_events_are_compared() -> Result<()> {
        let event = json!({ "data": { "escrow_id": "e1", "n": 1 } });
        for (arriving, expected) in [
            (json!({ "data": { "escrow_id": "e1" } }), true),
            (json!({ "data": { "escrow_id": "e2" } }), false),
            (json!({ "data": {} }), false),
        ] {
            assert_eq!(holds("event.data.escrow_id == async.data.escrow_id", &event, &arriving)?, expected);
        }
        assert!(holds("event.data.n > 1", &event, &event).is_err());
        assert!(holds("data.n == data.n", &event, &event).is_err());
        Ok(())
    }
}
