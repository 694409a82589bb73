//! Amounts of money: decimals from the text of a JSON number to the text of the next one, never a float.

use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use std::{fmt, str::FromStr};

/// Digits after the point that the database keeps (`numeric(12,4)`).
const SCALE: u32 = 4;

/// One cent: `live` replies tell a payout in cents.
const A_CENT: Decimal = Decimal::from_parts(1, 0, 0, false, 2);

/// The largest value of `numeric(12,4)`: 99,999,999.9999.
const LARGEST: Decimal = Decimal::from_parts(3_567_587_327, 232, 0, false, SCALE);

/// Longest text that is parsed as a number. A [`Decimal`] holds 28 significant digits; the rest is room for a
/// sign, a point, zeros and an exponent.
const TEXT_LIMIT_BYTES: usize = 64;

/// An amount in US dollars that fits the database's `numeric(12,4)`. It lies within ±99,999,999.9999 and has
/// at most four digits after the point.
///
/// It reads from a JSON number or a string. It writes a JSON number with the digits that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(Decimal);

/// The reason why a text is not an [`Amount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The text is not a decimal number: `NaN`, `Infinity`, words, or empty.
    #[error("must be a decimal number")]
    NotANumber,
    /// The number lies outside `numeric(12,4)`.
    #[error("must lie within ±99999999.9999")]
    OutOfRange,
    /// The number has more than four digits after the point.
    #[error("must have at most 4 digits after the point")]
    TooPrecise,
}

impl Amount {
    /// Zero dollars.
    pub const ZERO: Self = Self(Decimal::ZERO);

    /// Makes an amount from a decimal. Refuses a decimal that does not fit the column.
    pub fn new(value: Decimal) -> Result<Self, AmountError> {
        if value.abs() > LARGEST {
            return Err(AmountError::OutOfRange);
        }
        let rounded = value.round_dp(SCALE);
        if rounded != value {
            return Err(AmountError::TooPrecise);
        }
        Ok(Self(if value.scale() > SCALE { rounded } else { value }))
    }

    /// Reads an amount of another party, and rounds it half up to four digits after the point. Other parties'
    /// floats carry noise beyond the fourth digit.
    pub fn rounded(text: &str) -> Result<Self, AmountError> {
        let value = decimal(text)?;
        Self::new(value.round_dp_with_strategy(SCALE, RoundingStrategy::MidpointAwayFromZero))
    }

    /// Reads an amount from a JSON number, or from a JSON string that holds a number.
    pub fn from_json(value: &Value) -> Result<Self, AmountError> {
        match value {
            Value::Number(number) => number.as_str().parse(),
            Value::String(text) => text.parse(),
            _ => Err(AmountError::NotANumber),
        }
    }

    /// Returns the amount as a decimal.
    pub fn decimal(self) -> Decimal {
        self.0
    }

    /// Returns the amount times a factor, rounded once to four digits after the point; `None` if it does not fit.
    pub fn times(self, factor: Decimal) -> Option<Self> {
        let product = self.0.checked_mul(factor)?;
        Self::new(product.round_dp_with_strategy(SCALE, RoundingStrategy::MidpointAwayFromZero)).ok()
    }

    /// Returns whether two amounts are the same to the cent.
    pub fn agrees_to_the_cent(self, other: Self) -> bool {
        self.0.checked_sub(other.0).is_some_and(|difference| difference.abs() <= A_CENT)
    }

    /// Returns whether the amount has no fraction of a cent. Purple Flea's servers accept fractions and round
    /// them in their replies, so the recorded sums would differ.
    pub fn is_whole_cents(self) -> bool {
        self.0.checked_mul(Decimal::ONE_HUNDRED).is_some_and(|cents| cents.fract().is_zero())
    }

    /// Returns whether the amount is below zero.
    pub fn is_negative(self) -> bool {
        self.0.is_sign_negative() && !self.0.is_zero()
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        Self::new(decimal(text)?)
    }
}

/// Reads a decimal of any size from the text of a JSON number.
pub fn decimal(text: &str) -> Result<Decimal, AmountError> {
    if text.len() > TEXT_LIMIT_BYTES {
        return Err(AmountError::OutOfRange);
    }
    // The decimal's parser accepts more than JSON does (`1_000`, `+1`, ` 1`), so JSON's grammar is checked
    // first. Postgres writes `NaN` for a numeric without a value; JSON's grammar refuses that, too.
    let number = serde_json::Number::from_str(text).map_err(|_| AmountError::NotANumber)?;
    let text = number.as_str();
    let parsed = if text.contains(['e', 'E']) {
        Decimal::from_scientific(text)
    } else {
        Decimal::from_str_exact(text)
    };
    // A JSON number that a decimal cannot hold is too large or too long.
    parsed.map_err(|_| AmountError::OutOfRange)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::Number::from_str(&self.0.to_string())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl From<Amount> for Value {
    fn from(amount: Amount) -> Self {
        // A decimal's text is always a JSON number.
        serde_json::Number::from_str(&amount.to_string()).map_or(Value::Null, Value::Number)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_keeps_every_digit_from_text_to_text() {
        for text in ["0", "1.5000", "12345678.1235", "99999999.9999", "-5.00", "0.0001"] {
            let amount: Amount = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&amount).unwrap(), text);
            let quoted: Amount = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            assert_eq!(quoted, amount);
        }
    }

    #[test]
    fn an_amount_that_does_not_fit_the_column_is_refused_with_its_reason() {
        use AmountError::*;
        for (text, error) in [
            ("100000000", OutOfRange),
            ("-99999999.99991", OutOfRange),
            ("1e400", OutOfRange),
            ("1e-400", OutOfRange),
            ("123456789012345678901234567890", OutOfRange),
            ("0.00001", TooPrecise),
            ("NaN", NotANumber),
            ("Infinity", NotANumber),
            ("", NotANumber),
            (" 1", NotANumber),
            ("+1", NotANumber),
            ("1_000", NotANumber),
            ("0x10", NotANumber),
            ("1,5", NotANumber),
        ] {
            assert_eq!(text.parse::<Amount>(), Err(error), "{text}");
        }
        assert_eq!("1.50000000".parse::<Amount>().unwrap().to_string(), "1.5000");
        assert_eq!("1e2".parse::<Amount>().unwrap(), "100".parse().unwrap());
    }

    #[test]
    fn another_partys_float_with_noise_is_rounded_to_the_column() {
        let noisy = Amount::rounded("987.3000000000002").unwrap();
        assert_eq!(noisy, "987.3".parse().unwrap());
        assert_eq!(Amount::rounded("1e400"), Err(AmountError::OutOfRange));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_never_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<Amount>();
            let _ = Amount::rounded(&text);
        }

        #[test]
        fn a_number_of_any_length_or_size_is_read_or_refused_and_never_panics(
            number in "-?[0-9]{1,40}(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,12})?",
        ) {
            let _ = number.parse::<Amount>();
            let _ = Amount::rounded(&number);
        }

        #[test]
        fn every_value_of_the_column_survives_a_round_trip_through_json(units in -999_999_999_999_i64..=999_999_999_999) {
            let amount = Amount::new(Decimal::new(units, 4)).unwrap();
            let json = serde_json::to_string(&amount).unwrap();
            prop_assert_eq!(serde_json::from_str::<Amount>(&json).unwrap(), amount);
        }
    }
}
