//! Why nothing is done about an event, for good: names for programs, sentences for people.

/// Why nothing is done, and nothing ever will be for this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
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

impl Skip {
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
