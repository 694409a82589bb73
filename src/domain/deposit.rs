//! Deposits: reads and checks rows of `wallet_changes`.

use super::amount::Amount;
use crate::json::{self, ReadError, refuse};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

/// Longest agent id, in bytes. The column is `text`; the limit keeps log lines and replies small.
pub const AGENT_ID_LIMIT_BYTES: usize = 128;

/// The columns of a `wallet_changes` row that the function reads. A row may have others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletChange {
    /// The row's primary key, if the body holds it.
    pub id: Option<i64>,
    /// The agent whose wallet changed.
    pub agent_id: String,
    /// `deposit`, `withdrawal`, `payout`, or any other text. Only `deposit` leads to a bet.
    pub change_type: String,
    /// The amount of the change, in US dollars; may be null in a row.
    pub change_amount: Option<Amount>,
    /// The balance after the change, in US dollars; may be null in a row.
    pub new_balance: Option<Amount>,
}

/// The same columns before validation.
#[derive(Deserialize)]
pub struct Record {
    /// The row's primary key.
    pub id: Option<RowId>,
    /// The agent.
    pub agent_id: Option<String>,
    /// The kind of change.
    pub change_type: Option<String>,
    /// The amount of the change.
    pub change_amount: Option<Amount>,
    /// The balance after the change.
    pub new_balance: Option<Amount>,
}

/// A `bigint`: a whole number, as a JSON number or a string. An application may choose an id below 1.
pub struct RowId(pub i64);

impl<'de> Deserialize<'de> for RowId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let digits = match &value {
            serde_json::Value::Number(number) => number.as_str(),
            serde_json::Value::String(text) => text,
            _ => "",
        };
        // One number has one text, because the text is a part of the reference.
        let id = digits.parse::<i64>().ok().filter(|id| id.to_string() == digits);
        id.map(Self).ok_or_else(|| de::Error::custom("id must be a whole number of 64 bits"))
    }
}

/// Checks an agent's id: 1 to [`AGENT_ID_LIMIT_BYTES`] bytes without control characters.
pub fn check_agent_id(id: String) -> Result<String, ReadError> {
    if id.is_empty() || id.len() > AGENT_ID_LIMIT_BYTES || id.contains(char::is_control) {
        return refuse("`agent_id` must be 1 to 128 bytes without control characters");
    }
    Ok(id)
}

/// Reads a row of `wallet_changes` from its JSON.
pub fn read_row(row: &RawValue) -> Result<WalletChange, ReadError> {
    validate(json::read_columns(row)?)
}

/// Validates the columns of a row.
pub fn validate(record: Record) -> Result<WalletChange, ReadError> {
    let Some(agent_id) = record.agent_id else {
        return refuse("`agent_id` is missing");
    };
    let Some(change_type) = record.change_type else {
        return refuse("`change_type` is missing");
    };
    let row = WalletChange {
        id: record.id.map(|id| id.0),
        agent_id: check_agent_id(agent_id)?,
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
    /// Returns whether the agent received money from outside. A payout comes from Purple Flea.
    pub fn is_deposit(&self) -> bool {
        self.change_type == "deposit"
    }
}
