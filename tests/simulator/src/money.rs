//! Reads and writes money as decimals and JSON numbers, digit by digit: 0.30000000000000004 stays 0.30000000000000004.

use rust_decimal::{Decimal, RoundingStrategy::MidpointAwayFromZero, prelude::ToPrimitive};
use serde_json::Value;

/// Reads a JSON number as a decimal. Refuses strings, as the real casino and trading do.
pub(super) fn number(value: &Value) -> Option<Decimal> {
    let Value::Number(number) = value else {
        return None;
    };
    parsed(number.as_str())
}

/// Reads a number, or a string with a number. The real escrow takes both.
pub(super) fn number_or_text(value: &Value) -> Option<Decimal> {
    number(value).or_else(|| parsed(value.as_str()?))
}

fn parsed(text: &str) -> Option<Decimal> {
    Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text)).ok()
}

/// Tells whether JavaScript takes a value for false. The real servers check so for missing fields.
pub(super) fn is_falsy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(_) => number(value).is_some_and(|number| number.is_zero()),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Writes a decimal as a JSON number, digit by digit.
pub(super) fn raw(value: Decimal) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

/// Writes a decimal as a JSON number without needless zeros, as the real server writes its floats.
pub(super) fn plain(value: Decimal) -> Value {
    raw(value.normalize())
}

/// Converts a decimal to the binary double that the released servers compute with.
pub(super) fn double(value: Decimal) -> f64 {
    value.to_f64().unwrap_or(f64::NAN)
}

/// Rounds a double to whole cents, as the released servers do.
pub(super) fn reported(value: f64) -> Decimal {
    Decimal::new((value * 100.0 + 0.5).floor() as i64, 2)
}

/// Rounds to whole cents, half a cent up.
pub(super) fn cents(value: Decimal) -> Decimal {
    value.round_dp_with_strategy(2, MidpointAwayFromZero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_keep_their_digits_and_only_the_lenient_take_strings() {
        let odd: Value = serde_json::from_str("0.30000000000000004").unwrap();
        assert_eq!(number(&odd).map(plain), Some(odd));
        assert_eq!(number(&serde_json::from_str("2e3").unwrap()), Some(Decimal::from(2_000)));
        assert_eq!((number(&json!("5")), number(&Value::Null)), (None, None));
        assert_eq!(number_or_text(&json!("5")), Some(Decimal::from(5)));
        assert_eq!(number_or_text(&json!("soon")), None);
        assert_eq!(cents(Decimal::new(125, 3)), Decimal::new(13, 2));
    }

    #[test]
    fn null_false_zero_and_the_empty_text_are_falsy() {
        for falsy in [Value::Null, json!(false), json!(0), json!("")] {
            assert!(is_falsy(&falsy), "{falsy}");
        }
        for truthy in [json!(true), json!(0.1), json!("0"), json!({}), json!([])] {
            assert!(!is_falsy(&truthy), "{truthy}");
        }
    }

    #[test]
    fn payouts_are_reported_in_the_cents_that_binary_doubles_give() {
        for (wager, multiplier, cents) in [
            ("0.69", "1.5", "1.03"),
            ("2.50", "1.99", "4.97"),
            ("5.05", "1.5", "7.57"),
            ("10", "1.5", "15.00"),
        ] {
            let (wager, multiplier) = (wager.parse().unwrap(), multiplier.parse().unwrap());
            assert_eq!(reported(double(wager) * double(multiplier)).to_string(), cents);
        }
    }
}
