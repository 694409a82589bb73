//! The event in a request's body: a row in one of three shapes, with the caller's choice of game, or a notification.
//!
//! - a bare row, as `row_to_json(new)` writes it
//! - a Supabase Database Webhook: `{type, table, schema, record, old_record}`
//! - a Realtime payload: `{data: {type, table, schema, record, …}}`
//!
//! A `policy` beside `record` (or `data`) chooses the game of this call.

use crate::{
    domain::{
        amount::Amount,
        bet::Choice,
        deposit::{Record, RowId, WalletChange, check_agent_id, read_row, validate},
        escrow::{End, EscrowRow},
        position::CloseRow,
        reference::Reference,
    },
    json::{self, ReadError, Whole, read_columns, refuse},
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The event in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A row of `wallet_changes` was inserted.
    Inserted {
        /// The row.
        row: WalletChange,
        /// The caller's choice of game.
        choice: Choice,
    },
    /// An agent was inserted.
    NewAgent {
        /// The agent's id.
        agent_id: String,
    },
    /// An escrow was inserted.
    NewEscrow {
        /// The row's id.
        id: u64,
        /// The row.
        row: EscrowRow,
    },
    /// A row requests the end of an escrow.
    EndEscrow {
        /// The row's id.
        id: u64,
        /// The agent that pays.
        sender_id: String,
        /// The way in which the escrow ends.
        end: End,
        /// Purple Flea's id of the escrow, if it was made.
        pf_escrow_id: Option<String>,
    },
    /// A row requests the close of a position.
    NewClose {
        /// The row's id.
        id: u64,
        /// The row.
        row: CloseRow,
    },
    /// The row is one that the function does not handle.
    Unhandled(Unhandled),
    /// A ledger's notification that jobs are due. Without the ledger's settings it must never lead to a bet.
    Notification {
        /// The job that caused the notification, if it names one.
        reference: Option<Reference>,
    },
}

/// The reason why the function does not handle an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unhandled {
    /// The function does not handle the row's table.
    Table,
    /// The function does not handle the change: a deletion, or an update that requests nothing.
    Kind,
}

impl Unhandled {
    /// Returns the reason's name in replies and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "unhandled_table",
            Self::Kind => "unhandled_event",
        }
    }
}

/// The fields of all three shapes. The fields that are present show the shape.
#[derive(Deserialize)]
struct Body<'a> {
    // Read only after the table is known.
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<Whole<Change<'a>>>,
    policy: Option<Whole<Choice>>,
    #[serde(rename = "type")]
    kind: Option<String>,
    table: Option<String>,
    schema: Option<String>,
    #[serde(default)]
    ledger: bool,
    reference: Option<String>,
    // The columns of a bare row. Serde's `flatten` would read numbers as floats.
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

/// Reads a body. An amount goes from its text to a decimal, never through a float.
pub fn read(body: &[u8]) -> Result<Event, ReadError> {
    let body: Body = json::read(body)?;
    if body.ledger {
        let Some(text) = body.reference else {
            return Ok(Event::Notification { reference: None });
        };
        return match Reference::parse(&text) {
            Some(reference) => Ok(Event::Notification { reference: Some(reference) }),
            None => refuse("`reference` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
        };
    }
    let choice = body.policy.map(|Whole(choice)| choice);
    let wrapped = body.record.is_some() || body.kind.is_some() || body.table.is_some();
    match body.data {
        Some(_) if wrapped => refuse("the body must not have both `data` and `record`"),
        Some(Whole(change)) => read_change(change, choice),
        None if wrapped => {
            let Body { record, kind, table, schema, .. } = body;
            read_change(Change { record, kind, table, schema }, choice)
        }
        // Without this check the function would ignore the choice, and bet on another game.
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
        ("close_requests", "INSERT") => read_close,
        ("wallet_changes" | "agents" | "escrow_requests" | "close_requests", _) => {
            return Ok(Event::Unhandled(Unhandled::Kind));
        }
        _ => return Ok(Event::Unhandled(Unhandled::Table)),
    };
    let Some(record) = change.record else {
        return refuse("`record` is missing");
    };
    match (read(record)?, choice) {
        (Event::Inserted { row, .. }, Some(choice)) => Ok(Event::Inserted { row, choice }),
        // Without this check the function would ignore the choice.
        (_, Some(_)) => refuse("`policy` is for rows of wallet_changes only"),
        (event, None) => Ok(event),
    }
}

#[derive(Deserialize)]
struct AgentRecord {
    id: String,
}

fn read_agent(row: &RawValue) -> Result<Event, ReadError> {
    let AgentRecord { id } = read_columns(row)?;
    Ok(Event::NewAgent { agent_id: check_agent_id(id)? })
}

#[derive(Deserialize)]
struct EscrowId {
    id: RowId,
}

fn read_new_escrow(row: &RawValue) -> Result<Event, ReadError> {
    let EscrowId { id: RowId(id) } = read_columns(row)?;
    let row: EscrowRow = read_columns(row)?;
    row.check().map_err(|detail| ReadError::NotAnEvent(detail.to_owned()))?;
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

/// Reads an update. It requests the end of an escrow while `requested_status` differs from the status.
fn read_ending_escrow(row: &RawValue) -> Result<Event, ReadError> {
    let EndingEscrow { id: RowId(id), sender_id, status, requested_status, pf_escrow_id } =
        read_columns(row)?;
    let end = match requested_status.as_deref() {
        Some("released") => End::Release,
        Some("cancelled") => End::Cancel,
        _ => return Ok(Event::Unhandled(Unhandled::Kind)),
    };
    if status != "pending" {
        return Ok(Event::Unhandled(Unhandled::Kind));
    }
    Ok(Event::EndEscrow { id, sender_id: check_agent_id(sender_id)?, end, pf_escrow_id })
}

#[derive(Deserialize)]
struct CloseId {
    id: RowId,
    status: Option<String>,
}

/// Reads a new row. A row that is refused from its start requests nothing.
fn read_close(row: &RawValue) -> Result<Event, ReadError> {
    let CloseId { id: RowId(id), status } = read_columns(row)?;
    if status.is_some_and(|status| status != "pending") {
        return Ok(Event::Unhandled(Unhandled::Kind));
    }
    let row: CloseRow = read_columns(row)?;
    Ok(Event::NewClose { id, row: row.checked()? })
}

#[cfg(test)]
mod tests;
