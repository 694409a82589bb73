//! Calls: the body with which Inngest runs a function, or goes on with it.

use super::event::Event;
use crate::json::{self, ReadError};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// The `stepId` of a call that asks for no step in particular.
pub const ANY_STEP: &str = "step";

/// Longest id of a run, in characters. Inngest's are ULIDs, of 26.
const RUN_ID_LIMIT_CHARS: usize = 64;

/// A call of a run.
#[derive(Debug)]
pub struct Call {
    /// The run's id: at most 64 letters, digits, `-` and `_`.
    pub run_id: String,
    /// How often the current step, or the function's body, has been tried before.
    pub attempt: u32,
    /// How often Inngest tries it in all.
    pub max_attempts: u32,
    /// The one step that Inngest asks for.
    pub requested_step: Option<String>,
    /// Whether a new step is reported instead of executed.
    pub plans_steps: bool,
    /// Whether the body is without its events and memos, which Inngest gives on request.
    pub lacks_state: bool,
    /// The event that started the run.
    pub event: Event,
    /// The memos, by the ids of their steps.
    pub memos: HashMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct Body {
    ctx: Context,
    #[serde(default)]
    event: Option<Event>,
    #[serde(default)]
    steps: Option<HashMap<String, Box<RawValue>>>,
    #[serde(default)]
    use_api: bool,
}

#[derive(Deserialize)]
struct Context {
    run_id: String,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    max_attempts: Option<u32>,
    #[serde(default)]
    disable_immediate_execution: bool,
    #[serde(default)]
    use_api: bool,
}

/// The attempts of a run whose call does not tell them. With 1 a workflow does not count on another one.
const ATTEMPTS_DEFAULT: u32 = 1;

impl Call {
    /// Reads a call's body. `step_id` is the query's.
    pub fn read(body: &[u8], step_id: Option<&str>) -> Result<Self, ReadError> {
        let Body { ctx, event, steps, use_api } = json::read(body)?;
        if !is_run_id(&ctx.run_id) {
            return json::refuse("`ctx.run_id` must be 1 to 64 letters, digits, hyphens and underscores");
        }
        let lacks_state = use_api || ctx.use_api;
        let event = match event {
            Some(event) => event,
            None if lacks_state => Event::unknown(),
            None => return json::refuse("`event` is missing"),
        };
        Ok(Self {
            run_id: ctx.run_id,
            attempt: ctx.attempt,
            max_attempts: ctx.max_attempts.unwrap_or(ATTEMPTS_DEFAULT),
            requested_step: step_id.filter(|step| *step != ANY_STEP).map(str::to_owned),
            plans_steps: ctx.disable_immediate_execution,
            lacks_state,
            event,
            memos: steps.unwrap_or_default(),
        })
    }

    /// Returns the memo of a step.
    pub fn memo(&self, id: &str) -> Option<&RawValue> {
        self.memos.get(id).map(AsRef::as_ref)
    }
}

/// Returns whether a text can be a run's id. It becomes a part of a path, so it holds nothing that has a meaning there.
fn is_run_id(text: &str) -> bool {
    (1..=RUN_ID_LIMIT_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
