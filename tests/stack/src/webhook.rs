//! A caller: signs events with Standard Webhooks and sends them, as the trigger does.

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

/// Seconds since 1970.
pub fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The `webhook-signature` of a message.
pub fn signature(secret: &str, id: &str, timestamp_s: u64, body: &[u8]) -> Result<String> {
    let key = BASE64.decode(secret.strip_prefix("whsec_").context("a secret starts with whsec_")?)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
    mac.update(format!("{id}.{timestamp_s}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
}

/// The start of a signed request; headers may be added before its body is.
pub fn signed(url: &str, id: &str, body: &[u8]) -> Result<request::Builder> {
    let now_s = unix_s();
    Ok(Request::post(url)
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", now_s)
        .header("webhook-signature", signature(SECRET, id, now_s, body)?))
}

/// Signs an event and sends it.
pub async fn send(url: &str, id: &str, body: &[u8]) -> Result<Response<Bytes>> {
    http1::send(signed(url, id, body)?.body(body.to_vec())?).await
}
