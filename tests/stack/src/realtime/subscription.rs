//! Who wants which changes of tables: the binding of a join, read as Realtime reads it.

use super::{hub::Delivery, pgoutput::Action, token::Claims};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

/// The operators of filters, and their SQL.
const OPERATORS: [(&str, &str); 12] = [
    ("eq", "="),
    ("neq", "<>"),
    ("lt", "<"),
    ("lte", "<="),
    ("gt", ">"),
    ("gte", ">="),
    ("in", "in"),
    ("like", "like"),
    ("ilike", "ilike"),
    ("match", "~"),
    ("imatch", "~*"),
    ("isdistinct", "is distinct from"),
];

/// A binding that was asked for.
pub(super) struct Wanted {
    pub(super) number: u64,
    pub(super) channel: u64,
    /// The channel's name, for messages about it.
    pub(super) topic: String,
    pub(super) binding: Value,
    pub(super) claims: Claims,
    pub(super) sender: UnboundedSender<Delivery>,
}

/// A binding that is in force.
pub(super) struct Subscription {
    pub(super) number: u64,
    pub(super) channel: u64,
    pub(super) sender: UnboundedSender<Delivery>,
    pub(super) claims: Claims,
    pub(super) asked: Asked,
    /// The tables' ids.
    pub(super) tables: Vec<u32>,
}

/// What a binding asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) event: Option<Action>,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) filters: Vec<Filter>,
    pub(super) select: Option<Vec<String>>,
}

/// A condition on a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) column: String,
    pub(super) operator: &'static str,
    pub(super) value: String,
    pub(super) negated: bool,
}

impl Subscription {
    /// Tells whether it is about a change of a table.
    pub(super) fn is_about(&self, table: u32, action: Action) -> bool {
        self.tables.contains(&table) && self.asked.event.is_none_or(|event| event == action)
    }
}

impl Asked {
    /// Reads a binding. The error is the one that the `system` message has.
    pub(super) fn read(binding: &Value) -> Result<Self, String> {
        let text = |name: &str| binding[name].as_str().map(str::to_owned);
        let event = match text("event").unwrap_or_default().to_ascii_uppercase().as_str() {
            "INSERT" => Some(Action::Insert),
            "UPDATE" => Some(Action::Update),
            "DELETE" => Some(Action::Delete),
            _ => None,
        };
        let (schema, table) = match (text("schema"), text("table")) {
            (None, None) => {
                return Err(
                    "No subscription params provided. Please provide at least a `schema` or `table` to \
                            subscribe to: <redacted>"
                        .to_owned(),
                );
            }
            (schema, table) => {
                (schema.unwrap_or_else(|| "public".to_owned()), table.unwrap_or_else(|| "*".to_owned()))
            }
        };
        let filters = filters(binding["filter"].as_str().unwrap_or_default())
            .map_err(|why| format!("Error parsing `filter` params: {why}"))?;
        let names = |names: &Vec<Value>| names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let select = binding["select"].as_array().map(names).filter(|names: &Vec<String>| !names.is_empty());
        Ok(Self { event, schema, table, filters, select })
    }

    /// Describes it as Realtime's errors do.
    pub(super) fn describe(&self) -> String {
        let event = self.event.map_or("*", Action::name);
        format!(
            "event: {event}, schema: {}, table: {}, filters: {:?}, select: {:?}",
            self.schema, self.table, self.filters, self.select
        )
    }
}

/// Reads filters. Commas divide them, outside parentheses and quotes.
fn filters(text: &str) -> Result<Vec<Filter>, String> {
    if text.trim().is_empty() {
        return Ok(vec![]);
    }
    let (mut parts, mut depth, mut quoted) = (vec![String::new()], 0_u32, false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(character);
        }
    }
    parts.iter().map(|part| filter(part.trim())).collect()
}

fn filter(text: &str) -> Result<Filter, String> {
    let (column, rest) = text.split_once('=').ok_or_else(|| format!("[{text:?}]"))?;
    let (negated, rest) = rest.strip_prefix("not.").map_or((false, rest), |rest| (true, rest));
    let (operator, value) = rest.split_once('.').ok_or_else(|| format!("[{rest:?}]"))?;
    let known = OPERATORS.iter().find(|(name, _)| *name == operator);
    let (_, operator) = known.ok_or_else(|| format!("[{operator:?}, {value:?}]"))?;
    let value = if *operator == "in" {
        let inner = value.strip_prefix('(').and_then(|value| value.strip_suffix(')'));
        let inner = inner.ok_or("`in` filter value must be wrapped by parentheses")?;
        format!("{{{inner}}}")
    } else {
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        inner.unwrap_or(value).to_owned()
    };
    Ok(Filter { column: column.to_owned(), operator, value, negated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bindings_are_read_as_realtime_reads_them() {
        let asked = Asked::read(&json!({ "event": "insert", "schema": "public", "table": "t",
            "filter": "a=gte.1,b=not.in.(x,y),c=eq.\"1,2\"" }));
        let filter = |column: &str, operator, value: &str, negated| Filter {
            column: column.to_owned(),
            operator,
            value: value.to_owned(),
            negated,
        };
        assert_eq!(
            asked.map(|asked| (asked.event, asked.filters)),
            Ok((
                Some(Action::Insert),
                vec![
                    filter("a", ">=", "1", false),
                    filter("b", "in", "{x,y}", true),
                    filter("c", "=", "1,2", false)
                ]
            ))
        );
        for filter in ["a", "a=1", "a=foo.1", "a=in.1", "a=eq.1,"] {
            let error = Asked::read(&json!({ "table": "t", "filter": filter }));
            assert!(error.is_err_and(|why| why.starts_with("Error parsing `filter` params")), "{filter}");
        }
        assert!(Asked::read(&json!({ "event": "*" })).is_err());
    }
}
