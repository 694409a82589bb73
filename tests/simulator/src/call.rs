//! Describes an admitted request: its dialect, its caller and its account.

use super::{LIVE_AGENT, Request};
use serde_json::Value;

/// A dialect of the API: that of the specification, or that of the released servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Gateway,
    Live,
}

/// The caller, by the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// No key, on a route that needs none.
    Nobody,
    /// [`KEY`](super::KEY): one account's key in `live`, an orchestrator's in `gateway`.
    SharedKey,
    /// An agent's own key.
    Agent(String),
}

impl Caller {
    /// Tells whether the caller may act for this agent.
    pub(super) fn acts_for(&self, agent_id: &str, api: Api) -> bool {
        match self {
            Self::Nobody => false,
            Self::SharedKey => api == Api::Gateway || agent_id == LIVE_AGENT,
            Self::Agent(own) => own == agent_id,
        }
    }

    /// Gives the agent whose account the call is on; `None` if the caller may not act for the named agent.
    pub(super) fn account(&self, api: Api, named: Option<&str>) -> Option<String> {
        let account = match (self, api, named) {
            (Self::SharedKey, Api::Live, _) => LIVE_AGENT,
            (Self::Agent(own), Api::Live, _) | (Self::Agent(own), Api::Gateway, None) => own,
            (Self::Agent(own), Api::Gateway, Some(named)) if own != named => return None,
            (_, _, named) => named.unwrap_or_default(),
        };
        Some(account.to_owned())
    }
}

/// The request as a service sees it.
pub(super) struct Call<'a> {
    pub(super) api: Api,
    pub(super) request: &'a Request,
    pub(super) body: Value,
    /// The part of the path at the pattern's `:id`.
    pub(super) id: &'a str,
    pub(super) caller: Caller,
    /// The account's agent. Empty if the request names none.
    pub(super) agent_id: String,
    /// Whether the request leaves no row in the history.
    pub(super) hidden: bool,
}

impl Call<'_> {
    /// Reads a field that is a string and not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.body[name].as_str().filter(|text| !text.is_empty())
    }

    /// Reads the caller's idempotency key. Like the real server, the simulator only stores it.
    pub(super) fn idempotency_key(&self) -> Option<String> {
        let key = self.request.headers.get("idempotency-key")?;
        key.to_str().ok().map(str::to_owned)
    }
}

impl Request {
    /// Reads a value of the query, decoded.
    pub(super) fn query_value(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
    }

    /// Reads the key of the `Bearer` scheme. The scheme's case matters: `bearer` is none.
    pub(super) fn bearer(&self) -> Option<&str> {
        self.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

/// Decodes percent encoding. A text that is not encoded stays as it is.
fn decoded(value: &str) -> String {
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                decoded.push(code);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (other, _) => decoded.push(*other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_only_where_they_are_encoded() {
        for (value, plain) in [("a%3Ab%3a", "a:b:"), ("100%", "100%"), ("%zz%2", "%zz%2"), ("%C3%A9+", "é ")]
        {
            assert_eq!(decoded(value), plain);
        }
    }

    #[test]
    fn a_key_acts_for_its_own_agent_and_the_shared_key_for_every_named_agent_in_the_gateway() {
        let own = Caller::Agent("a".to_owned());
        let (a, b, nobody) = (Some("a".to_owned()), Some("b".to_owned()), Some(String::new()));
        assert_eq!(own.account(Api::Gateway, Some("b")), None);
        assert_eq!([own.account(Api::Gateway, None), own.account(Api::Live, Some("b"))], [a.clone(), a]);
        assert_eq!(Caller::SharedKey.account(Api::Gateway, Some("b")), b);
        assert_eq!(Caller::SharedKey.account(Api::Gateway, None), nobody);
        assert_eq!(Caller::SharedKey.account(Api::Live, Some("b")).as_deref(), Some(LIVE_AGENT));
        assert!(own.acts_for("a", Api::Live) && !own.acts_for("b", Api::Gateway));
        assert!(!Caller::Nobody.acts_for("", Api::Gateway) && !Caller::SharedKey.acts_for("a", Api::Live));
    }
}
