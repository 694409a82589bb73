//! The steps of an escrow: it is made once, and released or cancelled at most once.

use super::{Means, order::is_whole_cents, out_of_time};
use crate::{
    ending::{
        Ending, Wait,
        done::{Asked, Done},
    },
    money::Amount,
    outside::Outside,
    purple_flea::{
        Api,
        escrow::{End, Terms},
    },
    skip::Skip,
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// The smallest escrow that Purple Flea takes: $0.10.
const SMALLEST_ESCROW: Decimal = Decimal::from_parts(10, 0, 0, false, 2);

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
        } else if self.amount.decimal() < SMALLEST_ESCROW || !is_whole_cents(self.amount) {
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

/// A step of an escrow.
#[derive(Debug)]
pub struct Step {
    /// The agent who pays, and asks.
    pub agent_id: String,
    /// What is to be done.
    pub what: What,
}

/// What is to be done about an escrow.
#[derive(Debug)]
pub enum What {
    /// It is made.
    Create(Box<Terms>),
    /// It ends.
    End {
        /// How.
        end: End,
        /// Purple Flea's name for it, if it was made.
        pf_escrow_id: Option<String>,
        /// Whether it may still be made: then its end waits.
        pending: bool,
    },
}

impl Step {
    /// The making of an escrow, as its row has it; with Purple Flea's name for the other side, where that is another,
    /// and the code of who earns the referral.
    pub fn create(row: EscrowRow, counterparty: Option<String>, referral_code: Option<String>) -> Self {
        let EscrowRow { sender_id, receiver_id, amount, description, timeout_hours } = row;
        let counterparty = counterparty.unwrap_or(receiver_id);
        let terms = Terms { counterparty, amount, description, timeout_hours, referral_code };
        Self { agent_id: sender_id, what: What::Create(Box::new(terms)) }
    }

    /// Does it.
    pub async fn run(&self, means: &Means<'_, impl Outside>) -> Ending {
        let agent_id = &self.agent_id;
        if !means.in_time() {
            return out_of_time(agent_id);
        }
        let Means { purple_flea, account, bet_key, outside, .. } = *means;
        let escrow = match &self.what {
            What::Create(terms) => {
                if !is_whole_cents(terms.amount) || terms.amount.decimal() < SMALLEST_ESCROW {
                    return Ending::skipped(agent_id, Skip::InvalidAmount);
                }
                purple_flea.create_escrow(terms, account, bet_key, outside).await
            }
            What::End { end: End::Cancel, .. } if purple_flea.api == Api::Live => {
                return Ending::skipped(agent_id, Skip::NoCancel);
            }
            What::End { end, pf_escrow_id: Some(id), .. } => {
                purple_flea.end_escrow(*end, id, account, bet_key, outside).await
            }
            What::End { pending: true, .. } => return Ending::waiting(agent_id, Wait::EscrowNotMade),
            What::End { .. } => return Ending::skipped(agent_id, Skip::EscrowNotOpen),
        };
        match escrow {
            Ok(escrow) => Ending::executed(agent_id, Done::Escrow(escrow)),
            Err(failure) => Ending::failed(agent_id, Asked::Other {}, failure),
        }
    }
}
