//! Makes tokens for tests, and checks tokens as PostgREST does.

use super::error::Error;
use crate::webhook::unix_s;
use anyhow::Result;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{
    DecodingKey, EncodingKey, Header, Validation, decode, encode, errors::Error as JwtError,
    errors::ErrorKind,
};
use serde_json::{Map, Value, json};

/// Signs the tokens. It guards play money.
pub const JWT_SECRET: &str = "local stack, play money only: a secret of 32 characters or more";

/// Signs the tokens that must be refused.
const OTHER_SECRET: &str = "not the secret of the local stack, though as long as that one is";

/// How long a token is valid: longer than any stack runs.
const TOKEN_S: u64 = 10 * 365 * 24 * 3_600;

/// The most by which PostgREST's clock and that of a token's issuer may differ.
const SKEW_S: u64 = 30;

/// The role of a caller without a token.
const ANON: &str = "anon";

/// Makes the token of a role.
pub fn key(role: &str) -> Result<String> {
    sign(&json!({ "role": role, "iss": "stack", "exp": unix_s() + TOKEN_S }), JWT_SECRET)
}

/// Makes the token of a user, as Supabase Auth does when the user signs in.
pub fn user_key(sub: &str) -> Result<String> {
    sign(&user(sub, unix_s() + TOKEN_S), JWT_SECRET)
}

/// Makes a user's token that expired an hour ago.
pub fn expired_user_key(sub: &str) -> Result<String> {
    sign(&user(sub, unix_s() - 3_600), JWT_SECRET)
}

/// Makes a user's token with a wrong signature.
pub fn forged_user_key(sub: &str) -> Result<String> {
    sign(&user(sub, unix_s() + TOKEN_S), OTHER_SECRET)
}

/// Makes a token with any claims.
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

/// The role that executes a request, and the claims of its token.
pub(super) struct Caller {
    pub(super) role: String,
    pub(super) claims: Value,
}

impl Caller {
    /// Tells whether the caller has the role `anon`.
    pub(super) fn is_anon(&self) -> bool {
        self.role == ANON
    }
}

/// Reads the caller from the bearer token. Without a token, or with another scheme, the caller is `anon`.
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
    // A token without an expiry, or for some audience, is accepted.
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

/// Gives the words of the library with which PostgREST reads tokens.
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
