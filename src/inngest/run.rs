//! Steps as ordinary async Rust.
//!
//! Inngest calls a workflow's function again and again, with the memos of the steps that have ended. The function runs from
//! its top each time. A step with a memo returns it. The first step without one is executed, and its result is reported:
//! then the call ends, and [`Stop`] passes through the function's `?`s.
//!
//! ```
//! # use purple_flea_edge::inngest::run::{Run, StepError, Stop, Wait};
//! # use serde_json::{Value, json};
//! # use std::time::Duration;
//! # async fn balance() -> Result<u32, StepError> { Ok(1) }
//! async fn example(run: &Run<'_>) -> Result<Value, Stop> {
//!     let balance = run.step("check-balance", async || balance().await).await?;
//!     if balance < 10 {
//!         return Ok(json!({ "skipped": true }));
//!     }
//!     run.sleep("cool-down", Duration::from_secs(2)).await?;
//!     let wait = Wait {
//!         event: "purple-flea/escrow.confirmed",
//!         timeout: Duration::from_secs(7 * 24 * 60 * 60),
//!         matching: Some("data.escrow_id"),
//!     };
//!     let confirmed = run.wait_for_event("wait-for-counterparty", wait).await?;
//!     Ok(json!({ "confirmed": confirmed.is_some() }))
//! }
//! ```

use super::{
    call::Call,
    event::{Event, NewEvent},
    memo,
    op::{Op, OpCode, Opts, step_id},
};
// A workflow imports what it needs from here alone.
pub use super::stop::{StepError, Stop, Thrown};
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

/// Largest result of a step, in bytes: Inngest's limit is 4 MiB, and the operation around the result takes some of it.
const RESULT_LIMIT_BYTES: usize = 4 * 1024 * 1024 - 4 * 1024;

/// Longest wait or sleep: Inngest's limit of a year, in seconds.
const WAIT_LIMIT_S: u64 = 365 * 24 * 60 * 60;

/// A wait for an event.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'a> {
    /// The name of the event.
    pub event: &'a str,
    /// The longest wait: at most a year.
    pub timeout: Duration,
    /// A path that has the same value in the event that started the run and in the one that is waited for, such as
    /// `data.escrow_id`. `None`: any event of this name.
    pub matching: Option<&'a str>,
}

/// Sends events to Inngest, and returns their ids there.
pub type Sender<'a> = dyn Fn(Vec<NewEvent>) -> LocalBoxFuture<'a, Result<Vec<String>, StepError>> + 'a;

/// One call of a run.
///
/// Steps follow one after another. Where a function starts two at once (`join!`), the first is executed and reported, and
/// the second one in the next call.
pub struct Run<'a> {
    call: &'a Call,
    sender: &'a Sender<'a>,
    /// How often each name has occurred.
    names: RefCell<Vec<(String, u32)>>,
    /// The steps without a memo, in the order in which they were found.
    found: RefCell<Vec<(String, String)>>,
    /// The report of this call.
    report: RefCell<Option<Report>>,
    /// Whether a step is being executed.
    busy: Cell<bool>,
}

/// The report of a call instead of the function's end.
#[derive(Debug, Clone)]
pub struct Report {
    /// The operation.
    pub op: Op,
    /// The shortest time before the next attempt, if the operation is a failed step.
    pub retry_after: Option<Duration>,
}

impl<'a> Run<'a> {
    /// Starts a call.
    pub fn new(call: &'a Call, sender: &'a Sender<'a>) -> Self {
        Self {
            call,
            sender,
            names: RefCell::default(),
            found: RefCell::default(),
            report: RefCell::default(),
            busy: Cell::new(false),
        }
    }

    /// Returns the event that started the run.
    pub fn event(&self) -> &Event {
        &self.call.event
    }

    /// Returns the run's id at Inngest.
    pub fn run_id(&self) -> &str {
        &self.call.run_id
    }

    /// Returns how often the current step, or the function's body, has been tried before.
    pub fn attempt(&self) -> u32 {
        self.call.attempt
    }

