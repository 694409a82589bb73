//! `POST /execute-trade`: one event from its bytes to its reply. The event is a row, or a notification of the ledger.

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

/// A request of an admitted caller, and what the reply is made with.
struct Exchange<'a, R> {
    settings: &'a Settings,
    webhook_id: Option<String>,
    headers: &'a HeaderMap,
    runtime: &'a R,
    line: &'a mut Line,
}

/// Answers one event of an admitted caller. What the log should have goes into `line` on the way. The reply names the
/// reference that `line` has by then.
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
            let name = exchange.webhook_id.clone().unwrap_or_else(|| format!("faucet-{agent_id}"));
            let action = AgentAction::ClaimFaucet { referral_code: None, fresh: false };
            let task = Task::Agent(AgentTask { agent_id: agent_id.clone(), action });
            // The ledger decides what a new agent needs, so the job has no name here.
            Requested { agent_id, name, is_job: false, task }.run(exchange).await
        }
        Event::NewEscrow { id, row } => {
            let (agent_id, name) = (row.sender_id.clone(), format!("escrow-{id}"));
            let task = Task::Escrow(EscrowTask::create(row, None, None));
            Requested { agent_id, name, is_job: true, task }.run(exchange).await
        }
        Event::EndEscrow { id, sender_id, end, pf_escrow_id } => {
            let name = format!("escrow-{id}-{}", end.verb());
            let action = EscrowAction::End { end, pf_escrow_id, pending: false };
            let task = Task::Escrow(EscrowTask { agent_id: sender_id.clone(), action });
            Requested { agent_id: sender_id, name, is_job: true, task }.run(exchange).await
        }
        Event::Notification { reference } => exchange.notification(reference).await,
        Event::Unhandled(why) => {
            exchange.line.decision = Some(why.name());
            Ok((unhandled(why), None))
        }
    }
}

impl<R: Runtime> Exchange<'_, R> {
    /// Executes a deposit, or has the worker execute its job.
    async fn deposit(self, row: WalletChange, choice: &Choice) -> Result<Reply, Problem> {
        let Self { settings, webhook_id, headers, runtime, line } = self;
        let reference = Reference::of(row.id, webhook_id.as_deref())?;
        line.reference = Some(reference.as_str().to_owned());
        line.agent = Some(row.agent_id.clone());
        let Some(ledger) = &settings.ledger else {
            let (agent_id, policy) = (row.agent_id.clone(), settings.policy.with(choice));
            let task = Task::Deposit(Box::new(DepositTask { row, policy, spent: None }));
            return run_standalone(settings, &task, &agent_id, &reference, runtime, line).await;
        };
        if *choice != Choice::default() {
            return Err(Problem::PolicyInLedger);
        }
        // The row is only a hint. But a withdrawal or a payout has no job, and a caller gains nothing by a wrong row.
        if !row.is_deposit() {
            let outcome = Outcome::skipped(&row.agent_id, SkipReason::NotADeposit);
            outcome.write_to(line);
            return Ok((dispatch::response(outcome, &reference)?, None));
        }
        run_via_ledger(settings, ledger, Some(reference), headers, runtime, line).await
    }

    /// Runs the worker that a ledger's notification asks for. Without a ledger's settings it never leads to a bet.
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

/// What a row of another table than the deposits' requests.
struct Requested {
    agent_id: String,
    /// The name of the request.
    name: String,
    /// Whether the ledger has a job of that name; otherwise the worker executes whatever is due.
    is_job: bool,
    task: Task,
}

impl Requested {
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

fn unhandled(why: Unhandled) -> Response<Vec<u8>> {
    let detail = match why {
        Unhandled::Table => "Only rows of wallet_changes, agents and escrow_requests lead to anything.",
        Unhandled::Kind => {
            "Only inserted rows lead to anything, and escrows that are requested to be released or cancelled."
        }
    };
    json(&json!({ "status": "skipped", "reason": why.name(), "detail": detail }))
}
