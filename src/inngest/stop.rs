//! How a step fails, and how a function ends before its last line.

use serde::{Deserialize, Serialize};
use std::{borrow::Cow, time::Duration};

/// An error with Inngest's names of its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thrown {
    /// A stable code, such as `invalid_event`.
    #[serde(default)]
    pub name: Cow<'static, str>,
    /// A sentence for a person.
    #[serde(default)]
    pub message: String,
}

/// The reason why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepError {
    /// Inngest tries the step again, as often as the workflow's `retries` allow.
    Retry {
        /// The error.
        error: Thrown,
        /// The shortest time before the next attempt. `None`: Inngest decides.
        after: Option<Duration>,
    },
    /// Trying again would not help, or would do harm.
    Final(Thrown),
}

impl StepError {
    /// An error after which Inngest tries again.
    pub fn retry(name: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Retry { error: Thrown { name: name.into(), message: message.into() }, after: None }
    }

    /// An error after which Inngest tries again, but not before this time has passed.
    pub fn retry_after(
        name: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        after: Duration,
    ) -> Self {
        Self::Retry { error: Thrown { name: name.into(), message: message.into() }, after: Some(after) }
    }

    /// An error after which nothing is tried again.
    pub fn last(name: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Final(Thrown { name: name.into(), message: message.into() })
    }
}

/// The reason why a function ends before its last line. A function passes it on with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The call ends here, and Inngest calls again later. The run has noted what it reports: a function that goes on all the
    /// same executes no further step.
    Reported,
    /// The step failed for good in an earlier call. A function may catch this one and go on.
    StepFailed {
        /// The step's name.
        step: String,
        /// The step's error.
        error: Thrown,
    },
    /// The function itself failed.
    Failed(StepError),
}

impl From<StepError> for Stop {
    fn from(error: StepError) -> Self {
        Self::Failed(error)
    }
}
