//! The execution of each kind of job, one file a kind: its input, its decisions, its calls and its outcomes.
//! Both modes execute a task in the same way. The worker claims the job before, and settles it after.

pub mod agent;
mod context;
pub mod deposit;
pub mod escrow;
pub mod order;

pub use context::Context;

use crate::{
    domain::{
        account::DefaultAgent,
        escrow::End,
        job::{Kind, RequestKind, Subject},
        order::Form,
        outcome::Outcome,
    },
    json::ReadError,
    ledger::job::Columns,
    runtime::Runtime,
};
use agent::{AgentAction, AgentTask};
use deposit::DepositTask;
use escrow::EscrowTask;
use order::OrderTask;
use serde_json::Value;

/// A decoded job with all data that an attempt needs.
#[derive(Debug)]
pub enum Task {
    /// Bet on a deposit, or trade with it.
    Deposit(Box<DepositTask>),
    /// Open a position that a caller requested.
    Order(Box<OrderTask>),
    /// Manage an agent's account.
    Agent(AgentTask),
    /// Make or end an escrow.
    Escrow(EscrowTask),
}

/// A caller's request for a job.
#[derive(Debug)]
pub struct Request {
    /// The agent of the request.
    pub subject: Subject,
    /// The request as the ledger keeps it.
    pub details: Value,
    /// The task, if the function can execute the request without a ledger.
    pub task: Option<Task>,
}

/// Makes the task of a claimed job. Returns `None` if this version cannot read the job's row or policy.
pub fn decode(columns: &Columns) -> Option<Task> {
    let agent = |action| Some(Task::Agent(AgentTask { agent_id: columns.agent_id.clone(), action }));
    let referral_code = columns.referral_code.clone();
    match columns.kind {
        Kind::Deposit => deposit::decode(columns),
        Kind::Requested(RequestKind::Trade) => order::decode(columns, Form::Trade),
        Kind::Requested(RequestKind::Order) => order::decode(columns, Form::Order),
        Kind::Requested(RequestKind::Registration) => agent(AgentAction::Register { referral_code }),
        Kind::Requested(RequestKind::Faucet) => {
            let (fresh, wait_s) = (columns.fresh, columns.faucet_wait_s);
            agent(AgentAction::ClaimFaucet { referral_code, fresh, wait_s })
        }
        Kind::Requested(RequestKind::DailyClaim) => {
            let wallet_address = columns.account.wallet_address.clone();
            agent(AgentAction::ClaimDaily { wallet_address, fresh: columns.fresh })
        }
        Kind::Requested(RequestKind::Balance) => agent(AgentAction::ReadBalance),
        Kind::Requested(RequestKind::Escrow) => escrow::decode(columns),
        Kind::Requested(RequestKind::EscrowRelease) => escrow::decode_end(columns, End::Release),
        Kind::Requested(RequestKind::EscrowCancel) => escrow::decode_end(columns, End::Cancel),
    }
}

/// Reads a caller's request of a kind. `default` is the agent of a request that names none.
pub fn read(
    kind: RequestKind,
    body: &[u8],
    default: &DefaultAgent,
    with_ledger: bool,
) -> Result<Request, ReadError> {
    let referral_code = None;
    match kind {
        RequestKind::Trade => order::read(body, Form::Trade),
        RequestKind::Order => order::read(body, Form::Order),
        RequestKind::Registration => {
            // In standalone mode the function cannot store the new key.
            let request = agent::read(body, default, AgentAction::Register { referral_code })?;
            Ok(Request { task: None, ..request })
        }
        RequestKind::Faucet => {
            let action = AgentAction::ClaimFaucet { referral_code, fresh: false, wait_s: None };
            agent::read(body, default, action)
        }
        RequestKind::DailyClaim => agent::read_daily_claim(body, default, with_ledger),
        RequestKind::Balance => agent::read(body, default, AgentAction::ReadBalance),
        RequestKind::Escrow => escrow::read(body),
        RequestKind::EscrowRelease => escrow::read_end(body, End::Release, with_ledger),
        RequestKind::EscrowCancel => escrow::read_end(body, End::Cancel, with_ledger),
    }
}

/// Decides about a task, and executes it.
pub async fn execute(task: &Task, context: &Context<'_, impl Runtime>) -> Outcome {
    match task {
        Task::Deposit(task) => deposit::execute(task, context).await,
        Task::Order(task) => order::execute(task, context).await,
        Task::Agent(task) => agent::execute(task, context).await,
        Task::Escrow(task) => escrow::execute(task, context).await,
    }
}
