//! Compares the simulator with the released servers of Purple Flea, where this machine has them. Both get the same
//! requests, and must give the same statuses and codes. The simulator may leave fields out, and must not invent any.
//!
//! The servers' URLs come from the environment: `PURPLE_FLEA_LIVE_URL` (the casino), and with it
//! `PURPLE_FLEA_LIVE_ESCROW_URL`, `PURPLE_FLEA_LIVE_FAUCET_URL` and `PURPLE_FLEA_LIVE_TRADING_URL`. The test says which
//! ones it did not find. It plays with the cents of the daily bonus.

use crate::{PurpleFlea, testing::in_time};
use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use std::{collections::BTreeMap, env};

/// The services, with the variables of their URLs.
const SERVICES: [(&str, &str); 4] = [
    ("casino", "PURPLE_FLEA_LIVE_URL"),
    ("escrow", "PURPLE_FLEA_LIVE_ESCROW_URL"),
    ("faucet", "PURPLE_FLEA_LIVE_FAUCET_URL"),
    ("trading", "PURPLE_FLEA_LIVE_TRADING_URL"),
];

/// The path of trading's registration, which the simulator does not have: a test gives an agent its key.
const TRADING_REGISTRATION: &str = "/v1/auth/register";

/// Fields that the simulator has as its own.
const OWN_FIELDS: [&str; 1] = ["_info"];

/// One side: the simulator, or the real servers.
struct Side {
    client: Client<HttpConnector, Full<Bytes>>,
    urls: BTreeMap<&'static str, String>,
    /// The values of the cases' names in braces: `{me}`, `{my_key}`.
    names: BTreeMap<String, String>,
}

/// A reply. The body is a string if it is no JSON.
struct Reply {
    status: u16,
    content_type: String,
    body: Value,
}

/// A case: a line `service METHOD /path [as KEY] [{body}] [-> name=field …]`.
struct Case<'a> {
    service: &'a str,
    method: &'a str,
    path: &'a str,
    key: &'a str,
    body: &'a str,
    /// Fields of the reply that later cases name.
    keeps: Vec<(&'a str, &'a str)>,
}

impl<'a> Case<'a> {
    fn read(line: &'a str) -> Result<Self> {
        let (request, kept) = line.split_once(" -> ").unwrap_or((line, ""));
        let mut parts = request.splitn(5, ' ');
        let mut next = || parts.next().with_context(|| format!("a case is too short: {line}"));
        let (service, method, path, key) = (next()?, next()?, next()?, next()?);
        let keeps = kept.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
        Ok(Self { service, method, path, key, body: parts.next().unwrap_or_default(), keeps })
    }
}

impl Side {
    fn new(urls: BTreeMap<&'static str, String>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, urls, names: BTreeMap::new() }
    }

    fn filled(&self, text: &str) -> String {
        self.names
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }

    async fn ask(&mut self, case: &Case<'_>) -> Result<Reply> {
        let url = self.urls.get(case.service).context("a service without a URL")?;
        let mut request =
            Request::builder().method(case.method).uri(format!("{url}{}", self.filled(case.path)));
        request = request.header("content-type", "application/json");
        if case.key != "-" {
            request = request.header("authorization", format!("Bearer {}", self.filled(case.key)));
        }
        let request = request.body(Full::from(self.filled(case.body)))?;
        let (head, body) = in_time(async { Ok(self.client.request(request).await?) }).await?.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        for (name, field) in &case.keeps {
            let kept = body[*field].as_str().with_context(|| format!("no {field} to keep: {body}"))?;
            self.names.insert((*name).to_owned(), kept.to_owned());
        }
        let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok());
        Ok(Reply {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body,
        })
    }
}

