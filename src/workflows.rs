//! The workflows that Inngest drives: a file each, and a line each in `all`.
//!
//! A step that moves money is a job of the ledger (`money`). A step that only reads asks Purple Flea (`agent`), and
//! Inngest keeps what it read.

mod agent;
mod daily_faucet_claim;
mod data;
mod escrow_lifecycle;
mod log_trade;
mod money;
mod scheduled_bet;
mod trade_on_price_alert;
mod trade_trigger;

use crate::{config::Settings, inngest::workflow::Workflow, runtime::Runtime};

/// The prefix of the events that the feed's subscriptions send to Inngest. No workflow may begin with one: an escrow of
/// the feed would make another escrow.
pub const FEED_PREFIX: &str = "purple-flea-edge/";

pub use escrow_lifecycle::CONFIRMED;

/// The parts of the world that a workflow needs.
#[derive(Debug)]
pub struct Host<'a, R> {
    /// The settings.
    pub settings: &'a Settings,
    /// The network, the clocks, randomness and the log.
    pub runtime: &'a R,
}

/// Returns the workflows that these settings allow. Those with money steps need the ledger, which remembers what was
/// paid, and an agent whose money it is.
pub fn registered<'a, R: Runtime>(settings: &Settings) -> Vec<Workflow<Host<'a, R>>> {
    let has_agent = settings.ledger.is_some() && settings.workflows.agent.id.is_some();
    let mut workflows = all(settings);
    workflows.retain(|workflow| has_agent || !workflow.has_money_steps);
    workflows
}

/// Returns all workflows.
fn all<'a, R: Runtime>(settings: &Settings) -> Vec<Workflow<Host<'a, R>>> {
    let mut workflows = vec![
        trade_on_price_alert::workflow(),
        trade_trigger::workflow(),
        daily_faucet_claim::workflow(),
        escrow_lifecycle::workflow(),
    ];
    workflows.extend(scheduled_bet::workflow(settings));
    workflows
}
