//! Reads tables and views, and describes the schema: as much of both as tests need.
//!
//! A query may have `select` with names of columns, `order`, `limit`, `offset`, and filters by comparison.

use super::{error::Error, sql};
use http::StatusCode;

/// Describes every function and relation of `public` that the caller's role may use, as an OpenAPI document.
pub(super) const DESCRIPTION: &str = "select json_build_object( \
    'swagger', '2.0', \
    'info', json_build_object('title', 'standard public schema', 'version', '12.2.12'), \
    'paths', coalesce((select json_object_agg(path, json_build_object(method, '{}'::json)) from ( \
      select '/' || c.relname as path, 'get' as method from pg_class c \
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'm', 'f', 'p') \
        and has_any_column_privilege(c.oid, 'select') \
      union \
      select '/rpc/' || p.proname, 'post' from pg_proc p \
      where p.pronamespace = 'public'::regnamespace and p.prokind = 'f' \
        and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype) \
        and has_function_privilege(p.oid, 'execute')) as paths), '{}'))::text";

/// Gives a filter's operator and its SQL; of `column=eq.x`, the part before the point.
pub(super) fn operator(value: &str) -> Option<(&'static str, &str)> {
    let (name, value) = value.split_once('.')?;
    let operator = match name {
        "eq" => "=",
        "neq" => "<>",
        "gt" => ">",
        "gte" => ">=",
        "lt" => "<",
        "lte" => "<=",
        "is" => "is",
        _ => return None,
    };
    Some((operator, value))
}

/// Makes the SQL that reads a table for a query. It gives the body, and the number of rows.
pub(super) fn read(table: &str, query: &[(String, String)]) -> Result<String, Error> {
    let relation = format!("public.{}", sql::identifier(table));
    let mut columns = format!("{relation}.*");
    let (mut filters, mut order, mut range) = (Vec::new(), Vec::new(), String::new());
    for (name, value) in query {
        match name.as_str() {
            "select" if value == "*" => {}
            "select" => {
                let names: Option<Vec<String>> = value.split(',').map(column).collect();
                columns = names.ok_or_else(|| unreadable("select", value))?.join(", ");
            }
            "order" => {
                order = value
                    .split(',')
                    .map(ordering)
                    .collect::<Option<_>>()
                    .ok_or_else(|| unreadable("order", value))?
            }
            "limit" | "offset" => {
                let count: u64 = value.parse().map_err(|_| unreadable(name, value))?;
                range.push_str(&format!(" {name} {count}"));
            }
            _ => filters.push(filter(&relation, name, value).ok_or_else(|| unreadable("filter", value))?),
        }
    }
    let filters =
        if filters.is_empty() { String::new() } else { format!(" where {}", filters.join(" and ")) };
    let order = if order.is_empty() { String::new() } else { format!(" order by {}", order.join(", ")) };
    Ok(format!(
        "with pgrst_source as (select {columns} from {relation}{filters}{order}{range}) \
         select coalesce(json_agg(_postgrest_t), '[]')::text, count(_postgrest_t) \
         from (select * from pgrst_source) as _postgrest_t"
    ))
}

/// Reads a column's name. Casts, paths into JSON and tables within are not served.
fn column(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (!name.is_empty() && name.chars().all(plain)).then(|| sql::identifier(name))
}

fn ordering(order: &str) -> Option<String> {
    let mut words = order.split('.');
    let mut sql = column(words.next()?)?;
    for word in words {
        sql.push_str(match word {
            "asc" => " asc",
            "desc" => " desc",
            "nullsfirst" => " nulls first",
            "nullslast" => " nulls last",
            _ => return None,
        });
    }
    Some(sql)
}

fn filter(relation: &str, name: &str, value: &str) -> Option<String> {
    let (operator, value) = operator(value)?;
    let value = match (operator, value) {
        ("is", "null" | "true" | "false" | "unknown") => value.to_owned(),
        ("is", _) => return None,
        _ => sql::literal(value),
    };
    Some(format!("{relation}.{} {operator} {value}", column(name)?))
}

fn unreadable(what: &str, value: &str) -> Error {
    let message = format!("\"failed to parse {what} ({value})\" (line 1, column 1)");
    Error::new(StatusCode::BAD_REQUEST, "PGRST100", &message)
}
