//! What the stand-in knows: functions, runs, waits and the clock. It changes by events, by answers and by the clock alone.

use super::{cron, expression};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

/// How long the server remembers an event's id, in milliseconds.
const REPEAT_MS: i64 = 24 * 60 * 60 * 1_000;

/// Time before the second attempt, in milliseconds. It doubles with each.
const BACKOFF_MS: i64 = 30_000;

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It goes on, or waits.
    Running,
    /// The function returned.
    Completed,
    /// The function failed for good.
    Failed,
    /// It took longer than its function may, or a person cancelled it.
    Cancelled,
}

/// A run, as a test sees it.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its function, without the app.
    pub function: String,
    /// Its state.
    pub status: Status,
    /// What the function returned, or its error.
    pub output: Value,
    /// The names of the events that it waits for.
    pub waits_for: Vec<String>,
    /// How often the function was called.
    pub calls: usize,
}

/// A call and its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The call's URL.
    pub url: String,
    /// The call's headers.
    pub headers: http::HeaderMap,
    /// The call's body.
    pub call: Value,
    /// The answer's status; `None`: there was none.
    pub status: Option<u16>,
    /// The answer's headers.
    pub answer_headers: http::HeaderMap,
    /// The answer's body.
    pub answer: Value,
    /// Whether the answer was lost on purpose.
    pub lost: bool,
}

/// A registered function.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub id: String,
    pub registered: Value,
}

impl Function {
    fn triggers(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.registered["triggers"].as_array().into_iter().flatten().filter_map(move |t| t[kind].as_str())
    }

    /// The `attempts` on the wire are retries.
    fn max_attempts(&self) -> u64 {
        self.registered["steps"]["step"]["retries"]["attempts"].as_u64().unwrap_or(3) + 1
    }

    fn url(&self) -> &str {
        self.registered["steps"]["step"]["runtime"]["url"].as_str().unwrap_or_default()
    }

    fn limit(&self) -> usize {
        let limit = self.registered["concurrency"]["limit"].as_u64();
        limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

/// A run, as the server keeps it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub id: String,
    pub function: Function,
    pub event: Value,
    sent_as: String,
    pub memos: Map<String, Value>,
    status: Status,
    output: Value,
    waits: Vec<Wait>,
    /// What comes next: the step to ask for, how often it was tried, and when.
    next: Option<Next>,
    pub is_under_way: bool,
    ends_at_ms: Option<i64>,
    calls: usize,
    pub version: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Next {
    pub step: String,
    pub attempt: u64,
    due_ms: i64,
}

/// A wait for an event, or a sleep.
#[derive(Debug, Clone)]
struct Wait {
    id: String,
    event: Option<String>,
    condition: Option<String>,
    until_ms: i64,
}

/// A call to make.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub run: usize,
    pub url: String,
    pub next: Next,
    pub max_attempts: u64,
    pub kept: Kept,
}

/// What the stand-in knows.
#[derive(Debug)]
pub(super) struct State {
    now_ms: i64,
    pub functions: Vec<Function>,
    pub registration: Option<(http::HeaderMap, String, Value)>,
    runs: Vec<Kept>,
    pub events: Vec<Value>,
    seen: HashMap<String, i64>,
    pub exchanges: Vec<Exchange>,
    pub lost_answers: Vec<String>,
    most: HashMap<String, usize>,
    numbers: u64,
}

/// Returns the time, in milliseconds since 1970, in whole seconds. The clock starts there, because the function has the
/// machine's clock.
fn start_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default().saturating_mul(1_000)
}

impl Default for State {
    fn default() -> Self {
        Self {
            now_ms: start_ms(),
            functions: Vec::new(),
            registration: None,
            runs: Vec::new(),
            events: Vec::new(),
            seen: HashMap::new(),
            exchanges: Vec::new(),
            lost_answers: Vec::new(),
            most: HashMap::new(),
            numbers: 0,
        }
    }
}

