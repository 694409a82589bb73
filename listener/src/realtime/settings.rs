//! The settings of Realtime, from the environment. Without any of them the listener delivers webhooks only.

use super::claims;
use http::{HeaderName, HeaderValue, Uri};
use purple_flea_edge::{
    endpoint::{BaseUrl, Key},
    ledger::rpc::Connection,
    webhook::signature::Secret,
};
use rustls::pki_types::ServerName;
use std::fmt;

/// The path of Realtime at Supabase's URL.
const PATH: &str = "/realtime/v1/websocket";

/// The path of the sign-in of Supabase Auth at Supabase's URL.
const SIGN_IN: &str = "/auth/v1/token";

/// The settings of Realtime.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Identity,
    /// The function that the doorbell calls. `None`: the listener does not join the doorbell.
    pub(crate) function: Option<Function>,
}

/// Where Realtime is.
pub(crate) struct Endpoint {
    /// The URL. It has the gateway's key only if that is one for the public, as clients have it.
    pub(crate) url: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The name of the certificate. `None`: not encrypted, on the loopback interface.
    pub(crate) server_name: Option<ServerName<'static>>,
    /// The gateway's key, where it is none for the public.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({}:{})", self.host, self.port)
    }
}

/// As whom the listener joins.
pub(crate) enum Identity {
    /// With the token that it calls the database with.
    Token(Key),
    /// As a user of Supabase Auth.
    User { sign_in: String, apikey: HeaderValue, email: String, password: String },
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::User { .. } => "User(…)",
        })
    }
}

/// The function's notification endpoint.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) url: String,
    pub(crate) secret: Secret,
}

impl Settings {
    /// Says whether the listener joins the doorbell, for the operator.
    pub(crate) fn doorbell_text(&self) -> &'static str {
        if self.function.is_some() { "with" } else { "without" }
    }

    /// Reads the settings. Gives `None` if the environment has none of them, and fails with the names of all that are
    /// wrong, and never with a value.
    pub(crate) fn from_environment(
        variable: impl Fn(&str) -> Option<String>,
        database: &Connection,
    ) -> Result<Option<Self>, String> {
        let set = |name: &str| {
            variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let url = set("REALTIME_URL");
        let user = (set("REALTIME_EMAIL"), set("REALTIME_PASSWORD"));
        let function = (set("FUNCTION_URL"), set("WEBHOOK_SECRET"));
        if (&url, &user, &function) == (&None, &(None, None), &(None, None)) {
            return Ok(None);
        }
        let mut wrong = Vec::new();
        let public = set("SUPABASE_APIKEY").is_some() && !is_secret(database.apikey.expose());
        let endpoint = endpoint(url, database, public);
        if endpoint.is_none() {
            wrong.push("REALTIME_URL is wss://host[:port]/path, or ws:// to a loopback host");
        }
        let identity = match identity(user, database) {
            Ok(identity) => Some(identity),
            Err(why) => {
                wrong.push(why);
                None
            }
        };
        let function = match read_function(function) {
            Ok(function) => function,
            Err(why) => {
                wrong.push(why);
                None
            }
        };
        match (endpoint, identity) {
            (Some(endpoint), Some(identity)) if wrong.is_empty() => {
                Ok(Some(Self { endpoint, identity, function }))
            }
            _ => Err(format!("the environment does not name Realtime: {}", wrong.join("; "))),
        }
    }
}

fn endpoint(url: Option<String>, database: &Connection, public: bool) -> Option<Endpoint> {
    let url = match url {
        Some(url) => url,
        None => database.url.join(PATH)?,
    };
    // The rules of a base URL hold: no user, no query, and unencrypted only on the loopback interface.
    let as_http = match url.split_once("://")? {
        ("wss" | "https", rest) => format!("https://{rest}"),
        ("ws" | "http", rest) => format!("http://{rest}"),
        _ => return None,
    };
    let as_http = BaseUrl::parse(&as_http)?.join("")?;
    let uri: Uri = as_http.parse().ok()?;
    let encrypted = uri.scheme_str() == Some("https");
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server_name = if encrypted { Some(ServerName::try_from(host.clone()).ok()?) } else { None };
    let apikey = database.apikey.expose();
    // A secret key travels in a header, and a public one in the query, as all clients of Supabase's send it. The gateway
    // reads one header. Realtime itself reads the other, and takes a token there alone.
    let (query, names): (String, &[&'static str]) = match (public, is_token(apikey)) {
        (true, _) => (format!("apikey={}&", escaped(apikey)), &[]),
        (false, true) => (String::new(), &["apikey", "x-api-key"]),
        (false, false) => (String::new(), &["apikey"]),
    };
    let key = database.apikey.bare();
    Some(Endpoint {
        url: format!("{}?{query}vsn=1.0.0", as_http.replacen("http", "ws", 1)),
        port: uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 }),
        host,
        server_name,
        headers: names.iter().map(|name| (HeaderName::from_static(name), key.clone())).collect(),
    })
}

/// Escapes what a query cannot hold.
fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn identity(user: (Option<String>, Option<String>), database: &Connection) -> Result<Identity, &'static str> {
    match user {
        (Some(email), Some(password)) => {
            let sign_in = database.url.join(SIGN_IN).ok_or("SUPABASE_URL has no sign-in")?;
            Ok(Identity::User { sign_in, apikey: database.apikey.bare(), email, password })
        }
        (None, None) if is_token(database.key.expose()) => Ok(Identity::Token(database.key.clone())),
        (None, None) => Err("SUPABASE_KEY is no token, so REALTIME_EMAIL and REALTIME_PASSWORD are set"),
        _ => Err("REALTIME_EMAIL and REALTIME_PASSWORD are set together"),
    }
}

