//! Escrows: the row that requests one, its terms, how it ends, and its state at Purple Flea.

use super::amount::Amount;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// The smallest escrow that Purple Flea accepts: $0.10.
pub const SMALLEST_ESCROW: Decimal = Decimal::from_parts(10, 0, 0, false, 2);

/// Longest description, in characters. The function appends the idempotency key to it.
const DESCRIPTION_LIMIT_CHARS: usize = 200;

/// The columns of an `escrow_requests` row that the function reads. A caller requests an escrow with the same
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct EscrowRow {
    /// The agent that pays.
    pub sender_id: String,
    /// The agent that receives the payment.
    pub receiver_id: String,
    /// The amount, in US dollars.
    pub amount: Amount,
    /// The purpose: 3 to 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The hours after which Purple Flea ends the escrow: 1 to 720.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_hours: Option<u32>,
}

impl EscrowRow {
    /// Checks the request. Returns the first mistake as a sentence for the caller.
    pub fn check(&self) -> Result<(), &'static str> {
        let longest = DESCRIPTION_LIMIT_CHARS;
        if self.sender_id == self.receiver_id {
            Err("`sender_id` and `receiver_id` must be two agents")
        } else if self.amount.decimal() < SMALLEST_ESCROW || !self.amount.is_whole_cents() {
            Err("`amount` must be whole cents, 0.10 or more")
        } else if self.description.as_ref().is_some_and(|text| {
            // A database cannot store NUL.
            !(3..=longest).contains(&text.chars().count()) || text.contains('\0')
        }) {
            Err("`description` must be 3 to 200 characters, without NUL")
        } else if self.timeout_hours.is_some_and(|hours| !(1..=720).contains(&hours)) {
            Err("`timeout_hours` must be 1 to 720")
        } else {
            Ok(())
        }
    }
}

/// The terms of an escrow, as Purple Flea gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The receiver's name at Purple Flea.
    pub counterparty: String,
    /// The amount, in US dollars and whole cents.
    pub amount: Amount,
    /// The purpose.
    pub description: Option<String>,
    /// The hours after which Purple Flea ends the escrow.
    pub timeout_hours: Option<u32>,
    /// The referral code of the agent that earns the referral.
    pub referral_code: Option<String>,
}

/// The way in which an escrow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Purple Flea pays the receiver.
    Release,
    /// Purple Flea returns the money to the sender. The `live` dialect cannot do this.
    Cancel,
}

impl End {
    /// Returns the verb in paths and job names.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Cancel => "cancel",
        }
    }

    /// Returns whether `status` is Purple Flea's word for an escrow that ended this way.
    pub fn matches(self, status: &str) -> bool {
        match self {
            Self::Release => status == "released",
            Self::Cancel => matches!(status, "cancelled" | "canceled"),
        }
    }
}

/// The state of an escrow at Purple Flea.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Escrow {
    /// Purple Flea's id of the escrow.
    pub pf_escrow_id: String,
    /// Purple Flea's word for the state: `funded`, `released` or another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrow_status: Option<String>,
    /// Purple Flea's fee, in US dollars: 1 % of the amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<Amount>,
    /// The referral's share, in US dollars: 15 % of the fee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_earned: Option<Amount>,
}
