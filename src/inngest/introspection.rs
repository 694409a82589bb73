//! What the function tells about itself, to a person or to Inngest.

use super::{FRAMEWORK, Inngest, SDK, op::hex};
use http::Uri;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The version of the introspection's schema.
const SCHEMA: &str = "2024-05-24";

impl Inngest {
    /// Describes the function. Only a caller that has signed its request gets more than that there is one.
    pub fn introspection(&self, functions: usize, is_signed: bool) -> Value {
        let mut body = json!({
            "function_count": functions,
            "has_event_key": self.event_key.is_some(),
            "has_signing_key": !self.keys.is_empty(),
            "mode": if self.is_dev { "dev" } else { "cloud" },
            "schema_version": SCHEMA,
            "extra": { "is_mode_explicit": true },
        });
        if is_signed && let (Some(body), Value::Object(more)) = (body.as_object_mut(), self.details()) {
            body.extend(more);
        }
        body
    }

    fn details(&self) -> Value {
        let (_, version) = SDK.split_once(":v").unwrap_or((SDK, ""));
        let served: Option<Uri> = self.serve_url.as_deref().and_then(|url| url.parse().ok());
        let origin =
            served.as_ref().and_then(|url| Some(format!("{}://{}", url.scheme_str()?, url.authority()?)));
        let event_key = self.event_key.as_ref().map(|key| hex(&Sha256::digest(key.expose())));
        json!({
            "api_origin": self.api.to_string(),
            "app_id": super::APP,
            "authentication_succeeded": true,
            "capabilities": { "trust_probe": "v1" },
            "env": self.env.as_ref().and_then(|env| env.to_str().ok()),
            "event_api_origin": self.events.to_string(),
            "event_key_hash": event_key,
            "framework": FRAMEWORK,
            "has_signing_key_fallback": self.keys.len() > 1,
            "sdk_language": "rust",
            "sdk_version": version,
            "serve_origin": origin,
            "serve_path": served.as_ref().map(Uri::path),
            "signing_key_fallback_hash": self.keys.get(1).map(super::SigningKey::shown_hash),
            "signing_key_hash": self.keys.first().map(super::SigningKey::shown_hash),
        })
    }
}
