//! The description that the function gives of itself, to a person or to Inngest.

use super::{
    APP, FRAMEWORK, Inngest, SDK,
    op::{hex, quoted},
    signing::SigningKey,
};
use http::Uri;
use sha2::{Digest, Sha256};

/// The version of the introspection's schema.
const SCHEMA: &str = "2024-05-24";

impl Inngest {
    /// Describes the function, as JSON. Only a caller that has signed its request gets more than that there is one.
    pub fn introspection(&self, functions: usize, is_signed: bool) -> String {
        let (has_event_key, has_signing_key) = (self.event_key.is_some(), !self.keys.is_empty());
        let mode = if self.is_dev { "dev" } else { "cloud" };
        let details = if is_signed { self.details() } else { String::new() };
        format!(
            r#"{{"function_count":{functions},"has_event_key":{has_event_key},"has_signing_key":{has_signing_key},"mode":"{mode}","schema_version":"{SCHEMA}","extra":{{"is_mode_explicit":true}}{details}}}"#
        )
    }

    fn details(&self) -> String {
        let text = |value: Option<String>| value.map_or("null".to_owned(), |value| quoted(&value));
        let (_, version) = SDK.split_once(":v").unwrap_or((SDK, ""));
        let served: Option<Uri> = self.serve_url.as_deref().and_then(|url| url.parse().ok());
        let origin =
            served.as_ref().and_then(|url| Some(format!("{}://{}", url.scheme_str()?, url.authority()?)));
        let event_key = self.event_key.as_ref().map(|key| hex(&Sha256::digest(key.expose())));
        let env = self.env.as_ref().and_then(|env| env.to_str().ok()).map(str::to_owned);
        let key = |place: usize| text(self.keys.get(place).map(SigningKey::shown_hash));
        let pairs = [
            ("api_origin", quoted(&self.api.to_string())),
            ("app_id", quoted(APP)),
            ("authentication_succeeded", "true".to_owned()),
            ("capabilities", r#"{"trust_probe":"v1"}"#.to_owned()),
            ("env", text(env)),
            ("event_api_origin", quoted(&self.events.to_string())),
            ("event_key_hash", text(event_key)),
            ("framework", quoted(FRAMEWORK)),
            ("has_signing_key_fallback", (self.keys.len() > 1).to_string()),
            ("sdk_language", quoted("rust")),
            ("sdk_version", quoted(version)),
            ("serve_origin", text(origin)),
            ("serve_path", text(served.map(|url| url.path().to_owned()))),
            ("signing_key_fallback_hash", key(1)),
            ("signing_key_hash", key(0)),
        ];
        pairs.iter().map(|(name, value)| format!(r#","{name}":{value}"#)).collect()
    }
}
