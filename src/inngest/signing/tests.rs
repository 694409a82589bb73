use super::*;
use proptest::prelude::*;

const NOW_S: u64 = 1_764_525_600;
const DIGITS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const BODY: &[u8] = r#"{"ctx":{"run_id":"01K"},"event":{"data":{"name":"Zoë"}}}"#.as_bytes();
// Both were computed by another implementation of HMAC.
const SIGNED: &str = "t=1764525600&s=db82147f3deb900e8e7afef4df49d255616f20b4641847e09310d31756cab6b5";
const SIGNED_NOTHING: &str =
    "t=1764525600&s=4169ffe81b238595fbf9a2a4ad02ad66a3d1a8411a3608c72a984e277b8db5dd";

fn keys(texts: &[&str]) -> Vec<SigningKey> {
    texts.iter().map(|text| SigningKey::parse(text).unwrap()).collect()
}

fn headers(signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SIGNATURE, HeaderValue::from_str(signature).unwrap());
    headers
}

#[test]
fn the_documented_vector_of_the_bearer_token_is_met_and_the_prefix_is_kept() {
    let hash = "4884fdaafea47c29fea7159d0daddd9c085d6200e1359e85bb81736af6b7c837";
    for (prefix, bearer) in
        [("signkey-prod-", format!("Bearer signkey-prod-{hash}")), ("", format!("Bearer {hash}"))]
    {
        let key = SigningKey::parse(&format!("{prefix}{DIGITS}")).unwrap();
        let shown = key.bearer().unwrap();
        assert!(shown.is_sensitive());
        assert_eq!(shown.to_str().unwrap(), bearer);
        assert_eq!(key.shown_hash(), "4884fdaafea4");
    }
}

#[test]
fn a_signature_is_made_with_the_digits_themselves_and_the_prefix_does_not_count() {
    for text in [DIGITS.to_owned(), format!("signkey-prod-{DIGITS}"), format!("signkey-my_env-{DIGITS}")] {
        let key = keys(&[&text]);
        assert_eq!(key[0].signature(BODY, NOW_S).unwrap(), SIGNED);
        assert_eq!(verify(&key, &headers(SIGNED), BODY, NOW_S), Ok(()));
        assert_eq!(verify(&key, &headers(SIGNED_NOTHING), b"", NOW_S), Ok(()));
        assert_eq!(verify(&key, &headers(SIGNED_NOTHING), b" ", NOW_S), Err(SignatureError::WrongSignature));
    }
}

#[test]
fn a_signature_is_valid_for_five_minutes_either_way_and_no_second_longer() {
    let key = keys(&[DIGITS]);
    for (now_s, expected) in [
        (NOW_S + TOLERANCE_S, Ok(())),
        (NOW_S + TOLERANCE_S + 1, Err(SignatureError::TooOld)),
        (NOW_S - TOLERANCE_S, Ok(())),
        (NOW_S - TOLERANCE_S - 1, Err(SignatureError::FromTheFuture)),
    ] {
        assert_eq!(verify(&key, &headers(SIGNED), BODY, now_s), expected);
    }
}

#[test]
fn during_a_rotation_the_fallback_key_is_tried_second() {
    let new = "signkey-prod-ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    assert_eq!(verify(&keys(&[new, DIGITS]), &headers(SIGNED), BODY, NOW_S), Ok(()));
    assert_eq!(verify(&keys(&[new]), &headers(SIGNED), BODY, NOW_S), Err(SignatureError::WrongSignature));
    assert_eq!(verify(&[], &headers(SIGNED), BODY, NOW_S), Err(SignatureError::WrongSignature));
}

#[test]
fn an_invalid_header_is_refused_with_its_reason() {
    let key = keys(&[DIGITS]);
    let (time, signature) = SIGNED.split_once('&').unwrap();
    for (header, error) in [
        (String::new(), SignatureError::MalformedHeader),
        (time.to_owned(), SignatureError::MalformedHeader),
        (signature.to_owned(), SignatureError::MalformedHeader),
        (format!("t=&{signature}"), SignatureError::MalformedHeader),
        (format!("t=+1764525600&{signature}"), SignatureError::MalformedHeader),
        (format!("t=1764525600.0&{signature}"), SignatureError::MalformedHeader),
        (format!("t=99999999999999999999&{signature}"), SignatureError::MalformedHeader),
        (format!("{SIGNED}&{signature}"), SignatureError::MalformedHeader),
        (format!("{time}&s="), SignatureError::WrongSignature),
        (format!("{time}&s=xyz"), SignatureError::WrongSignature),
        (SIGNED[..SIGNED.len() - 2].to_owned(), SignatureError::WrongSignature),
    ] {
        assert_eq!(verify(&key, &headers(&header), BODY, NOW_S), Err(error), "{header}");
    }
    assert_eq!(verify(&key, &HeaderMap::new(), BODY, NOW_S), Err(SignatureError::Missing));
}

#[test]
fn keys_of_another_form_are_refused_and_debug_shows_none() {
    let odd = &DIGITS[1..];
    for text in
        ["", "signkey-prod-", "0123", odd, &format!("signkey-{DIGITS}"), &format!("signkey--{DIGITS}"), "g0"]
    {
        assert!(SigningKey::parse(text).is_none(), "{text}");
    }
    assert_eq!(format!("{:?}", keys(&[DIGITS])), "[SigningKey(…)]");
}

proptest! {
    #[test]
    fn a_signed_body_is_accepted_and_with_one_bit_flipped_it_never_is(
        body in proptest::collection::vec(any::<u8>(), 1..300),
        flip in any::<proptest::sample::Index>(),
    ) {
        let key = keys(&[DIGITS]);
        let signed = headers(&key[0].signature(&body, NOW_S).unwrap());
        prop_assert!(verify(&key, &signed, &body, NOW_S).is_ok());
        let mut flipped = body.clone();
        let bit = flip.index(flipped.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verify(&key, &signed, &flipped, NOW_S).is_err());
        // A time that moves into the body is another message.
        let mut longer = body;
        longer.extend_from_slice(b"1");
        prop_assert!(verify(&key, &headers(&SIGNED.replace("t=1", "t=")), &longer, NOW_S).is_err());
    }

    #[test]
    fn any_header_is_answered_without_a_panic(header in "[ -~]{0,200}", key in "[ -~]{0,80}") {
        let _ = verify(&keys(&[DIGITS]), &headers(&header), b"", NOW_S);
        let _ = SigningKey::parse(&key);
    }
}
