//! Who calls. A caller signs with [Standard Webhooks](https://www.standardwebhooks.com), or, where a token is
//! configured, shows it as a bearer.
//!
//! The signature is an HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, over the bytes as they came,
//! before anything is parsed. Comparisons take the same time whatever differs. The reply to a refused caller
//! never says what was wrong; the log does, by [`Refusal::name`].

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
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

/// Shortest bearer token, in characters; a shorter one can be guessed.
pub const TOKEN_MIN_CHARS: usize = 16;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

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

/// A bearer token, kept as its digest, so that a comparison does not tell its length. Its `Debug` shows nothing
/// of it.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Reads a token of at least 16 visible ASCII characters; `None` for any other.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() >= TOKEN_MIN_CHARS && text.bytes().all(|b| b.is_ascii_graphic()))
            .then(|| Self(Sha256::digest(text).into()))
    }

    fn matches(&self, candidate: &[u8]) -> bool {
        let candidate: [u8; 32] = Sha256::digest(candidate).into();
        self.0.ct_eq(&candidate).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Whose calls are accepted. At least one of the two is there, or the settings are not complete.
#[derive(Debug, Clone)]
pub struct Callers {
    /// Signing secrets; several during a rotation.
    pub secrets: Vec<Secret>,
    /// The bearer token for calls made by hand.
    pub token: Option<Token>,
}

/// A caller that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The `webhook-id` that was sent; always there when the call is signed.
    pub webhook_id: Option<String>,
}

/// Why a caller was refused. For the log only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Neither a signature nor a bearer token.
    Missing,
    /// A `webhook-*` or `authorization` header stands twice, so that two readers could see two callers.
    RepeatedHeader,
    /// A signature without a readable `webhook-id` or `webhook-timestamp`.
    MalformedHeader,
    /// Signed more than 300 s ago.
    TooOld,
    /// Signed for more than 300 s from now.
    FromTheFuture,
    /// No signature is one of this message with one of our secrets.
    WrongSignature,
    /// Not our token.
    WrongToken,
    /// The `webhook-id` and the row name two different deposits.
    ReferenceMismatch,
}

impl Refusal {
    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "no_signature",
            Self::RepeatedHeader => "repeated_header",
            Self::MalformedHeader => "malformed_header",
            Self::TooOld => "too_old",
            Self::FromTheFuture => "from_the_future",
            Self::WrongSignature => "wrong_signature",
            Self::WrongToken => "wrong_token",
            Self::ReferenceMismatch => "reference_mismatch",
        }
    }
}

/// Lets a caller in, or says why not. `now_s` is the wall clock in seconds since 1970.
///
/// A `webhook-signature` decides, where there is one; only without it is a bearer token looked at.
pub fn verify(callers: &Callers, headers: &HeaderMap, body: &[u8], now_s: u64) -> Result<Caller, Refusal> {
    let repeated = |name: &HeaderName| headers.get_all(name).iter().nth(1).is_some();
    if [ID, TIMESTAMP, SIGNATURE, AUTHORIZATION].iter().any(repeated) {
        return Err(Refusal::RepeatedHeader);
    }
    match headers.get(SIGNATURE) {
        Some(signatures) => verify_signed(callers, headers, signatures.as_bytes(), body, now_s),
        None => verify_bearer(callers, headers),
    }
}

fn verify_signed(
    callers: &Callers,
    headers: &HeaderMap,
    signatures: &[u8],
    body: &[u8],
    now_s: u64,
) -> Result<Caller, Refusal> {
    let id = webhook_id(headers).ok_or(Refusal::MalformedHeader)?;
    let timestamp = headers.get(TIMESTAMP).ok_or(Refusal::MalformedHeader)?;
    let signed_at_s: u64 = timestamp
        .to_str()
        .ok()
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(Refusal::MalformedHeader)?;
    if signed_at_s > now_s.saturating_add(TOLERANCE_S) {
        return Err(Refusal::FromTheFuture);
    }
    if signed_at_s < now_s.saturating_sub(TOLERANCE_S) {
        return Err(Refusal::TooOld);
    }
    let candidates: Vec<Vec<u8>> = signatures
        .split(|byte| *byte == b' ')
        .take(SIGNATURES_LIMIT)
        .filter_map(|candidate| candidate.strip_prefix(b"v1,"))
        .filter_map(|base64| BASE64.decode(base64).ok())
        .collect();
    for secret in &callers.secrets {
        let Some(ours) = secret.sign(id.as_bytes(), timestamp.as_bytes(), body) else {
            continue;
        };
        if candidates.iter().any(|theirs| ours.ct_eq(theirs).into()) {
            return Ok(Caller { webhook_id: Some(id) });
        }
    }
    Err(Refusal::WrongSignature)
}

