//! Makes and verifies signatures of [Standard Webhooks](https://www.standardwebhooks.com).
//!
//! The signature is an HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, over the bytes as they
//! arrived, before the body is parsed. It does not cover the path or other headers. The time of a comparison
//! does not depend on the difference.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

/// Greatest difference between a timestamp and now, in seconds: the tolerance of Standard Webhooks.
pub const TOLERANCE_S: u64 = 300;

/// Most signatures of one header that are compared. Rotation needs two. The limit bounds the work for a
/// longer list.
pub const SIGNATURES_LIMIT: usize = 8;

/// Shortest secret, in bytes: Standard Webhooks asks for 24 to 64.
pub const SECRET_MIN_BYTES: usize = 24;

/// Longest secret, in bytes.
pub const SECRET_MAX_BYTES: usize = 64;

/// The header with the id of the message. The signature covers it.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");

/// The header with the time of the signature, in Unix seconds. The signature covers it.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");

/// The header with one or several signatures.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A signing secret: the bytes after `whsec_`. Its `Debug` text does not contain them.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_<base64>`. Returns `None` for another form, or for a key outside 24 to 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let key = BASE64.decode(text.strip_prefix("whsec_")?).ok()?;
        (SECRET_MIN_BYTES..=SECRET_MAX_BYTES).contains(&key.len()).then_some(Self(key))
    }

    /// Returns the `webhook-signature` of a message: `v1,` and base64. HMAC accepts a key of any length, so the
    /// result is never `None`.
    pub fn signature(&self, id: &str, timestamp_s: u64, body: &[u8]) -> Option<String> {
        let bytes = self.sign(id.as_bytes(), timestamp_s.to_string().as_bytes(), body)?;
        Some(format!("v1,{}", BASE64.encode(bytes)))
    }

    /// Returns the signature of a message. HMAC accepts a key of any length, so the result is never `None`.
    fn sign(&self, id: &[u8], timestamp: &[u8], body: &[u8]) -> Option<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in [id, b".", timestamp, b".", body] {
            mac.update(part);
        }
        Some(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The reason why a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    /// There is no `webhook-signature` header.
    Missing,
    /// `webhook-id` or `webhook-timestamp` is missing or not readable.
    MalformedHeader,
    /// The timestamp lies more than [`TOLERANCE_S`] in the past.
    TooOld,
    /// The timestamp lies more than [`TOLERANCE_S`] in the future.
    FromTheFuture,
    /// No signature matches the message with any of our secrets.
    WrongSignature,
}

/// Verifies a signed message. `now_s` is the wall-clock time in Unix seconds.
pub fn verify(
    secrets: &[Secret],
    headers: &HeaderMap,
    body: &[u8],
    now_s: u64,
) -> Result<(), SignatureError> {
    let signatures = headers.get(SIGNATURE).ok_or(SignatureError::Missing)?.as_bytes();
    let id = webhook_id(headers).ok_or(SignatureError::MalformedHeader)?;
    let timestamp = headers.get(TIMESTAMP).ok_or(SignatureError::MalformedHeader)?;
    let signed_at_s: u64 = timestamp
        .to_str()
        .ok()
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(SignatureError::MalformedHeader)?;
    if signed_at_s > now_s.saturating_add(TOLERANCE_S) {
        return Err(SignatureError::FromTheFuture);
    }
    if signed_at_s < now_s.saturating_sub(TOLERANCE_S) {
        return Err(SignatureError::TooOld);
    }
    let candidates: Vec<Vec<u8>> = signatures
        .split(|byte| *byte == b' ')
        .take(SIGNATURES_LIMIT)
        .filter_map(|candidate| candidate.strip_prefix(b"v1,"))
        .filter_map(|base64| BASE64.decode(base64).ok())
        .collect();
    for secret in secrets {
        let Some(expected) = secret.sign(id.as_bytes(), timestamp.as_bytes(), body) else {
            continue;
        };
        if candidates.iter().any(|candidate| expected.ct_eq(candidate).into()) {
            return Ok(());
        }
    }
    Err(SignatureError::WrongSignature)
}

