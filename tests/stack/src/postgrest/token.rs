//! Tokens: made for tests, and checked as PostgREST checks them.

use super::error::Error;
use crate::webhook::unix_s;
use anyhow::Result;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{
    DecodingKey, EncodingKey, Header, Validation, decode, encode, errors::Error as JwtError,
    errors::ErrorKind,
};
use serde_json::{Map, Value, json};

/// What tokens are signed with. It guards play money.
pub const JWT_SECRET: &str = "local stack, play money only: a secret of 32 characters or more";

/// What somebody else signs tokens with.
const OTHER_SECRET: &str = "not the secret of the local stack, though as long as that one is";

/// How long a token is good for: longer than any stack.
const TOKEN_S: u64 = 10 * 365 * 24 * 3_600;

/// How far apart PostgREST and the maker of a token may be in time.
const SKEW_S: u64 = 30;

/// The role of a caller who has no token.
const ANON: &str = "anon";

/// The token of a role.
pub fn key(role: &str) -> Result<String> {
    sign(&json!({ "role": role, "iss": "stack", "exp": unix_s() + TOKEN_S }), JWT_SECRET)
}

/// The token of a user, as Supabase Auth makes it when the user signs in.
pub fn user_key(sub: &str) -> Result<String> {
    sign(&user(sub, unix_s() + TOKEN_S), JWT_SECRET)
}

/// A user's token that was good until an hour ago.
pub fn expired_user_key(sub: &str) -> Result<String> {
    sign(&user(sub, unix_s() - 3_600), JWT_SECRET)
}

/// A user's token that was signed with another secret.
pub fn forged_user_key(sub: &str) -> Result<String> {
    sign(&user(sub, unix_s() + TOKEN_S), OTHER_SECRET)
}

/// A token with claims of one's own.
pub fn key_with(claims: &Value) -> Result<String> {
    sign(claims, JWT_SECRET)
}

fn user(sub: &str, expires_s: u64) -> Value {
    json!({
        "iss": "stack", "sub": sub, "aud": "authenticated", "role": "authenticated",
        "iat": unix_s() - 7_200, "exp": expires_s,
    })
}

fn sign(claims: &Value, secret: &str) -> Result<String> {
    Ok(encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))?)
}

/// The role that a request is carried out as, and what its token says.
pub(super) struct Caller {
    pub(super) role: String,
    pub(super) claims: Value,
}

impl Caller {
    /// Whether the caller has not said who it is.
    pub(super) fn is_anon(&self) -> bool {
        self.role == ANON
    }
}

/// Tells who calls by the bearer's token. Without one, and with any other scheme, it is `anon`.
pub(super) fn caller(headers: &HeaderMap) -> Result<Caller, Error> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let mut claims = match token {
        None | Some("") => Map::new(),
        Some(token) => claims(token).map_err(|why| invalid(&why))?,
    };
    let role = match claims.get("role") {
        None => ANON.to_owned(),
        Some(Value::String(role)) => role.clone(),
        Some(other) => other.to_string(),
    };
    claims.insert("role".to_owned(), role.clone().into());
    Ok(Caller { role, claims: claims.into() })
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(char::is_whitespace)?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

fn claims(token: &str) -> Result<Map<String, Value>, String> {
    let mut validation = Validation::default();
    // A token without an end or for some audience is as good.
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    validation.validate_nbf = true;
    validation.leeway = SKEW_S;
    let key = DecodingKey::from_secret(JWT_SECRET.as_bytes());
    let claims =
        decode::<Map<String, Value>>(token, &key, &validation).map_err(|error| reason(&error))?.claims;
    match claims.get("iat").and_then(Value::as_f64) {
        Some(issued_s) if issued_s > (unix_s() + SKEW_S) as f64 => Err("JWTIssuedAtFuture".to_owned()),
        _ => Ok(claims),
    }
}

/// The words of the library that PostgREST reads tokens with.
fn reason(error: &JwtError) -> String {
    match error.kind() {
        ErrorKind::ExpiredSignature => "JWT expired".to_owned(),
        ErrorKind::ImmatureSignature => "JWTNotYetValid".to_owned(),
        ErrorKind::InvalidSignature => "JWSError JWSInvalidSignature".to_owned(),
        _ => format!("JWSError (CompactDecodeError {error})"),
    }
}

fn invalid(why: &str) -> Error {
    let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{why}\"");
    Error::new(StatusCode::UNAUTHORIZED, "PGRST301", why).header(header::WWW_AUTHENTICATE, challenge)
}
