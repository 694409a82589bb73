//! The policy: decides whether a deposit leads to a bet, on which game, and with which wager. These are pure
//! functions.

use super::{
    amount::Amount,
    bet::{Bet, CashoutAt, Choice, Game, GameName, Guess, Side},
    deposit::WalletChange,
    order::{Direction, Form, Market, Order},
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
    /// The direction of a trade.
    pub direction: Direction,
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
            direction: choice.direction.unwrap_or(self.direction),
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
            let order = Order { market, direction: self.direction, size: amount, form: Form::Trade };
            return Ok(Stake::Order(order));
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn policy() -> Policy {
        Policy {
            game: GameName::Crash,
            cashout_at: CashoutAt::new(amount("1.5")).unwrap(),
            side: Side::Heads,
            guess: Guess::Higher,
            market: None,
            direction: Direction::Long,
            size: None,
            check_balance: false,
            min_balance: amount("5"),
            min_change: Amount::ZERO,
            wager_fraction: Decimal::new(10, 2),
            max_wager: None,
            risk_factor: Some(Decimal::new(25, 2)),
            daily_wager_limit: None,
            daily_loss_limit: None,
            paused: false,
        }
    }

    fn deposit(change: Option<&str>, balance: Option<&str>) -> WalletChange {
        WalletChange {
            id: Some(1),
            agent_id: "agent-001".into(),
            change_type: "deposit".into(),
            change_amount: change.map(amount),
            new_balance: balance.map(amount),
        }
    }

    fn wager(policy: &Policy, balance: &str) -> String {
        match policy.decide(&deposit(None, Some(balance)), None) {
            Ok(Stake::Bet(bet)) => bet.wager.to_string(),
            other => panic!("{balance}: {other:?}"),
        }
    }

    #[test]
    fn a_tenth_of_the_balance_is_bet_to_the_cent() {
        assert_eq!(wager(&policy(), "100"), "10.00");
        assert_eq!(wager(&policy(), "12345678.1235"), "1234567.81");
        assert_eq!(wager(&policy(), "5.05"), "0.51");
        assert_eq!(wager(&policy(), "5.0499"), "0.50");
    }

    #[test]
    fn a_wager_exceeds_neither_the_cap_nor_the_whole_cents_of_the_balance() {
        let capped = Policy { max_wager: Some(amount("3.9999")), ..policy() };
        assert_eq!(wager(&capped, "100"), "3.99");
        let all = Policy { wager_fraction: Decimal::ONE, min_balance: Amount::ZERO, ..policy() };
        assert_eq!(wager(&all, "7.0099"), "7.00");
        assert_eq!(wager(&all, "7.0050"), "7.00");
    }

    #[test]
    fn a_stake_that_certainly_exceeds_a_daily_limit_is_skipped_and_one_that_may_exceed_it_waits() {
        let spent = |wagered: i64, lost: i64, open: i64| Spent {
            wagered: wagered.into(),
            lost: lost.into(),
            open: open.into(),
        };
        let staked = Policy { daily_wager_limit: Some(amount("50")), ..policy() };
        let lost = Policy { daily_loss_limit: Some(amount("50")), ..policy() };
        let decide = |policy: &Policy, spent: Spent| policy.decide(&deposit(None, Some("100")), Some(&spent));
        for (policy, spent) in [
            (&staked, spent(40, 0, 0)),
            (&staked, spent(0, 99, 40)),
            (&lost, spent(99, 40, 0)),
            (&lost, spent(0, -30, 70)),
        ] {
            assert!(matches!(decide(policy, spent), Ok(Stake::Bet(_))), "{spent:?}");
        }
        assert_eq!(decide(&staked, spent(41, 0, 0)), Err(Hold::Skip(SkipReason::DailyWagerLimit)));
        assert_eq!(decide(&lost, spent(0, 41, 0)), Err(Hold::Skip(SkipReason::DailyLossLimit)));
        assert_eq!(decide(&staked, spent(0, 0, 41)), Err(Hold::Retry(RetryReason::DailyLimitOpen)));
        assert_eq!(decide(&lost, spent(0, -20, 61)), Err(Hold::Retry(RetryReason::DailyLimitOpen)));
    }

    #[test]
    fn a_deposit_that_the_policy_does_not_bet_on_is_skipped_with_its_reason() {
        let strict = Policy { min_change: amount("10"), ..policy() };
        let tiny = Policy { min_balance: Amount::ZERO, ..policy() };
        let bold = Policy { cashout_at: CashoutAt::new(amount("100")).unwrap(), ..policy() };
        let payout = WalletChange { change_type: "payout".into(), ..deposit(None, Some("100")) };
        for (policy, row, skip) in [
            (&policy(), payout, SkipReason::NotADeposit),
            (&policy(), deposit(Some("10"), None), SkipReason::NoBalance),
            (&policy(), deposit(Some("4.9999"), Some("4.9999")), SkipReason::BelowMinBalance),
            (&strict, deposit(Some("9.9999"), Some("100")), SkipReason::BelowMinChange),
            (&strict, deposit(None, Some("100")), SkipReason::BelowMinChange),
            (&tiny, deposit(None, Some("0.0499")), SkipReason::WagerTooSmall),
            (&tiny, deposit(None, Some("0")), SkipReason::WagerTooSmall),
            (&bold, deposit(None, Some("99999999.9999")), SkipReason::TooLarge),
        ] {
            assert_eq!(policy.decide(&row, None), Err(Hold::Skip(skip)));
        }
    }

    #[test]
    fn a_pause_holds_back_bets_and_nothing_else() {
        let paused = Policy { paused: true, ..policy() };
        assert_eq!(paused.decide(&deposit(None, Some("100")), None), Err(Hold::Retry(RetryReason::Paused)));
        let poor = paused.decide(&deposit(None, Some("1")), None);
        assert_eq!(poor, Err(Hold::Skip(SkipReason::BelowMinBalance)));
    }

    #[test]
    fn the_largest_possible_payout_still_fits_the_column() {
        let flip = Policy { game: GameName::CoinFlip, wager_fraction: Decimal::new(5, 1), ..policy() };
        assert_eq!(wager(&flip, "99999999.98"), "49999999.99");
        let row = deposit(None, Some("99999999.9999"));
        assert_eq!(flip.decide(&row, None), Err(Hold::Skip(SkipReason::TooLarge)));
        let hi_lo = Policy { game: GameName::HiLo, ..policy() };
        assert_eq!(wager(&hi_lo, "83333333.3"), "8333333.33");
        let row = deposit(None, Some("83333333.4"));
        assert_eq!(hi_lo.decide(&row, None), Err(Hold::Skip(SkipReason::TooLarge)));
    }

    #[test]
    fn a_tenth_of_the_balance_can_be_bet_on_crash_up_to_a_cash_out_of_2_48() {
        let bankroll = amount("100");
        let crash = |at: &str| Game::Crash(CashoutAt::new(amount(at)).unwrap());
        let limit = |policy: &Policy, game| policy.kelly_limit(game, bankroll).map(|limit| limit.to_string());
        for (game, most) in [
            (crash("2.48"), "10.03"),
            (crash("2.49"), "9.99"),
            (crash("1.5"), "16.58"),
            (crash("100"), "0.25"),
            (Game::CoinFlip(Side::Heads), "12.50"),
            (Game::HiLo(Guess::Lower), "11.50"),
        ] {
            assert_eq!(limit(&policy(), game).as_deref(), Some(most), "{game:?}");
        }
        assert_eq!(limit(&Policy { risk_factor: None, ..policy() }, crash("100")), None);
        // Half a cent is rounded up, as Purple Flea does: $1 may stake $0.13 on a coin.
        let coin = policy().kelly_limit(Game::CoinFlip(Side::Heads), amount("1"));
        assert_eq!(coin, Some(amount("0.13")));
    }

    #[test]
    fn a_trade_opens_its_size_or_the_amount_of_a_wager_under_the_same_limits() {
        let market = Market::parse("BTC");
        let trade = Policy { game: GameName::Trade, market: market.clone(), ..policy() };
        let size = |policy: &Policy| match policy.decide(&deposit(None, Some("100")), None) {
            Ok(Stake::Order(order)) => order.size.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(size(&trade), "10.00");
        let fixed = Policy { size: Some(amount("25.509")), ..trade.clone() };
        assert_eq!(size(&fixed), "25.50");
        assert_eq!(size(&Policy { max_wager: Some(amount("20")), ..fixed.clone() }), "20.00");
        let poor = fixed.decide(&deposit(None, Some("1")), None);
        assert_eq!(poor, Err(Hold::Skip(SkipReason::BelowMinBalance)));
        let nowhere = Policy { market: None, ..trade };
        assert_eq!(nowhere.decide(&deposit(None, Some("100")), None), Err(Hold::Skip(SkipReason::NoMarket)));
    }

    #[test]
    fn a_choice_changes_the_game_and_keeps_every_limit() {
        let choice = Choice { game: Some(GameName::CoinFlip), side: Some(Side::Tails), ..Choice::default() };
        let Ok(Stake::Bet(bet)) = policy().with_choice(&choice).decide(&deposit(None, Some("50")), None)
        else {
            panic!()
        };
        assert_eq!(bet.game, Game::CoinFlip(Side::Tails));
        assert_eq!(policy().with_choice(&choice).min_balance, policy().min_balance);
    }

    proptest! {
        #[test]
        fn a_wager_is_never_above_the_balance_the_cap_or_the_fraction_by_more_than_half_a_cent(
            balance in 0..=999_999_999_999_i64,
            fraction in 1..=1_000_000_i64,
            max in proptest::option::of(100..=999_999_999_999_i64),
        ) {
            let balance = Amount::new(Decimal::new(balance, 4)).unwrap();
            let fraction = Decimal::new(fraction, 6);
            let max_wager = max.map(|m| Amount::new(Decimal::new(m, 4)).unwrap());
            let policy = Policy { min_balance: Amount::ZERO, wager_fraction: fraction, max_wager, ..policy() };
            let row = WalletChange { new_balance: Some(balance), ..deposit(None, None) };
            if let Ok(Stake::Bet(bet)) = policy.decide(&row, None) {
                let wager = bet.wager.decimal();
                prop_assert!(wager >= Decimal::new(1, 2));
                prop_assert_eq!(wager.scale(), 2);
                prop_assert!(bet.wager <= balance);
                prop_assert!(max_wager.is_none_or(|max| bet.wager <= max));
                prop_assert!(wager <= balance.decimal() * fraction + Decimal::new(5, 3));
            }
        }
    }
}
