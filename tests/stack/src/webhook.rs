//! Calls the function as the trigger does: signs a message with Standard Webhooks and sends it.

use crate::http1;
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Response, request};
use sha2::Sha256;
use std::time::{SystemTime, UNIX_EPOCH};

/// The secret that the stack's function and its trigger share. It guards play money.
pub const SECRET: &str = "whsec_bG9jYWwgc3RhY2ssIHBsYXkgbW9uZXkgb25seSE=";

/// Gives the seconds since 1970.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Computes the `webhook-signature` of a message. Fails for a secret that is not `whsec_` and base64.
pub fn signature(secret: &str, id: &str, timestamp_s: u64, body: &[u8]) -> Result<String> {
    let key = BASE64.decode(secret.strip_prefix("whsec_").context("a secret starts with whsec_")?)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
}

/// Begins a request that is signed with [`SECRET`]; the caller adds its body, and more headers if it likes.
pub fn signed(url: &str, id: &str, body: &[u8]) -> Result<request::Builder> {
    signed_with(SECRET, url, id, body)
}

/// Begins a request that is signed with any secret.
pub fn signed_with(secret: &str, url: &str, id: &str, body: &[u8]) -> Result<request::Builder> {
    let now_s = unix_s();
    Ok(Request::post(url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", now_s)
        .header("webhook-signature", signature(secret, id, now_s, body)?))
}

/// Signs a message, sends it, and gives the reply.
pub async fn send(url: &str, id: &str, body: &[u8]) -> Result<Response<Bytes>> {
    http1::send(signed(url, id, body)?.body(body.to_vec())?).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use standardwebhooks::Webhook;

    const ID: &str = "wallet-change-1";
    const BODY: &[u8] = br#"{"id":1}"#;

    #[test]
    fn the_reference_implementation_accepts_our_signature_and_refuses_any_change() -> Result<()> {
        let request = signed("http://edge/execute-trade", ID, BODY)?.body(())?;
        let (right, wrong) = (Webhook::new(SECRET)?, Webhook::new("whsec_YW5vdGhlciBzZWNyZXQ=")?);
        right.verify(BODY, request.headers())?;
        assert!(right.verify(br#"{"id":2}"#, request.headers()).is_err());
        assert!(wrong.verify(BODY, request.headers()).is_err());
        let mut renamed = request.headers().clone();
        renamed.insert("webhook-id", http::HeaderValue::from_static("wallet-change-2"));
        assert!(right.verify(BODY, &renamed).is_err());
        Ok(())
    }

    #[test]
    fn we_compute_the_signature_that_the_reference_implementation_computes() -> Result<()> {
        let now_s = unix_s();
        for body in [BODY, b"", "{\"note\":\"\u{e9}\"}".as_bytes()] {
            let theirs = Webhook::new(SECRET)?.sign(ID, i64::try_from(now_s)?, body)?;
            assert_eq!(signature(SECRET, ID, now_s, body)?, theirs);
        }
        Ok(())
    }

    #[test]
    fn we_compute_the_signature_of_the_specification() -> Result<()> {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let ours = signature(secret, id, 1_614_265_330, br#"{"test": 2432232314}"#)?;
        assert_eq!(ours, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        Ok(())
    }
}
