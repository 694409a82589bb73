//! Finds the addresses of a subscription's host, and keeps those that the listener may connect to.

use crate::{
    address::{Network, is_public},
    target::Target,
};
use anyhow::{Context, Result};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// Most addresses of one name that are tried.
const ADDRESSES_LIMIT: usize = 4;

/// The reason why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The name has no address, or the resolver does not answer.
    NotResolved,
    /// The name has no public address.
    NotPublic,
}

/// Finds addresses: in a file first, then as the machine does.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    names: HashMap<String, Vec<IpAddr>>,
    allowed: Vec<Network>,
}

impl Resolver {
    /// Makes a resolver. `hosts` is a file in the form of `/etc/hosts`. `allowed` are the ranges that are connected to
    /// although they are not public.
    pub(crate) fn new(hosts: Option<&Path>, allowed: Vec<Network>) -> Result<Self> {
        let names = match hosts {
            Some(path) => read_hosts(
                &std::fs::read_to_string(path)
                    .with_context(|| format!("{} cannot be read", path.display()))?,
            ),
            None => HashMap::new(),
        };
        Ok(Self { names, allowed })
    }

    /// Finds the addresses of a target that may be connected to. The connection must use one of them, and must not
    /// look the name up again: a second answer could differ.
    pub(crate) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        let found: Vec<SocketAddr> = match (target.address(), self.names.get(&target.host)) {
            (Some(address), _) => vec![SocketAddr::new(address, target.port)],
            (None, Some(known)) => {
                known.iter().map(|address| SocketAddr::new(*address, target.port)).collect()
            }
            (None, None) => tokio::net::lookup_host((target.host.as_str(), target.port))
                .await
                .map_err(|_| Refusal::NotResolved)?
                .collect(),
        };
        if found.is_empty() {
            return Err(Refusal::NotResolved);
        }
        let usable: Vec<SocketAddr> = found
            .into_iter()
            .filter(|address| self.may_connect(address.ip()))
            .take(ADDRESSES_LIMIT)
            .collect();
        if usable.is_empty() { Err(Refusal::NotPublic) } else { Ok(usable) }
    }

    fn may_connect(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed.iter().any(|range| range.contains(address))
    }
}

/// Reads lines of an address and names. A line that is something else is left out.
fn read_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            names.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(allowed: &[&str]) -> Resolver {
        let hosts = "127.0.0.1 loopback.example # a name\n10.0.0.1 mixed.example\n8.8.8.8 mixed.example public.example\n\
                     ::ffff:169.254.169.254 metadata.example\nno line\n";
        Resolver {
            names: read_hosts(hosts),
            allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    async fn resolve(resolver: &Resolver, url: &str) -> Result<Vec<String>, Refusal> {
        let found = resolver.resolve(&Target::parse(url).unwrap()).await?;
        Ok(found.iter().map(SocketAddr::to_string).collect())
    }

    #[tokio::test]
    async fn a_name_that_leads_to_no_public_address_is_refused_like_the_address_itself() {
        let resolver = resolver(&[]);
        for url in [
            "https://loopback.example/",
            "https://metadata.example/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://localhost/",
        ] {
            assert_eq!(resolve(&resolver, url).await, Err(Refusal::NotPublic), "{url}");
        }
        assert_eq!(resolve(&resolver, "https://mixed.example/").await, Ok(vec!["8.8.8.8:443".to_owned()]));
        assert_eq!(
            resolve(&resolver, "https://public.example:8443/").await,
            Ok(vec!["8.8.8.8:8443".to_owned()])
        );
    }

    #[tokio::test]
    async fn other_spellings_of_a_loopback_address_are_refused() {
        let resolver = resolver(&[]);
        for url in ["https://2130706433/", "https://0x7f000001/", "https://127.1/", "https://0177.0.0.1/"] {
            // Not every system reads these. None connects to them.
            assert!(Target::parse(url).is_none() || resolve(&resolver, url).await.is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn an_operator_can_allow_a_range_for_tests() {
        let resolver = resolver(&["127.0.0.0/8"]);
        assert_eq!(
            resolve(&resolver, "https://loopback.example:4443/").await,
            Ok(vec!["127.0.0.1:4443".to_owned()])
        );
        assert_eq!(resolve(&resolver, "https://metadata.example/").await, Err(Refusal::NotPublic));
    }
}
