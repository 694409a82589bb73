//! Verifies signatures by [Standard Webhooks](https://www.standardwebhooks.com).
//!
//! The signature is an HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, over the bytes as they came,
//! before anything is parsed. It covers neither the path nor other headers. Comparisons take the same time whatever
//! differs.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;

/// How far a timestamp may lie from now, either way, in seconds: Standard Webhooks' own tolerance.
pub const TOLERANCE_S: u64 = 300;

/// Most signatures that are compared of one header. Rotation needs two; the rest of a longer list is ignored,
/// so that nobody makes us compute for long.
pub const SIGNATURES_LIMIT: usize = 8;

/// Shortest secret, in bytes: Standard Webhooks asks for 24 to 64.
pub const SECRET_MIN_BYTES: usize = 24;

/// Longest secret, in bytes.
pub const SECRET_MAX_BYTES: usize = 64;

/// Names the message. It is signed.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");

/// Says when the message was signed, in seconds since 1970. It is signed.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");

/// Holds one signature or several.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A signing secret: the bytes behind `whsec_`. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_<base64>`; `None` if it is not of that form, or its key is not of 24 to 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let key = BASE64.decode(text.strip_prefix("whsec_")?).ok()?;
        (SECRET_MIN_BYTES..=SECRET_MAX_BYTES).contains(&key.len()).then_some(Self(key))
    }

    /// The signature of a message, as bytes; `None` never happens, as HMAC takes a key of any length.
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

/// Why a signature is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    /// There is no `webhook-signature` header.
    Missing,
    /// `webhook-id` or `webhook-timestamp` is missing or not readable.
    MalformedHeader,
    /// The message was signed more than [`TOLERANCE_S`] ago.
    TooOld,
    /// The message was signed for more than [`TOLERANCE_S`] from now.
    FromTheFuture,
    /// No signature is one of this message with one of our secrets.
    WrongSignature,
}

/// Verifies a signed message. `now_s` is the wall clock in seconds since 1970.
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
        let Some(ours) = secret.sign(id.as_bytes(), timestamp.as_bytes(), body) else {
            continue;
        };
        if candidates.iter().any(|theirs| ours.ct_eq(theirs).into()) {
            return Ok(());
        }
    }
    Err(SignatureError::WrongSignature)
}

/// The `webhook-id` of a request, signed or not.
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
    // The vector that Standard Webhooks' own libraries are tested with.
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

    fn sign(secret: &Secret, id: &str, timestamp: u64, body: &[u8]) -> String {
        let bytes = secret.sign(id.as_bytes(), timestamp.to_string().as_bytes(), body);
        format!("v1,{}", BASE64.encode(bytes.unwrap()))
    }

    #[test]
    fn the_standard_s_own_vector_is_let_in() {
        let head = vector(VECTOR_SIGNATURE, "1614265330");
        assert_eq!(verify(&secrets(&[VECTOR_SECRET]), &head, VECTOR_BODY, NOW_S), Ok(()));
        assert_eq!(webhook_id(&head).as_deref(), Some(VECTOR_ID));
    }

    #[test]
    fn a_timestamp_counts_for_five_minutes_either_way_and_no_second_longer() {
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
    fn during_a_rotation_either_secret_and_either_signature_will_do() {
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
    fn what_is_not_exactly_a_signature_is_refused_by_name() {
        let secrets = secrets(&[VECTOR_SECRET]);
        let truncated = &VECTOR_SIGNATURE[..VECTOR_SIGNATURE.len() - 4];
        for (head, why) in [
            (vector(truncated, "1614265330"), SignatureError::WrongSignature),
            (vector("", "1614265330"), SignatureError::WrongSignature),
            (vector(VECTOR_SIGNATURE, "1614265330.0"), SignatureError::MalformedHeader),
            (vector(VECTOR_SIGNATURE, "+1614265330"), SignatureError::MalformedHeader),
            (vector(VECTOR_SIGNATURE, ""), SignatureError::MalformedHeader),
            (vector(VECTOR_SIGNATURE, "99999999999999999999"), SignatureError::MalformedHeader),
            (headers(&[("webhook-signature", VECTOR_SIGNATURE)]), SignatureError::MalformedHeader),
            (headers(&[]), SignatureError::Missing),
        ] {
            assert_eq!(verify(&secrets, &head, VECTOR_BODY, NOW_S), Err(why), "{head:?}");
        }
    }

    #[test]
    fn secrets_of_another_form_or_length_are_not_taken_and_none_is_shown() {
        for text in ["", "whsec_", "whsec_???", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
        assert_eq!(format!("{:?}", secrets(&[VECTOR_SECRET])), "[Secret(…)]");
    }

    proptest! {
        #[test]
        fn what_was_signed_is_let_in_and_with_one_bit_flipped_it_never_is(
            key in proptest::collection::vec(any::<u8>(), SECRET_MIN_BYTES..=SECRET_MAX_BYTES),
            id in "[A-Za-z0-9._:-]{1,64}",
            body in proptest::collection::vec(any::<u8>(), 0..300),
            flip in any::<proptest::sample::Index>(),
        ) {
            let secrets = [Secret(key)];
            let signature = sign(&secrets[0], &id, NOW_S, &body);
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
