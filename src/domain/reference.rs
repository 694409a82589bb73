//! References: the names of jobs.

/// Longest reference, in bytes: Purple Flea's documented limit for an `Idempotency-Key`.
pub const REFERENCE_LIMIT_BYTES: usize = 64;

/// The name of a job in replies, logs, the `webhook-id` and, in standalone mode, Purple Flea's
/// `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

/// The reason why an event has no usable reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceError {
    /// The row has no `id`, and the request has no `webhook-id`.
    Missing,
    /// The `webhook-id` has a character other than `A-Z a-z 0-9 . _ : -`, or more than 64 bytes.
    Malformed,
    /// The `webhook-id` and the row's `id` name two different deposits.
    Mismatch,
}

impl Reference {
    /// Returns `wallet-change-{id}`, or the `webhook-id` if the row has no id. Both must agree if both exist.
    pub fn of(row_id: Option<i64>, webhook_id: Option<&str>) -> Result<Self, ReferenceError> {
        match (row_id.map(|id| format!("wallet-change-{id}")), webhook_id) {
            (Some(row), Some(header)) if row != header => Err(ReferenceError::Mismatch),
            (Some(row), _) => Ok(Self(row)),
            (None, Some(header)) => Self::parse(header).ok_or(ReferenceError::Malformed),
            (None, None) => Err(ReferenceError::Missing),
        }
    }

    /// Reads a reference of 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
    pub fn parse(text: &str) -> Option<Self> {
        is_reference(text).then(|| Self(text.to_owned()))
    }

    /// Returns the reference as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_reference(text: &str) -> bool {
    (1..=REFERENCE_LIMIT_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_comes_from_the_row_and_the_webhook_id_must_agree() {
        let (with, without) = (Some(42), None);
        let of = |row, id| Reference::of(row, id).map(|r| r.as_str().to_owned());
        assert_eq!(of(with, None).unwrap(), "wallet-change-42");
        assert_eq!(of(with, Some("wallet-change-42")).unwrap(), "wallet-change-42");
        assert_eq!(of(with, Some("wallet-change-43")), Err(ReferenceError::Mismatch));
        assert_eq!(of(Some(-5), None).unwrap(), "wallet-change--5");
        assert_eq!(of(without, Some("by-hand-1")).unwrap(), "by-hand-1");
        assert_eq!(of(without, None), Err(ReferenceError::Missing));
        assert_eq!(of(without, Some("a b")), Err(ReferenceError::Malformed));
        assert_eq!(of(without, Some(&"x".repeat(65))), Err(ReferenceError::Malformed));
    }
}