    /// Returns whether Inngest will not try again after this attempt.
    pub fn is_last_attempt(&self) -> bool {
        self.call.attempt.saturating_add(1) >= self.call.max_attempts
    }

    /// Executes a step once, and returns its result in this and in every later call. The result has to read back as it was
    /// written: a memo of another shape ends the run with an error that names the step.
    pub async fn step<T, F>(&self, name: &str, work: F) -> Result<T, Stop>
    where
        T: Serialize + DeserializeOwned,
        F: AsyncFnOnce() -> Result<T, StepError>,
    {
        let id = self.id_of(name);
        if let Some(memo) = self.call.memo(&id) {
            return read_memo(name, memo);
        }
        self.begin(&id, name)?;
        let result = work().await.and_then(|value| write_result(name, &value));
        Err(self.end(id, name, result))
    }

    /// Waits for an event. Returns `None` if it did not come in time.
    pub async fn wait_for_event(&self, name: &str, wait: Wait<'_>) -> Result<Option<Event>, Stop> {
        let id = self.id_of(name);
        if let Some(memo) = self.call.memo(&id) {
            return memo::event(memo).map_err(|detail| of_another_type(name, &detail));
        }
        let opts = Opts {
            event: Some(wait.event.to_owned()),
            timeout: Some(waited(name, wait.timeout)?),
            condition: wait.matching.map(|path| format!("event.{path} == async.{path}")),
            duration: None,
        };
        Err(self.hand_over(id, name, OpCode::WaitForEvent, opts))
    }

    /// Sleeps. No instance waits: Inngest calls again after this time.
    pub async fn sleep(&self, name: &str, time: Duration) -> Result<(), Stop> {
        let id = self.id_of(name);
        if let Some(memo) = self.call.memo(&id) {
            return memo::nothing(memo).map_err(|detail| of_another_type(name, &detail));
        }
        let opts = Opts { duration: Some(waited(name, time)?), ..Opts::default() };
        Err(self.hand_over(id, name, OpCode::Sleep, opts))
    }

    /// Sends events in a step, and returns their ids at Inngest. An event without an id gets one of the run, the step and its
    /// place: a step that is executed twice sends it once.
    pub async fn send_event(&self, name: &str, mut events: Vec<NewEvent>) -> Result<Vec<String>, Stop> {
        #[derive(Serialize, Deserialize)]
        struct Sent {
            ids: Vec<String>,
        }
        let id = self.id_of(name);
        if let Some(memo) = self.call.memo(&id) {
            return read_memo(name, memo).map(|Sent { ids }| ids);
        }
        self.begin(&id, name)?;
        for (place, event) in events.iter_mut().enumerate() {
            event.id.get_or_insert_with(|| format!("{}-{id}-{place}", self.call.run_id));
        }
        let result = (self.sender)(events).await.and_then(|ids| write_result(name, &Sent { ids }));
        Err(self.end(id, name, result))
    }

    /// Returns what this call reports instead of the function's end, and the steps without a memo that it found.
    pub fn take_report(&self) -> (Option<Report>, Vec<(String, String)>) {
        (self.report.take(), self.found.take())
    }

    /// Returns the id of the one step that Inngest asks for.
    pub fn requested_step(&self) -> Option<&str> {
        self.call.requested_step.as_deref()
    }

    /// Returns whether a step was begun and dropped: then nothing is known about it.
    pub fn has_dropped_a_step(&self) -> bool {
        self.busy.get()
    }

