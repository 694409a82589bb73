//! What there is to do: one piece of work a kind of job, each decided and done in its own module. The same in both modes;
//! what stands around it, the claim and the settling, is the ledger's.

pub mod agent;
pub mod deposit;
pub mod escrow;
pub mod order;

use crate::{
    ending::{Ending, Wait},
    outside::Outside,
    purple_flea::{Account, PurpleFlea},
    time_budget,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A kind of job. The names are the ledger's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A deposit is bet on, or traded with.
    Deposit,
    /// A position is opened, by the gateway's `/trade`.
    Trade,
    /// The same, by its `/trading/order`.
    Order,
    /// An agent gets an account.
    Registration,
    /// An agent claims the faucet.
    Faucet,
    /// An agent makes the faucet's claim of the day.
    DailyClaim,
    /// An agent's balance is looked at.
    Balance,
    /// An escrow is made.
    Escrow,
    /// An escrow is released.
    EscrowRelease,
    /// An escrow is cancelled.
    EscrowCancel,
}

impl Kind {
    /// Its name in paths, logs and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Trade => "trade",
            Self::Order => "order",
            Self::Registration => "registration",
            Self::Faucet => "faucet",
            Self::DailyClaim => "daily_claim",
            Self::Balance => "balance",
            Self::Escrow => "escrow",
            Self::EscrowRelease => "escrow_release",
            Self::EscrowCancel => "escrow_cancel",
        }
    }
}

/// A piece of work.
#[derive(Debug)]
pub enum Work {
    /// A deposit.
    Deposit(Box<deposit::Case>),
    /// A position.
    Order(Box<order::Case>),
    /// Something for an agent.
    Agent(agent::Errand),
    /// A step of an escrow.
    Escrow(escrow::Step),
}

/// What doing it takes.
pub struct Means<'a, O> {
    /// Who is asked.
    pub purple_flea: &'a PurpleFlea,
    /// On whose account.
    pub account: &'a Account,
    /// What Purple Flea is to call it.
    pub bet_key: &'a str,
    /// By when everything must be over, on the monotonic clock.
    pub deadline: Option<Duration>,
    /// The world.
    pub outside: &'a O,
}

impl<O: Outside> Means<'_, O> {
    /// Whether an exchange that is begun now is over in time.
    fn in_time(&self) -> bool {
        let longest =
            self.purple_flea.timeout.saturating_add(Duration::from_millis(time_budget::LEASE_MARGIN_MS));
        self.deadline.is_none_or(|deadline| self.outside.monotonic().saturating_add(longest) <= deadline)
    }
}

impl Work {
    /// Decides and does it.
    pub async fn run(&self, means: &Means<'_, impl Outside>) -> Ending {
        match self {
            Self::Deposit(case) => case.run(means).await,
            Self::Order(case) => case.run(means).await,
            Self::Agent(errand) => errand.run(means).await,
            Self::Escrow(step) => step.run(means).await,
        }
    }

    /// Whether the next of the same agent's can only be claimed when this one is settled.
    pub fn is_one_at_a_time(&self) -> bool {
        match self {
            Self::Deposit(case) => case.spent.is_some(),
            Self::Order(case) => case.spent.is_some(),
            Self::Agent(_) | Self::Escrow(_) => false,
        }
    }
}

/// What may not be begun any more waits.
fn out_of_time(agent_id: &str) -> Ending {
    Ending::waiting(agent_id, Wait::OutOfTime)
}
