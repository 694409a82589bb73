//! Inngest, which drives the workflows: a stand-in, or the real server where `INNGEST_CLI` names its program.
//!
//! The stand-in behaves as the real server was seen to behave: it registers apps, starts runs by events and by crons, calls
//! functions with the memos of their steps, tries again, waits, matches, cancels, keeps to concurrency limits and drops
//! repeated events. It has a clock of its own, which only a test moves. It prints that it is a stand-in.

mod calls;
mod cron;
mod expression;
mod real;
mod relay;
mod server;
mod state;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    env,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet};

pub use calls::signature;
pub use state::{Exchange, Run, Status};

/// The environment variable that names the program of the real server.
pub const PROGRAM: &str = "INNGEST_CLI";

/// The app's id: the first part of every function's id.
pub const APP: &str = "purple-flea";

/// The path of the app.
pub const PATH: &str = "/api/inngest";

/// A signing key of the tests, as an operator writes it.
pub const SIGNING_KEY: &str = "signkey-test-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The event key of the tests.
pub const EVENT_KEY: &str = "an-event-key-of-the-tests";

/// Longest wait for the server to come to rest. It is longer than any call takes on a busy machine.
const WAIT_LIMIT: Duration = Duration::from_secs(120);

/// How the server starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The key with which it signs and which it demands; `None`: a development server.
    pub signing_key: Option<String>,
    /// The key that it demands with events; `None`: it takes any.
    pub event_key: Option<String>,
    /// Whether calls hold their events and memos. If not, the app has to ask for them. The stand-in only.
    pub sends_state: bool,
    /// Whether a new step is planned first, and then asked for by its id. The stand-in only.
    pub plans_steps: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { signing_key: None, event_key: None, sends_state: true, plans_steps: false }
    }
}

impl Options {
    /// A server with keys.
    pub fn with_keys() -> Self {
        let (signing_key, event_key) = (Some(SIGNING_KEY.to_owned()), Some(EVENT_KEY.to_owned()));
        Self { signing_key, event_key, ..Self::default() }
    }
}

/// A running server. Ends when it is dropped.
pub struct Inngest {
    url: String,
    options: Options,
    part: Part,
    relay: relay::Relay,
}

enum Part {
    StandIn { shared: Arc<Shared>, _tasks: JoinSet<()> },
    Real(Box<real::Server>),
}

/// What the stand-in's tasks share.
struct Shared {
    options: Options,
    state: Mutex<state::State>,
    /// Wakes the task that makes calls.
    changed: Notify,
    /// Wakes those who wait for rest.
    rested: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, state::State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inngest {
    /// Starts a development server.
    pub async fn start() -> Result<Self> {
        Self::with(Options::default()).await
    }

    /// Starts a server: the real one where there is one that can do this, otherwise the stand-in.
    pub async fn with(options: Options) -> Result<Self> {
        let is_plain = options.sends_state && !options.plans_steps;
        match env::var_os(PROGRAM).map(PathBuf::from) {
            Some(program) if is_plain => {
                let server = real::Server::start(&program, &options).await?;
                let relay = relay::Relay::start().await?;
                Ok(Self { url: server.url.clone(), options, part: Part::Real(Box::new(server)), relay })
            }
            _ => Self::stand_in(options).await,
        }
    }

    /// Starts the stand-in.
    pub async fn stand_in(options: Options) -> Result<Self> {
        let (listener, url) = crate::http1::listen().await?;
        println!("{url}: a stand-in for Inngest's server, with a clock of its own");
        let shared = Arc::new(Shared {
            options: options.clone(),
            state: Mutex::new(state::State::default()),
            changed: Notify::new(),
            rested: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(server::accept(listener, shared.clone()));
        tasks.spawn(calls::make(shared.clone()));
        let relay = relay::Relay::start().await?;
        Ok(Self { url, options, part: Part::StandIn { shared, _tasks: tasks }, relay })
    }

    /// Gives the URL of its API, and of its events.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives the settings of an app that this server drives. The URL that the app registers has to be known before the app
    /// starts: it is a relay's, which leads to the app that [`Self::register`] names.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("inngest_api_url", self.url.clone()),
            ("inngest_event_url", self.url.clone()),
            ("inngest_serve_url", format!("{}{PATH}", self.relay.url)),
        ];
        match &self.options.signing_key {
            Some(key) => settings.push(("inngest_signing_key", key.clone())),
            None => settings.push(("inngest_dev", "true".to_owned())),
        }
        if let Some(key) = &self.options.event_key {
            settings.push(("inngest_event_key", key.clone()));
        }
        settings
    }

    /// Asks an app at this URL, such as `http://127.0.0.1:3000`, to register.
    pub async fn register(&self, app_url: &str) -> Result<()> {
        self.relay.lead_to(app_url);
        let kind = if self.options.signing_key.is_some() { "cloud" } else { "dev" };
        let request = http::Request::put(format!("{app_url}{PATH}"))
            .header("x-inngest-server-kind", kind)
            .body(Vec::new())?;
        let reply = crate::http1::send(request).await?;
        if reply.status() != 200 {
            bail!("the app answers the PUT with {}: {:?}", reply.status(), reply.body());
        }
        Ok(())
    }

    /// Sends an event, and gives its id: the one in the event, or a new one.
    pub async fn send(&self, event: &Value) -> Result<String> {
        let key = self.options.event_key.as_deref().unwrap_or("test");
        let request = http::Request::post(format!("{}/e/{key}", self.url))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(event)?)?;
        let reply = crate::http1::send(request).await?;
        let body: Value = serde_json::from_slice(reply.body())
            .with_context(|| format!("the events' answer is {:?}", reply.body()))?;
        Ok(body["ids"][0].as_str().with_context(|| format!("no id: {body}"))?.to_owned())
    }

