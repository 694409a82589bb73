//! The policy: decides whether a deposit leads to a bet, on which game, and with which wager. These are pure
//! functions.

use super::{
    amount::Amount,
    bet::{Bet, CashoutAt, Choice, Game, GameName, Guess, Side},
    deposit::WalletChange,
    order::{Direction, Form, Leverage, Market, Order},
    reason::{Hold, RetryReason, SkipReason},
};
use rust_decimal::{Decimal, RoundingStrategy};

/// Digits after the point of a wager: cents.
const CENTS: u32 = 2;

/// The smallest bet that Purple Flea accepts: $0.01.
const SMALLEST_WAGER: Decimal = Decimal::from_parts(1, 0, 0, false, CENTS);

/// The rules that decide about a deposit. [`crate::config`] defines each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The game, unless a caller chooses another.
    pub game: GameName,
    /// The cash-out of a crash bet.
    pub cashout_at: CashoutAt,
    /// The side of a coin-flip.
    pub side: Side,
    /// The guess of a hi-lo bet.
    pub guess: Guess,
    /// The market of a trade.
    pub market: Option<Market>,
    /// The direction of a trade, if it was chosen.
    pub direction: Option<Direction>,
    /// The leverage of a trade, and the most that a caller's own order may have; `None`: Purple Flea's.
    pub leverage: Option<Leverage>,
    /// The size of a trade, in US dollars; `None`: as much as a wager would be.
    pub size: Option<Amount>,
    /// Whether the function reads the balance at Purple Flea before it stakes.
    pub check_balance: bool,
    /// The smallest balance that leads to a bet, in US dollars.
    pub min_balance: Amount,
    /// The smallest deposit that leads to a bet, in US dollars.
    pub min_change: Amount,
    /// The fraction of the balance that a bet stakes: above 0, at most 1.
    pub wager_fraction: Decimal,
    /// The largest stake of one bet, in US dollars.
    pub max_wager: Option<Amount>,
    /// The fraction of Kelly's bet that one bet may stake in the `live` dialect: 0.1 to 1; `None`: the policy
    /// has no such limit.
    pub risk_factor: Option<Decimal>,
    /// The most that the agent may stake in a UTC day, in US dollars. Only ledger mode enforces it.
    pub daily_wager_limit: Option<Amount>,
    /// The most that the agent may lose in a UTC day after wins, in US dollars. Only ledger mode enforces it.
    pub daily_loss_limit: Option<Amount>,
    /// Whether the policy holds back every bet.
    pub paused: bool,
}

/// An agent's stakes and losses of one UTC day, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// The sum of stakes whose outcome is known.
    pub wagered: Decimal,
    /// The loss on those stakes after wins. It is negative if the agent won more than it lost.
    pub lost: Decimal,
    /// The sum of stakes whose outcome is unknown. It is also their greatest loss.
    pub open: Decimal,
}

/// The stake on a deposit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stake {
    /// A bet.
    Bet(Bet),
    /// A position.
    Order(Order),
}

impl Stake {
    /// Returns the staked amount, in US dollars.
    pub fn amount(&self) -> Amount {
        match self {
            Self::Bet(bet) => bet.wager,
            Self::Order(order) => order.size,
        }
    }
}

impl Policy {
    /// Returns the same policy with the caller's choice of game.
    pub fn with_choice(&self, choice: &Choice) -> Self {
        Self {
            game: choice.game.unwrap_or(self.game),
            cashout_at: choice.cashout_at.unwrap_or(self.cashout_at),
            side: choice.side.unwrap_or(self.side),
            guess: choice.guess.unwrap_or(self.guess),
            market: choice.market.clone().or_else(|| self.market.clone()),
            direction: choice.direction.or(self.direction),
            ..self.clone()
        }
    }

    /// Returns the game with its parameters; `None` for a trade.
    pub fn game(&self) -> Option<Game> {
        match self.game {
            GameName::Crash => Some(Game::Crash(self.cashout_at)),
            GameName::CoinFlip => Some(Game::CoinFlip(self.side)),
            GameName::HiLo => Some(Game::HiLo(self.guess)),
            GameName::Trade => None,
        }
    }

    /// Decides about one row. Returns the stake, or the reason why there is none. `spent` holds the agent's
    /// stakes of the day in ledger mode.
    pub fn decide(&self, row: &WalletChange, spent: Option<&Spent>) -> Result<Stake, Hold> {
        let stake = self.stake(row).map_err(Hold::Skip)?;
        if self.paused {
            return Err(Hold::Retry(RetryReason::Paused));
        }
        self.check_daily_limits(stake.amount(), spent)?;
        Ok(stake)
    }

    /// Returns the leverage of an order that a caller requested: the caller's own up to the policy's, or else
    /// the policy's.
    pub fn leverage_of(&self, order: &Order) -> Result<Option<Leverage>, SkipReason> {
        match (order.leverage, self.leverage) {
            (Some(asked), Some(most)) if asked > most => Err(SkipReason::LeverageLimit),
            (asked, most) => Ok(asked.or(most)),
        }
    }

