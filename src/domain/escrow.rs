//! Escrows: the row that requests one, its terms, its steps, and its state at Purple Flea.

use super::amount::Amount;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// The smallest escrow that Purple Flea accepts: $0.10.
pub const SMALLEST_ESCROW: Decimal = Decimal::from_parts(10, 0, 0, false, 2);

/// Longest description, in characters. In the `live` dialect the function appends the idempotency key to it.
const DESCRIPTION_LIMIT_CHARS: usize = 200;

/// Longest reason of a dispute, in characters.
const REASON_LIMIT_CHARS: usize = 200;

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

/// Checks the reason of a dispute. Returns the mistake as a sentence for the caller.
pub fn check_reason(reason: Option<&str>) -> Result<(), &'static str> {
    // A database cannot store NUL.
    let fits =
        |reason: &str| (1..=REASON_LIMIT_CHARS).contains(&reason.chars().count()) && !reason.contains('\0');
    if reason.is_none_or(fits) {
        Ok(())
    } else {
        Err("the reason of a dispute must be 1 to 200 characters, without NUL")
    }
}

/// The receiver of an escrow, as Purple Flea knows it.
#[derive(Debug, Clone, Default)]
pub struct Counterparty {
    /// Its name at Purple Flea, if it differs from the row's.
    pub name: Option<String>,
    /// The address of its wallet, if it is known.
    pub address: Option<String>,
}

/// The terms of an escrow, as Purple Flea gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The receiver's name at Purple Flea.
    pub counterparty: String,
    /// The address of the receiver's wallet, if it is known.
    pub counterparty_address: Option<String>,
    /// The amount, in US dollars and whole cents.
    pub amount: Amount,
    /// The purpose.
    pub description: Option<String>,
    /// The hours after which Purple Flea ends the escrow.
    pub timeout_hours: Option<u32>,
    /// The referral code of the agent that earns the referral.
    pub referral_code: Option<String>,
}

impl Terms {
    /// Makes the terms of a row's escrow.
    pub fn of(row: EscrowRow, receiver: Counterparty, referral_code: Option<String>) -> Self {
        let EscrowRow { receiver_id, amount, description, timeout_hours, .. } = row;
        let (counterparty, counterparty_address) = (receiver.name.unwrap_or(receiver_id), receiver.address);
        Self { counterparty, counterparty_address, amount, description, timeout_hours, referral_code }
    }
}

/// A step of an escrow that Purple Flea takes at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Purple Flea pays the receiver.
    Release,
    /// Purple Flea returns the money to the sender. The `live` dialect cannot do this.
    Cancel,
    /// The receiver reports that it has delivered. The `gateway` dialect cannot do this.
    Complete,
    /// One of the parties asks for a decision by Purple Flea's people. No later step changes the escrow. The
    /// `gateway` dialect cannot do this.
    Dispute,
}

impl Step {
    /// Returns the verb in paths and job names.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Cancel => "cancel",
            Self::Complete => "complete",
            Self::Dispute => "dispute",
        }
    }

    /// Returns Purple Flea's word for an escrow after this step.
    pub fn status(self) -> &'static str {
        match self {
            Self::Release => "released",
            Self::Cancel => "cancelled",
            Self::Complete => "completed",
            Self::Dispute => "disputed",
        }
    }

    /// Returns the step that leads to `status`.
    pub fn of_status(status: &str) -> Option<Self> {
        [Self::Release, Self::Cancel, Self::Complete, Self::Dispute]
            .into_iter()
            .find(|step| step.status() == status)
    }

    /// Returns whether `status` is Purple Flea's word for an escrow after this step.
    pub fn matches(self, status: &str) -> bool {
        status == self.status() || (self == Self::Cancel && status == "canceled")
    }
}

/// The referral's share of a fee: 15 %.
const REFERRAL_SHARE: Decimal = Decimal::from_parts(15, 0, 0, false, 2);

/// Returns the referral's share of an escrow's fee, in US dollars.
pub fn referral_of(fee: Amount) -> Option<Amount> {
    fee.times(REFERRAL_SHARE)
}

/// The state of an escrow at Purple Flea.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Escrow {
    /// Purple Flea's id of the escrow.
    pub pf_escrow_id: String,
    /// Purple Flea's word for the state: `funded`, `released` or another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrow_status: Option<String>,
    /// The time at which Purple Flea ends the escrow, in RFC 3339, if its reply names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_release_at: Option<String>,
    /// Purple Flea's fee, in US dollars: 1 % of the amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<Amount>,
    /// The referral's share of the fee, in US dollars. Purple Flea pays it at a release or a refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_due: Option<Amount>,
    /// The share that Purple Flea paid to the referral, in US dollars, if its reply names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referral_earned: Option<Amount>,
    /// The transaction that moved the money on its chain, if Purple Flea's reply names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx_hash: Option<String>,
    /// The reason, if the escrow is not the reply to this call: `found_in_statement`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl Escrow {
    /// Returns whether no step and no timeout changes the escrow any more.
    pub fn is_over(&self) -> bool {
        self.escrow_status.as_deref().is_some_and(|status| {
            matches!(status, "released" | "refunded" | "disputed" | "cancelled" | "canceled")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disputes_reason_is_what_a_database_can_store() {
        for reason in [None, Some("x"), Some(&*"é".repeat(REASON_LIMIT_CHARS))] {
            assert_eq!(check_reason(reason), Ok(()));
        }
        for reason in ["", "no\0logo", &*"x".repeat(REASON_LIMIT_CHARS + 1)] {
            assert!(check_reason(Some(reason)).is_err(), "{reason:?}");
        }
    }

    #[test]
    fn a_referrals_share_is_rounded_once_to_the_columns_places() {
        for (fee, share) in [("0.1", "0.015"), ("0.001", "0.0002"), ("0.0033", "0.0005"), ("0", "0")] {
            let share: Amount = share.parse().unwrap();
            assert_eq!(referral_of(fee.parse().unwrap()).map(Amount::decimal), Some(share.decimal()));
        }
    }
}
