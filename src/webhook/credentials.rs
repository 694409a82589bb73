//! The credentials that the settings know, and the bearer tokens that callers show: the webhook token, the operators', and a
//! signed-in user's.

use super::signature::Secret;
use crate::endpoint::Key;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Shortest `webhook_token`, in characters; a shorter one can be guessed.
pub const TOKEN_MIN_CHARS: usize = 16;

/// Most operators: each costs a comparison for every call with a bearer token.
pub const OPERATORS_LIMIT: usize = 8;

/// Longest name of an operator, in characters: it stands in log lines and in the history.
const NAME_LIMIT_CHARS: usize = 32;

/// Shortest operator's token of hexadecimal digits alone: 128 bits.
const HEX_MIN_CHARS: usize = 32;

/// Shortest operator's token of other base64url characters: 132 bits.
const BASE64URL_MIN_CHARS: usize = 22;

/// Longest operator's token, in characters: more adds nothing to its strength.
const OPERATORS_TOKEN_LIMIT_CHARS: usize = 256;

/// Fewest different characters of an operator's token. Of 32 random hexadecimal digits fewer than one in a million
/// has less; a repeated or typed pattern often has.
const DIFFERENT_MIN_CHARS: usize = 8;

/// Longest user's token that is passed on, in bytes. Supabase's have about 1 KiB; gateways and servers commonly take
/// 8 KiB of a header.
const OWNERS_TOKEN_LIMIT_BYTES: usize = 8 * 1024;

/// The credentials that the settings know.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The signing secrets; several during a rotation.
    pub secrets: Vec<Secret>,
    /// The bearer token `webhook_token`.
    pub token: Option<Token>,
    /// The operators and their tokens.
    pub operators: Operators,
}

/// A bearer token, kept as its digest, so that a comparison does not tell its length. Its `Debug` shows nothing
/// of it.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Reads a token of at least 16 visible ASCII characters; `None` for any other.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() >= TOKEN_MIN_CHARS && text.bytes().all(|b| b.is_ascii_graphic()))
            .then(|| Self::shown(text.as_bytes()))
    }

    /// Whatever a caller shows.
    pub fn shown(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Compares in the same time whatever differs.
    pub fn is(&self, other: &Self) -> bool {
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
    /// Reads one to 8 `name:token` pairs, separated by spaces or commas; `None` if any is not of its form, or a name
    /// or a token stands twice.
    pub fn parse(text: &str) -> Option<Self> {
        let mut operators: Vec<(String, Token)> = Vec::new();
        for pair in text.split([',', ' ', '\t', '\n', '\r']).filter(|pair| !pair.is_empty()) {
            let (name, token) =
                pair.split_once(':').filter(|(name, token)| is_name(name) && is_strong(token))?;
            let token = Token::shown(token.as_bytes());
            if operators.iter().any(|(known, other)| known == name || other.is(&token)) {
                return None;
            }
            operators.push((name.to_owned(), token));
        }
        (1..=OPERATORS_LIMIT).contains(&operators.len()).then_some(Self(operators))
    }

    /// The name of the operator whose token this is. Compares with every operator's.
    pub fn name_of(&self, shown: &Token) -> Option<&str> {
        self.0.iter().fold(None, |found, (name, token)| if token.is(shown) { Some(name) } else { found })
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_LIMIT_CHARS).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

/// Whether a token can be 128 random bits, by its form.
fn is_strong(token: &str) -> bool {
    let least =
        if token.bytes().all(|b| b.is_ascii_hexdigit()) { HEX_MIN_CHARS } else { BASE64URL_MIN_CHARS };
    let mut different: Vec<u8> = token.bytes().collect();
    different.sort_unstable();
    different.dedup();
    (least..=OPERATORS_TOKEN_LIMIT_CHARS).contains(&token.len())
        && different.len() >= DIFFERENT_MIN_CHARS
        && token.bytes().all(is_base64url)
}

/// A user's token by its form: three parts of base64url with dots between them. Its `Debug` shows nothing of it.
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
        assert!(Token::parse("sixteen-chars-..").unwrap().is(&Token::shown(b"sixteen-chars-..")));
    }

    #[test]
    fn operators_are_told_apart_by_their_tokens() {
        let operators = Operators::parse(&format!("ada:{HEX}, grace.h-2:{BASE64URL}\n")).unwrap();
        let name_of = |shown: &str| operators.name_of(&Token::shown(shown.as_bytes()));
        assert_eq!((name_of(HEX), name_of(BASE64URL)), (Some("ada"), Some("grace.h-2")));
        for wrong in ["", "ada", &HEX[1..], &format!("ada:{HEX}"), &format!("{HEX} "), &HEX.to_uppercase()] {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
        assert!(!format!("{operators:?}").contains("pX2"));
    }

    #[test]
    fn a_token_of_less_than_128_bits_by_its_form_is_no_operators() {
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
    fn a_list_of_operators_has_one_to_eight_each_with_a_name_and_a_token_of_its_own() {
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
    fn a_users_token_has_three_parts_of_base64url() {
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
