//! The credentials that the settings know, and the bearer tokens that callers show: the webhook token, the operators', and a
//! signed-in user's.

use super::signature::Secret;
use crate::endpoint::Key;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Shortest `webhook_token`, in characters. An attacker could guess a shorter one.
pub const TOKEN_MIN_CHARS: usize = 16;

/// Most operators: each costs a comparison for every call with a bearer token.
pub const OPERATORS_LIMIT: usize = 8;

/// Longest name of an operator, in characters. Log lines and the job's history hold it.
const NAME_LIMIT_CHARS: usize = 32;

/// Shortest operator's token of hexadecimal digits alone: 128 bits.
const HEX_MIN_CHARS: usize = 32;

/// Shortest operator's token of other base64url characters: 132 bits.
const BASE64URL_MIN_CHARS: usize = 22;

/// Longest operator's token, in characters. A longer one is not stronger.
const OPERATORS_TOKEN_LIMIT_CHARS: usize = 256;

/// Fewest different characters of an operator's token. Fewer than one in a million random tokens of 32
/// hexadecimal digits has less. A repeated or typed pattern often has less.
const DIFFERENT_MIN_CHARS: u32 = 8;

/// Longest owner's token that the function passes on, in bytes. Supabase's tokens have about 1 KiB. Gateways
/// and servers commonly accept 8 KiB of a header.
const OWNERS_TOKEN_LIMIT_BYTES: usize = 8 * 1024;

/// The credentials that the settings know.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The signing secrets. There are several during a rotation.
    pub secrets: Vec<Secret>,
    /// The bearer token `webhook_token`.
    pub token: Option<Token>,
    /// The operators and their tokens.
    pub operators: Operators,
}

