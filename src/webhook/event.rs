//! What the body says: which row came, in whichever of the three shapes, and what the caller asks for beside it.
//!
//! - bare: the row itself, as `row_to_json(new)` writes it
//! - a Supabase Database Webhook: `{type, table, schema, record, old_record}`
//! - a Realtime payload: `{data: {type, table, schema, record, …}}`
//!
//! Beside `record` (or `data`) may stand a `policy`, which chooses the game of this one call.

pub use super::body::read_columns;

use super::{
    body::{Object, ReadError, object, read_whole, refuse},
    reference::Reference,
};
use crate::{game::Choice, money::Amount, purple_flea::escrow::End, work::escrow::EscrowRow};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// Longest agent id, in bytes. The column is `text`; the limit keeps a log line and a reply small.
pub const AGENT_ID_LIMIT_BYTES: usize = 128;

/// A row of `wallet_changes`, as far as it matters here. Unknown columns are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletChange {
    /// The row's primary key, where it came along.
    pub id: Option<u64>,
    /// Whose wallet.
    pub agent_id: String,
    /// `deposit`, `withdrawal` or `payout`; anything else is not a deposit either.
    pub change_type: String,
    /// By how much the wallet changed; may be null in a row.
    pub change_amount: Option<Amount>,
    /// What the wallet held afterwards; may be null in a row.
    pub new_balance: Option<Amount>,
}

/// What a body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A row of `wallet_changes` was inserted.
    Inserted {
        /// The row.
        row: WalletChange,
        /// What the caller chose for this call.
        choice: Choice,
    },
    /// An agent was inserted.
    NewAgent {
        /// Its id.
        agent_id: String,
    },
    /// An escrow was inserted.
    NewEscrow {
        /// Its row's id.
        id: u64,
        /// Its row.
        row: EscrowRow,
    },
    /// An escrow is to end.
    EndEscrow {
        /// Its row's id.
        id: u64,
        /// Who pays.
        sender_id: String,
        /// How.
        end: End,
        /// Purple Flea's name for it, if it was made.
        pf_escrow_id: Option<String>,
    },
    /// Something that this function does nothing about.
    Unhandled(Unhandled),
    /// The doorbell of a ledger: something is to be done. Without a ledger's settings it must never lead to a bet.
    Ring {
        /// The deposit that made it ring, if it was one.
        reference: Option<Reference>,
    },
}

/// Why nothing is done about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unhandled {
    /// The row is of a table that leads to nothing.
    Table,
    /// What happened to the row leads to nothing: it was deleted, or changed in a way that asks for nothing.
    Kind,
}

impl Unhandled {
    /// Its name in replies and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "unhandled_table",
            Self::Kind => "unhandled_event",
        }
    }
}

/// Every field that any of the three shapes has. Which shape it is shows in which are there.
#[derive(Deserialize)]
struct Body<'a> {
    // Read only once it is known to be a row of our table.
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<Object<Change<'a>>>,
    policy: Option<Object<Choice>>,
    #[serde(rename = "type")]
    kind: Option<String>,
    table: Option<String>,
    schema: Option<String>,
    #[serde(default)]
    ledger: bool,
    reference: Option<String>,
    // The columns of a bare row; read by hand, as `flatten` would take numbers through a float.
    id: Option<RowId>,
    agent_id: Option<String>,
    change_type: Option<String>,
    change_amount: Option<Amount>,
    new_balance: Option<Amount>,
}

#[derive(Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    #[serde(rename = "type")]
    kind: Option<String>,
    table: Option<String>,
    schema: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    id: Option<RowId>,
    agent_id: Option<String>,
    change_type: Option<String>,
    change_amount: Option<Amount>,
    new_balance: Option<Amount>,
}

/// A `bigserial`: a whole number from 1, as a JSON number or a string.
struct RowId(u64);

impl<'de> Deserialize<'de> for RowId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let digits = match &value {
            serde_json::Value::Number(number) => number.as_str(),
            serde_json::Value::String(text) => text,
            _ => "",
        };
        if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(de::Error::custom("id must be a whole number from 1"));
        }
        match digits.parse::<i64>().map(u64::try_from) {
            Ok(Ok(id)) => Ok(Self(id)),
            _ => Err(de::Error::custom("id must be a whole number from 1")),
        }
    }
}

