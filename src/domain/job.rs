//! Jobs: their kinds, the subject of a request, and the states that an outcome leads to.
//!
//! A *kind* is the name that logs and the ledger share.

use serde::Serialize;

/// A kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The function bets on a deposit, or trades with it. Only a row of `wallet_changes` makes such a job.
    Deposit,
    /// The function executes a request of a caller or of a row.
    Requested(RequestKind),
}

/// A kind of job that a caller can request through a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// The function opens a position, by the gateway's `/trade`.
    Trade,
    /// The function opens a position, by the gateway's `/trading/order`.
    Order,
    /// The function places a bet.
    Bet,
    /// The function closes a position.
    Close,
    /// The function registers an agent.
    Registration,
    /// The function claims the faucet's first credit for an agent.
    Faucet,
    /// The function makes the faucet's daily claim for an agent.
    DailyClaim,
    /// The function reads an agent's balance.
    Balance,
    /// The function makes an escrow.
    Escrow,
    /// The function releases an escrow.
    EscrowRelease,
    /// The function cancels an escrow.
    EscrowCancel,
    /// The function reports that an escrow's receiver has delivered.
    EscrowComplete,
    /// The function disputes an escrow for one of its parties.
    EscrowDispute,
    /// The function reads an escrow's state.
    EscrowStatus,
}

impl RequestKind {
    /// All kinds that a caller can request.
    pub const ALL: [Self; 14] = [
        Self::Trade,
        Self::Order,
        Self::Bet,
        Self::Close,
        Self::Registration,
        Self::Faucet,
        Self::DailyClaim,
        Self::Balance,
        Self::Escrow,
        Self::EscrowRelease,
        Self::EscrowCancel,
        Self::EscrowComplete,
        Self::EscrowDispute,
        Self::EscrowStatus,
    ];

    /// Returns the name in logs and in the ledger. A body names it as its operation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trade => "trade",
            Self::Order => "order",
            Self::Bet => "bet",
            Self::Close => "close",
            Self::Registration => "registration",
            Self::Faucet => "faucet",
            Self::DailyClaim => "daily_claim",
            Self::Balance => "balance",
            Self::Escrow => "escrow",
            Self::EscrowRelease => "escrow_release",
            Self::EscrowCancel => "escrow_cancel",
            Self::EscrowComplete => "escrow_complete",
            Self::EscrowDispute => "escrow_dispute",
            Self::EscrowStatus => "escrow_status",
        }
    }

    /// Returns the path that accepts requests of this kind.
    pub fn path(self) -> &'static str {
        match self {
            Self::Trade => "/trade",
            Self::Order => "/order",
            Self::Bet => "/bet",
            Self::Close => "/close",
            Self::Registration => "/register",
            Self::Faucet => "/faucet",
            Self::DailyClaim => "/faucet/daily",
            Self::Balance => "/balance",
            Self::Escrow => "/escrow",
            Self::EscrowRelease => "/escrow/release",
            Self::EscrowCancel => "/escrow/cancel",
            Self::EscrowComplete => "/escrow/complete",
            Self::EscrowDispute => "/escrow/dispute",
            Self::EscrowStatus => "/escrow/status",
        }
    }

    /// Returns whether the caller must name the request. The same request under two names would move money
    /// twice.
    pub fn requires_reference(self) -> bool {
        matches!(self, Self::Trade | Self::Order | Self::Bet | Self::Escrow)
    }
}

impl Kind {
    /// The name of the deposits' kind.
    const DEPOSIT: &str = "deposit";

    /// Reads a kind from its name.
    pub fn parse(name: &str) -> Option<Self> {
        if name == Self::DEPOSIT {
            return Some(Self::Deposit);
        }
        RequestKind::ALL.into_iter().find(|kind| kind.name() == name).map(Self::Requested)
    }

    /// Returns the name in logs and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deposit => Self::DEPOSIT,
            Self::Requested(kind) => kind.name(),
        }
    }
}

/// The agent of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The agent with this id.
    Agent(String),
    /// The sender of the escrow with this row id.
    SenderOf(i64),
    /// The receiver of the escrow with this row id.
    ReceiverOf(i64),
    /// Either of them.
    PartyOf(i64),
}

/// A state that an outcome leads a claimed job to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing was executed. A worker tries again later.
    Pending,
    /// Purple Flea executed the task.
    Executed,
    /// The function skips the task for good.
    Skipped,
    /// Purple Flea refused the task for good.
    Rejected,
    /// Purple Flea may have executed the task.
    Unknown,
}

impl State {
    /// Returns the state's name in the ledger.
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
    fn every_kind_can_be_read_from_its_own_name() {
        let kinds = RequestKind::ALL.into_iter().map(Kind::Requested).chain([Kind::Deposit]);
        for kind in kinds {
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
        assert_eq!(Kind::parse("of_tomorrow"), None);
    }
}
