//! An app of the tests: workflows that try every part of the run's interface, served by the product's own code in this
//! process. The four workflows of the product have tests of their own.

use anyhow::Result;
use http::{Request, Response};
use purple_flea_edge::{
    config::{self, Settings},
    http::{
        admission,
        inngest::{Admitted, App, refuse, sign_off},
        large_bodies::LargeBodies,
        problem::Problem,
    },
    inngest::{
        event::NewEvent,
        run::{Run, StepError, Stop, Wait},
        workflow::{Function, Trigger, Workflow},
    },
    log::Line,
    runtime::{Answer, Limits, Runtime, SendError},
};
use serde_json::{Value, json};
use stack::http1;
use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{net::TcpListener, sync::oneshot, task::LocalSet};

/// What the workflows of the tests count.
#[derive(Clone, Default)]
pub struct Counts(pub Arc<[AtomicUsize; 2]>);

impl Counts {
    /// Counts an execution. Returns how many there have been before.
    fn more(&self, which: usize) -> usize {
        self.0[which].fetch_add(1, Ordering::SeqCst)
    }

    /// Gives how often the first step was executed.
    pub fn first(&self) -> usize {
        self.0[0].load(Ordering::SeqCst)
    }

    /// Gives how often the second step was executed.
    pub fn second(&self) -> usize {
        self.0[1].load(Ordering::SeqCst)
    }
}

/// Sends by the stack's client, and keeps the system's time.
pub struct Native(Instant);