    /// Returns the id of the next step of a name.
    fn id_of(&self, name: &str) -> String {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, earlier)) => {
                *earlier = earlier.saturating_add(1);
                step_id(name, *earlier)
            }
            None => {
                names.push((name.to_owned(), 0));
                step_id(name, 0)
            }
        }
    }

    /// Notes that a step without a memo was found. Returns whether this call may do something about it.
    fn finds(&self, id: &str, name: &str) -> bool {
        if self.busy.get() || self.report.borrow().is_some() {
            return false;
        }
        self.found.borrow_mut().push((id.to_owned(), name.to_owned()));
        // If Inngest asks for another step, there is no way to it but through this one.
        self.call.requested_step.as_deref().is_none_or(|requested| requested == id)
    }

    /// Begins to execute a step, unless this call must not.
    fn begin(&self, id: &str, name: &str) -> Result<(), Stop> {
        if !self.finds(id, name) {
            return Err(Stop::Reported);
        }
        if self.call.requested_step.is_none() && self.call.plans_steps {
            return Err(self.report(id.to_owned(), name, OpCode::StepPlanned, None));
        }
        self.busy.set(true);
        Ok(())
    }

    /// Notes the result of a step that was executed.
    fn end(&self, id: String, name: &str, result: Result<Box<RawValue>, StepError>) -> Stop {
        self.busy.set(false);
        let (code, data, error, retry_after) = match result {
            Ok(data) => (OpCode::StepRun, Some(data), None, None),
            Err(StepError::Retry { error, after }) => (OpCode::StepError, None, Some(error), after),
            Err(StepError::Final(error)) => (OpCode::StepFailed, None, Some(error), None),
        };
        let op = Op { id, code, name: name.to_owned(), data, error, opts: None };
        *self.report.borrow_mut() = Some(Report { op, retry_after });
        Stop::Reported
    }

    /// Notes a wait or a sleep, unless this call must not.
    fn hand_over(&self, id: String, name: &str, code: OpCode, opts: Opts) -> Stop {
        if self.finds(&id, name) { self.report(id, name, code, Some(opts)) } else { Stop::Reported }
    }

    fn report(&self, id: String, name: &str, code: OpCode, opts: Option<Opts>) -> Stop {
        let op = Op { id, code, name: name.to_owned(), data: None, error: None, opts };
        *self.report.borrow_mut() = Some(Report { op, retry_after: None });
        Stop::Reported
    }
}

/// Reads the memo of a step that was executed.
fn read_memo<T: DeserializeOwned>(name: &str, memo: &RawValue) -> Result<T, Stop> {
    match memo::outcome(memo).map_err(|detail| of_another_type(name, &detail))? {
        Ok(data) => {
            serde_json::from_str(data.get()).map_err(|error| of_another_type(name, &error.to_string()))
        }
        Err(error) => Err(Stop::StepFailed { step: name.to_owned(), error }),
    }
}

/// Writes the result of a step. It must be small enough for Inngest.
fn write_result(name: &str, value: &impl Serialize) -> Result<Box<RawValue>, StepError> {
    let data = to_raw_value(value);
    let data = data.map_err(|_| {
        StepError::last("invalid_result", format!("the result of the step `{name}` is no JSON"))
    })?;
    if data.get().len() > RESULT_LIMIT_BYTES {
        let message =
            format!("the result of the step `{name}` is larger than 4 MiB, which is Inngest's limit");
        return Err(StepError::last("result_too_large", message));
    }
    Ok(data)
}

/// Returns the error of a memo that this version of the workflow does not read.
fn of_another_type(name: &str, detail: &str) -> Stop {
    let detail: String = detail.chars().take(crate::json::DETAIL_LIMIT_CHARS).collect();
    let message =
        format!("the memo of the step `{name}` is not what this version of the workflow reads: {detail}");
    StepError::last("memo_of_another_type", message).into()
}

/// Returns the text of a wait, which has a limit.
fn waited(name: &str, time: Duration) -> Result<String, StepError> {
    if time.is_zero() || time > Duration::from_secs(WAIT_LIMIT_S) {
        let message = format!("the step `{name}` must wait for 1 ms to 365 days");
        return Err(StepError::last("invalid_wait", message));
    }
    Ok(duration_text(time))
}

/// Writes a duration as Inngest reads it, in its largest whole unit: `7d`, `90m`, `1500ms`.
pub fn duration_text(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units.into_iter().find(|(unit, _)| ms.checked_rem(*unit) == Some(0) && ms >= *unit);
    let (unit, letter) = whole.unwrap_or((1, "ms"));
    format!("{}{letter}", ms.checked_div(unit).unwrap_or(ms))
}
