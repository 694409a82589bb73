//! Positions: the row that requests the close of one, and a position that was closed.

use super::{amount::Amount, deposit::check_agent_id, reference::Reference};
use crate::json::{ReadError, refuse};
use serde::{Deserialize, Serialize};

/// The columns of a `close_requests` row that the function reads. A caller requests a close with the same
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct CloseRow {
    /// The agent that owns the position.
    pub agent_id: String,
    /// Purple Flea's id of the position.
    pub position_id: String,
}

impl CloseRow {
    /// Checks the agent's id, and that the position's id has an identifier's form.
    pub fn checked(self) -> Result<Self, ReadError> {
        if Reference::parse(&self.position_id).is_none() {
            return refuse("`position_id` must be 1 to 64 characters of A-Z a-z 0-9 . _ : -");
        }
        Ok(Self { agent_id: check_agent_id(self.agent_id)?, ..self })
    }
}

/// A position that was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Closed {
    /// Purple Flea's id of the position.
    pub position_id: String,
    /// The price, if Purple Flea reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_price: Option<Amount>,
    /// The profit in US dollars, negative for a loss, if Purple Flea reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pnl: Option<Amount>,
    /// Purple Flea's fee for the close, in US dollars, if it reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<Amount>,
    /// The reason, if this is not the reply to the close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}
