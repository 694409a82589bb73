//! Measures the time from a deposit's commit to its trade's, through the whole stack, the cost of long polling for the
//! next deposit, and the same time on other hosts.
//!
//! PostgreSQL, its SQL, and the function on its host are real. pg_net and PostgREST are real if the machine has them.
//! Otherwise stand-ins replace them; the stand-in for pg_net sleeps a second after each batch of at most 200, as the
//! real one was measured to. Purple Flea is always a simulator, which takes 5 ms for each bet.

use crate::{
    aside,
    cpu::{Cpu, HOST},
    deposits::{Depositors, Traded, at_once},
    figures::{median, rounded},
    peers::{Machine, Platform},
    progress::Progress,
    rig::Rig,
    table::{Table, number},
};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};
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

/// Pause before a lone deposit: longer than a watch lasts (1.2 s), and longer than pg_net sleeps.
const SILENCE: Duration = Duration::from_secs(3);

/// How long the bench reads the CPU after a lone trade: as long as the watch waits for another job.
const LINGER: Duration = Duration::from_millis(1_200);

/// Deposits of a burst. The specification's own design needs 25 s to deliver them.
const BURST: u64 = 5_000;

/// The measurement of one rate.
struct Point {
    per_s: u32,
    traded: Traded,
    /// Calls of each function of the ledger, for each deposit.
    claims: f64,
    awaits: f64,
    settles: f64,
    /// Requests that pg_net sends, for each deposit.
    notifications: f64,
    postgres_ms: f64,
    host_ms: f64,
}

/// The measurement of lone deposits.
struct Alone {
    ms: f64,
    /// CPU time of Postgres while the function waits for another deposit, in milliseconds.
    idle_postgres_ms: f64,
}

