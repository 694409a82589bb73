//! How each kind of job is executed, one file a kind: what it decides, what it calls, and how it may end. Both modes
//! execute a task in the same way. The claim before and the settlement after it are the worker's.

mod agent;
mod context;
mod deposit;
mod escrow;
mod order;

pub use context::Context;

use crate::{
    domain::{job::Task, outcome::Outcome},
    runtime::Runtime,
};

/// Decides and executes a task.
pub async fn execute(task: &Task, context: &Context<'_, impl Runtime>) -> Outcome {
    match task {
        Task::Deposit(task) => deposit::execute(task, context).await,
        Task::Order(task) => order::execute(task, context).await,
        Task::Agent(task) => agent::execute(task, context).await,
        Task::Escrow(task) => escrow::execute(task, context).await,
    }
}
