//! Checks tokens as Realtime does: `role` and `exp` are required, and no clock is forgiven.

use crate::{postgrest::JWT_SECRET, webhook::unix_s};
use jsonwebtoken::{DecodingKey, Validation, decode, errors::ErrorKind};
use serde_json::{Map, Value};

/// The claims of a token that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    pub(super) all: Value,
    pub(super) role: String,
    pub(super) sub: Option<String>,
    pub(super) expires_s: u64,
}

/// A refusal: its name, and its words.
pub(super) type Refusal = (&'static str, String);

/// Checks a token.
pub(super) fn check(token: &str) -> Result<Claims, Refusal> {
    let mut validation = Validation::default();
    validation.required_spec_claims.clear();
    validation.validate_aud = false;
    validation.validate_exp = false;
    let key = DecodingKey::from_secret(JWT_SECRET.as_bytes());
    let claims = match decode::<Map<String, Value>>(token.trim(), &key, &validation) {
        Ok(decoded) => decoded.claims,
        Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
            return Err(("JwtSignatureError", "Failed to validate JWT signature".to_owned()));
        }
        Err(_) => return Err(("MalformedJWT", "The token provided is not a valid JWT".to_owned())),
    };
    let (Some(role), Some(expires)) = (claims.get("role").and_then(Value::as_str), claims.get("exp")) else {
        return Err(("InvalidJWTToken", "Fields `role` and `exp` are required in JWT".to_owned()));
    };
    let expires_s = expires.as_f64().unwrap_or_default() as u64;
    if expires_s <= unix_s() {
        return Err(("InvalidJWTToken", expired(expires_s)));
    }
    let (role, sub) = (role.to_owned(), claims.get("sub").and_then(Value::as_str).map(str::to_owned));
    Ok(Claims { all: claims.into(), role, sub, expires_s })
}

/// Gives the words about a token that has expired.
pub(super) fn expired(at_s: u64) -> String {
    format!("Token has expired {} seconds ago", unix_s().saturating_sub(at_s))
}
