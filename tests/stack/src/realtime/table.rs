//! What Realtime asks the database about a change: the table's columns, the row as JSON, whether a filter passes, and
//! whether the subscriber may see the row, by its primary key, as it is now.

use super::{
    pgoutput::{Cell, Change},
    subscription::Filter,
    token::Claims,
};
use crate::postgrest::sql::{identifier, literal};
use anyhow::{Context, Result};
use serde_json::Value;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

/// The largest row, in bytes. Of a larger one only short values are told.
const ROW_LIMIT_BYTES: usize = 1_048_576;

/// The longest value of a row that is too large, in bytes.
const SHORT_BYTES: usize = 64;

/// A table, as a role sees it.
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) has_policies: bool,
}

/// A column.
pub(super) struct Column {
    pub(super) name: String,
    /// The type's own name, which clients get.
    pub(super) type_name: String,
    /// The type as SQL writes it.
    sql_type: String,
    pub(super) is_key: bool,
    pub(super) is_readable: bool,
}

/// A text for each column that has one, in the table's order.
pub(super) type Row<'a> = Vec<(&'a Column, Option<&'a str>)>;

impl Table {
    /// Reads the table of a change, with a role's privileges.
    pub(super) async fn read(client: &Client, oid: u32, role: &str) -> Result<Self> {
        let read = "select a.attname::text, t.typname::text, format_type(a.atttypid, null), \
                      coalesce(a.attnum = any(k.conkey), false), \
                      has_column_privilege($2::text::name, a.attrelid, a.attnum, 'SELECT'), c.relrowsecurity \
                    from pg_attribute a \
                    join pg_type t on t.oid = a.atttypid \
                    join pg_class c on c.oid = a.attrelid \
                    left join pg_constraint k on k.conrelid = a.attrelid and k.contype = 'p' \
                    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped \
                    order by a.attnum";
        let rows = client.query_typed(read, &[(&oid, Type::OID), (&role, Type::TEXT)]).await?;
        let has_policies = rows.first().is_some_and(|row| row.get(5));
        let column = |row: &tokio_postgres::Row| Column {
            name: row.get(0),
            type_name: row.get(1),
            sql_type: row.get(2),
            is_key: row.get(3),
            is_readable: row.get(4),
        };
        Ok(Self { columns: rows.iter().map(column).collect(), has_policies })
    }

    /// Gives the new row. What was not changed and not logged is left out.
    pub(super) fn new_row<'a>(&'a self, change: &'a Change) -> Row<'a> {
        self.row(change, change.new.as_deref().unwrap_or_default())
    }

    /// Gives what is known of the old row: its key, or all of it.
    pub(super) fn old_row<'a>(&'a self, change: &'a Change) -> Row<'a> {
        let cells = change.old.as_deref().or(change.new.as_deref()).unwrap_or_default();
        let mut row = self.row(change, cells);
        if !change.old_is_whole {
            row.retain(|(column, _)| column.is_key);
        }
        row
    }

    fn row<'a>(&'a self, change: &'a Change, cells: &'a [Cell]) -> Row<'a> {
        let named = change.relation.columns.iter().zip(cells);
        let known = named.filter_map(|(name, cell)| {
            let column = self.columns.iter().find(|column| column.name == *name)?;
            match cell {
                Cell::Null => Some((column, None)),
                Cell::Unchanged => None,
                Cell::Text(text) => Some((column, Some(text.as_str()))),
            }
        });
        known.collect()
    }
}

/// Tells whether a row is too large to be told whole.
pub(super) fn is_too_large(row: &Row<'_>) -> bool {
    row.iter().map(|(_, text)| text.map_or(0, str::len)).sum::<usize>() > ROW_LIMIT_BYTES
}

/// Leaves the short values.
pub(super) fn shorten(row: &mut Row<'_>) {
    row.retain(|(_, text)| text.is_none_or(|text| text.len() <= SHORT_BYTES));
}

/// Gives a row as JSON. Numbers keep their digits.
pub(super) async fn json(client: &Client, row: &Row<'_>) -> Result<Value> {
    let columns = (1..).zip(row).map(|(number, (column, _))| {
        format!("${number}::text::{} as {}", column.sql_type, identifier(&column.name))
    });
    let read =
        format!("select to_jsonb(r)::text from (select {}) as r", columns.collect::<Vec<_>>().join(", "));
    let text: String = client.query_typed(&read, &parameters(row)).await?.first().context("no row")?.get(0);
    Ok(serde_json::from_str(&text)?)
}

/// Tells whether a row passes a filter. A value that is not known passes none.
pub(super) async fn passes(client: &Client, row: &Row<'_>, filter: &Filter) -> Result<bool> {
    let Some((column, text)) = row.iter().find(|(column, _)| column.name == filter.column) else {
        return Ok(false);
    };
    let (of, operator) = (&column.sql_type, filter.operator);
    let condition = match operator {
        "in" => format!("$1::text::{of} = any($2::text::{of}[])"),
        _ => format!("$1::text::{of} {operator} $2::text::{of}"),
    };
    let not = if filter.negated { "not " } else { "" };
    let ask = format!("select coalesce({not}({condition}), false)");
    let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(text, Type::TEXT), (&filter.value, Type::TEXT)];
    Ok(client.query_typed(&ask, &parameters).await?.first().context("no row")?.get(0))
}

/// Tells whether a subscriber may see the row that has this key now. A policy that raises is an error.
pub(super) async fn is_visible(
    client: &Client,
    change: &Change,
    row: &Row<'_>,
    claims: &Claims,
) -> Result<bool> {
    let key: Row<'_> = row.iter().filter(|(column, _)| column.is_key).copied().collect();
    let conditions = (1..).zip(&key).map(|(number, (column, _))| {
        format!("{} = ${number}::text::{}", identifier(&column.name), column.sql_type)
    });
    let ask = format!(
        "select exists (select from {}.{} where {})",
        identifier(&change.relation.schema),
        identifier(&change.relation.name),
        conditions.collect::<Vec<_>>().join(" and ")
    );
    let become_subscriber = format!(
        "begin; select set_config('role', {}, true), set_config('request.jwt.claims', {}, true)",
        literal(&claims.role),
        literal(&claims.all.to_string())
    );
    client.batch_execute(&become_subscriber).await?;
    let seen = client.query_typed(&ask, &parameters(&key)).await;
    client.batch_execute("rollback").await?;
    Ok(seen?.first().context("no row")?.get(0))
}

fn parameters<'a>(row: &'a Row<'_>) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    row.iter().map(|(_, text)| (text as &(dyn ToSql + Sync), Type::TEXT)).collect()
}
