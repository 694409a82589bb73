//! Escrows: the row that asks for one, the terms, how an escrow ends, and what Purple Flea says of it.

use super::amount::Amount;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// The smallest escrow that Purple Flea takes: $0.10.
pub const SMALLEST_ESCROW: Decimal = Decimal::from_parts(10, 0, 0, false, 2);

/// Longest description, in characters: what is put behind it must fit a line, too.
const DESCRIPTION_LIMIT_CHARS: usize = 200;

/// A row of `escrow_requests` as far as it matters here; also what a caller asks for by hand.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct EscrowRow {
    /// Who pays.
    pub sender_id: String,
    /// Who is to be paid.
    pub receiver_id: String,
    /// How much, in US dollars.
    pub amount: Amount,
    /// What for: 3 to 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// After how many hours it ends by itself: 1 to 720.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_hours: Option<u32>,
}

impl EscrowRow {
    /// Whether it can be asked for at all; if not, why not.
    pub fn check(&self) -> Result<(), &'static str> {
        let longest = DESCRIPTION_LIMIT_CHARS;
        if self.sender_id == self.receiver_id {
            Err("`sender_id` and `receiver_id` must be two agents")
        } else if self.amount.decimal() < SMALLEST_ESCROW || !self.amount.is_whole_cents() {
            Err("`amount` must be whole cents, 0.10 or more")
        } else if self.description.as_ref().is_some_and(|text| !(3..=longest).contains(&text.chars().count()))
        {
            Err("`description` must be 3 to 200 characters")
        } else if self.timeout_hours.is_some_and(|hours| !(1..=720).contains(&hours)) {
            Err("`timeout_hours` must be 1 to 720")
        } else {
            Ok(())
        }
    }
}

/// What is to be agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What Purple Flea calls who is to be paid.
    pub counterparty: String,
    /// How much, in US dollars and whole cents.
    pub amount: Amount,
    /// What for.
    pub description: Option<String>,
    /// After how many hours it ends by itself.
    pub timeout_hours: Option<u32>,
    /// The code of who earns the referral.
    pub referral_code: Option<String>,
}

/// How an escrow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The counterparty is paid.
    Release,
    /// The creator gets it back. The `live` dialect has no such thing.
    Cancel,
}

impl End {
    /// The word for it in paths and names.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Cancel => "cancel",
        }
    }

    /// The words for an escrow that ended so.
    pub fn is(self, status: &str) -> bool {
        match self {
            Self::Release => status == "released",
            Self::Cancel => matches!(status, "cancelled" | "canceled"),
        }
    }
}

/// What an escrow is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Escrow {
    /// Purple Flea's name for it.
    pub pf_escrow_id: String,
    /// What it says it is: `funded`, `released`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrow_status: Option<String>,
    /// What Purple Flea keeps of it: 1 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<Amount>,
    /// What the referral earned: 15 % of the fee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_earned: Option<Amount>,
}
