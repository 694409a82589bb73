//! Jobs: their kinds, their tasks, and the states that an outcome leads a job to.
//!
//! A *kind* is a name that paths, logs and the ledger share. A *task* is the same with everything that an attempt needs.

use super::{
    deposit::WalletChange,
    escrow::{End, EscrowRow, Terms},
    order::Order,
    policy::{Policy, Spent},
};
use serde::{Deserialize, Serialize};

/// A kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The function bets on a deposit, or trades with it. A row of `wallet_changes` makes such a job, and nothing else does.
    Deposit,
    /// The function does what a caller or a row asks for.
    Requested(RequestKind),
}

/// A kind of job that a caller can ask for by a path of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// The function opens a position, by the gateway's `/trade`.
    Trade,
    /// The function opens a position, by the gateway's `/trading/order`.
    Order,
    /// The function registers an agent.
    Registration,
    /// The function claims the faucet's first credit for an agent.
    Faucet,
    /// The function makes the faucet's claim of the day for an agent.
    DailyClaim,
    /// The function reads an agent's balance.
    Balance,
    /// The function makes an escrow.
    Escrow,
    /// The function releases an escrow.
    EscrowRelease,
    /// The function cancels an escrow.
    EscrowCancel,
}

impl RequestKind {
    /// Every kind that a caller can ask for.
    pub const ALL: [Self; 9] = [
        Self::Trade,
        Self::Order,
        Self::Registration,
        Self::Faucet,
        Self::DailyClaim,
        Self::Balance,
        Self::Escrow,
        Self::EscrowRelease,
        Self::EscrowCancel,
    ];

    /// The name in paths, logs and the ledger.
    pub fn name(self) -> &'static str {
        match self {
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

    /// Whether the same request, sent twice under two names, would move money twice. Its caller has to name it.
    pub fn needs_a_name(self) -> bool {
        matches!(self, Self::Trade | Self::Order | Self::Escrow)
    }
}

impl Kind {
    /// The name of the deposits' kind.
    const DEPOSIT: &str = "deposit";

    /// Reads a kind by its name.
    pub fn parse(name: &str) -> Option<Self> {
        if name == Self::DEPOSIT {
            return Some(Self::Deposit);
        }
        RequestKind::ALL.into_iter().find(|kind| kind.name() == name).map(Self::Requested)
    }

    /// The name in logs and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deposit => Self::DEPOSIT,
            Self::Requested(kind) => kind.name(),
        }
    }
}

/// A job with everything that an attempt needs.
#[derive(Debug)]
pub enum Task {
    /// Bets on a deposit, or trades with it.
    Deposit(Box<DepositTask>),
    /// Opens a position that a caller asked for.
    Order(Box<OrderTask>),
    /// Keeps an agent's account.
    Agent(AgentTask),
    /// Makes or ends an escrow.
    Escrow(EscrowTask),
}

/// A deposit and the rules that decide about it; in ledger mode both as the database froze them.
#[derive(Debug)]
pub struct DepositTask {
    /// The deposit's row.
    pub row: WalletChange,
    /// The agent's policy.
    pub policy: Policy,
    /// What the agent has spent today, if the policy limits that.
    pub spent: Option<Spent>,
}

/// A position that a caller asked for, and the limits that decide about it.
#[derive(Debug)]
pub struct OrderTask {
    /// The agent that the position is for.
    pub agent_id: String,
    /// The position.
    pub order: Order,
    /// The agent's policy, in ledger mode.
    pub policy: Option<Policy>,
    /// What the agent has spent today, if the policy limits that.
    pub spent: Option<Spent>,
}

/// Something that keeps an agent's account. Purple Flea does each at most once, or it only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTask {
    /// The agent.
    pub agent_id: String,
    /// The action.
    pub action: AgentAction,
}

/// What an [`AgentTask`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAction {
    /// Registers the agent.
    Register {
        /// The referral code of the agent that brought this one in.
        referral_code: Option<String>,
    },
    /// Claims the faucet's first credit.
    ClaimFaucet {
        /// The referral code of the agent that brought this one in.
        referral_code: Option<String>,
        /// Whether the faucet's credit is all that the account can hold: we registered it, and nothing has come since.
        fresh: bool,
    },
    /// Makes the faucet's claim of the day.
    ClaimDaily,
    /// Reads the balance.
    ReadBalance,
}

/// A step of an escrow: Purple Flea makes it once, and ends it at most once.
#[derive(Debug)]
pub struct EscrowTask {
    /// The agent that pays.
    pub agent_id: String,
    /// The step.
    pub action: EscrowAction,
}

/// What an [`EscrowTask`] does.
#[derive(Debug)]
pub enum EscrowAction {
    /// Makes the escrow.
    Create(Box<Terms>),
    /// Ends the escrow.
    End {
        /// How it ends.
        end: End,
        /// Purple Flea's id of the escrow, if it was made.
        pf_escrow_id: Option<String>,
        /// Whether the escrow may still be made: then its end waits.
        pending: bool,
    },
}

/// A caller's request about an agent.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRow {
    /// The agent.
    pub agent_id: String,
}

impl Task {
    /// Whether the agent's next job can only be claimed when this one is settled: its stake counts against a daily limit.
    pub fn is_one_at_a_time(&self) -> bool {
        match self {
            Self::Deposit(task) => task.spent.is_some(),
            Self::Order(task) => task.spent.is_some(),
            Self::Agent(_) | Self::Escrow(_) => false,
        }
    }
}

impl EscrowTask {
    /// Makes the escrow of a row. `counterparty` is Purple Flea's name of the receiver, if that is another one.
    pub fn create(row: EscrowRow, counterparty: Option<String>, referral_code: Option<String>) -> Self {
        let EscrowRow { sender_id, receiver_id, amount, description, timeout_hours } = row;
        let counterparty = counterparty.unwrap_or(receiver_id);
        let terms = Terms { counterparty, amount, description, timeout_hours, referral_code };
        Self { agent_id: sender_id, action: EscrowAction::Create(Box::new(terms)) }
    }
}

/// A state that an outcome leads a claimed job to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing was executed; a worker tries again later.
    Pending,
    /// Purple Flea did it.
    Executed,
    /// The function leaves it, for good.
    Skipped,
    /// Purple Flea refused it, for good.
    Rejected,
    /// Purple Flea may have done it.
    Unknown,
}

impl State {
    /// The ledger's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Executed => "executed",
            Self::Skipped => "skipped",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_by_the_name_that_it_is_written_by() {
        let kinds = RequestKind::ALL.into_iter().map(Kind::Requested).chain([Kind::Deposit]);
        for kind in kinds {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
        assert_eq!(Kind::parse("of_tomorrow"), None);
    }
}