/// Lists the fields of a value that the other one does not have. A list's first elements are compared.
fn invented(ours: &Value, real: &Value, at: &str) -> Vec<String> {
    match (ours, real) {
        (Value::Object(ours), Value::Object(real)) => {
            let fields = ours.iter().filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()));
            let deeper = |(name, value): (&String, &Value)| match real.get(name) {
                Some(other) => invented(value, other, &format!("{at}.{name}")),
                None => vec![format!("{at}.{name}")],
            };
            fields.flat_map(deeper).collect()
        }
        (Value::Array(ours), Value::Array(real)) => match (ours.first(), real.first()) {
            (Some(ours), Some(real)) => invented(ours, real, &format!("{at}[0]")),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Replaces every digit and letter run that differs by chance, so that two CSV files can be compared by their form.
fn form(csv: &str) -> String {
    let cell = |cell: &str| match cell.strip_prefix('-').unwrap_or(cell).parse::<f64>() {
        Ok(_) => {
            cell.split_once('.').map_or("whole".to_owned(), |(_, cents)| format!("{} digits", cents.len()))
        }
        Err(_) if cell.ends_with('Z') => {
            cell.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
        }
        Err(_) => "text".to_owned(),
    };
    let lines = csv.split("\r\n").skip(1);
    // The payout's multiplier and the hashes may have any form.
    let line = |line: &str| {
        [2, 3, 4, 11].map(|n| line.split(',').nth(n).map(cell)).map(|c| format!("{c:?}")).join(" ")
    };
    lines.map(line).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n")
}

/// Describes the differences between two replies to a case.
fn differences(ours: &Reply, real: &Reply) -> Vec<String> {
    let mut found = Vec::new();
    if (ours.status, &ours.body["error"]) != (real.status, &real.body["error"]) {
        let said = |reply: &Reply| format!("{} {}", reply.status, reply.body["error"]);
        found.push(format!("the simulator says {}, and the real server {}", said(ours), said(real)));
    }
    if let (Value::String(ours), Value::String(real)) = (&ours.body, &real.body) {
        if ours.split("\r\n").next() != real.split("\r\n").next() || form(ours) != form(real) {
            found.push(format!("two forms of a list:\n{ours}\n{real}"));
        }
    } else {
        found.extend(invented(&ours.body, &real.body, "").iter().map(|field| format!("{field} is invented")));
    }
    let kind = |reply: &Reply| reply.content_type.split(';').next().unwrap_or_default().to_owned();
    if kind(ours) != kind(real) {
        found.push(format!("{} instead of {}", ours.content_type, real.content_type));
    }
    found
}

#[tokio::test]
async fn the_simulator_answers_as_the_real_servers_do_where_there_are_any() -> Result<()> {
    let found = |(service, variable): (&'static str, &str)| Some((service, env::var(variable).ok()?));
    let real: BTreeMap<_, _> = SERVICES.into_iter().filter_map(found).collect();
    for (service, variable) in SERVICES.iter().filter(|(service, _)| !real.contains_key(service)) {
        eprintln!("{service} is not compared: {variable} is not set");
    }
    if !real.contains_key("casino") {
        return Ok(());
    }
    let purple_flea = PurpleFlea::start().await?;
    purple_flea.faucet_on_registration(real.contains_key("faucet"));
    let ours = SERVICES.map(|(service, _)| (service, purple_flea.url.clone()));
    let (mut ours, mut real) = (Side::new(ours.into()), Side::new(real));
    let mut all = Vec::new();
    for line in
        include_str!("real_servers.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let case = Case::read(line)?;
        if !real.urls.contains_key(case.service) {
            continue;
        }
        let real_reply = real.ask(&case).await?;
        if case.path == TRADING_REGISTRATION {
            let key = purple_flea.trading_key(&ours.names["me"]);
            ours.names.insert("my_trading".to_owned(), key);
            continue;
        }
        let our_reply = ours.ask(&case).await?;
        all.extend(differences(&our_reply, &real_reply).iter().map(|found| format!("{line}\n  {found}")));
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
    Ok(())
}