/// Reads a body. Money goes from its text to a decimal; nothing becomes a float.
pub fn read(body: &[u8]) -> Result<Event, ReadError> {
    let body: Body = read_whole(body)?;
    if body.ledger {
        let Some(text) = body.reference else {
            return Ok(Event::Ring { reference: None });
        };
        return match Reference::parse(&text) {
            Some(reference) => Ok(Event::Ring { reference: Some(reference) }),
            None => refuse("`reference` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
        };
    }
    let choice = body.policy.map(|Object(choice)| choice);
    let wrapped = body.record.is_some() || body.kind.is_some() || body.table.is_some();
    match body.data {
        Some(_) if wrapped => refuse("`data` and `record` cannot both be there"),
        Some(Object(change)) => read_change(change, choice),
        None if wrapped => {
            let Body { record, kind, table, schema, .. } = body;
            read_change(Change { record, kind, table, schema }, choice)
        }
        // A choice that is overlooked would play another game than the one that was asked for.
        None if choice.is_some() => {
            refuse("`policy` is read beside `record` only: {\"record\": {…}, \"policy\": {…}}")
        }
        None => {
            let Body { id, agent_id, change_type, change_amount, new_balance, .. } = body;
            let row = validate(Record { id, agent_id, change_type, change_amount, new_balance })?;
            Ok(Event::Inserted { row, choice: Choice::default() })
        }
    }
}

fn read_change(change: Change, choice: Option<Choice>) -> Result<Event, ReadError> {
    let kind = change.kind.as_deref().unwrap_or("INSERT");
    let table = change.table.as_deref().unwrap_or("wallet_changes");
    if change.schema.is_some_and(|schema| schema != "public") {
        return Ok(Event::Unhandled(Unhandled::Table));
    }
    let read: fn(&RawValue) -> Result<Event, ReadError> = match (table, kind) {
        ("wallet_changes", "INSERT") => {
            |row| Ok(Event::Inserted { row: read_row(row)?, choice: Choice::default() })
        }
        ("agents", "INSERT") => read_agent,
        ("escrow_requests", "INSERT") => read_new_escrow,
        ("escrow_requests", "UPDATE") => read_ending_escrow,
        ("wallet_changes" | "agents" | "escrow_requests", _) => {
            return Ok(Event::Unhandled(Unhandled::Kind));
        }
        _ => return Ok(Event::Unhandled(Unhandled::Table)),
    };
    let Some(record) = change.record else {
        return refuse("`record` is missing");
    };
    match (read(record)?, choice) {
        (Event::Inserted { row, .. }, Some(choice)) => Ok(Event::Inserted { row, choice }),
        // A choice that is overlooked would play another game than the one that was asked for.
        (_, Some(_)) => refuse("`policy` is for rows of wallet_changes only"),
        (event, None) => Ok(event),
    }
}

#[derive(Deserialize)]
struct AgentRecord {
    id: String,
}

fn read_agent(row: &RawValue) -> Result<Event, ReadError> {
    let AgentRecord { id } = object(row.get())?;
    Ok(Event::NewAgent { agent_id: an_agents_id(id)? })
}

#[derive(Deserialize)]
struct EscrowId {
    id: RowId,
}

fn read_new_escrow(row: &RawValue) -> Result<Event, ReadError> {
    let EscrowId { id: RowId(id) } = object(row.get())?;
    let row: EscrowRow = object(row.get())?;
    row.check().map_err(|why| ReadError::NotAnEvent(why.to_owned()))?;
    Ok(Event::NewEscrow { id, row })
}

#[derive(Deserialize)]
struct EndingEscrow {
    id: RowId,
    sender_id: String,
    status: String,
    requested_status: Option<String>,
    pf_escrow_id: Option<String>,
}

/// An update asks for something while there is something requested that is not so yet.
fn read_ending_escrow(row: &RawValue) -> Result<Event, ReadError> {
    let EndingEscrow { id: RowId(id), sender_id, status, requested_status, pf_escrow_id } =
        object(row.get())?;
    let end = match requested_status.as_deref() {
        Some("released") => End::Release,
        Some("cancelled") => End::Cancel,
        _ => return Ok(Event::Unhandled(Unhandled::Kind)),
    };
    if status != "pending" {
        return Ok(Event::Unhandled(Unhandled::Kind));
    }
    Ok(Event::EndEscrow { id, sender_id: an_agents_id(sender_id)?, end, pf_escrow_id })
}

/// An agent's id as every table has it.
pub fn an_agents_id(id: String) -> Result<String, ReadError> {
    if id.is_empty() || id.len() > AGENT_ID_LIMIT_BYTES || id.contains(char::is_control) {
        return refuse("`agent_id` must be 1 to 128 bytes without control characters");
    }
    Ok(id)
}

/// Reads a row of `wallet_changes` alone.
pub fn read_row(row: &RawValue) -> Result<WalletChange, ReadError> {
    validate(object(row.get())?)
}

fn validate(record: Record) -> Result<WalletChange, ReadError> {
    let Some(agent_id) = record.agent_id else {
        return refuse("`agent_id` is missing");
    };
    let Some(change_type) = record.change_type else {
        return refuse("`change_type` is missing");
    };
    let row = WalletChange {
        id: record.id.map(|id| id.0),
        agent_id: an_agents_id(agent_id)?,
        change_type,
        change_amount: record.change_amount,
        new_balance: record.new_balance,
    };
    let negative = |amount: Option<Amount>| amount.is_some_and(Amount::is_negative);
    if row.is_deposit() && negative(row.change_amount) {
        return refuse("`change_amount` of a deposit must not be negative");
    }
    if row.is_deposit() && negative(row.new_balance) {
        return refuse("`new_balance` of a deposit must not be negative");
    }
    Ok(row)
}

impl WalletChange {
    /// Whether money came in from outside; a payout is Purple Flea's own.
    pub fn is_deposit(&self) -> bool {
        self.change_type == "deposit"
    }
}

#[cfg(test)]
mod tests;
