//! Measures how fast the function works off a backlog, by its size, and which parts use the CPU.

use crate::{
    chart::{Chart, Line, Scale, short},
    cpu::Cpu,
    deposits::at_once,
    figures::rounded,
    progress::Progress,
    stage::Stage,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};
use tokio::time::sleep;

/// Numbers of waiting jobs.
const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const QUICK_SIZES: usize = 3;

/// Longest time of a measurement. A million jobs would take half an hour. For the larger sizes the report tells the
/// rate while most of the backlog still waits.
const QUICK: Duration = Duration::from_secs(5);
const FULL: Duration = Duration::from_secs(30);

/// Deposits of one statement.
const CHUNK: u64 = 50_000;

/// How often the bench checks whether all jobs are settled.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The measurement of one backlog.
pub struct Point {
    jobs: u64,
    /// Trades a second.
    per_s: f64,
    /// Time that making a million jobs takes, in seconds.
    made_s_per_million: f64,
    /// CPU time that all parts used for the measurement.
    cpu: Cpu,
    trades: i64,
    time: Duration,
}

/// Counts the measurements.
pub fn steps(quick: bool) -> usize {
    if quick { QUICK_SIZES } else { SIZES.len() }
}

/// Measures one size after the other. Each backlog includes the jobs that the one before left.
pub async fn measure(stage: &Stage, quick: bool, progress: &mut Progress) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for jobs in SIZES.iter().take(steps(quick)) {
        progress.step(&format!("growth: a backlog of {jobs}"));
        hold(stage, true).await?;
        let left: i64 = stage.owner.query_one(WAITING, &[]).await?.get(0);
        let (missing, from) = (jobs.saturating_sub(u64::try_from(left)?), Instant::now());
        let mut made = 0;
        while made < missing {
            let chunk = CHUNK.min(missing - made);
            at_once(&stage.owner, chunk).await?;
            made += chunk;
        }
        let made_s = from.elapsed().as_secs_f64();
        let point = work_off(stage, *jobs, if quick { QUICK } else { FULL }).await?;
        points.push(Point { made_s_per_million: made_s / missing.max(1) as f64 * 1e6, ..point });
    }
    Ok(points)
}

const WAITING: &str = "select count(*) from purple_flea.jobs where state = 'pending'";

/// Counts the trades after one id within some seconds from a time. Gives also the time of the last of them, in seconds.
const TRADED: &str = "\
    select count(*), extract(epoch from max(at) - $2)::float8 \
    from (select pg_xact_commit_timestamp(xmin) as at from public.trade_results where id > $1) as traded \
    where at <= $2::timestamptz + make_interval(secs => $3)";

async fn work_off(stage: &Stage, jobs: u64, most: Duration) -> Result<Point> {
    let last = "select coalesce(max(id), 0) from public.trade_results";
    let last: i64 = stage.owner.query_one(last, &[]).await?.get(0);
    let (before, from, began) = (Cpu::of(stage).await?, Instant::now(), SystemTime::now());
    hold(stage, false).await?;
    let due = "select exists (select from purple_flea.jobs where state = 'pending') \
               or exists (select from purple_flea.jobs where state = 'claimed')";
    while from.elapsed() < most {
        sleep(LOOK_EVERY.min(most.saturating_sub(from.elapsed()))).await;
        if !stage.owner.query_one(due, &[]).await?.get::<_, bool>(0) {
            break;
        }
    }
    let (cpu, time) = (Cpu::of(stage).await?.since(&before), from.elapsed());
    let traded = stage.owner.query_one(TRADED, &[&last, &began, &most.as_secs_f64()]).await?;
    let (trades, last_s): (i64, Option<f64>) = (traded.get(0), traded.get(1));
    let last_s = last_s.context("nothing was traded")?;
    Ok(Point { jobs, per_s: trades as f64 / last_s, made_s_per_million: 0.0, cpu, trades, time })
}

/// Pauses all agents, or resumes them and notifies the function, as an operator does.
async fn hold(stage: &Stage, held: bool) -> Result<()> {
    let pause = "update purple_flea.trade_policies set paused = $1 where agent_id is null";
    stage.owner.execute(pause, &[&held]).await?;
    if !held {
        stage.owner.batch_execute("select purple_flea.sweep()").await?;
    }
    Ok(())
}

/// Tells which parts use the CPU with the largest backlog: as shares of the total, and in milliseconds for each job.
pub fn cpu_share(points: &[Point]) -> Value {
    let Some(point) = points.last() else { return Value::Null };
    let all_ms = point.cpu.all_ms();
    json!({
        "jobs": point.jobs, "per_s": rounded(Some(point.per_s)),
        "cores": rounded(Some(all_ms / 1e3 / point.time.as_secs_f64())),
        "parts": point.cpu.parts(all_ms), "ms_per_job": point.cpu.parts(point.trades.max(1) as f64),
    })
}

impl Point {
    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        let told = |value: f64| rounded(Some(value));
        json!({
            "jobs": self.jobs, "per_s": told(self.per_s), "trades": self.trades,
            "seconds": told(self.time.as_secs_f64()), "made_s_per_million": told(self.made_s_per_million),
            "cpu_ms_per_job": self.cpu.parts(self.trades.max(1) as f64),
        })
    }

    /// Gives the table's cells: jobs, trades a second, and the CPU time for a trade, in milliseconds: Postgres', the
    /// host's, and that of all parts.
    pub fn cells(&self) -> Vec<String> {
        let each = |ms: f64| format!("{:.2}", ms / self.trades.max(1) as f64);
        vec![
            short(self.jobs as f64),
            format!("{:.0}", self.per_s),
            each(self.cpu.postgres_ms()),
            each(self.cpu.ms(&[crate::cpu::HOST])),
            each(self.cpu.all_ms()),
        ]
    }
}

/// Makes the chart.
pub fn chart(points: &[Point], quick: bool) -> Chart {
    let seconds = if quick { QUICK } else { FULL }.as_secs();
    Chart {
        title: "How fast a backlog is worked off, by its size".to_owned(),
        subtitle: format!("trades a second in its first {seconds} s, or until nothing was left"),
        x_label: "deposits that wait",
        x_scale: Scale::Log,
        x_marks: points.iter().map(|point| (point.jobs as f64, short(point.jobs as f64))).collect(),
        y_label: "trades a second",
        y_scale: Scale::Linear,
        lines: vec![Line {
            name: "trades a second".to_owned(),
            accent: true,
            points: points.iter().map(|point| (point.jobs as f64, point.per_s)).collect(),
        }],
    }
}