fn verify_bearer(callers: &Callers, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let authorization = headers.get(AUTHORIZATION).ok_or(Refusal::Missing)?;
    let (scheme, token) = authorization.as_bytes().split_at_checked(7).ok_or(Refusal::MalformedHeader)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Refusal::MalformedHeader);
    }
    match &callers.token {
        Some(ours) if ours.matches(token.trim_ascii()) => Ok(Caller { webhook_id: webhook_id(headers) }),
        _ => Err(Refusal::WrongToken),
    }
}

fn webhook_id(headers: &HeaderMap) -> Option<String> {
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

    fn callers(secrets: &[&str], token: Option<&str>) -> Callers {
        Callers {
            secrets: secrets.iter().map(|s| Secret::parse(s).unwrap()).collect(),
            token: token.map(|t| Token::parse(t).unwrap()),
        }
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
        let caller = verify(
            &callers(&[VECTOR_SECRET], None),
            &vector(VECTOR_SIGNATURE, "1614265330"),
            VECTOR_BODY,
            NOW_S,
        );
        assert_eq!(caller.unwrap().webhook_id.as_deref(), Some(VECTOR_ID));
    }

    #[test]
    fn a_timestamp_counts_for_five_minutes_either_way_and_no_second_longer() {
        let callers = callers(&[VECTOR_SECRET], None);
        let head = vector(VECTOR_SIGNATURE, "1614265330");
        for (now, expected) in [
            (NOW_S + TOLERANCE_S, Ok(())),
            (NOW_S + TOLERANCE_S + 1, Err(Refusal::TooOld)),
            (NOW_S - TOLERANCE_S, Ok(())),
            (NOW_S - TOLERANCE_S - 1, Err(Refusal::FromTheFuture)),
        ] {
            assert_eq!(verify(&callers, &head, VECTOR_BODY, now).map(|_| ()), expected);
        }
    }

    #[test]
    fn during_a_rotation_either_secret_and_either_signature_will_do() {
        let (old, new) = (VECTOR_SECRET, "whsec_bmV3IHNlY3JldCBuZXcgc2VjcmV0IG5ldyE=");
        let elsewhere = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let both = format!("{elsewhere} v1a,ignored {VECTOR_SIGNATURE}");
        for (secrets, signature) in [
            (&[old, new][..], VECTOR_SIGNATURE),
            (&[new, old][..], VECTOR_SIGNATURE),
            (&[old][..], both.as_str()),
        ] {
            let head = vector(signature, "1614265330");
            assert!(verify(&callers(secrets, None), &head, VECTOR_BODY, NOW_S).is_ok());
        }
        let head = vector(VECTOR_SIGNATURE, "1614265330");
        assert_eq!(verify(&callers(&[new], None), &head, VECTOR_BODY, NOW_S), Err(Refusal::WrongSignature));
    }

    #[test]
    fn what_is_not_exactly_a_signature_is_refused_by_name() {
        let callers = callers(&[VECTOR_SECRET], Some("a-token-of-16-chars"));
        let truncated = &VECTOR_SIGNATURE[..VECTOR_SIGNATURE.len() - 4];
        for (head, why) in [
            (vector(truncated, "1614265330"), Refusal::WrongSignature),
            (vector("", "1614265330"), Refusal::WrongSignature),
            (vector(VECTOR_SIGNATURE, "1614265330.0"), Refusal::MalformedHeader),
            (vector(VECTOR_SIGNATURE, "+1614265330"), Refusal::MalformedHeader),
            (vector(VECTOR_SIGNATURE, ""), Refusal::MalformedHeader),
            (vector(VECTOR_SIGNATURE, "99999999999999999999"), Refusal::MalformedHeader),
            (headers(&[("webhook-signature", VECTOR_SIGNATURE)]), Refusal::MalformedHeader),
            (headers(&[]), Refusal::Missing),
            (headers(&[("authorization", "Basic YWJjOmRlZg==")]), Refusal::MalformedHeader),
            (headers(&[("authorization", "Bearer")]), Refusal::MalformedHeader),
            (headers(&[("authorization", "Bearer a-token-of-16-char")]), Refusal::WrongToken),
            (headers(&[("authorization", "Bearer a-token-of-16-charss")]), Refusal::WrongToken),
        ] {
            assert_eq!(verify(&callers, &head, VECTOR_BODY, NOW_S), Err(why), "{head:?}");
        }
    }

    #[test]
    fn a_wrong_signature_is_not_rescued_by_the_right_token() {
        let mut head = vector("v1,AAAA", "1614265330");
        head.append("authorization", HeaderValue::from_static("Bearer a-token-of-16-chars"));
        let callers = callers(&[VECTOR_SECRET], Some("a-token-of-16-chars"));
        assert_eq!(verify(&callers, &head, b"", NOW_S), Err(Refusal::WrongSignature));
    }

    #[test]
    fn the_token_lets_in_whatever_the_case_of_its_scheme_and_nobody_where_none_is_set() {
        let head = headers(&[("authorization", "bEARER a-token-of-16-chars"), ("webhook-id", "mine")]);
        let caller = verify(&callers(&[], Some("a-token-of-16-chars")), &head, b"", NOW_S);
        assert_eq!(caller.unwrap().webhook_id.as_deref(), Some("mine"));
        let nobody = verify(&callers(&[VECTOR_SECRET], None), &head, b"", NOW_S);
        assert_eq!(nobody, Err(Refusal::WrongToken));
    }

    #[test]
    fn a_header_that_stands_twice_is_refused_even_when_both_are_right() {
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature", "authorization"] {
            let mut head = vector(VECTOR_SIGNATURE, "1614265330");
            head.append("authorization", HeaderValue::from_static("Bearer a-token-of-16-chars"));
            let again = head.get(name).unwrap().clone();
            head.append(name, again);
            let callers = callers(&[VECTOR_SECRET], Some("a-token-of-16-chars"));
            assert_eq!(verify(&callers, &head, VECTOR_BODY, NOW_S), Err(Refusal::RepeatedHeader), "{name}");
        }
    }

    #[test]
    fn secrets_of_another_form_or_length_are_not_taken_and_none_is_shown() {
        for text in ["", "whsec_", "whsec_???", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
        assert!(Token::parse("fifteen-chars..").is_none());
        assert!(Token::parse("sixteen chars ..").is_none());
        let shown = format!("{:?}", callers(&[VECTOR_SECRET], Some("a-token-of-16-chars")));
        assert_eq!(shown, "Callers { secrets: [Secret(…)], token: Some(Token(…)) }");
    }

    proptest! {
        #[test]
        fn what_was_signed_is_let_in_and_with_one_bit_flipped_it_never_is(
            key in proptest::collection::vec(any::<u8>(), SECRET_MIN_BYTES..=SECRET_MAX_BYTES),
            id in "[A-Za-z0-9._:-]{1,64}",
            body in proptest::collection::vec(any::<u8>(), 0..300),
            flip in any::<proptest::sample::Index>(),
        ) {
            let callers = Callers { secrets: vec![Secret(key)], token: None };
            let signature = sign(&callers.secrets[0], &id, NOW_S, &body);
            let now = NOW_S.to_string();
            let head = |id: &str, signature: &str| headers(&[
                ("webhook-id", id), ("webhook-timestamp", &now), ("webhook-signature", signature),
            ]);
            prop_assert!(verify(&callers, &head(&id, &signature), &body, NOW_S).is_ok());

            let mut flipped = body.clone();
            if !flipped.is_empty() {
                let bit = flip.index(flipped.len() * 8);
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(verify(&callers, &head(&id, &signature), &flipped, NOW_S).is_err());
            }
            let raw = BASE64.decode(&signature[3..]).unwrap();
            let mut raw_flipped = raw.clone();
            let bit = flip.index(raw.len() * 8);
            raw_flipped[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("v1,{}", BASE64.encode(raw_flipped));
            prop_assert!(verify(&callers, &head(&id, &forged), &body, NOW_S).is_err());
            let other = id.clone() + "x";
            prop_assert!(verify(&callers, &head(&other, &signature), &body, NOW_S).is_err());
        }

        #[test]
        fn any_headers_are_answered_without_a_panic(
            id in "[ -~]{0,80}", timestamp in "[ -~]{0,30}", signature in "[ -~]{0,200}", authorization in "[ -~]{0,40}",
        ) {
            let head = headers(&[
                ("webhook-id", &id), ("webhook-timestamp", &timestamp),
                ("webhook-signature", &signature), ("authorization", &authorization),
            ]);
            let _ = verify(&callers(&[VECTOR_SECRET], None), &head, b"", NOW_S);
        }
    }
}