/// Returns the `webhook-id` of a request, signed or not.
pub fn webhook_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(ID)?.to_str().ok()?;
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const NOW_S: u64 = 1_614_265_330;
    // The test vector of Standard Webhooks' own libraries.
    const VECTOR_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const VECTOR_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const VECTOR_BODY: &[u8] = br#"{"test": 2432232314}"#;
    const VECTOR_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secrets(texts: &[&str]) -> Vec<Secret> {
        texts.iter().map(|text| Secret::parse(text).unwrap()).collect()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn vector(signature: &str, timestamp: &str) -> HeaderMap {
        headers(&[
            ("webhook-id", VECTOR_ID),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
        ])
    }

    #[test]
    fn the_standards_own_test_vector_is_accepted() {
        let head = vector(VECTOR_SIGNATURE, "1614265330");
        assert_eq!(verify(&secrets(&[VECTOR_SECRET]), &head, VECTOR_BODY, NOW_S), Ok(()));
        assert_eq!(webhook_id(&head).as_deref(), Some(VECTOR_ID));
    }

    #[test]
    fn a_timestamp_is_valid_for_five_minutes_either_way_and_no_second_longer() {
        let secrets = secrets(&[VECTOR_SECRET]);
        let head = vector(VECTOR_SIGNATURE, "1614265330");
        for (now, expected) in [
            (NOW_S + TOLERANCE_S, Ok(())),
            (NOW_S + TOLERANCE_S + 1, Err(SignatureError::TooOld)),
            (NOW_S - TOLERANCE_S, Ok(())),
            (NOW_S - TOLERANCE_S - 1, Err(SignatureError::FromTheFuture)),
        ] {
            assert_eq!(verify(&secrets, &head, VECTOR_BODY, now), expected);
        }
    }

    #[test]
    fn during_a_rotation_either_secret_and_either_signature_is_accepted() {
        let (old, new) = (VECTOR_SECRET, "whsec_bmV3IHNlY3JldCBuZXcgc2VjcmV0IG5ldyE=");
        let elsewhere = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let both = format!("{elsewhere} v1a,ignored {VECTOR_SIGNATURE}");
        for (kept, signature) in [
            (&[old, new][..], VECTOR_SIGNATURE),
            (&[new, old][..], VECTOR_SIGNATURE),
            (&[old][..], both.as_str()),
        ] {
            let head = vector(signature, "1614265330");
            assert!(verify(&secrets(kept), &head, VECTOR_BODY, NOW_S).is_ok());
        }
        let head = vector(VECTOR_SIGNATURE, "1614265330");
        assert_eq!(verify(&secrets(&[new]), &head, VECTOR_BODY, NOW_S), Err(SignatureError::WrongSignature));
    }

    #[test]
    fn an_invalid_signature_is_refused_with_its_reason() {
        let secrets = secrets(&[VECTOR_SECRET]);
        let truncated = &VECTOR_SIGNATURE[..VECTOR_SIGNATURE.len() - 4];
        for (head, error) in [
            (vector(truncated, "1614265330"), SignatureError::WrongSignature),
            (vector("", "1614265330"), SignatureError::WrongSignature),
            (vector(VECTOR_SIGNATURE, "1614265330.0"), SignatureError::MalformedHeader),
            (vector(VECTOR_SIGNATURE, "+1614265330"), SignatureError::MalformedHeader),
            (vector(VECTOR_SIGNATURE, ""), SignatureError::MalformedHeader),
            (vector(VECTOR_SIGNATURE, "99999999999999999999"), SignatureError::MalformedHeader),
            (headers(&[("webhook-signature", VECTOR_SIGNATURE)]), SignatureError::MalformedHeader),
            (headers(&[]), SignatureError::Missing),
        ] {
            assert_eq!(verify(&secrets, &head, VECTOR_BODY, NOW_S), Err(error), "{head:?}");
        }
    }

    #[test]
    fn secrets_of_another_form_or_length_are_refused_and_debug_shows_none() {
        for text in ["", "whsec_", "whsec_???", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
        assert_eq!(format!("{:?}", secrets(&[VECTOR_SECRET])), "[Secret(…)]");
    }

    proptest! {
        #[test]
        fn a_signed_message_is_accepted_and_with_one_bit_flipped_it_never_is(
            key in proptest::collection::vec(any::<u8>(), SECRET_MIN_BYTES..=SECRET_MAX_BYTES),
            id in "[A-Za-z0-9._:-]{1,64}",
            body in proptest::collection::vec(any::<u8>(), 0..300),
            flip in any::<proptest::sample::Index>(),
        ) {
            let secrets = [Secret(key)];
            let signature = secrets[0].signature(&id, NOW_S, &body).unwrap();
            let now = NOW_S.to_string();
            let head = |id: &str, signature: &str| headers(&[
                ("webhook-id", id), ("webhook-timestamp", &now), ("webhook-signature", signature),
            ]);
            prop_assert!(verify(&secrets, &head(&id, &signature), &body, NOW_S).is_ok());

            let mut flipped = body.clone();
            if !flipped.is_empty() {
                let bit = flip.index(flipped.len() * 8);
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(verify(&secrets, &head(&id, &signature), &flipped, NOW_S).is_err());
            }
            let raw = BASE64.decode(&signature[3..]).unwrap();
            let mut raw_flipped = raw.clone();
            let bit = flip.index(raw.len() * 8);
            raw_flipped[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("v1,{}", BASE64.encode(raw_flipped));
            prop_assert!(verify(&secrets, &head(&id, &forged), &body, NOW_S).is_err());
            let other = id.clone() + "x";
            prop_assert!(verify(&secrets, &head(&other, &signature), &body, NOW_S).is_err());
        }

        #[test]
        fn any_headers_are_answered_without_a_panic(
            id in "[ -~]{0,80}", timestamp in "[ -~]{0,30}", signature in "[ -~]{0,200}",
        ) {
            let head = headers(&[
                ("webhook-id", &id), ("webhook-timestamp", &timestamp),
                ("webhook-signature", &signature),
            ]);
            let _ = verify(&secrets(&[VECTOR_SECRET]), &head, b"", NOW_S);
        }
    }
}