impl State {
    /// Makes an id of the form of a ULID.
    fn ulid(&mut self) -> String {
        self.numbers += 1;
        format!("01KB{:022}", self.numbers)
    }

    /// Registers functions. Returns whether that changed anything.
    pub(super) fn register(&mut self, functions: Vec<Function>) -> bool {
        let before: Vec<Value> = self.functions.iter().map(|f| f.registered.clone()).collect();
        let now: Vec<Value> = functions.iter().map(|f| f.registered.clone()).collect();
        self.functions = functions;
        before != now
    }

    /// Takes an event. Returns its id. A second one with the same id within a day starts and resumes nothing.
    pub(super) fn take(&mut self, mut event: Value) -> Result<String> {
        let name = event["name"].as_str().context("an event has a name")?.to_owned();
        let id = event["id"].as_str().map(str::to_owned);
        let id = id.unwrap_or_else(|| self.ulid());
        event["id"] = json!(id);
        if event["ts"].is_null() {
            event["ts"] = json!(self.now_ms);
        }
        self.events.push(event.clone());
        let now_ms = self.now_ms;
        if self.seen.get(&id).is_some_and(|seen| now_ms - seen < REPEAT_MS) {
            return Ok(id);
        }
        self.seen.insert(id.clone(), now_ms);
        let started: Vec<Function> =
            self.functions.iter().filter(|f| f.triggers("event").any(|t| t == name)).cloned().collect();
        for function in started {
            self.start(function, event.clone(), &id);
        }
        self.resume(&name, &event)?;
        Ok(id)
    }

    fn start(&mut self, function: Function, event: Value, sent_as: &str) {
        let id = self.ulid();
        let finish = function.registered["timeouts"]["finish"].as_str().and_then(duration_ms);
        let next = Next { step: "step".to_owned(), attempt: 0, due_ms: self.now_ms };
        self.runs.push(Kept {
            id,
            event,
            sent_as: sent_as.to_owned(),
            memos: Map::new(),
            status: Status::Running,
            output: Value::Null,
            waits: Vec::new(),
            next: Some(next),
            is_under_way: false,
            ends_at_ms: finish.map(|finish| self.now_ms + finish),
            calls: 0,
            version: -1,
            function,
        });
    }

    /// Gives an event to the runs that wait for it. Their memo is the bare event.
    fn resume(&mut self, name: &str, event: &Value) -> Result<()> {
        let now_ms = self.now_ms;
        for run in self.runs.iter_mut().filter(|run| run.status == Status::Running) {
            let mut resumed = Vec::new();
            for wait in run.waits.iter().filter(|wait| wait.event.as_deref() == Some(name)) {
                let condition = wait.condition.as_deref();
                if condition.map_or(Ok(true), |c| expression::holds(c, &run.event, event))? {
                    resumed.push(wait.id.clone());
                }
            }
            run.waits.retain(|wait| !resumed.contains(&wait.id));
            for id in resumed {
                run.memos.insert(id, event.clone());
                run.next = Some(Next { step: "step".to_owned(), attempt: 0, due_ms: now_ms });
            }
        }
        Ok(())
    }

    /// Starts a run by the next time of a function's cron. Returns the event's id.
    pub(super) fn fire(&mut self, function: &str) -> Result<String> {
        let function = self.functions.iter().find(|f| f.id == function).context("no such function")?.clone();
        let cron = function.triggers("cron").next().context("the function has no cron")?.to_owned();
        self.now_ms = cron::next(&cron, self.now_ms)?;
        let id = cron::rfc3339(self.now_ms);
        let data = json!({ "cron": cron, "fireAt": id, "scheduledAt": id });
        let event = json!({ "id": id, "name": "inngest/scheduled.timer", "data": data, "ts": self.now_ms });
        self.start(function, event, &id);
        self.pass();
        Ok(id)
    }

