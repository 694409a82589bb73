//! Workflows: what Inngest is told about them, and the function that it calls.

use super::{
    APP,
    event::{self, Event},
    run::{Run, Stop, duration_text},
};
use futures::future::LocalBoxFuture;
use serde::Serialize;
use serde_json::{Value, json};
use std::{borrow::Cow, time::Duration};

/// What starts a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// An event of this name.
    Event(Cow<'static, str>),
    /// The time, as a cron expression of five fields in UTC.
    Cron(Cow<'static, str>),
}

impl Trigger {
    /// An event of this name.
    pub fn event(name: &'static str) -> Self {
        Self::Event(Cow::Borrowed(name))
    }

    /// A cron expression.
    pub fn cron(expression: impl Into<Cow<'static, str>>) -> Self {
        Self::Cron(expression.into())
    }

    /// Returns whether an event can come from this trigger.
    fn fires(&self, event: &Event) -> bool {
        match self {
            Self::Event(name) => *name == event.name,
            Self::Cron(_) => event.name == event::TIMER,
        }
    }
}

/// The function of a workflow. `C` is what the workflows need of the world: this layer does not know it.
pub type Function<C> = for<'a> fn(&'a Run<'a>, &'a C) -> LocalBoxFuture<'a, Result<Value, Stop>>;

/// A workflow.
pub struct Workflow<C> {
    /// The id: lower-case letters, digits and hyphens. Runs that are under way are lost to a workflow that changes its id.
    pub id: &'static str,
    /// The name on the dashboard.
    pub name: &'static str,
    /// What starts a run: 1 to 10.
    pub triggers: Vec<Trigger>,
    /// How often Inngest tries a failed step, or a failed run, again: 0 to 20.
    pub retries: u32,
    /// The most runs that execute a step at the same time. `None`: no limit.
    pub concurrency: Option<u32>,
    /// The longest time from the start of a run to its end. Then Inngest cancels it. `None`: no limit.
    pub finish: Option<Duration>,
    /// Whether a step moves money. Such a workflow exists in ledger mode only.
    pub has_money_steps: bool,
    /// The function.
    pub run: Function<C>,
}

impl<C> Workflow<C> {
    /// Returns the id by which Inngest names the workflow: with the app's.
    pub fn full_id(&self) -> String {
        format!("{APP}-{}", self.id)
    }

    /// Returns whether an event can have started a run of this workflow. Inngest's own events start any: they come from its
    /// clock, or from a person who runs the workflow by hand.
    ///
    /// A signature covers the body and not the `fnId`. So without this check a signed call of one workflow could be sent
    /// again as a call of another.
    pub fn is_started_by(&self, event: &Event) -> bool {
        let by_hand = event.name.starts_with(event::OWN_PREFIX) && event.name != event::TIMER;
        by_hand || self.triggers.iter().any(|trigger| trigger.fires(event))
    }

    /// Returns what Inngest is told about the workflow.
    pub fn registration(&self, serve_url: &str) -> Value {
        let id = self.full_id();
        let url = format!("{serve_url}?fnId={id}&stepId=step");
        let mut registration = json!({
            "id": id,
            "name": self.name,
            "triggers": self.triggers,
            "steps": { "step": {
                "id": "step",
                "name": "step",
                "retries": { "attempts": self.retries },
                "runtime": { "type": "http", "url": url },
            } },
        });
        if let Some(object) = registration.as_object_mut() {
            if let Some(limit) = self.concurrency {
                object.insert("concurrency".to_owned(), json!({ "limit": limit }));
            }
            if let Some(finish) = self.finish {
                object.insert("timeouts".to_owned(), json!({ "finish": duration_text(finish) }));
            }
        }
        registration
    }
}
