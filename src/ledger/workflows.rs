//! The calls of workflows: the claim of a step's own job and its end, the account of the steps that only read, and the
//! escrow that one of Purple Flea's webhooks is about.

use super::{
    CLAIM_ATTEMPTS, Claim, Ledger, PROTOCOL, RETRY_FIRST_MS,
    job::account_key,
    next_wait,
    object::{self, Object},
    rpc::{self, LedgerError},
    uuid,
};
use crate::{
    domain::{
        account::{Account, Api},
        job::RequestKind,
    },
    runtime::Runtime,
    time_budget,
};
use serde_json::{Value, json};
use std::time::Duration;

/// A money step of a workflow, as the ledger names it.
#[derive(Debug, Clone)]
pub struct WorkflowStep<'a> {
    /// The workflow's id.
    pub function: &'a str,
    /// The id of the event that started the run.
    pub event: &'a str,
    /// The step's name.
    pub step: &'a str,
    /// The run's id. It is a detail, and no part of the job's name.
    pub run: &'a str,
    /// The agent whose money it is.
    pub agent: &'a str,
    /// The kind of job.
    pub kind: RequestKind,
    /// The request.
    pub details: Value,
    /// The event's own name of the escrow that the step makes.
    pub subject: Option<&'a str>,
}

/// An escrow that a workflow has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowEscrow {
    /// The event's own name of the escrow.
    pub escrow_id: String,
    /// The counterparty, as the event named it.
    pub counterparty: String,
    /// All that the counterparty is known by: the agent's id, its account at Purple Flea, its wallet.
    pub names: Vec<String>,
    /// The escrow's status in the ledger.
    pub status: String,
}

impl Ledger {
    /// Asks for the job of a step, and claims it. With `paused` the ledger only answers.
    pub async fn claim_step(
        &self,
        step: &WorkflowStep<'_>,
        api: Api,
        paused: bool,
        runtime: &impl Runtime,
    ) -> Result<Claim, LedgerError> {
        let token = uuid(runtime.random());
        let WorkflowStep { function, event, step, run, agent, kind, details, subject } = step;
        let body = json!({
            "step": {
                "function": function, "event": event, "step": step, "run": run, "agent": agent,
                "kind": kind.name(), "details": details, "subject": subject,
            },
            "claim": token,
            "api": api,
            "protocol": PROTOCOL,
            "patience_ms": time_budget::CLAIM_PATIENCE_MS,
            "paused": paused,
        });
        self.claim_by("claim_workflow_step", &body, &token, runtime).await
    }

    /// Ends the pending job of a step after the last attempt. Returns the state that the job has then.
    pub async fn end_step(&self, reference: &str, runtime: &impl Runtime) -> Result<String, LedgerError> {
        let body = json!({ "reference": reference });
        let mut wait = Duration::from_millis(RETRY_FIRST_MS);
        let mut attempts = 1_u32;
        loop {
            match self.call("end_workflow_step", &body, runtime).await {
                Ok(reply) => return Ok(Object::read(rpc::text(&reply)?)?.text("state")?),
                Err(error) if error.may_pass() && attempts < CLAIM_ATTEMPTS => {
                    runtime.sleep(wait).await;
                    wait = next_wait(wait);
                    attempts = attempts.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the account of an agent, for the steps that only read; `None` if there is no such agent.
    pub async fn workflow_account(
        &self,
        agent: &str,
        runtime: &impl Runtime,
    ) -> Result<Option<Account>, LedgerError> {
        let reply = self.call("workflow_account", &json!({ "agent": agent }), runtime).await?;
        let reply = Object::read(rpc::text(&reply)?)?;
        if reply.maybe_text("refused")?.is_some() {
            return Ok(None);
        }
        let key = account_key(reply.flag("own_key")?, reply.maybe_text("key")?.as_deref());
        let name = reply.maybe_text("account")?.unwrap_or_else(|| agent.to_owned());
        Ok(Some(Account { name, key, wallet_address: reply.maybe_text("wallet_address")? }))
    }

    /// Returns the workflow's escrow that Purple Flea knows by this id.
    pub async fn workflow_escrow(
        &self,
        pf_escrow_id: &str,
        runtime: &impl Runtime,
    ) -> Result<Option<WorkflowEscrow>, LedgerError> {
        let body = json!({ "pf_escrow_id": pf_escrow_id });
        let reply = self.call("workflow_escrow", &body, runtime).await?;
        let text = rpc::text(&reply)?;
        let found = Object::read(text)?;
        if found.maybe_text("refused")?.is_some() {
            return Ok(None);
        }
        let names = object::value(text)?;
        let names = names.get("names").and_then(Value::as_array).ok_or(LedgerError::Unreadable)?;
        Ok(Some(WorkflowEscrow {
            escrow_id: found.text("escrow_id")?,
            counterparty: found.text("counterparty")?,
            names: names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            status: found.text("status")?,
        }))
    }
}
