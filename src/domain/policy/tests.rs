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
        direction: None,
        leverage: None,
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
fn an_order_without_a_leverage_has_the_policys_and_one_above_it_is_skipped() {
    let leverage = |times: Option<u64>| times.and_then(Leverage::new);
    for (asked, most, given) in [
        (None, None, Ok(None)),
        (Some(8), None, Ok(Some(8))),
        (None, Some(3), Ok(Some(3))),
        (Some(2), Some(3), Ok(Some(2))),
        (Some(3), Some(3), Ok(Some(3))),
        (Some(4), Some(3), Err(SkipReason::LeverageLimit)),
    ] {
        let (market, size) = (Market::parse("BTC").unwrap(), amount("25"));
        let order = Order { market, direction: None, size, leverage: leverage(asked), form: Form::Order };
        let policy = Policy { leverage: leverage(most), ..policy() };
        assert_eq!(policy.leverage_of(&order), given.map(leverage), "{asked:?} {most:?}");
    }
}

#[test]
fn a_choice_changes_the_game_and_keeps_every_limit() {
    let choice = Choice { game: Some(GameName::CoinFlip), side: Some(Side::Tails), ..Choice::default() };
    let Ok(Stake::Bet(bet)) = policy().with_choice(&choice).decide(&deposit(None, Some("50")), None) else {
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
