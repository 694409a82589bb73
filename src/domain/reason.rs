//! Skip reasons and retry reasons: a name for programs and a sentence for people.

/// Retry delay, in seconds, for a deposit that is blocked only by a bet of unknown outcome. The ledger
/// releases the deposit once that outcome is known. After this delay a worker checks for a new UTC day.
const OPEN_LIMIT_RETRY_S: u64 = 900;

/// Retry delay, in seconds, for a job that this version cannot read, or whose escrow does not exist yet. An
/// operator or another job has to act first.
const UNREADABLE_RETRY_S: u64 = 300;

/// Retry delay, in seconds, if Purple Flea did not report the balance: one window of its rate limits.
const BALANCE_RETRY_S: u64 = 60;

/// Retry delay, in seconds, for a look at an escrow that is not over. Purple Flea refunds an escrow within five
/// minutes of its timeout; a later end is rare.
const ESCROW_OPEN_RETRY_S: u64 = 3_600;

/// The reason why the function skips an event for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The row is a withdrawal, a payout or something else that is not a deposit.
    NotADeposit,
    /// The row holds no balance.
    NoBalance,
    /// The balance is below `min_balance`.
    BelowMinBalance,
    /// The deposit is below `min_change`, or `min_change` is above zero and the row names no amount.
    BelowMinChange,
    /// The wager would be below one cent.
    WagerTooSmall,
    /// The payout could exceed the column of the result (99,999,999.9999).
    TooLarge,
    /// The stake would exceed `daily_wager_limit` for the UTC day.
    DailyWagerLimit,
    /// The loss of the stake would exceed `daily_loss_limit` for the UTC day.
    DailyLossLimit,
    /// The policy's game is `trade`, and the policy names no market.
    NoMarket,
    /// The balance at Purple Flea is below the stake.
    InsufficientBalance,
    /// The stake is above Kelly's limit for the bankroll, which the `live` dialect enforces.
    AboveKellyLimit,
    /// The requested wager is above `max_wager`.
    AboveMaxWager,
    /// The dialect has no hi-lo.
    NoHiLo,
    /// The amount is below Purple Flea's minimum, or has a fraction of a cent.
    InvalidAmount,
    /// The vault already has the agent's key.
    KeyIsThere,
    /// The escrow does not exist, or has ended another way.
    EscrowNotOpen,
    /// The dialect cannot cancel an escrow.
    NoCancel,
    /// The agent uses the shared key, whose daily claim is its own account's.
    NoDailyClaim,
    /// The dialect documents no completion, no dispute and no state of an escrow.
    NoEscrowStep,
    /// The dialect cannot close a position.
    NoClose,
    /// The signal that the job answers has expired.
    SignalExpired,
    /// The order's leverage exceeds the policy's.
    LeverageLimit,
    /// The agent has made its daily claim, and the next one is not due yet.
    NotEligibleYet,
}

impl SkipReason {
    /// All reasons.
    pub const ALL: [Self; 23] = [
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
        Self::AboveKellyLimit,
        Self::AboveMaxWager,
        Self::NoHiLo,
        Self::InvalidAmount,
        Self::KeyIsThere,
        Self::EscrowNotOpen,
        Self::NoCancel,
        Self::NoDailyClaim,
        Self::NoEscrowStep,
        Self::NoClose,
        Self::SignalExpired,
        Self::LeverageLimit,
        Self::NotEligibleYet,
    ];

