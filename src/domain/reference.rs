//! What an event is called.

/// Longest reference, in bytes: what Purple Flea documents as the most of an `Idempotency-Key`.
pub const REFERENCE_LIMIT_BYTES: usize = 64;

/// Our name for a deposit's job: what people, logs and Purple Flea's `Idempotency-Key` call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

/// Why an event has no usable reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceError {
    /// Neither an `id` in the row nor a `webhook-id`.
    Missing,
    /// The `webhook-id` has a character other than `A-Z a-z 0-9 . _ : -`, or is over 64 bytes long.
    Malformed,
    /// The `webhook-id` and the row's `id` name two different deposits.
    Mismatch,
}

impl Reference {
    /// `wallet-change-{id}`; without an id in the row the `webhook-id`. Where both exist they must agree.
    pub fn of(row_id: Option<u64>, webhook_id: Option<&str>) -> Result<Self, ReferenceError> {
        match (row_id.map(|id| format!("wallet-change-{id}")), webhook_id) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(ReferenceError::Mismatch),
            (Some(ours), _) => Ok(Self(ours)),
            (None, Some(theirs)) => Self::parse(theirs).ok_or(ReferenceError::Malformed),
            (None, None) => Err(ReferenceError::Missing),
        }
    }

    /// A reference that somebody wrote: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    pub fn parse(text: &str) -> Option<Self> {
        is_plain(text).then(|| Self(text.to_owned()))
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(text: &str) -> bool {
    (1..=REFERENCE_LIMIT_BYTES).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_the_rows_and_the_webhook_id_must_agree() {
        let (with, without) = (Some(42), None);
        let of = |row, id| Reference::of(row, id).map(|r| r.as_str().to_owned());
        assert_eq!(of(with, None).unwrap(), "wallet-change-42");
        assert_eq!(of(with, Some("wallet-change-42")).unwrap(), "wallet-change-42");
        assert_eq!(of(with, Some("wallet-change-43")), Err(ReferenceError::Mismatch));
        assert_eq!(of(without, Some("by-hand-1")).unwrap(), "by-hand-1");
        assert_eq!(of(without, None), Err(ReferenceError::Missing));
        assert_eq!(of(without, Some("a b")), Err(ReferenceError::Malformed));
        assert_eq!(of(without, Some(&"x".repeat(65))), Err(ReferenceError::Malformed));
    }
}