/// The digest of a bearer token. A comparison of digests does not reveal the token's length. Its `Debug` text
/// does not contain the token.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Reads a token of at least 16 visible ASCII characters. Returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() >= TOKEN_MIN_CHARS && text.bytes().all(|b| b.is_ascii_graphic()))
            .then(|| Self::digest(text.as_bytes()))
    }

    /// Returns the digest of a token that a caller shows.
    pub fn digest(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns whether the tokens are equal. The time of the comparison does not depend on the difference.
    pub fn equals(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The operators: a name and a token each.
#[derive(Debug, Clone, Default)]
pub struct Operators(Vec<(String, Token)>);

impl Operators {
    /// Reads one to 8 `name:token` pairs, separated by spaces or commas. Returns `None` if a pair has another
    /// form, or if a name or a token occurs twice.
    pub fn parse(text: &str) -> Option<Self> {
        let mut operators: Vec<(String, Token)> = Vec::new();
        for pair in text.split([',', ' ', '\t', '\n', '\r']).filter(|pair| !pair.is_empty()) {
            let (name, token) =
                pair.split_once(':').filter(|(name, token)| is_name(name) && is_strong(token))?;
            let token = Token::digest(token.as_bytes());
            if operators.iter().any(|(known, other)| known == name || other.equals(&token)) {
                return None;
            }
            operators.push((name.to_owned(), token));
        }
        (1..=OPERATORS_LIMIT).contains(&operators.len()).then_some(Self(operators))
    }

    /// Returns the name of the operator with this token. Compares it with every operator's token.
    pub fn name_of(&self, shown: &Token) -> Option<&str> {
        self.0.iter().fold(None, |found, (name, token)| if token.equals(shown) { Some(name) } else { found })
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_LIMIT_CHARS).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// Returns whether a token's form allows 128 random bits.
fn is_strong(token: &str) -> bool {
    let least =
        if token.bytes().all(|b| b.is_ascii_hexdigit()) { HEX_MIN_CHARS } else { BASE64URL_MIN_CHARS };
    // One bit for each ASCII character. A sort would be a large piece of code for at most 256 bytes.
    let different =
        token.bytes().fold(0_u128, |seen, byte| seen | 1_u128.checked_shl(byte.into()).unwrap_or(0));
    (least..=OPERATORS_TOKEN_LIMIT_CHARS).contains(&token.len())
        && different.count_ones() >= DIFFERENT_MIN_CHARS
        && token.bytes().all(is_base64url)
}

/// Reads an owner's token by its form: three parts of base64url, separated by dots. Its `Debug` text does not
/// contain the token.
pub fn owners_token(shown: &[u8]) -> Option<Key> {
    if shown.len() > OWNERS_TOKEN_LIMIT_BYTES {
        return None;
    }
    let is_part = |part: &[u8]| !part.is_empty() && part.iter().copied().all(is_base64url);
    let mut parts = shown.split(|b| *b == b'.');
    let three = parts.by_ref().take(3).filter(|part| is_part(part)).count() == 3;
    (three && parts.next().is_none()).then(|| std::str::from_utf8(shown).ok().and_then(Key::parse)).flatten()
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef";
    const BASE64URL: &str = "pX2-kQ9_vT4mLr8sWz1cNb";

    #[test]
    fn a_token_has_16_visible_characters() {
        assert!(Token::parse("fifteen-chars..").is_none());
        assert!(Token::parse("sixteen chars ..").is_none());
        assert!(Token::parse("sixteen-chars-..").unwrap().equals(&Token::digest(b"sixteen-chars-..")));
    }

    #[test]
    fn an_operators_token_names_its_operator() {
        let operators = Operators::parse(&format!("ada:{HEX}, grace.h-2:{BASE64URL}\n")).unwrap();
        let name_of = |shown: &str| operators.name_of(&Token::digest(shown.as_bytes()));
        assert_eq!((name_of(HEX), name_of(BASE64URL)), (Some("ada"), Some("grace.h-2")));
        for wrong in ["", "ada", &HEX[1..], &format!("ada:{HEX}"), &format!("{HEX} "), &HEX.to_uppercase()] {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
        assert!(!format!("{operators:?}").contains("pX2"));
    }

    #[test]
    fn a_token_whose_form_allows_less_than_128_bits_is_refused() {
        for token in [
            "",
            &HEX[1..],
            &BASE64URL[1..],
            // Hexadecimal digits carry four bits each, so 22 of them are too few.
            &HEX[..22],
            &"a".repeat(64),
            &"abab12".repeat(8),
            "0123456789abcdef0123456789abcde!",
            "0123456789abcdef:0123456789abcdef",
            &"0123456789abcdef".repeat(17),
        ] {
            assert!(Operators::parse(&format!("ada:{token}")).is_none(), "{token}");
        }
        assert!(Operators::parse(&format!("ada:{}", "0123456789abcdef".repeat(16))).is_some());
    }

    #[test]
    fn one_to_eight_operators_have_different_names_and_tokens() {
        let numbered = |count: u32| {
            let pairs = (1..=count).map(|n| format!("op{n}:{n:x}{}", &HEX[1..]));
            pairs.collect::<Vec<_>>().join(" ")
        };
        assert!(Operators::parse(&numbered(8)).is_some());
        assert!(Operators::parse(&numbered(9)).is_none());
        for list in [
            "".to_owned(),
            ",, ".to_owned(),
            HEX.to_owned(),
            format!(":{HEX}"),
            format!("Ada:{HEX}"),
            format!("ada lovelace:{HEX}"),
            format!("{}:{HEX}", "a".repeat(33)),
            format!("ada:{HEX} ada:{BASE64URL}"),
            format!("ada:{HEX} grace:{HEX}"),
            format!("ada:{HEX} grace"),
        ] {
            assert!(Operators::parse(&list).is_none(), "{list}");
        }
    }

    #[test]
    fn an_owners_token_has_three_parts_of_base64url() {
        for token in ["a.b.c", "eyJhbGciOi.eyJzdWIi-_.c2ln"] {
            assert_eq!(owners_token(token.as_bytes()).unwrap().expose(), token);
        }
        let long = format!("a.{}.c", "b".repeat(OWNERS_TOKEN_LIMIT_BYTES));
        for other in [
            "",
            "a",
            "a.b",
            "a.b.",
            ".b.c",
            "a..c",
            "a.b.c.d",
            "a.b.c.",
            "a.b.c=",
            "a.b c.d",
            "a.\u{fc}.c",
            &long,
        ] {
            assert!(owners_token(other.as_bytes()).is_none(), "{other}");
        }
    }
}