impl Native {
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Runtime for Native {
    async fn send(&self, request: Request<Vec<u8>>, limits: Limits) -> Result<Answer, SendError> {
        let sent = tokio::time::timeout(limits.timeout, http1::send(request)).await;
        let reply =
            sent.map_err(|_| SendError::TimedOut)?.map_err(|_| SendError::NotSent("no_connection"))?;
        let (head, body) = reply.into_parts();
        let whole = body.len() <= limits.reply_bytes;
        Ok(Answer { head, body: body.into_iter().take(limits.reply_bytes).collect(), whole })
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn random(&self) -> u128 {
        u128::from(fastrand::u64(..))
    }

    fn log(&self, _line: &Line) {}
}

/// Seven days.
pub const A_WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

async fn serial(run: &Run<'_>, counts: &Counts) -> Result<Value, Stop> {
    let balance: String = run
        .step("check-balance", async || {
            counts.more(0);
            Ok("12.3400".to_owned())
        })
        .await?;
    let order: Value = run
        .step("place-order", async || {
            counts.more(1);
            Ok(json!({ "order": balance }))
        })
        .await?;
    Ok(json!({ "order": order["order"] }))
}

async fn flaky(run: &Run<'_>, counts: &Counts) -> Result<Value, Stop> {
    let attempt: u32 = run
        .step("place-order", async || match counts.more(0) {
            0 => Err(StepError::retry("not_reached", "Purple Flea was not reached")),
            1 => {
                Err(StepError::retry_after("rate_limited", "too many requests", Duration::from_millis(1_500)))
            }
            _ => Ok(run.attempt()),
        })
        .await?;
    Ok(json!({ "attempt": attempt, "last": run.is_last_attempt() }))
}

async fn fails(run: &Run<'_>, _: &Counts) -> Result<Value, Stop> {
    let _: Value =
        run.step("place-order", async || Err(StepError::last("rejected", "no such asset"))).await?;
    Ok(json!("unreachable"))
}

async fn catches(run: &Run<'_>, _: &Counts) -> Result<Value, Stop> {
    let tried: Result<Value, Stop> =
        run.step("place-order", async || Err(StepError::retry("busy", "try again"))).await;
    match tried {
        Err(Stop::StepFailed { step, error }) => Ok(json!({ "failed": step, "code": error.name })),
        other => other,
    }
}

async fn waits(run: &Run<'_>, _: &Counts) -> Result<Value, Stop> {
    let wait = Wait { event: "test/confirmed", timeout: A_WEEK, matching: Some("data.escrow_id") };
    let confirmed = run.wait_for_event("wait-for-counterparty", wait).await?;
    let end: String = match confirmed {
        Some(event) => run.step("release-escrow", async || Ok(event.data().to_owned())).await?,
        None => run.step("cancel-escrow", async || Ok("cancelled".to_owned())).await?,
    };
    Ok(json!(end))
}

async fn repeats(run: &Run<'_>, counts: &Counts) -> Result<Value, Stop> {
    run.sleep("cool-down", Duration::from_secs(2)).await?;
    let mut numbers: Vec<usize> = Vec::new();
    for _ in 0..3 {
        numbers.push(run.step("loop", async || Ok(counts.more(0))).await?);
    }
    let events = ["test/one", "test/two"].map(|name| NewEvent {
        id: None,
        name: name.to_owned(),
        data: json!({ "numbers": numbers }),
        ts: None,
    });
    let ids = run.send_event("notify", events.into()).await?;
    Ok(json!({ "numbers": numbers, "ids": ids.len() }))
}

async fn swallows(run: &Run<'_>, counts: &Counts) -> Result<Value, Stop> {
    // Neither what a careless function does with a `Stop`, nor two steps at once, executes more than one step a call.
    let first = run.step("check-balance", async || Ok(counts.more(0)));
    let second = run.step("place-order", async || Ok(counts.more(1)));
    let (first, second) = futures_util::join!(first, second);
    Ok(json!([first.is_ok(), second.is_ok()]))
}

async fn throws(run: &Run<'_>, _: &Counts) -> Result<Value, Stop> {
    #[derive(serde::Deserialize)]
    struct Alert {
        price: f64,
    }
    let Alert { price } = run.event().read()?;
    if price < 0.0 {
        return Err(StepError::retry("no_price", "the price is not known yet").into());
    }
    Ok(json!(price))
}

fn workflow(id: &'static str, run: Function<Counts>) -> Workflow<Counts> {
    Workflow {
        id,
        name: id,
        triggers: vec![],
        retries: 3,
        concurrency: None,
        finish: None,
        has_money_steps: false,
        run,
    }
}

/// The workflows. Each is started by `test/` and its id.
pub fn workflows() -> Vec<Workflow<Counts>> {
    let event = |name| vec![Trigger::event(name)];
    vec![
        Workflow {
            triggers: event("test/serial"),
            concurrency: Some(1),
            ..workflow("serial", |run, counts| Box::pin(serial(run, counts)))
        },
        Workflow {
            triggers: event("test/flaky"),
            ..workflow("flaky", |run, counts| Box::pin(flaky(run, counts)))
        },
        Workflow {
            triggers: event("test/fails"),
            ..workflow("fails", |run, counts| Box::pin(fails(run, counts)))
        },
        Workflow {
            triggers: event("test/catches"),
            retries: 2,
            ..workflow("catches", |run, counts| Box::pin(catches(run, counts)))
        },
        Workflow {
            triggers: event("test/waits"),
            finish: Some(Duration::from_secs(8 * 24 * 60 * 60)),
            ..workflow("waits", |run, counts| Box::pin(waits(run, counts)))
        },
        Workflow {
            triggers: vec![Trigger::event("test/repeats"), Trigger::cron("0 9 * * *")],
            retries: 2,
            ..workflow("repeats", |run, counts| Box::pin(repeats(run, counts)))
        },
        Workflow {
            triggers: event("test/swallows"),
            ..workflow("swallows", |run, counts| Box::pin(swallows(run, counts)))
        },
        Workflow {
            triggers: event("test/throws"),
            ..workflow("throws", |run, counts| Box::pin(throws(run, counts)))
        },
    ]
}

/// Checks settings of a function that Inngest drives.
pub fn settings(changes: &[(&'static str, String)]) -> Settings {
    let value = |name: &'static str| {
        let changed = changes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        changed.or_else(|| match name {
            "purple_flea_key" => Some("key".to_owned()),
            "webhook_secrets" => Some(stack::webhook::SECRET.to_owned()),
            "purple_flea_url" => Some("http://127.0.0.1:1".to_owned()),
            _ => None,
        })
    };
    config::check(value).unwrap()
}

/// Answers a request as the router does.
pub async fn respond(
    settings: &Settings,
    counts: &Counts,
    request: Request<Vec<u8>>,
) -> (Response<Vec<u8>>, Line) {
    let runtime = Native::new();
    let (head, body) = request.into_parts();
    let mut line = Line::new(runtime.now(), "inngest");
    let answered = async {
        let (inngest, is_signed) =
            admission::inngest(settings, &head, &body, runtime.now()).map_err(Problem::from)?;
        let large_bodies = &LargeBodies::none();
        let app = App { inngest, workflows: workflows(), context: counts.clone(), large_bodies };
        app.answer(Admitted { is_signed, head: &head, body: &body }, &runtime, &mut line).await
    };
    let mut response = answered.await.unwrap_or_else(|problem| refuse(&problem));
    sign_off(&mut response);
    (response, line)
}

/// The app, served on a free port by a thread of its own: the product's futures stay on one thread. Ends when it is dropped.
pub struct Served {
    pub url: String,
    pub counts: Counts,
    _stop: oneshot::Sender<()>,
}

impl Served {
    /// Serves the app with the settings that a server asks for, and registers it there.
    pub async fn by(inngest: &stack::inngest::Inngest) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut changes = vec![("inngest_serve_url", format!("{url}{}", stack::inngest::PATH))];
        changes.extend(inngest.settings());
        let (settings, counts) = (settings(&changes), Counts::default());
        let (stop, stopped) = oneshot::channel();
        let counted = counts.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            let serving = accept(listener, Rc::new(settings), counted);
            runtime.block_on(LocalSet::new().run_until(async move {
                tokio::select! { _ = stopped => {}, _ = serving => {} }
            }));
        });
        inngest.register(&url).await?;
        Ok(Self { url, counts, _stop: stop })
    }
}

async fn accept(listener: std::net::TcpListener, settings: Rc<Settings>, counts: Counts) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (settings, counts) = (settings.clone(), counts.clone());
        tokio::task::spawn_local(async move {
            http1::serve(stream, async |request| respond(&settings, &counts, request).await.0).await;
        });
    }
}
