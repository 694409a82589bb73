//! Workflows: what Inngest is told about them, and the function that it calls.

use super::{
    APP,
    event::{self, Event},
    op::quoted,
    run::{Run, Stop, duration_text},
};
use futures::future::LocalBoxFuture;
use serde_json::Value;
use std::{borrow::Cow, time::Duration};

/// A trigger of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    fn registration(&self) -> String {
        let (kind, text) = match self {
            Self::Event(name) => ("event", name),
            Self::Cron(expression) => ("cron", expression),
        };
        format!(r#"{{"{kind}":{}}}"#, quoted(text))
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
    /// The triggers of a run: 1 to 10.
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

    /// Returns what Inngest is told about the workflow, as JSON.
    pub fn registration(&self, serve_url: &str) -> String {
        let id = self.full_id();
        let url = quoted(&format!("{serve_url}?fnId={id}&stepId=step"));
        let (id, name, retries) = (quoted(&id), quoted(self.name), self.retries);
        let triggers: Vec<String> = self.triggers.iter().map(Trigger::registration).collect();
        let triggers = triggers.join(",");
        let concurrency = self
            .concurrency
            .map(|limit| format!(r#","concurrency":{{"limit":{limit}}}"#))
            .unwrap_or_default();
        let finish = self.finish.map(|finish| quoted(&duration_text(finish)));
        let timeouts =
            finish.map(|finish| format!(r#","timeouts":{{"finish":{finish}}}"#)).unwrap_or_default();
        format!(
            r#"{{"id":{id},"name":{name},"triggers":[{triggers}],"steps":{{"step":{{"id":"step","name":"step","retries":{{"attempts":{retries}}},"runtime":{{"type":"http","url":{url}}}}}}}{concurrency}{timeouts}}}"#
        )
    }
}
