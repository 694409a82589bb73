//! API keys: the credentials with which a tenant's own programs read its events and records.

use sha2::{Digest, Sha256};
use std::fmt::{self, Write};

/// The first characters of every key.
pub const PREFIX: &str = "ek_";

/// Fewest characters after the prefix: 128 random bits of base64url.
const SECRET_MIN_CHARS: usize = 22;

/// Most characters after the prefix. The ledger's keys have fewer.
const SECRET_LIMIT_CHARS: usize = 128;

/// The SHA-256 of a key. The ledger stores keys in this form, and gets no other of them. Its `Debug` text does not
/// contain the hash.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Reads a key that a caller shows: `ek_` and 22 to 128 characters of base64url. Returns `None` for any other text. Only
    /// the ledger knows whether it has such a key.
    pub fn parse(shown: &[u8]) -> Option<Self> {
        let secret = shown.strip_prefix(PREFIX.as_bytes())?;
        let is_base64url = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let formed = (SECRET_MIN_CHARS..=SECRET_LIMIT_CHARS).contains(&secret.len())
            && secret.iter().all(is_base64url);
        formed.then(|| Self(hex(&Sha256::digest(shown))))
    }

    /// Returns the hash, as 64 lower-case hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes any text.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ek_0123456789abcdefghij-_";

    #[test]
    fn a_key_is_known_by_the_hash_of_its_whole_text() {
        let key = ApiKey::parse(KEY.as_bytes()).unwrap();
        // printf %s "$KEY" | sha256sum
        assert_eq!(key.hash(), "ac31562ecceec260a0ceafa496d8236ef6ca970ca11b772194fee86fbfbc613c");
        assert!(!format!("{key:?}").contains("ac31562e"));
    }

    #[test]
    fn a_text_of_another_form_is_no_key() {
        let long = format!("ek_{}", "a".repeat(129));
        for text in [
            "",
            "ek_",
            &KEY[1..],
            &KEY[..24],
            &long,
            "EK_0123456789abcdefghij-_",
            "ek_0123456789abcdefghij.._",
        ] {
            assert!(ApiKey::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(ApiKey::parse(b"ek_0123456789abcdefghi\xff").is_none());
        assert!(ApiKey::parse(format!("ek_{}", "a".repeat(128)).as_bytes()).is_some());
    }
}
