//! Reads the messages of PostgreSQL's plugin `pgoutput`, version 1, as far as Realtime needs them.

use anyhow::{Context, Result};
use bytes::{Buf, BytesMut};
use std::{collections::HashMap, sync::Arc};

/// A table, as the log knows it.
#[derive(Debug)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Vec<String>,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    /// A large value that was not changed: the log does not have it.
    Unchanged,
    Text(String),
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Insert,
    Update,
    Delete,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A change of a row.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) relation: Arc<Relation>,
    pub(super) action: Action,
    /// The row before, or its key alone.
    pub(super) old: Option<Vec<Cell>>,
    /// Whether `old` is the whole row (`replica identity full`).
    pub(super) old_is_whole: bool,
    pub(super) new: Option<Vec<Cell>>,
}

impl Change {
    /// Gives a column's new value.
    pub(super) fn text(&self, column: &str) -> Option<&str> {
        let place = self.relation.columns.iter().position(|name| name == column)?;
        match self.new.as_ref()?.get(place)? {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// What the log says.
#[derive(Debug)]
pub(super) enum Logged {
    Change(Change),
    /// The end of a transaction: when it was committed, in microseconds since PostgreSQL's epoch.
    Commit {
        at_us: u64,
        end: u64,
    },
}

/// Knows the tables that were described so far.
#[derive(Default)]
pub(super) struct Decoder {
    relations: HashMap<u32, Arc<Relation>>,
}

impl Decoder {
    /// Reads a message. Gives nothing for those that say nothing about rows.
    pub(super) fn decode(&mut self, body: &mut BytesMut) -> Result<Option<Logged>> {
        let short = "a message that ends early";
        Ok(match body.try_get_u8().context(short)? {
            b'C' => {
                let (_flags, _at) = (body.try_get_u8()?, body.try_get_u64()?);
                let end = body.try_get_u64()?;
                Some(Logged::Commit { at_us: body.try_get_u64()?, end })
            }
            b'R' => {
                let relation = relation(body).context(short)?;
                self.relations.insert(relation.oid, Arc::new(relation));
                None
            }
            kind @ (b'I' | b'U' | b'D') => {
                let oid = body.try_get_u32()?;
                let relation = self.relations.get(&oid).context("a table that nobody described")?.clone();
                let (mut old, mut new, mut old_is_whole) = (None, None, false);
                while let Ok(part) = body.try_get_u8() {
                    old_is_whole |= part == b'O';
                    let row = row(body).context(short)?;
                    *(if part == b'N' { &mut new } else { &mut old }) = Some(row);
                }
                let action = match kind {
                    b'I' => Action::Insert,
                    b'U' => Action::Update,
                    _ => Action::Delete,
                };
                Some(Logged::Change(Change { relation, action, old, old_is_whole, new }))
            }
            _ => None,
        })
    }
}

fn relation(body: &mut BytesMut) -> Result<Relation> {
    let oid = body.try_get_u32()?;
    let (schema, name) = (text(body)?, text(body)?);
    let _identity = body.try_get_u8()?;
    let count = body.try_get_u16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let _flags = body.try_get_u8()?;
        columns.push(text(body)?);
        let (_type, _modifier) = (body.try_get_u32()?, body.try_get_u32()?);
    }
    Ok(Relation { oid, schema, name, columns })
}

fn row(body: &mut BytesMut) -> Result<Vec<Cell>> {
    let count = body.try_get_u16()?;
    let cell = |_| {
        Ok(match body.try_get_u8()? {
            b'n' => Cell::Null,
            b'u' => Cell::Unchanged,
            _ => {
                let length = body.try_get_u32()? as usize;
                anyhow::ensure!(body.len() >= length, "a value that ends early");
                Cell::Text(String::from_utf8(body.split_to(length).to_vec())?)
            }
        })
    };
    (0..count).map(cell).collect()
}

fn text(body: &mut BytesMut) -> Result<String> {
    let end = body.iter().position(|byte| *byte == 0).context("a text without an end")?;
    let text = String::from_utf8(body.split_to(end).to_vec())?;
    body.advance(1);
    Ok(text)
}