/// All measurements of this section.
struct Figures {
    parts: [&'static str; 2],
    points: Vec<Point>,
    alone: Alone,
    burst_s: f64,
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

async fn measure(quick: bool) -> Result<Figures> {
    let machine = Machine::look()?;
    let (alone, bursts) = if quick { (5, 1) } else { (10, 3) };
    let time = |rate| match (quick, rate) {
        (true, 1) => QUICK_SLOWEST,
        (true, _) => QUICK,
        (false, _) => FULL,
    };
    let others: Vec<Platform> = OTHERS.into_iter().filter(|platform| machine.has(*platform)).collect();
    let mut progress = Progress::new(RATES.len() + 6 + others.len() * (1 + OTHERS_RATES.len()));
    progress.step("the whole stack starts");
    let (rig, mut depositors) = start(&machine, Platform::Embedded, &[]).await?;
    let mut points = Vec::new();
    for rate in RATES {
        progress.step(&format!("{rate} deposits a second"));
        points.push(at_rate(&rig, &mut depositors, rate, time(rate)).await?);
    }
    progress.step("lone deposits");
    let lone = alone_for(&rig, &mut depositors, alone).await?;
    progress.step(&format!("{BURST} deposits at once"));
    let mut burst_s = Vec::new();
    for _ in 0..bursts {
        let (last, bets) = (rig.last_id().await?, rig.purple_flea.bets().len());
        at_once(&rig.owner, BURST).await?;
        burst_s.push(Traded::after(&rig, last, bets).await?.traded_s);
    }
    let parts = [rig.pg_net.name(), rig.postgrest.name()];
    drop(rig);
    progress.step("the whole stack starts, without a watch for the next job");
    let (rig, mut depositors) = start(&machine, Platform::Embedded, &[("linger_ms", "0")]).await?;
    progress.step(&format!("{WATCHED_RATE} deposits a second, without a watch"));
    let unwatched = at_rate(&rig, &mut depositors, WATCHED_RATE, time(WATCHED_RATE)).await?;
    progress.step("lone deposits, without a watch");
    let unwatched = (unwatched, alone_for(&rig, &mut depositors, alone).await?);
    drop((rig, depositors));
    let mut on_others = Vec::new();
    for platform in others {
        progress.step(&format!("the whole stack starts on {}", platform.name()));
        let (rig, mut depositors) = start(&machine, platform, &[]).await?;
        let mut points = Vec::new();
        for rate in OTHERS_RATES {
            progress.step(&format!("{rate} deposits a second on {}", platform.name()));
            points.push(at_rate(&rig, &mut depositors, rate, time(rate)).await?);
        }
        on_others.push((platform, points));
    }
    progress.end();
    let burst_s = median(burst_s).unwrap_or_default();
    Ok(Figures { parts, points, alone: lone, burst_s, unwatched, others: on_others })
}

/// Starts the stack and waits for a first trade, so that no later measurement includes work that happens once.
async fn start(machine: &Machine, platform: Platform, changes: &[(&str, &str)]) -> Result<(Rig, Depositors)> {
    let rig = Rig::start(machine, platform, changes).await?;
    let mut depositors = Depositors::connect(&rig).await?;
    depositors.once().await?;
    rig.quiet().await?;
    sleep(SILENCE).await;
    Ok((rig, depositors))
}

async fn at_rate(rig: &Rig, depositors: &mut Depositors, per_s: u32, time: Duration) -> Result<Point> {
    let (last, bets, calls) =
        (rig.last_id().await?, rig.purple_flea.bets().len(), rig.postgrest.calls().len());
    let (notifications, cpu) = (rig.notifications().await?, Cpu::of(rig).await?);
    depositors.arrive(per_s.into(), time).await?;
    rig.quiet().await?;
    let cpu = Cpu::of(rig).await?.since(&cpu);
    let traded = Traded::after(rig, last, bets).await?;
    let notifications = rig.notifications().await? - notifications;
    let calls = rig.postgrest.calls().split_off(calls);
    let each = |count: f64| count / traded.deposits as f64;
    let called = |name: &str| each(calls.iter().filter(|call| *call == name).count() as f64);
    Ok(Point {
        per_s,
        claims: called("claim_jobs"),
        awaits: called("await_jobs"),
        settles: called("settle_jobs"),
        notifications: each(notifications as f64),
        postgres_ms: each(cpu.postgres_ms()),
        host_ms: each(cpu.ms(&[HOST])),
        traded,
    })
}

/// Makes deposits that each follow a silence, so that pg_net delivers each and the function begins a new request.
async fn alone_for(rig: &Rig, depositors: &mut Depositors, count: u32) -> Result<Alone> {
    let (mut all_ms, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..count {
        sleep(SILENCE).await;
        let (last, bets) = (rig.last_id().await?, rig.purple_flea.bets().len());
        depositors.once().await?;
        rig.quiet().await?;
        let (before, from) = (Cpu::of(rig).await?, Instant::now());
        sleep(LINGER).await;
        // (Both readings cost the same, and one of them is part of the figure.)
        let used = Cpu::of(rig).await?.since(&before).postgres_ms();
        idle.push(used * LINGER.as_secs_f64() / from.elapsed().as_secs_f64());
        all_ms.push(Traded::after(rig, last, bets).await?.max_ms);
    }
    let middle = |values| median(values).unwrap_or_default();
    Ok(Alone { ms: middle(all_ms), idle_postgres_ms: middle(idle) })
}

impl Figures {
    fn watched(&self) -> impl Iterator<Item = (&'static str, &Point, &Alone)> {
        let with = self.points.iter().find(|point| point.per_s == WATCHED_RATE);
        let with = with.map(|point| ("watched", point, &self.alone));
        with.into_iter().chain([("unwatched", &self.unwatched.0, &self.unwatched.1)])
    }

    /// Gives our host's points and those of the other hosts, at the rates that are compared. A host that is not there
    /// has none.
    fn hosts(&self) -> impl Iterator<Item = (Platform, Vec<&Point>)> {
        let ours = self.points.iter().filter(|point| OTHERS_RATES.contains(&point.per_s)).collect();
        let others = OTHERS.map(|platform| {
            let found = self.others.iter().filter(move |(known, _)| *known == platform);
            (platform, found.flat_map(|(_, points)| points).collect())
        });
        [(Platform::Embedded, ours)].into_iter().chain(others)
    }

    fn to_json(&self) -> Map<String, Value> {
        let by_rate = |figure: fn(&Traded) -> f64| -> Value {
            let of = |point: &Point| (point.per_s.to_string(), rounded(Some(figure(&point.traded))));
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
        for Point { per_s, traded, .. } in &self.points {
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
            let Point { traded, claims, awaits, settles, notifications, postgres_ms, host_ms, .. } = point;
            let cells = [*claims, *awaits, *settles, *notifications, *postgres_ms, *host_ms]
                .map(|n| number(Some(n), 2));
            let ms = [traded.p50_ms, traded.p99_ms].map(|ms| number(Some(ms), 1));
            let idle = number(Some(alone.idle_postgres_ms), 1);
            watch.row([vec![name.to_owned()], ms.to_vec(), cells.to_vec(), vec![idle]].concat());
        }
        watch.print();
        self.print_hosts();
    }

    fn print_hosts(&self) {
        let head = OTHERS_RATES.map(|rate| [format!("{rate}/s p50 ms"), "p99 ms".to_owned()]);
        let head: Vec<&str> = head.iter().flatten().map(String::as_str).collect();
        let mut hosts = Table::new(1, &[&["host"], head.as_slice()].concat());
        for (platform, points) in self.hosts().filter(|(_, points)| !points.is_empty()) {
            let ms = points.iter().flat_map(|point| [point.traded.p50_ms, point.traded.p99_ms]);
            let cells = ms.map(|ms| number(Some(ms), 1));
            hosts.row([platform.name().to_owned()].into_iter().chain(cells).collect());
        }
        hosts.print();
        if !self.others.iter().any(|(platform, _)| *platform == Platform::Spin) {
            println!("spin: not run ({GET_SPIN}). like_spin is our host without TCP_NODELAY.");
        }
    }
}

/// Gives the latencies of one host by rate, or `null` if it was not run.
fn by_host(points: &[&Point]) -> Value {
    let of = |point: &&Point| {
        let [p50_ms, p99_ms] = [point.traded.p50_ms, point.traded.p99_ms].map(|ms| rounded(Some(ms)));
        (point.per_s.to_string(), json!({ "p50_ms": p50_ms, "p99_ms": p99_ms }))
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
    json!({
        "per_s": point.per_s,
        "p50_ms": told(point.traded.p50_ms), "p99_ms": told(point.traded.p99_ms), "alone_ms": told(alone.ms),
        "claims": told(point.claims), "awaits": told(point.awaits), "settles": told(point.settles),
        "notifications": told(point.notifications),
        "postgres_cpu_ms": told(point.postgres_ms), "host_cpu_ms": told(point.host_ms),
        "idle_postgres_cpu_ms": told(alone.idle_postgres_ms),
    })
}