    /// Checks a bet that a caller requested, without regard to the daily limits. The caller chose the wager, so a
    /// wager above `max_wager` is skipped and not lowered.
    pub fn check_bet(&self, bet: &Bet) -> Result<(), Hold> {
        let wager = bet.wager.decimal();
        let payout = wager.checked_mul(bet.game.highest_payout_per_dollar());
        if self.max_wager.is_some_and(|most| bet.wager > most) {
            Err(Hold::Skip(SkipReason::AboveMaxWager))
        } else if payout.is_none_or(|payout| Amount::new(payout).is_err()) {
            Err(Hold::Skip(SkipReason::TooLarge))
        } else if self.paused {
            Err(Hold::Retry(RetryReason::Paused))
        } else {
            Ok(())
        }
    }

    /// Checks a stake against the daily limits. Skips a stake that certainly exceeds a limit. Holds back a
    /// stake that exceeds a limit only if the bets of unknown outcome were made.
    pub fn check_daily_limits(&self, stake: Amount, spent: Option<&Spent>) -> Result<(), Hold> {
        let spent = spent.copied().unwrap_or_default();
        let exceeds = |limit: Option<Amount>, so_far: Decimal, open: Decimal| {
            let total = so_far.checked_add(stake.decimal()).and_then(|total| total.checked_add(open));
            limit.is_some_and(|limit| total.is_none_or(|total| total > limit.decimal()))
        };
        let none = Decimal::ZERO;
        if exceeds(self.daily_wager_limit, spent.wagered, none) {
            Err(Hold::Skip(SkipReason::DailyWagerLimit))
        } else if exceeds(self.daily_loss_limit, spent.lost, none) {
            Err(Hold::Skip(SkipReason::DailyLossLimit))
        } else if exceeds(self.daily_wager_limit, spent.wagered, spent.open)
            || exceeds(self.daily_loss_limit, spent.lost, spent.open)
        {
            Err(Hold::Retry(RetryReason::DailyLimitOpen))
        } else {
            Ok(())
        }
    }

    /// Returns the most that one bet on a game may stake from a bankroll in the `live` dialect, in US dollars:
    /// `round_half_up(bankroll × risk_factor × probability of a win, 2)`. `None`: the policy has no such limit.
    pub fn kelly_limit(&self, game: Game, bankroll: Amount) -> Option<Amount> {
        let part = bankroll.decimal().checked_mul(self.risk_factor?)?;
        let limit = game.times_win_probability(part)?;
        Amount::new(limit.round_dp_with_strategy(CENTS, RoundingStrategy::MidpointAwayFromZero)).ok()
    }

    /// Returns the stake on a row, without regard to the daily limits.
    fn stake(&self, row: &WalletChange) -> Result<Stake, SkipReason> {
        if !row.is_deposit() {
            return Err(SkipReason::NotADeposit);
        }
        let balance = row.new_balance.ok_or(SkipReason::NoBalance)?;
        if balance < self.min_balance {
            return Err(SkipReason::BelowMinBalance);
        }
        if row.change_amount.unwrap_or(Amount::ZERO) < self.min_change {
            return Err(SkipReason::BelowMinChange);
        }
        let game = self.game();
        let wager = match (game, self.size) {
            (None, Some(size)) => self.cap(size.decimal()),
            _ => self.wager(balance).ok_or(SkipReason::TooLarge)?,
        };
        if wager < SMALLEST_WAGER {
            return Err(SkipReason::WagerTooSmall);
        }
        let amount = Amount::new(wager).map_err(|_| SkipReason::TooLarge)?;
        let Some(game) = game else {
            let market = self.market.clone().ok_or(SkipReason::NoMarket)?;
            let (direction, leverage, form) = (self.direction, self.leverage, Form::Trade);
            return Ok(Stake::Order(Order { market, direction, size: amount, leverage, form }));
        };
        let payout = wager.checked_mul(game.highest_payout_per_dollar()).ok_or(SkipReason::TooLarge)?;
        Amount::new(payout).map_err(|_| SkipReason::TooLarge)?;
        Ok(Stake::Bet(Bet { agent_id: row.agent_id.clone(), game, wager: amount }))
    }

    /// Returns `min(round_half_up(balance × fraction, 2), floor(balance, 2), floor(max_wager, 2))`, or `None`
    /// if the product does not fit a decimal.
    fn wager(&self, balance: Amount) -> Option<Decimal> {
        let part = balance
            .decimal()
            .checked_mul(self.wager_fraction)?
            .round_dp_with_strategy(CENTS, RoundingStrategy::MidpointAwayFromZero);
        Some(self.cap(part.min(floor(balance.decimal()))))
    }

    /// Returns the stake in whole cents, at most `max_wager`.
    fn cap(&self, stake: Decimal) -> Decimal {
        let mut stake = floor(self.max_wager.map_or(stake, |max| stake.min(max.decimal())));
        stake.rescale(CENTS);
        stake
    }
}

fn floor(value: Decimal) -> Decimal {
    value.round_dp_with_strategy(CENTS, RoundingStrategy::ToZero)
}

#[cfg(test)]
mod tests;