    /// Returns the reason's name in replies and logs.
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
            Self::AboveKellyLimit => "above_kelly_limit",
            Self::AboveMaxWager => "above_max_wager",
            Self::NoHiLo => "no_hi_lo",
            Self::InvalidAmount => "invalid_amount",
            Self::KeyIsThere => "key_is_there",
            Self::EscrowNotOpen => "escrow_not_open",
            Self::NoCancel => "no_cancel",
            Self::NoDailyClaim => "no_daily_claim",
            Self::NoEscrowStep => "no_escrow_step",
            Self::NoClose => "no_close",
            Self::SignalExpired => "signal_expired",
            Self::LeverageLimit => "leverage_limit",
            Self::NotEligibleYet => "not_eligible_yet",
        }
    }

    /// Returns the reason as a sentence for a person.
    pub fn detail(self) -> &'static str {
        match self {
            Self::NotADeposit => "Only rows whose change_type is deposit lead to bets.",
            Self::NoBalance => "The row has no new_balance.",
            Self::BelowMinBalance => "new_balance is below min_balance.",
            Self::BelowMinChange => "change_amount is below min_change, or missing.",
            Self::WagerTooSmall => "The wager would be below $0.01.",
            Self::TooLarge => "The payout could exceed what a result can hold (99999999.9999).",
            Self::DailyWagerLimit => "The agent would stake more than daily_wager_limit today.",
            Self::DailyLossLimit => "The agent could lose more than daily_loss_limit today.",
            Self::NoMarket => "The policy's game is trade, and the policy names no market.",
            Self::InsufficientBalance => "Purple Flea says that the wallet holds less than the wager.",
            Self::AboveKellyLimit => {
                "The wager is above max_bet, Kelly's limit: balance × risk_factor × probability of a win."
            }
            Self::AboveMaxWager => "The requested wager is above max_wager.",
            Self::NoHiLo => "Purple Flea's gateway documents no path for hi-lo.",
            Self::InvalidAmount => {
                "The amount must be whole cents: 0.10 or more for an escrow, 0.01 for a trade or a bet."
            }
            Self::KeyIsThere => "The agent's key is in the vault already: it is not registered again.",
            Self::EscrowNotOpen => "The escrow was never made, or has ended.",
            Self::NoCancel => {
                "Purple Flea's live API cannot cancel an escrow: it ends by a dispute or its timeout."
            }
            Self::NoEscrowStep => {
                "Purple Flea's gateway cannot complete or dispute an escrow, and does not show its state."
            }
            Self::NoClose => "Purple Flea's gateway has no route that closes a position.",
            Self::SignalExpired => "The signal that the job answers has expired.",
            Self::LeverageLimit => "The order's leverage is above the policy's.",
            Self::NoDailyClaim => {
                "The shared key would claim for its own account: only an agent with a key of its own claims daily."
            }
            Self::NotEligibleYet => "The agent has made its daily claim, and the next one is not due yet.",
        }
    }
}

/// The reason why the function sends nothing for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The policy holds back every bet.
    Paused,
    /// The stake exceeds a daily limit if the bets of unknown outcome were made.
    DailyLimitOpen,
    /// The exchange could end after the claim's lease.
    OutOfTime,
    /// Purple Flea did not report the balance.
    BalanceNotKnown,
    /// The escrow does not exist yet.
    EscrowNotMade,
    /// The escrow is not over: its receiver has not delivered.
    EscrowFunded,
    /// The escrow is not over: its receiver has delivered.
    EscrowCompleted,
    /// This version cannot read the ledger's row or policy.
    Unreadable,
}

impl RetryReason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Paused,
        Self::DailyLimitOpen,
        Self::OutOfTime,
        Self::BalanceNotKnown,
        Self::EscrowNotMade,
        Self::EscrowFunded,
        Self::EscrowCompleted,
        Self::Unreadable,
    ];

    /// Returns the reason's name in replies, logs and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::DailyLimitOpen => "daily_limit_open",
            Self::OutOfTime => "out_of_time",
            Self::BalanceNotKnown => "balance_not_known",
            Self::EscrowNotMade => "escrow_not_made",
            Self::EscrowFunded => "escrow_funded",
            Self::EscrowCompleted => "escrow_completed",
            Self::Unreadable => "unreadable_job",
        }
    }

    /// Returns the retry delay, in seconds.
    pub fn retry_after_s(self) -> u64 {
        match self {
            Self::Paused | Self::OutOfTime => 0,
            Self::DailyLimitOpen => OPEN_LIMIT_RETRY_S,
            Self::BalanceNotKnown => BALANCE_RETRY_S,
            Self::EscrowNotMade | Self::Unreadable => UNREADABLE_RETRY_S,
            Self::EscrowFunded | Self::EscrowCompleted => ESCROW_OPEN_RETRY_S,
        }
    }
}

/// The reason why the policy stakes nothing on a deposit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The policy skips the deposit for good.
    Skip(SkipReason),
    /// The policy holds the deposit back for now.
    Retry(RetryReason),
}
