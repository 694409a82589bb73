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
        escrow::{EscrowRow, Step, check_reason},
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
        id: i64,
        /// The row.
        row: EscrowRow,
    },
    /// A row requests a step of an escrow.
    EscrowStep {
        /// The row's id.
        id: i64,
        /// The agent that takes the step.
        agent_id: String,
        /// The step.
        step: Step,
        /// The reason of a dispute.
        reason: Option<String>,
        /// Purple Flea's id of the escrow, if it was made.
        pf_escrow_id: Option<String>,
    },
    /// A row requests the close of a position.
    NewClose {
        /// The row's id.
        id: i64,
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

/// The fields of all three shapes. The fields that are present show the shape. The first ones may also be
/// columns of a bare row, with any value, so they are read only after the shape is known.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    policy: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    table: Option<&'a RawValue>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    #[serde(borrow)]
    ledger: Option<&'a RawValue>,
    #[serde(borrow)]
    reference: Option<&'a RawValue>,
    // The columns of a bare row. Serde's `flatten` would read numbers as floats.
    id: Option<RowId>,
    agent_id: Option<String>,
    change_type: Option<String>,
    change_amount: Option<Amount>,
    new_balance: Option<Amount>,
}

impl Body<'_> {
    /// Returns whether the body is a bare row: it has the columns that each row has, and no shape has.
    fn is_row(&self) -> bool {
        self.agent_id.is_some() && self.change_type.is_some()
    }
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
    // Whatever else a notification has, it never leads to a bet by itself.
    if body.ledger.is_some_and(|flag| flag.get() == "true") {
        return notification(value(body.reference)?);
    }
    if body.is_row() {
        return bare_row(body);
    }
    let choice = value(body.policy)?.map(|Whole(choice)| choice);
    let wrapped = body.record.is_some() || body.kind.is_some() || body.table.is_some();
    match body.data {
        Some(_) if wrapped => refuse("the body must not have both `data` and `record`"),
        Some(data) => read_change(read_columns(data)?, choice),
        None if wrapped => {
            let (kind, table, schema) = (value(body.kind)?, value(body.table)?, value(body.schema)?);
            read_change(Change { record: body.record, kind, table, schema }, choice)
        }
        None => bare_row(body),
    }
}

/// Reads a member of a body.
fn value<'a, T: Deserialize<'a>>(member: Option<&'a RawValue>) -> Result<Option<T>, ReadError> {
    member.map(|member| json::read_value(member.get())).transpose()
}

fn notification(reference: Option<String>) -> Result<Event, ReadError> {
    match reference.map(|text| Reference::parse(&text)) {
        Some(None) => refuse("`reference` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
        reference => Ok(Event::Notification { reference: reference.flatten() }),
    }
}

/// Reads a bare row. Its other columns are the application's own, with one exception: the function would ignore
/// a choice of game, and bet on another game.
fn bare_row(body: Body) -> Result<Event, ReadError> {
    let choice = body.policy.and_then(|policy| json::read_value::<Whole<Choice>>(policy.get()).ok());
    if choice.is_some_and(|Whole(choice)| choice != Choice::default()) {
        return refuse("`policy` is read beside `record` only: {\"record\": {…}, \"policy\": {…}}");
    }
    let Body { id, agent_id, change_type, change_amount, new_balance, .. } = body;
    let row = validate(Record { id, agent_id, change_type, change_amount, new_balance })?;
    Ok(Event::Inserted { row, choice: Choice::default() })
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
        ("escrow_requests", "UPDATE") => read_escrow_step,
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
struct SteppingEscrow {
    id: RowId,
    sender_id: String,
    receiver_id: Option<String>,
    status: String,
    requested_status: Option<String>,
    dispute_reason: Option<String>,
    pf_escrow_id: Option<String>,
}

/// Reads an update. It requests a step of an escrow while `requested_status` differs from the status.
fn read_escrow_step(row: &RawValue) -> Result<Event, ReadError> {
    let row: SteppingEscrow = read_columns(row)?;
    let requested = row.requested_status.as_deref();
    let Some(step) = requested.and_then(Step::of_status).filter(|_| row.status == "pending") else {
        return Ok(Event::Unhandled(Unhandled::Kind));
    };
    let agent_id = match step {
        Step::Complete => row.receiver_id.unwrap_or_default(),
        _ => row.sender_id,
    };
    let reason = row.dispute_reason.filter(|_| step == Step::Dispute);
    check_reason(reason.as_deref()).map_err(|detail| ReadError::NotAnEvent(detail.to_owned()))?;
    let (RowId(id), agent_id) = (row.id, check_agent_id(agent_id)?);
    Ok(Event::EscrowStep { id, agent_id, step, reason, pf_escrow_id: row.pf_escrow_id })
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