/// Whether a gateway's key is one that only servers may have.
fn is_secret(apikey: &str) -> bool {
    apikey.starts_with("sb_secret_") || claims::role(apikey).is_some_and(|role| role != "anon")
}

fn is_token(key: &str) -> bool {
    key.split('.').filter(|part| !part.is_empty()).count() == 3
}

fn read_function(set: (Option<String>, Option<String>)) -> Result<Option<Function>, &'static str> {
    let (url, secret) = match set {
        (None, None) => return Ok(None),
        (Some(url), Some(secret)) => (url, secret),
        _ => return Err("FUNCTION_URL and WEBHOOK_SECRET are set together"),
    };
    let url = BaseUrl::parse(&url)
        .and_then(|url| url.join(""))
        .ok_or("FUNCTION_URL is https://host[:port]/path, or http:// to a loopback host")?;
    let secret = Secret::parse(&secret).ok_or("WEBHOOK_SECRET is whsec_<base64 of 24 to 64 bytes>")?;
    Ok(Some(Function { url, secret }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn read(url: &str, key: &str, set: &[(&str, &str)]) -> Result<Option<Settings>, String> {
        let key = Key::parse(key).unwrap();
        let database = Connection { url: BaseUrl::parse(url).unwrap(), apikey: key.clone(), key };
        let found =
            |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::from_environment(found, &database)
    }

    #[test]
    fn without_its_settings_there_is_no_realtime() {
        assert!(read("https://a.supabase.co", "sb_secret_abc", &[]).unwrap().is_none());
        assert!(read("https://a.supabase.co", "a.b.c", &[("FUNCTION_URL", " ")]).unwrap().is_none());
    }

    #[test]
    fn realtime_is_beside_the_database_unless_it_is_named() {
        let function = [("FUNCTION_URL", "https://f.example/execute-trade"), ("WEBHOOK_SECRET", SECRET)];
        let settings = read("https://a.supabase.co", "a.b.c", &function).unwrap().unwrap();
        assert_eq!(settings.endpoint.url, "wss://a.supabase.co/realtime/v1/websocket?vsn=1.0.0");
        assert_eq!((settings.endpoint.host.as_str(), settings.endpoint.port), ("a.supabase.co", 443));
        assert!(settings.endpoint.server_name.is_some());
        assert_eq!(settings.endpoint.headers.len(), 2, "a secret key is in the headers");
        assert_eq!(settings.function.unwrap().url, "https://f.example/execute-trade");
        let named =
            [("REALTIME_URL", "ws://127.0.0.1:4000/realtime/v1/websocket"), ("SUPABASE_APIKEY", "a+b")];
        let settings = read("http://127.0.0.1:54321", "a.b.c", &named).unwrap().unwrap();
        assert_eq!(settings.endpoint.port, 4000);
        assert!(settings.endpoint.server_name.is_none() && settings.function.is_none());
        assert!(settings.endpoint.url.ends_with("/websocket?apikey=a.b.c&vsn=1.0.0"));
        assert!(settings.endpoint.headers.is_empty(), "a public key is in the query");
        // {"role":"service_role"}
        for secret in ["sb_secret_abc", "e30.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.x"] {
            let named = [
                ("SUPABASE_APIKEY", secret),
                ("REALTIME_EMAIL", "a@example.com"),
                ("REALTIME_PASSWORD", "b"),
            ];
            let settings = read("https://a.supabase.co", secret, &named).unwrap().unwrap();
            assert!(!settings.endpoint.url.contains("apikey"), "{}", settings.endpoint.url);
            assert!(settings.endpoint.headers.iter().any(|(name, _)| name == "apikey"));
        }
        assert_eq!(escaped("a+b/c="), "a%2Bb%2Fc%3D");
    }

    #[test]
    fn all_settings_that_are_wrong_are_named_and_no_value() {
        let wrong =
            |set: &[(&str, &str)]| read("https://a.supabase.co", "sb_secret_geheim", set).unwrap_err();
        let all = wrong(&[("FUNCTION_URL", "http://f.example"), ("REALTIME_URL", "ws://a.example/?geheim")]);
        for name in ["REALTIME_URL", "REALTIME_EMAIL", "FUNCTION_URL and WEBHOOK_SECRET"] {
            assert!(all.contains(name), "{all}");
        }
        let all = wrong(&[
            ("FUNCTION_URL", "http://f.example/geheim"),
            ("WEBHOOK_SECRET", "geheim"),
            ("REALTIME_EMAIL", "geheim"),
        ]);
        assert!(all.contains("REALTIME_PASSWORD") && all.contains("FUNCTION_URL is"), "{all}");
        assert!(!all.contains("geheim"), "{all}");
        let secret = wrong(&[("FUNCTION_URL", "https://f.example"), ("WEBHOOK_SECRET", "geheim")]);
        assert!(secret.contains("WEBHOOK_SECRET is whsec_"), "{secret}");
    }

    #[test]
    fn no_debug_text_has_a_secret() {
        let user = [("REALTIME_EMAIL", "a@example.com"), ("REALTIME_PASSWORD", "geheim")];
        let settings = read("https://a.supabase.co", "sb_secret_geheim", &user).unwrap().unwrap();
        assert!(matches!(settings.identity, Identity::User { .. }));
        assert!(!format!("{settings:?}").contains("geheim"), "{settings:?}");
    }
}
