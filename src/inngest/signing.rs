//! Signing keys: how Inngest's calls are verified, and what the function shows Inngest.
//!
//! A signature is the HMAC-SHA256 of the body's bytes, as they arrived, and of the time in digits. The HMAC's key is the
//! text of the signing key without its prefix: its digits, and not the bytes that they stand for. The time of a comparison
//! does not depend on the difference.

use super::op::hex;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Greatest difference between a signature's time and now, in seconds.
pub const TOLERANCE_S: u64 = 300;

/// The header with the time and the signature: `t=<Unix seconds>&s=<hexadecimal digits>`.
pub const SIGNATURE: HeaderName = HeaderName::from_static("x-inngest-signature");

/// Fewest hexadecimal digits of a signing key: 128 bits. Inngest's own keys have 64.
const DIGITS_MIN: usize = 32;

/// Most hexadecimal digits of a signing key.
const DIGITS_MAX: usize = 256;

/// Characters of the hash of a key that the introspection shows.
const SHOWN_CHARS: usize = 12;

/// A signing key. Its `Debug` text does not contain it.
#[derive(Clone)]
pub struct SigningKey {
    /// `signkey-prod-`, or nothing.
    prefix: String,
    /// The digits after the prefix.
    digits: String,
    /// The SHA-256 of the bytes that the digits stand for.
    hash: [u8; 32],
}

impl SigningKey {
    /// Reads `signkey-<environment>-` and an even number of hexadecimal digits, or those digits alone. Returns `None` for any
    /// other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits_at = prefix_bytes(text);
        let (prefix, digits) = text.split_at_checked(digits_at)?;
        let bytes = unhex(digits)?;
        (DIGITS_MIN..=DIGITS_MAX).contains(&digits.len()).then(|| Self {
            prefix: prefix.to_owned(),
            digits: digits.to_owned(),
            hash: Sha256::digest(bytes).into(),
        })
    }

    /// Returns the value of an `authorization` header: the prefix, and the hash of the key.
    pub fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.hashed())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns the first characters of the key's hash, by which a person recognises the key.
    pub fn shown_hash(&self) -> String {
        hex(&self.hash).chars().take(SHOWN_CHARS).collect()
    }

    /// Returns the header's value of a body that is signed at `timestamp_s`.
    pub fn signature(&self, body: &[u8], timestamp_s: u64) -> Option<String> {
        let signature = self.sign(body, timestamp_s.to_string().as_bytes())?;
        Some(format!("t={timestamp_s}&s={}", hex(&signature)))
    }

    fn hashed(&self) -> String {
        format!("{}{}", self.prefix, hex(&self.hash))
    }

    /// Returns the signature. HMAC accepts a key of any length, so the result is never `None`.
    fn sign(&self, body: &[u8], timestamp: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.digits.as_bytes()).ok()?;
        mac.update(body);
        mac.update(timestamp);
        Some(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// The reason why a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    /// There is no `x-inngest-signature` header.
    Missing,
    /// The header is not of the form `t=…&s=…`.
    MalformedHeader,
    /// The time lies more than [`TOLERANCE_S`] in the past.
    TooOld,
    /// The time lies more than [`TOLERANCE_S`] in the future.
    FromTheFuture,
    /// The signature is not that of the body with any of our keys.
    WrongSignature,
}

/// Verifies a signed call, by each of the keys. `now_s` is the wall-clock time in Unix seconds.
pub fn verify(
    keys: &[SigningKey],
    headers: &HeaderMap,
    body: &[u8],
    now_s: u64,
) -> Result<(), SignatureError> {
    let header = headers.get(SIGNATURE).ok_or(SignatureError::Missing)?;
    let header = header.to_str().map_err(|_| SignatureError::MalformedHeader)?;
    let (timestamp, signature) = parts(header).ok_or(SignatureError::MalformedHeader)?;
    let signed_at_s: u64 = timestamp.parse().map_err(|_| SignatureError::MalformedHeader)?;
    if signed_at_s > now_s.saturating_add(TOLERANCE_S) {
        return Err(SignatureError::FromTheFuture);
    }
    if signed_at_s < now_s.saturating_sub(TOLERANCE_S) {
        return Err(SignatureError::TooOld);
    }
    let shown = unhex(signature).ok_or(SignatureError::WrongSignature)?;
    let mut expected = keys.iter().filter_map(|key| key.sign(body, timestamp.as_bytes()));
    if expected.any(|expected| expected.ct_eq(&shown).into()) {
        Ok(())
    } else {
        Err(SignatureError::WrongSignature)
    }
}

/// Returns the digits of the time, and the signature.
fn parts(header: &str) -> Option<(&str, &str)> {
    let (mut timestamp, mut signature) = (None, None);
    for part in header.split('&') {
        let (name, value) = part.split_once('=')?;
        let place = match name {
            "t" => &mut timestamp,
            "s" => &mut signature,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    let (timestamp, signature) = (timestamp?, signature?);
    let is_number = !timestamp.is_empty() && timestamp.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some((timestamp, signature))
}

/// Returns the length of `signkey-<environment>-`, or 0.
fn prefix_bytes(text: &str) -> usize {
    const START: &str = "signkey-";
    let Some(rest) = text.strip_prefix(START) else { return 0 };
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest.split_once('-') {
        Some((word, _)) if is_word(word) => START.len().saturating_add(word.len()).saturating_add(1),
        _ => 0,
    }
}

/// Reads an even number of hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
