//! Answers `POST /execute-trade`: a row, or a notification of the ledger.

use super::{
    dispatch::{self, Reply, run_standalone, run_via_ledger},
    problem::Problem,
    refusal::Refusal,
    response::json,
};
use crate::{
    config::Settings,
    domain::{
        bet::Choice,
        deposit::WalletChange,
        escrow::Counterparty,
        outcome::Outcome,
        reason::SkipReason,
        reference::{Reference, ReferenceError},
    },
    jobs::{
        Task,
        agent::{AgentAction, AgentTask},
        deposit::DepositTask,
        escrow::{EscrowAction, EscrowTask},
    },
    log::Line,
    runtime::Runtime,
    webhook::event::{self, Event, Unhandled},
};
use http::{HeaderMap, Response};
use serde_json::json;

/// An admitted caller's request, with the data that its reply needs.
struct Exchange<'a, R> {
    settings: &'a Settings,
    webhook_id: Option<String>,
    headers: &'a HeaderMap,
    runtime: &'a R,
    line: &'a mut Line,
}

/// Answers one event of an admitted caller, and fills in the log's `line`. A problem's reply names the
/// reference that `line` holds by then.
pub async fn run(
    settings: &Settings,
    webhook_id: Option<String>,
    headers: &HeaderMap,
    body: &[u8],
    runtime: &impl Runtime,
    line: &mut Line,
) -> Result<Reply, Problem> {
    let event = event::read(body)?;
    let exchange = Exchange { settings, webhook_id, headers, runtime, line };
    match event {
        Event::Inserted { row, choice } => exchange.deposit(row, &choice).await,
        Event::NewAgent { agent_id } => {
            let named = exchange.webhook_id.clone().filter(|id| Reference::parse(id).is_some());
            let name = named.unwrap_or_else(|| format!("faucet-{agent_id}"));
            let action = AgentAction::ClaimFaucet { referral_code: None, fresh: false, wait_s: None };
            let task = Task::Agent(AgentTask { agent_id: agent_id.clone(), action });
            // In ledger mode the ledger decides which jobs a new agent needs, so this request names none.
            RowRequest { agent_id, name, is_job: false, task }.run(exchange).await
        }
        Event::NewEscrow { id, row } => {
            let (agent_id, name) = (row.sender_id.clone(), format!("escrow-{id}"));
            let task = Task::Escrow(EscrowTask::create(row, Counterparty::default(), None));
            RowRequest { agent_id, name, is_job: true, task }.run(exchange).await
        }
        Event::EscrowStep { id, agent_id, step, reason, pf_escrow_id } => {
            let name = format!("escrow-{id}-{}", step.verb());
            let action = EscrowAction::Step { step, reason, pf_escrow_id, pending: false };
            let task = Task::Escrow(EscrowTask { agent_id: agent_id.clone(), action });
            RowRequest { agent_id, name, is_job: true, task }.run(exchange).await
        }
        Event::NewClose { id, row } => {
            let (agent_id, name) = (row.agent_id.clone(), format!("close-{id}"));
            RowRequest { agent_id, name, is_job: true, task: Task::Close(row) }.run(exchange).await
        }
        Event::Notification { reference } => exchange.notification(reference).await,
        Event::Unhandled(reason) => {
            exchange.line.decision = Some(reason.name());
            Ok((unhandled(reason), None))
        }
    }
}

impl<R: Runtime> Exchange<'_, R> {
    /// Executes a deposit, or runs a worker for its job.
    async fn deposit(self, row: WalletChange, choice: &Choice) -> Result<Reply, Problem> {
        let Self { settings, webhook_id, headers, runtime, line } = self;
        let reference = Reference::of(row.id, webhook_id.as_deref())?;
        line.reference = Some(reference.as_str().to_owned());
        line.agent = Some(row.agent_id.clone());
        let Some(ledger) = &settings.ledger else {
            let (agent_id, policy) = (row.agent_id.clone(), settings.policy.with_choice(choice));
            let task = Task::Deposit(Box::new(DepositTask { row, policy, spent: None }));
            return run_standalone(settings, &task, &agent_id, &reference, runtime, line).await;
        };
        if *choice != Choice::default() {
            return Err(Problem::PolicyInLedger);
        }
        // The ledger decides by its own copy of the row. A withdrawal or a payout has no job, so the row in
        // the request is enough to skip it. A wrong row gains the caller nothing.
        if !row.is_deposit() {
            let outcome = Outcome::skipped(&row.agent_id, SkipReason::NotADeposit);
            outcome.write_to(line);
            return Ok((dispatch::response(outcome, &reference)?, None));
        }
        let reply = run_via_ledger(settings, ledger, Some(reference), headers, runtime, line).await?;
        // An earlier call's outcome, of another agent's deposit: the row is not the one that the ledger has.
        if dispatch::is_replayed(&reply) && line.agent.as_deref().is_some_and(|agent| agent != row.agent_id) {
            return Err(Problem::ReferenceTaken);
        }
        Ok(reply)
    }

    /// Runs a worker for a notification. Without the ledger's settings a notification never leads to a bet.
    async fn notification(self, reference: Option<Reference>) -> Result<Reply, Problem> {
        let Self { settings, webhook_id, headers, runtime, line } = self;
        let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
        if let (Some(reference), Some(id)) = (&reference, webhook_id)
            && reference.as_str() != id
        {
            return Err(Refusal::ReferenceMismatch.into());
        }
        run_via_ledger(settings, ledger, reference, headers, runtime, line).await
    }
}

/// The request of a row of `agents`, `escrow_requests` or `close_requests`.
struct RowRequest {
    agent_id: String,
    /// The name of the request.
    name: String,
    /// Whether the ledger has a job of that name. If not, the worker executes any due jobs.
    is_job: bool,
    task: Task,
}

impl RowRequest {
    async fn run(self, exchange: Exchange<'_, impl Runtime>) -> Result<Reply, Problem> {
        let Exchange { settings, webhook_id, headers, runtime, line } = exchange;
        line.agent = Some(self.agent_id.clone());
        if self.is_job && webhook_id.is_some_and(|id| id != self.name) {
            return Err(Refusal::ReferenceMismatch.into());
        }
        let reference = Reference::parse(&self.name);
        if let Some(ledger) = &settings.ledger {
            let reference = reference.filter(|_| self.is_job);
            return run_via_ledger(settings, ledger, reference, headers, runtime, line).await;
        }
        let reference = reference.ok_or(ReferenceError::Malformed)?;
        run_standalone(settings, &self.task, &self.agent_id, &reference, runtime, line).await
    }
}

fn unhandled(reason: Unhandled) -> Response<Vec<u8>> {
    let detail = match reason {
        Unhandled::Table => {
            "The function handles only rows of wallet_changes, agents, escrow_requests and close_requests."
        }
        Unhandled::Kind => {
            "The function handles only inserted rows, and updates that request the end of an escrow."
        }
    };
    json(&json!({ "status": "skipped", "reason": reason.name(), "detail": detail }))
}
