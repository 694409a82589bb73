//! Measures the time from a deposit's commit to its trade's, through the whole stack, the cost of long polling for the
//! next deposit, and the same time on other hosts.
//!
//! PostgreSQL, its SQL, and the function on its host are real. pg_net and PostgREST are real if the machine has them.
//! Otherwise stand-ins replace them; the stand-in for pg_net sleeps a second after each batch of at most 200, as the
//! real one was measured to. Purple Flea is always a simulator, which takes 5 ms for each bet.

use crate::{
    aside,
    deposits::{Depositors, Traded},
    figures::{median, rounded},
    pace::{self, Alone, BURST, Pace, SILENCE},
    peers::{Machine, Platform},
    progress::Progress,
    rig::Rig,
    rival::{self, Rival},
    table::{Table, number},
};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// Rates, in deposits a second.
const RATES: [u32; 4] = [1, 5, 50, 200];

/// The rate at which a function with a watch is compared with one without.
const WATCHED_RATE: u32 = 50;

/// The hosts that are compared with ours: Spin, and its stand-in.
const OTHERS: [Platform; 2] = [Platform::Spin, Platform::LikeSpin];

/// The rates of that comparison.
const OTHERS_RATES: [u32; 3] = [5, 50, 200];

/// How to get a host that is not there.
const GET_SPIN: &str = "no `spin` in the PATH, and SPIN names none; https://spinframework.dev/install has it";

/// How long each rate lasts. One deposit a second needs longer for any percentile.
const QUICK: Duration = Duration::from_secs(8);
const QUICK_SLOWEST: Duration = Duration::from_secs(15);
const FULL: Duration = Duration::from_secs(30);

/// How to get the rival's libraries, if they are not there.
const GET_RIVAL: &str = "scripts/bench installs it with npm";

/// The measurement of our own stack at one rate.
struct Point {
    pace: Pace,
    /// Calls of each function of the ledger, for each deposit.
    claims: f64,
    awaits: f64,
    settles: f64,
    /// Requests that pg_net sends, for each deposit.
    notifications: f64,
}

/// The measurement of the rival, interleaved with ours.
struct Beside {
    version: String,
    paces: Vec<Pace>,
    alone: Alone,
    burst_s: f64,
}

/// All measurements of this section.
struct Figures {
    parts: [&'static str; 2],
    points: Vec<Point>,
    alone: Alone,
    burst_s: f64,
    /// The rival, if this machine has it.
    beside: Option<Beside>,
    unwatched: (Point, Alone),
    /// The points of each other host that this machine has.
    others: Vec<(Platform, Vec<Point>)>,
}

/// Measures, prints tables, and adds the figures to the report.
pub async fn run(quick: bool, report: &mut Map<String, Value>) -> Result<()> {
    let figures = aside::run(move || measure(quick)).await?;
    figures.print();
    report.extend(figures.to_json());
    Ok(())
}

/// How long each measurement takes.
#[derive(Clone, Copy)]
struct Lengths {
    quick: bool,
    alone: u32,
    bursts: u32,
}

impl Lengths {
    fn of(quick: bool) -> Self {
        let (alone, bursts) = if quick { (5, 1) } else { (10, 3) };
        Self { quick, alone, bursts }
    }

