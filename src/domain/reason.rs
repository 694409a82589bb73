//! Reasons why the function does nothing, for good or for now: names for programs, sentences for people.

/// Retry delay, in seconds, for a deposit that is blocked only by a bet of unknown outcome. The ledger releases the deposit
/// when that outcome is known; this delay is for the day's end.
const OPEN_LIMIT_RETRY_S: u64 = 900;

/// Retry delay, in seconds, for a job that this version cannot read, or whose escrow is not made: an operator or another
/// job has to act first.
const UNREADABLE_RETRY_S: u64 = 300;

/// Retry delay, in seconds, for a balance that Purple Flea did not tell: one window of its rate limits.
const BALANCE_RETRY_S: u64 = 60;

/// Why the function does nothing about an event, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The row is a withdrawal, a payout or something else that is not a deposit.
    NotADeposit,
    /// The row does not say what the wallet holds.
    NoBalance,
    /// The balance is below `min_balance`.
    BelowMinBalance,
    /// The deposit is below `min_change`, or does not say how much it is while there is such a threshold.
    BelowMinChange,
    /// The wager would be below one cent.
    WagerTooSmall,
    /// The wager could win more than the result's column holds (99,999,999.9999).
    TooLarge,
    /// With it the agent would have staked more than `daily_wager_limit` today.
    DailyWagerLimit,
    /// Were it lost, the agent would have lost more than `daily_loss_limit` today.
    DailyLossLimit,
    /// A trade, and no market.
    NoMarket,
    /// The wallet holds less than is to be staked.
    InsufficientBalance,
    /// The amount is below what Purple Flea takes, or has a fraction of a cent.
    InvalidAmount,
    /// The agent has its key already.
    KeyIsThere,
    /// The escrow was never made, or has ended otherwise.
    EscrowNotOpen,
    /// The dialect cannot cancel an escrow.
    NoCancel,
    /// The dialect's faucet gives once, and not daily.
    NoDailyClaim,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::NotADeposit,
        Self::NoBalance,
        Self::BelowMinBalance,
        Self::BelowMinChange,
        Self::WagerTooSmall,
        Self::TooLarge,
        Self::DailyWagerLimit,
        Self::DailyLossLimit,
        Self::NoMarket,
        Self::InsufficientBalance,
        Self::InvalidAmount,
        Self::KeyIsThere,
        Self::EscrowNotOpen,
        Self::NoCancel,
        Self::NoDailyClaim,
    ];

    /// Its name in replies and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotADeposit => "not_a_deposit",
            Self::NoBalance => "no_balance",
            Self::BelowMinBalance => "below_min_balance",
            Self::BelowMinChange => "below_min_change",
            Self::WagerTooSmall => "wager_too_small",
            Self::TooLarge => "too_large",
            Self::DailyWagerLimit => "daily_wager_limit",
            Self::DailyLossLimit => "daily_loss_limit",
            Self::NoMarket => "no_market",
            Self::InsufficientBalance => "insufficient_balance",
            Self::InvalidAmount => "invalid_amount",
            Self::KeyIsThere => "key_is_there",
            Self::EscrowNotOpen => "escrow_not_open",
            Self::NoCancel => "no_cancel",
            Self::NoDailyClaim => "no_daily_claim",
        }
    }

    /// The same for a person.
    pub fn detail(self) -> &'static str {
        match self {
            Self::NotADeposit => "Only rows whose change_type is deposit lead to bets.",
            Self::NoBalance => "The row has no new_balance to take a part of.",
            Self::BelowMinBalance => "new_balance is below min_balance.",
            Self::BelowMinChange => "change_amount is below min_change, or not there.",
            Self::WagerTooSmall => "The wager would be below $0.01.",
            Self::TooLarge => "The wager could win more than a result can hold (99999999.9999).",
            Self::DailyWagerLimit => "The agent would stake more than daily_wager_limit today.",
            Self::DailyLossLimit => "The agent could lose more than daily_loss_limit today.",
            Self::NoMarket => "The policy's game is trade, and it names no market.",
            Self::InsufficientBalance => "Purple Flea says that the wallet holds less than the wager.",
            Self::InvalidAmount => {
                "The amount must be whole cents: 0.10 or more for an escrow, 0.01 for a trade."
            }
            Self::KeyIsThere => "The agent's key is in the vault already: it is not registered again.",
            Self::EscrowNotOpen => "The escrow was never made, or has ended.",
            Self::NoCancel => {
                "Purple Flea's live API cannot cancel an escrow: it ends by a dispute or its timeout."
            }
            Self::NoDailyClaim => "Purple Flea's live faucet gives once, and not daily.",
        }
    }
}

/// Why the function sends nothing for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The policy is paused.
    Paused,
    /// The stake passes a daily limit, unless bets of unknown outcome turn out not to have been made.
    DailyLimitOpen,
    /// The exchange could outlive the claim's lease.
    OutOfTime,
    /// Purple Flea did not tell the balance.
    BalanceNotKnown,
    /// The escrow that is to end is not made yet.
    EscrowNotMade,
    /// This version cannot read the ledger's row or policy.
    Unreadable,
}

impl RetryReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Paused,
        Self::DailyLimitOpen,
        Self::OutOfTime,
        Self::BalanceNotKnown,
        Self::EscrowNotMade,
        Self::Unreadable,
    ];

    /// Its name in replies, logs and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::DailyLimitOpen => "daily_limit_open",
            Self::OutOfTime => "out_of_time",
            Self::BalanceNotKnown => "balance_not_known",
            Self::EscrowNotMade => "escrow_not_made",
            Self::Unreadable => "unreadable_job",
        }
    }

    /// After how many seconds the ledger hands the job out again.
    pub fn retry_after_s(self) -> u64 {
        match self {
            Self::Paused | Self::OutOfTime => 0,
            Self::DailyLimitOpen => OPEN_LIMIT_RETRY_S,
            Self::BalanceNotKnown => BALANCE_RETRY_S,
            Self::EscrowNotMade | Self::Unreadable => UNREADABLE_RETRY_S,
        }
    }
}

/// Why the policy stakes nothing on a deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// For good.
    Skip(SkipReason),
    /// For now.
    Retry(RetryReason),
}