    /// Sends an event of this name with this data, and gives its id.
    pub async fn send_named(&self, name: &str, data: Value) -> Result<String> {
        self.send(&json!({ "name": name, "data": data })).await
    }

    /// Gives the runs that an event started, by the id that [`Self::send`] gave.
    pub async fn runs_of(&self, event_id: &str) -> Result<Vec<Run>> {
        match &self.part {
            Part::Real(server) => server.runs_of(event_id).await,
            Part::StandIn { shared, .. } => Ok(shared.state().runs_of(event_id)),
        }
    }

    /// Waits for the end of the one run that an event started. The stand-in moves its clock to whatever comes next, such as
    /// another attempt or the end of a wait.
    pub async fn ended(&self, event_id: &str) -> Result<Run> {
        let ended = async {
            loop {
                self.rest().await?;
                let runs = self.runs_of(event_id).await?;
                if let [run] = &runs[..]
                    && run.status != Status::Running
                {
                    return Ok(run.clone());
                }
                match &self.part {
                    Part::Real(_) => tokio::time::sleep(real::LOOK_EVERY).await,
                    Part::StandIn { shared, .. } => {
                        if !shared.state().jump() {
                            bail!("nothing is to come, and the event has the runs {runs:?}");
                        }
                        shared.changed.notify_one();
                    }
                }
            }
        };
        tokio::time::timeout(WAIT_LIMIT, ended).await.context("the run did not end")?
    }

    /// Waits until the stand-in has nothing to do at this time of its clock. The real server's work cannot be seen.
    pub async fn rest(&self) -> Result<()> {
        let Part::StandIn { shared, .. } = &self.part else { return Ok(()) };
        let rest = async {
            loop {
                let rested = shared.rested.notified();
                if shared.state().is_at_rest() {
                    return;
                }
                rested.await;
            }
        };
        tokio::time::timeout(WAIT_LIMIT, rest).await.context("the stand-in does not come to rest")
    }

    /// Gives what a test does with the stand-in alone; fails for the real server.
    pub fn clock(&self) -> Result<Clock<'_>> {
        match &self.part {
            Part::StandIn { shared, .. } => Ok(Clock { inngest: self, shared }),
            Part::Real(_) => bail!("the real server's clock cannot be moved"),
        }
    }

    /// Returns whether this is the real server. Tests of time, of faults and of exchanges leave it out.
    pub fn is_real(&self) -> bool {
        matches!(self.part, Part::Real(_))
    }
}

/// The stand-in's clock, its faults and its record.
pub struct Clock<'a> {
    inngest: &'a Inngest,
    shared: &'a Shared,
}

impl Clock<'_> {
    /// Moves the clock, and waits until everything that came due is done.
    pub async fn advance(&self, time: Duration) -> Result<()> {
        self.inngest.rest().await?;
        self.shared.state().advance(time);
        self.shared.changed.notify_one();
        self.inngest.rest().await
    }

    /// Moves the clock to the next time of a function's cron, and gives the event's id, which is that time. The function's
    /// id is without the app's. The stand-in fires no cron by itself.
    pub fn fire(&self, function: &str) -> Result<String> {
        let id = self.shared.state().fire(&format!("{APP}-{function}"))?;
        self.shared.changed.notify_one();
        Ok(id)
    }

    /// Loses the next answer that reports this step, or the function's end if `step` is empty: the app has done its work, and
    /// the server does not know.
    pub fn lose_answer(&self, step: &str) {
        self.shared.state().lost_answers.push(step.to_owned());
    }

    /// Cancels every run that has not ended, as the button on the dashboard does.
    pub fn cancel_all(&self) {
        self.shared.state().cancel_all();
        self.shared.changed.notify_one();
    }

    /// Runs an event's function again with the same event, as the dashboard's Rerun does. Gives the id by which
    /// [`Inngest::runs_of`] finds both runs.
    pub fn rerun(&self, event_id: &str) -> Result<()> {
        self.shared.state().rerun(event_id)?;
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Gives the calls and their answers.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.state().exchanges.clone()
    }

    /// Gives the most calls of a function that were under way at once. The function's id is without the app's.
    pub fn most_at_once(&self, function: &str) -> usize {
        self.shared.state().most_at_once(&format!("{APP}-{function}"))
    }

    /// Gives the functions, as the app registered them.
    pub fn functions(&self) -> Vec<Value> {
        self.shared.state().functions.iter().map(|function| function.registered.clone()).collect()
    }

    /// Gives the events that arrived, repeated ones too.
    pub fn events(&self) -> Vec<Value> {
        self.shared.state().events.clone()
    }

    /// Gives the body and the headers of the last registration.
    pub fn registration(&self) -> Option<(http::HeaderMap, String, Value)> {
        self.shared.state().registration.clone()
    }
}