    fn at(self, rate: u32) -> Duration {
        match (self.quick, rate) {
            (true, 1) => QUICK_SLOWEST,
            (true, _) => QUICK,
            (false, _) => FULL,
        }
    }
}

async fn measure(quick: bool) -> Result<Figures> {
    let machine = Machine::look()?;
    let lengths = Lengths::of(quick);
    let others: Vec<Platform> = OTHERS.into_iter().filter(|platform| machine.has(*platform)).collect();
    let mut progress = Progress::new(RATES.len() + 6 + others.len() * (1 + OTHERS_RATES.len()));
    let (parts, points, alone, burst_s, beside) = watched(&machine, lengths, &mut progress).await?;
    progress.step("the whole stack starts, without a watch for the next job");
    let (rig, mut depositors) = start(&machine, Platform::Embedded, &[("linger_ms", "0")]).await?;
    progress.step(&format!("{WATCHED_RATE} deposits a second, without a watch"));
    let unwatched = at_rate(&rig, &mut depositors, WATCHED_RATE, lengths.at(WATCHED_RATE)).await?;
    progress.step("lone deposits, without a watch");
    let unwatched = (unwatched, pace::alone(&rig.stage, &mut depositors, lengths.alone).await?);
    drop((rig, depositors));
    let mut on_others = Vec::new();
    for platform in others {
        progress.step(&format!("the whole stack starts on {}", platform.name()));
        let (rig, mut depositors) = start(&machine, platform, &[]).await?;
        let mut points = Vec::new();
        for rate in OTHERS_RATES {
            progress.step(&format!("{rate} deposits a second on {}", platform.name()));
            points.push(at_rate(&rig, &mut depositors, rate, lengths.at(rate)).await?);
        }
        on_others.push((platform, points));
    }
    progress.end();
    Ok(Figures { parts, points, alone, burst_s, beside, unwatched, others: on_others })
}

/// Measures our stack as it is deployed, and the rival beside it: at each rate the one, then the other.
async fn watched(
    machine: &Machine,
    lengths: Lengths,
    progress: &mut Progress,
) -> Result<([&'static str; 2], Vec<Point>, Alone, f64, Option<Beside>)> {
    progress.step("the whole stack starts");
    let (rig, mut depositors) = start(machine, Platform::Embedded, &[]).await?;
    let mut rival = match rival::version(&machine.root) {
        Some(version) => Some((version, start_rival(machine).await?)),
        None => None,
    };
    let (mut points, mut paces) = (Vec::new(), Vec::new());
    for rate in RATES {
        progress.step(&format!("{rate} deposits a second"));
        points.push(at_rate(&rig, &mut depositors, rate, lengths.at(rate)).await?);
        if let Some((_, (rival, depositors))) = &mut rival {
            paces.push(pace::at_rate(&rival.stage, depositors, rate, lengths.at(rate)).await?);
        }
    }
    progress.step("lone deposits");
    let alone = pace::alone(&rig.stage, &mut depositors, lengths.alone).await?;
    let rivals_alone = match &mut rival {
        Some((_, (rival, depositors))) => Some(pace::alone(&rival.stage, depositors, lengths.alone).await?),
        None => None,
    };
    progress.step(&format!("{BURST} deposits at once"));
    let (mut burst_s, mut rivals_s) = (Vec::new(), Vec::new());
    for _ in 0..lengths.bursts {
        burst_s.push(pace::burst(&rig.stage).await?);
        if let Some((_, (rival, _))) = &rival {
            rivals_s.push(pace::burst(&rival.stage).await?);
        }
    }
    let middle = |values| median(values).unwrap_or_default();
    let beside = rival.zip(rivals_alone).map(|((version, _), alone)| Beside {
        version,
        paces,
        alone,
        burst_s: middle(rivals_s),
    });
    Ok(([rig.pg_net.name(), rig.postgrest.name()], points, alone, middle(burst_s), beside))
}

async fn start_rival(machine: &Machine) -> Result<(Rival, Depositors)> {
    let rival = Rival::start(machine).await?;
    let mut depositors = Depositors::connect(&rival.stage).await?;
    depositors.once().await?;
    rival.stage.quiet().await?;
    Ok((rival, depositors))
}

/// Starts the stack and waits for a first trade, so that no later measurement includes work that happens once.
async fn start(machine: &Machine, platform: Platform, changes: &[(&str, &str)]) -> Result<(Rig, Depositors)> {
    let rig = Rig::start(machine, platform, changes).await?;
    let mut depositors = Depositors::connect(&rig.stage).await?;
    depositors.once().await?;
    rig.stage.quiet().await?;
    sleep(SILENCE).await;
    Ok((rig, depositors))
}

async fn at_rate(rig: &Rig, depositors: &mut Depositors, per_s: u32, time: Duration) -> Result<Point> {
    let (calls, notifications) = (rig.postgrest.calls().len(), rig.notifications().await?);
    let pace = pace::at_rate(&rig.stage, depositors, per_s, time).await?;
    let notifications = rig.notifications().await? - notifications;
    let calls = rig.postgrest.calls().split_off(calls);
    let each = |count: f64| count / pace.traded.deposits as f64;
    let called = |name: &str| each(calls.iter().filter(|call| *call == name).count() as f64);
    Ok(Point {
        claims: called("claim_jobs"),
        awaits: called("await_jobs"),
        settles: called("settle_jobs"),
        notifications: each(notifications as f64),
        pace,
    })
}

impl Figures {
    fn watched(&self) -> impl Iterator<Item = (&'static str, &Point, &Alone)> {
        let with = self.points.iter().find(|point| point.pace.per_s == WATCHED_RATE);
        let with = with.map(|point| ("watched", point, &self.alone));
        with.into_iter().chain([("unwatched", &self.unwatched.0, &self.unwatched.1)])
    }

    /// Gives our host's points and those of the other hosts, at the rates that are compared. A host that is not there
    /// has none.
    fn hosts(&self) -> impl Iterator<Item = (Platform, Vec<&Point>)> {
        let ours = self.points.iter().filter(|point| OTHERS_RATES.contains(&point.pace.per_s)).collect();
        let others = OTHERS.map(|platform| {
            let found = self.others.iter().filter(move |(known, _)| *known == platform);
            (platform, found.flat_map(|(_, points)| points).collect())
        });
        [(Platform::Embedded, ours)].into_iter().chain(others)
    }

    fn to_json(&self) -> Map<String, Value> {
        let by_rate = |figure: fn(&Traded) -> f64| -> Value {
            let of =
                |point: &Point| (point.pace.per_s.to_string(), rounded(Some(figure(&point.pace.traded))));
            Value::Object(self.points.iter().map(of).collect())
        };
        let watch: Map<String, Value> =
            self.watched().map(|(name, point, alone)| (name.to_owned(), cost(point, alone))).collect();
        let mut all = Map::new();
        all.insert("pg_net".to_owned(), json!(self.parts[0]));
        all.insert("postgrest".to_owned(), json!(self.parts[1]));
        all.insert("trade_p50_ms".to_owned(), by_rate(|traded| traded.p50_ms));
        all.insert("trade_p99_ms".to_owned(), by_rate(|traded| traded.p99_ms));
        all.insert("trade_max_ms".to_owned(), by_rate(|traded| traded.max_ms));
        all.insert("trade_alone_ms".to_owned(), rounded(Some(self.alone.ms)));
        all.insert(format!("burst_{BURST}_s"), rounded(Some(self.burst_s)));
        all.insert("trade_p50_vs_graphile".to_owned(), self.against(|pace| pace.traded.p50_ms));
        all.insert("trade_p99_vs_graphile".to_owned(), self.against(|pace| pace.traded.p99_ms));
        all.insert("pg_cpu_vs_graphile".to_owned(), self.against(|pace| pace.postgres_ms));
        all.insert("worker_cpu_vs_graphile".to_owned(), self.against(|pace| pace.worker_ms));
        all.insert("graphile".to_owned(), self.beside.as_ref().map_or(Value::Null, Beside::to_json));
        all.insert("watch".to_owned(), Value::Object(watch));
        let hosts = self.hosts().map(|(platform, points)| (platform.name().to_owned(), by_host(&points)));
        all.insert("hosts".to_owned(), Value::Object(hosts.collect()));
        all
    }

    fn print(&self) {
        println!(
            "\nFrom a deposit's commit to its trade's, through {} and {}; Purple Flea is a simulator that takes 5 ms.",
            self.parts[0], self.parts[1]
        );
        let mut rates = Table::new(1, &["deposits", "p50 ms", "p99 ms", "max ms"]);
        for Point { pace: Pace { per_s, traded, .. }, .. } in &self.points {
            let cells = [traded.p50_ms, traded.p99_ms, traded.max_ms].map(|ms| number(Some(ms), 1));
            rates.row([vec![format!("{per_s} a second")], cells.to_vec()].concat());
        }
        let alone = number(Some(self.alone.ms), 1);
        rates.row(vec!["one, after 3 s of silence".to_owned(), alone]);
        rates.row(vec![format!("{BURST} at once: the last one"), number(Some(self.burst_s * 1e3), 0)]);
        rates.print();
        let head = [
            "50 a second",
            "p50 ms",
            "p99 ms",
            "claims",
            "waits",
            "settles",
            "notifications",
            "Postgres ms",
            "host ms",
            "idle ms",
        ];
        let mut watch = Table::new(1, &head);
        for (name, point, alone) in self.watched() {
            let Point { pace, claims, awaits, settles, notifications } = point;
            let Pace { traded, postgres_ms, worker_ms, .. } = pace;
            let cells = [*claims, *awaits, *settles, *notifications, *postgres_ms, *worker_ms]
                .map(|n| number(Some(n), 2));
            let ms = [traded.p50_ms, traded.p99_ms].map(|ms| number(Some(ms), 1));
            let idle = number(Some(alone.idle_postgres_ms), 1);
            watch.row([vec![name.to_owned()], ms.to_vec(), cells.to_vec(), vec![idle]].concat());
        }
        watch.print();
        self.print_beside();
        self.print_hosts();
    }

    /// Prints our figures beside the rival's.
    fn print_beside(&self) {
        let Some(beside) = &self.beside else {
            println!("graphile-worker: not run ({GET_RIVAL}).");
            return;
        };
        let name = format!("graphile-worker {}", beside.version);
        let heads = ["p50 ms", "p99 ms", "Postgres ms", "worker ms"];
        let head = heads.map(|head| [format!("ours: {head}"), format!("{name}: {head}")]).concat();
        let head: Vec<&str> = [&["deposits"], &*head.iter().map(String::as_str).collect::<Vec<_>>()].concat();
        let mut table = Table::new(1, &head);
        for (ours, theirs) in self.points.iter().map(|point| &point.pace).zip(&beside.paces) {
            let figures =
                |pace: &Pace| [pace.traded.p50_ms, pace.traded.p99_ms, pace.postgres_ms, pace.worker_ms];
            let pairs = figures(ours).into_iter().zip(figures(theirs));
            let cells = pairs.flat_map(|(ours, theirs)| [ours, theirs]).map(|figure| number(Some(figure), 1));
            table.row([format!("{} a second", ours.per_s)].into_iter().chain(cells).collect());
        }
        let two = |ours: f64, theirs: f64| [number(Some(ours), 1), number(Some(theirs), 1)];
        let lone = two(self.alone.ms, beside.alone.ms);
        table.row(["one, after 3 s of silence".to_owned()].into_iter().chain(lone).collect());
        let burst = two(self.burst_s * 1e3, beside.burst_s * 1e3);
        table.row([format!("{BURST} at once: the last one")].into_iter().chain(burst).collect());
        table.print();
    }

    /// Gives our figures as shares of the rival's, by rate; `null` if the rival was not run.
    fn against(&self, figure: fn(&Pace) -> f64) -> Value {
        let Some(beside) = &self.beside else { return Value::Null };
        let pairs = self.points.iter().map(|point| &point.pace).zip(&beside.paces);
        let share = |(ours, theirs): (&Pace, &Pace)| {
            (ours.per_s.to_string(), rounded(Some(figure(ours) / figure(theirs))))
        };
        Value::Object(pairs.map(share).collect())
    }

    fn print_hosts(&self) {
        let head = OTHERS_RATES.map(|rate| [format!("{rate}/s p50 ms"), "p99 ms".to_owned()]);
        let head: Vec<&str> = head.iter().flatten().map(String::as_str).collect();
        let mut hosts = Table::new(1, &[&["host"], head.as_slice()].concat());
        for (platform, points) in self.hosts().filter(|(_, points)| !points.is_empty()) {
            let ms = points.iter().flat_map(|point| [point.pace.traded.p50_ms, point.pace.traded.p99_ms]);
            let cells = ms.map(|ms| number(Some(ms), 1));
            hosts.row([platform.name().to_owned()].into_iter().chain(cells).collect());
        }
        hosts.print();
        if !self.others.iter().any(|(platform, _)| *platform == Platform::Spin) {
            println!("spin: not run ({GET_SPIN}). like_spin is our host without TCP_NODELAY.");
        }
    }
}

impl Beside {
    fn to_json(&self) -> Value {
        let told = |value: f64| rounded(Some(value));
        let of = |pace: &Pace| {
            let Pace { per_s, traded, postgres_ms, worker_ms } = pace;
            let figures = json!({
                "p50_ms": told(traded.p50_ms), "p99_ms": told(traded.p99_ms),
                "postgres_cpu_ms": told(*postgres_ms), "worker_cpu_ms": told(*worker_ms),
            });
            (per_s.to_string(), figures)
        };
        let rates: Map<String, Value> = self.paces.iter().map(of).collect();
        json!({
            "version": self.version, "rates": rates, "alone_ms": told(self.alone.ms), "burst_s": told(self.burst_s),
        })
    }
}

/// Gives the latencies of one host by rate, or `null` if it was not run.
fn by_host(points: &[&Point]) -> Value {
    let of = |point: &&Point| {
        let traded = &point.pace.traded;
        let [p50_ms, p99_ms] = [traded.p50_ms, traded.p99_ms].map(|ms| rounded(Some(ms)));
        (point.pace.per_s.to_string(), json!({ "p50_ms": p50_ms, "p99_ms": p99_ms }))
    };
    match points {
        [] => Value::Null,
        points => Value::Object(points.iter().map(of).collect()),
    }
}

/// Gives one side of the comparison. Calls, notifications and CPU time are for each deposit. Idle CPU time is that of
/// the 1.2 s after a lone trade.
fn cost(point: &Point, alone: &Alone) -> Value {
    let told = |value: f64| rounded(Some(value));
    let Pace { per_s, traded, postgres_ms, worker_ms } = &point.pace;
    json!({
        "per_s": per_s,
        "p50_ms": told(traded.p50_ms), "p99_ms": told(traded.p99_ms), "alone_ms": told(alone.ms),
        "claims": told(point.claims), "awaits": told(point.awaits), "settles": told(point.settles),
        "notifications": told(point.notifications),
        "postgres_cpu_ms": told(*postgres_ms), "host_cpu_ms": told(*worker_ms),
        "idle_postgres_cpu_ms": told(alone.idle_postgres_ms),
    })
}
