//! Jobs: their kinds, the agent that each is about, and the states that an outcome leads a job to.

use serde::Serialize;

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

    /// The name in logs and in the ledger, and the operation that a body names.
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

    /// The path that takes requests of this kind.
    pub fn path(self) -> &'static str {
        match self {
            Self::Trade => "/trade",
            Self::Order => "/order",
            Self::Registration => "/register",
            Self::Faucet => "/faucet",
            Self::DailyClaim => "/faucet/daily",
            Self::Balance => "/balance",
            Self::Escrow => "/escrow",
            Self::EscrowRelease => "/escrow/release",
            Self::EscrowCancel => "/escrow/cancel",
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

/// The agent that a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An agent, by its id.
    Agent(String),
    /// The sender of an escrow, by the escrow's row.
    SenderOf(u64),
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
