//! Reads and changes tables and views, and describes the schema: as much of it as tests and clients' libraries need.
//!
//! A query may have `select` with names of columns, `columns`, `order`, `limit`, `offset`, and filters by comparison.

use super::{
    error::Error,
    request::{Arguments, Returns},
    sql,
};
use http::StatusCode;
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// Finds a column that a table does not have.
const NO_SUCH_COLUMN: &str = "select name from pg_class c, unnest($2::text[]) as name \
    where c.relnamespace = 'public'::regnamespace and c.relname = $1 and not exists ( \
      select from pg_attribute a where a.attrelid = c.oid and a.attname = name and a.attnum > 0 and not a.attisdropped) \
    order by name limit 1";

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

/// The parts of a query, as SQL.
struct Query {
    /// The selected columns.
    columns: String,
    /// The condition, with its keyword.
    filters: String,
    /// The order and the range.
    rest: String,
    /// The columns that a change sets, if the query names them.
    given: Option<BTreeSet<String>>,
}

impl Query {
    fn read(relation: &str, query: &[(String, String)]) -> Result<Self, Error> {
        let mut columns = format!("{relation}.*");
        let (mut filters, mut order, mut range, mut given) = (Vec::new(), Vec::new(), String::new(), None);
        for (name, value) in query {
            match name.as_str() {
                "select" if value == "*" => {}
                "select" => {
                    // A change has columns of the same names in its values.
                    let qualified = |name| Some(format!("{relation}.{}", column(name)?));
                    let names: Option<Vec<String>> = value.split(',').map(qualified).collect();
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
                "columns" => {
                    given = Some(value.split(',').map(|name| name.trim_matches('"').to_owned()).collect())
                }
                "on_conflict" => return Err(Error::not_served("upserts")),
                _ => filters.push(filter(relation, name, value)?),
            }
        }
        let filters =
            if filters.is_empty() { String::new() } else { format!(" where {}", filters.join(" and ")) };
        let order = if order.is_empty() { String::new() } else { format!(" order by {}", order.join(", ")) };
        Ok(Self { columns, filters, rest: order + &range, given })
    }
}

/// Makes the SQL that reads a table for a query. It gives the body, and the number of rows.
pub(super) fn read(table: &str, query: &[(String, String)], one_row: bool) -> Result<String, Error> {
    let relation = relation(table);
    let Query { columns, filters, rest, .. } = Query::read(&relation, query)?;
    Ok(counted(&format!("select {columns} from {relation}{filters}{rest}"), one_row))
}

/// Makes the SQL that gives the rows of a source as the body, and their number.
fn counted(source: &str, one_row: bool) -> String {
    let body = if one_row {
        "coalesce(json_agg(_postgrest_t) -> 0, 'null')"
    } else {
        "coalesce(json_agg(_postgrest_t), '[]')"
    };
    format!(
        "with pgrst_source as ({source}) select {body}::text, count(_postgrest_t) \
         from (select * from pgrst_source) as _postgrest_t"
    )
}

fn relation(table: &str) -> String {
    format!("public.{}", sql::identifier(table))
}

/// A change of a table: rows that are inserted, or values for the rows that fit the query.
pub(super) struct Change {
    pub(super) table: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) values: Arguments,
    /// Whether the change inserts rows. Otherwise it updates rows.
    pub(super) inserts: bool,
}

impl Change {
    /// Makes the SQL of the change, with the values as its parameter. It gives the body, and the number of rows.
    pub(super) fn sql(&self, returns: Returns, one_row: bool) -> Result<String, Error> {
        let relation = relation(&self.table);
        let Query { columns, filters, rest, .. } = Query::read(&relation, &self.query)?;
        if !rest.is_empty() {
            return Err(Error::not_served("a change of a part of the rows"));
        }
        let names: Vec<String> = self.columns()?.iter().map(|name| sql::identifier(name)).collect();
        if names.is_empty() {
            return Err(Error::not_served("a change without values"));
        }
        let records = if self.values.is_array() { "json_populate_recordset" } else { "json_populate_record" };
        let given = format!("{records}(null::{relation}, $1::text::json) as pgrst_body");
        let change = if self.inserts {
            let columns = names.join(", ");
            let values: Vec<String> = names.iter().map(|name| format!("pgrst_body.{name}")).collect();
            format!("insert into {relation} ({columns}) select {} from {given}", values.join(", "))
        } else {
            let values: Vec<String> =
                names.iter().map(|name| format!("{name} = pgrst_body.{name}")).collect();
            format!(
                "update {relation} set {} from (select * from {given} limit 1) as pgrst_body{filters}",
                values.join(", ")
            )
        };
        // Without a body the caller need not be allowed to read the table.
        let returned = if returns == Returns::Rows { columns } else { "1 as changed".to_owned() };
        Ok(counted(&format!("{change} returning {returned}"), one_row))
    }

    /// Gives the names of the columns that the change sets.
    fn columns(&self) -> Result<BTreeSet<String>, Error> {
        let given = Query::read(&relation(&self.table), &self.query)?.given;
        Ok(given.unwrap_or_else(|| self.values.names.clone()))
    }

    /// Refuses a column that the table does not have.
    pub(super) async fn check_columns(&self, client: &Client) -> Result<(), Error> {
        let columns: Vec<String> = self.columns()?.into_iter().collect();
        let missing = client.query_opt(NO_SUCH_COLUMN, &[&self.table, &columns]).await;
        match missing.map_err(|error| Error::connection_lost(error.to_string()))? {
            None => Ok(()),
            Some(row) => {
                let (name, table): (String, _) = (row.get(0), &self.table);
                let message = format!("Could not find the '{name}' column of '{table}' in the schema cache");
                Err(Error::new(StatusCode::BAD_REQUEST, "PGRST204", &message))
            }
        }
    }
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

fn filter(relation: &str, name: &str, given: &str) -> Result<String, Error> {
    let (Some(column), Some((kind, _))) = (column(name), given.split_once('.')) else {
        return Err(unreadable("filter", given));
    };
    let Some((operator, value)) = operator(given) else {
        return Err(Error::not_served(&format!("filters by {kind}")));
    };
    let value = match (operator, value) {
        ("is", "null" | "true" | "false" | "unknown") => value.to_owned(),
        ("is", _) => return Err(unreadable("filter", given)),
        _ => sql::literal(value),
    };
    Ok(format!("{relation}.{column} {operator} {value}"))
}

fn unreadable(what: &str, value: &str) -> Error {
    let message = format!("\"failed to parse {what} ({value})\" (line 1, column 1)");
    Error::new(StatusCode::BAD_REQUEST, "PGRST100", &message)
}
