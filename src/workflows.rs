//! The workflows that Inngest drives: a file each, and a line each in [`all`].

use crate::{config::Settings, inngest::workflow::Workflow, runtime::Runtime};

/// What a workflow needs of the world.
#[derive(Debug)]
pub struct Host<'a, R> {
    /// The settings.
    pub settings: &'a Settings,
    /// The network, the clocks, randomness and the log.
    pub runtime: &'a R,
}

/// Returns the workflows that these settings allow. Those with money steps need the ledger: it remembers what was paid.
pub fn registered<'a, R: Runtime>(settings: &Settings) -> Vec<Workflow<Host<'a, R>>> {
    let mut workflows = all(settings);
    workflows.retain(|workflow| settings.ledger.is_some() || !workflow.has_money_steps);
    workflows
}

/// Returns all workflows.

fn all<'a, R: Runtime>(_settings: &Settings) -> Vec<Workflow<Host<'a, R>>> {
    vec![]
}
