//! The whole stack with Inngest before it: the agent's workflows are registered, and Purple Flea keeps its books.

use crate::{
    escrows::OTHER,
    whole_stack::{self, count, sql},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use stack::{
    http1,
    inngest::{Clock, Inngest, Run, Status},
    local::{AGENT, Local},
    purple_flea::{Fault, How, LIVE_AGENT, TRADING_KEY},
};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// The event of a price alert.
pub const ALERT: &str = "purple-flea/price.alert";

/// The running stack, and the Inngest that drives it.
pub struct Driven {
    pub inngest: Inngest,
    pub stack: Local,
}

impl Driven {
    /// Starts both, and registers the workflows. The agent is [`AGENT`].
    pub async fn start(changes: &[(&str, &str)]) -> Result<Self> {
        let inngest = Inngest::start().await?;
        let mut settings = inngest.settings();
        settings.push(("inngest_agent_id", AGENT.to_owned()));
        settings.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())).map(leak));
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let stack = whole_stack::start(&settings).await?;
        stack.purple_flea.fund(OTHER, 100.into());
        sql(&stack, &format!("insert into public.agents (id) values ('{OTHER}')")).await?;
        inngest.register(&stack.host.url).await?;
        Ok(Self { inngest, stack })
    }

    /// Starts both in the `live` dialect.
    pub async fn live(changes: &[(&str, &str)]) -> Result<Self> {
        let live = [("purple_flea_api", "live"), ("purple_flea_trading_key", TRADING_KEY)];
        let driven = Self::start(&[&live[..], changes].concat()).await?;
        let rename = format!("update public.agents set pf_agent_id = '{LIVE_AGENT}' where id = '{AGENT}'");
        sql(&driven.stack, &rename).await?;
        Ok(driven)
    }

    pub fn clock(&self) -> Result<Clock<'_>> {
        self.inngest.clock()
    }

    /// Sends an event and waits for the end of its run.
    pub async fn run(&self, name: &str, data: Value) -> Result<Run> {
        let event = self.inngest.send_named(name, data).await?;
        self.inngest.ended(&event).await
    }

    /// Plans that Purple Flea answers the next request with this body, and then loses the reply to the one after it: it has
    /// executed that one.
    pub fn lose_reply_after(&self, before: &[&str]) {
        for body in before {
            let how = How::answer(200, body);
            self.stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how });
        }
        self.stack.purple_flea.misbehave_once(Fault { after_the_bet: true, how: How::Reset });
    }

    /// Plans that Purple Flea refuses so many requests for its rate, after one answer for each of the bodies.
    pub fn limit_after(&self, before: &[&str], times: usize) {
        for body in before {
            let how = How::answer(200, body);
            self.stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how });
        }
        for _ in 0..times {
            let how = How::answer(429, r#"{"error":"rate_limited"}"#);
            self.stack.purple_flea.misbehave_once(Fault { after_the_bet: false, how });
        }
    }

    /// Reads the money steps of all runs: step, state, reason and how often it was asked for.
    pub async fn steps(&self) -> Result<Vec<String>> {
        let all = "select concat_ws(' ', step, state, reason, asked) from purple_flea.workflow_runs order by created_at";
        let rows = self.stack.owner.query(all, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes time pass for the ledger: every job, and every limit of Purple Flea's rate.
    pub async fn pass_time(&self, interval: &str) -> Result<()> {
        let shift = format!(
            "update purple_flea.jobs set created_at = created_at - interval '{interval}', \
               expires_at = expires_at - interval '{interval}' where state = 'pending'; \
             update purple_flea.rate_stops set until = until - interval '{interval}'"
        );
        sql(&self.stack, &shift).await
    }

    /// Counts jobs of a state.
    pub async fn jobs(&self, state: &str) -> Result<i64> {
        count(&self.stack, &format!("select count(*) from purple_flea.jobs where state = '{state}'")).await
    }
}

fn leak((name, value): (&str, String)) -> (&'static str, String) {
    (Box::leak(name.to_owned().into_boxed_str()), value)
}

/// Writes the data of a price alert.
pub fn alert() -> Value {
    json!({ "asset": "BTC", "price": 65000.50, "direction": "long" })
}

/// Writes the data of an escrow with [`OTHER`].
pub fn escrow(id: &str) -> Value {
    json!({ "escrow_id": id, "amount_usdc": 25, "counterparty": OTHER })
}

/// Gives the error of a run that failed.
pub fn error_of(run: &Run) -> (&str, String) {
    assert_eq!(run.status, Status::Failed, "{run:?}");
    (run.output["name"].as_str().unwrap_or_default(), run.output["message"].to_string())
}

/// A receiver of `log-trade`: it answers with a status of the test's choice.
pub struct Log {
    pub url: String,
    got: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Log {
    /// Starts a receiver that fails the first requests, so many times.
    pub async fn start(failures: usize) -> Result<Self> {
        let (listener, url) = http1::listen().await?;
        let got = Arc::new(Mutex::new(Vec::new()));
        let (mut task, kept) = (JoinSet::new(), got.clone());
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // One after another: a workflow posts one at a time.
                let _ = answer(stream, &kept, failures).await;
            }
        });
        Ok(Self { url, got, _task: task })
    }

    /// Gives the requests, heads and bodies.
    pub fn got(&self) -> Vec<String> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(mut stream: TcpStream, got: &Mutex<Vec<String>>, failures: usize) -> Result<()> {
    let mut read = String::new();
    loop {
        let mut part = [0_u8; 4096];
        let count = stream.read(&mut part).await?;
        anyhow::ensure!(count > 0, "the request broke off");
        read.push_str(&String::from_utf8_lossy(&part[..count]));
        if let Some((head, body)) = read.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.context("no length")?.trim().parse()? {
                break;
            }
        }
    }
    let number = {
        let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
        got.push(read);
        got.len()
    };
    let status = if number <= failures { "503 Service Unavailable" } else { "204 No Content" };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(())
}
