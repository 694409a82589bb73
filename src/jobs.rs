//! The execution of each kind of job, one file a kind: its input, its decisions, its calls and its outcomes.
//! Both modes execute a task in the same way. The worker claims the job before, and settles it after.

pub mod agent;
mod bankroll;
pub mod bet;
pub mod close;
mod context;
pub mod deposit;
pub mod escrow;
pub mod order;

pub use context::Context;

use crate::{
    domain::{
        account::DefaultAgent,
        escrow::Step,
        job::{Kind, RequestKind, Subject},
        order::Form,
        outcome::Outcome,
        policy::Policy,
        position::CloseRow,
    },
    json::ReadError,
    ledger::job::Columns,
    runtime::Runtime,
};
use agent::{AgentAction, AgentTask};
use bet::BetTask;
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
    /// Place a bet that a caller requested.
    Bet(Box<BetTask>),
    /// Close a position.
    Close(CloseRow),
    /// Manage an agent's account.
    Agent(AgentTask),
    /// Make an escrow, take a step of it, or read its state.
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
        Kind::Requested(RequestKind::Bet) => bet::decode(columns),
        Kind::Requested(RequestKind::Close) => close::decode(columns),
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
        Kind::Requested(RequestKind::EscrowRelease) => escrow::decode_step(columns, Step::Release),
        Kind::Requested(RequestKind::EscrowCancel) => escrow::decode_step(columns, Step::Cancel),
        Kind::Requested(RequestKind::EscrowComplete) => escrow::decode_step(columns, Step::Complete),
        Kind::Requested(RequestKind::EscrowDispute) => escrow::decode_step(columns, Step::Dispute),
        Kind::Requested(RequestKind::EscrowStatus) => escrow::decode_read(columns),
    }
}

/// Reads a caller's request of a kind. `default` is the agent of a request that names none. `standalone` is the
/// policy of standalone mode, which has no ledger.
pub fn read(
    kind: RequestKind,
    body: &[u8],
    default: &DefaultAgent,
    standalone: Option<&Policy>,
) -> Result<Request, ReadError> {
    let referral_code = None;
    match kind {
        RequestKind::Trade => order::read(body, Form::Trade, standalone),
        RequestKind::Order => order::read(body, Form::Order, standalone),
        RequestKind::Bet => bet::read(body, standalone),
        RequestKind::Close => close::read(body),
        RequestKind::Registration => {
            // In standalone mode the function cannot store the new key.
            let request = agent::read(body, default, AgentAction::Register { referral_code })?;
            Ok(Request { task: None, ..request })
        }
        RequestKind::Faucet => {
            let action = AgentAction::ClaimFaucet { referral_code, fresh: false, wait_s: None };
            agent::read(body, default, action)
        }
        RequestKind::DailyClaim => agent::read_daily_claim(body, default, standalone.is_none()),
        RequestKind::Balance => agent::read(body, default, AgentAction::ReadBalance),
        RequestKind::Escrow => escrow::read(body),
        RequestKind::EscrowRelease => escrow::read_step(body, Step::Release, standalone.is_none()),
        RequestKind::EscrowCancel => escrow::read_step(body, Step::Cancel, standalone.is_none()),
        RequestKind::EscrowComplete => escrow::read_step(body, Step::Complete, standalone.is_none()),
        RequestKind::EscrowDispute => escrow::read_step(body, Step::Dispute, standalone.is_none()),
        RequestKind::EscrowStatus => escrow::read_state(body, standalone.is_none()),
    }
}

/// Decides about a task, and executes it.
pub async fn execute(task: &Task, context: &Context<'_, impl Runtime>) -> Outcome {
    match task {
        Task::Deposit(task) => deposit::execute(task, context).await,
        Task::Order(task) => order::execute(task, context).await,
        Task::Bet(task) => bet::execute(task, context).await,
        Task::Close(row) => close::execute(row, context).await,
        Task::Agent(task) => agent::execute(task, context).await,
        Task::Escrow(task) => escrow::execute(task, context).await,
    }
}