    /// Starts one more run of each function that an event has started, with the same event.
    pub(super) fn rerun(&mut self, event_id: &str) -> Result<()> {
        let same: Vec<Kept> = self.runs.iter().filter(|run| run.sent_as == event_id).cloned().collect();
        anyhow::ensure!(!same.is_empty(), "the event started no run");
        let mut started = Vec::new();
        for run in same {
            if !started.contains(&run.function.id) {
                started.push(run.function.id.clone());
                self.start(run.function, run.event, event_id);
            }
        }
        Ok(())
    }

    pub(super) fn runs_of(&self, event_id: &str) -> Vec<Run> {
        let runs = self.runs.iter().filter(|run| run.sent_as == event_id);
        runs.map(|run| Run {
            id: run.id.clone(),
            function: run.function.id.trim_start_matches("purple-flea-").to_owned(),
            status: run.status,
            output: run.output.clone(),
            waits_for: run.waits.iter().filter_map(|wait| wait.event.clone()).collect(),
            calls: run.calls,
        })
        .collect()
    }

    pub(super) fn kept(&self, run_id: &str) -> Option<&Kept> {
        self.runs.iter().find(|run| run.id == run_id)
    }

    /// Moves the clock.
    pub(super) fn advance(&mut self, time: Duration) {
        self.now_ms += i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2);
        self.pass();
    }

    /// Moves the clock to whatever comes next. Returns false if nothing does.
    pub(super) fn jump(&mut self) -> bool {
        let running = self.runs.iter().filter(|run| run.status == Status::Running);
        let next = running.flat_map(|run| {
            let waits = run.waits.iter().map(|wait| wait.until_ms);
            waits.chain(run.next.as_ref().map(|next| next.due_ms)).chain(run.ends_at_ms)
        });
        let Some(next_ms) = next.min() else { return false };
        self.now_ms = self.now_ms.max(next_ms);
        self.pass();
        true
    }

    /// Ends what has ended by the clock: runs that took too long, waits and sleeps.
    fn pass(&mut self) {
        let now_ms = self.now_ms;
        for run in self.runs.iter_mut().filter(|run| run.status == Status::Running) {
            if run.ends_at_ms.is_some_and(|end| end <= now_ms) {
                run.status = Status::Cancelled;
                continue;
            }
            let (over, left) = run.waits.drain(..).partition(|wait| wait.until_ms <= now_ms);
            run.waits = left;
            let over: Vec<Wait> = over;
            for wait in over {
                run.memos.insert(wait.id, Value::Null);
                run.next = Some(Next { step: "step".to_owned(), attempt: 0, due_ms: now_ms });
            }
        }
    }

    pub(super) fn cancel_all(&mut self) {
        for run in self.runs.iter_mut().filter(|run| run.status == Status::Running) {
            run.status = Status::Cancelled;
        }
    }

    /// Takes the calls that are due. Earlier runs come first, within the limits of their functions.
    pub(super) fn due(&mut self) -> Vec<Due> {
        let mut due = Vec::new();
        for place in 0..self.runs.len() {
            let run = &self.runs[place];
            let waits = |next: &Next| next.due_ms > self.now_ms;
            if run.status != Status::Running || run.is_under_way || run.next.as_ref().is_none_or(waits) {
                continue;
            }
            let under_way = self.under_way(&run.function.id);
            if under_way >= run.function.limit() {
                continue;
            }
            let most = self.most.entry(run.function.id.clone()).or_default();
            *most = (*most).max(under_way + 1);
            let run = &mut self.runs[place];
            let Some(next) = run.next.take() else { continue };
            run.is_under_way = true;
            run.calls += 1;
            let (url, max_attempts) = (run.function.url().to_owned(), run.function.max_attempts());
            due.push(Due { run: place, url, next, max_attempts, kept: run.clone() });
        }
        due
    }

    fn under_way(&self, function: &str) -> usize {
        self.runs.iter().filter(|run| run.is_under_way && run.function.id == function).count()
    }

    pub(super) fn most_at_once(&self, function: &str) -> usize {
        self.most.get(function).copied().unwrap_or(0)
    }

    /// Returns whether nothing is under way, and nothing due.
    pub(super) fn is_at_rest(&self) -> bool {
        self.runs.iter().all(|run| {
            let is_due = run.next.as_ref().is_some_and(|next| next.due_ms <= self.now_ms);
            !run.is_under_way && (run.status != Status::Running || !is_due)
        })
    }

    /// Takes an answer's outcome.
    pub(super) fn settle(&mut self, due: &Due, outcome: Outcome) {
        let now_ms = self.now_ms;
        let run = &mut self.runs[due.run];
        run.is_under_way = false;
        if run.status != Status::Running {
            return;
        }
        let again = |after_ms: Option<i64>| {
            let attempt = due.next.attempt + 1;
            let backoff_ms = BACKOFF_MS << due.next.attempt.min(8);
            let due_ms = now_ms + after_ms.unwrap_or(backoff_ms);
            (attempt < due.max_attempts).then(|| Next { step: due.next.step.clone(), attempt, due_ms })
        };
        let soon = |step: &str| Next { step: step.to_owned(), attempt: 0, due_ms: now_ms };
        match outcome {
            Outcome::Memo { id, memo } => {
                run.memos.insert(id, memo);
                run.next = Some(soon("step"));
            }
            Outcome::StepError { id, error, after_ms } => match again(after_ms) {
                Some(next) => run.next = Some(next),
                None => {
                    run.memos.insert(id, json!({ "error": error }));
                    run.next = Some(soon("step"));
                }
            },
            Outcome::Planned { id } => run.next = Some(soon(&id)),
            Outcome::Wait { id, event, condition, timeout } => match duration_ms(&timeout) {
                Some(ms) => run.waits.push(Wait { id, event, condition, until_ms: now_ms + ms }),
                None => {
                    (run.status, run.output) =
                        (Status::Failed, json!({ "message": format!("no duration: {timeout}") }))
                }
            },
            Outcome::Returned(output) => (run.status, run.output) = (Status::Completed, output),
            Outcome::Failed { error, is_final, after_ms } => match again(after_ms).filter(|_| !is_final) {
                Some(next) => run.next = Some(next),
                None => (run.status, run.output) = (Status::Failed, error),
            },
        }
    }

    /// Notes the version with which an app answers.
    pub(super) fn note_version(&mut self, run: usize, version: i64) {
        self.runs[run].version = version;
    }
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum Outcome {
    Memo { id: String, memo: Value },
    StepError { id: String, error: Value, after_ms: Option<i64> },
    Planned { id: String },
    Wait { id: String, event: Option<String>, condition: Option<String>, timeout: String },
    Returned(Value),
    Failed { error: Value, is_final: bool, after_ms: Option<i64> },
}

/// Reads the functions of a registration. Fails, as the server does, where one lacks what it needs.
pub(super) fn functions(body: &Value) -> Result<Vec<Function>> {
    if body["appName"].as_str().unwrap_or_default().is_empty() {
        bail!("App ID required");
    }
    let functions = body["functions"].as_array().context("no functions")?;
    let read = |registered: &Value| {
        let id = registered["id"].as_str().context("a function without an id")?.to_owned();
        let function = Function { id, registered: registered.clone() };
        anyhow::ensure!(!function.url().is_empty(), "{} has no URL", function.id);
        anyhow::ensure!(
            function.triggers("event").chain(function.triggers("cron")).next().is_some(),
            "{} has no trigger",
            function.id
        );
        for cron in function.triggers("cron") {
            cron::next(cron, start_ms())?;
        }
        Ok(function)
    };
    functions.iter().map(read).collect()
}

/// Reads a duration such as `7d`, `90m` or `1500ms`, in milliseconds.
pub(super) fn duration_ms(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit_ms)
}
