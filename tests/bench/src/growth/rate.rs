//! Measures how long a trade takes as the rate of deposits grows, until the stack no longer keeps up.

use crate::{
    chart::{Chart, Line, Scale, short},
    deposits::{Depositors, Traded},
    figures::rounded,
    progress::Progress,
    stage::Stage,
};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::Duration;

/// Deposits a second.
const QUICK: [u32; 6] = [5, 50, 200, 400, 600, 1_000];
const FULL: [u32; 12] = [1, 5, 20, 50, 100, 200, 400, 600, 800, 1_000, 1_500, 2_000];

/// How long each rate lasts. The slowest lasts four times as long.
const QUICK_TIME: Duration = Duration::from_secs(4);
const FULL_TIME: Duration = Duration::from_secs(15);

/// The stack no longer keeps up if the 99th percentile of the latency is above this, in milliseconds;
const LATE_MS: f64 = 2_000.0;

/// or if at the last deposit more of a second's deposits wait than this part, and more than a few;
const BEHIND: f64 = 1.0;
const A_FEW: f64 = 20.0;

/// or if the database took less than this part of the asked rate.
const SLOW: f64 = 0.9;

/// The measurement of one rate.
pub struct Point {
    asked_per_s: u32,
    /// Deposits a second that the database took.
    per_s: f64,
    traded: Traded,
    kept_up: bool,
}

/// Counts the rates, if the stack keeps up with all.
pub fn steps(quick: bool) -> usize {
    if quick { QUICK.len() } else { FULL.len() }
}

/// Measures one rate after the other, and stops after the first that was too high.
pub async fn measure(stage: &Stage, quick: bool, progress: &mut Progress) -> Result<Vec<Point>> {
    let (rates, time) = if quick { (QUICK.as_slice(), QUICK_TIME) } else { (FULL.as_slice(), FULL_TIME) };
    let mut depositors = Depositors::connect(stage).await?;
    let mut points: Vec<Point> = Vec::new();
    for rate in rates {
        progress.step(&format!("growth: {rate} deposits a second"));
        let time = if *rate < 5 { 4 * time } else { time };
        let (last, bets) = (stage.last_id().await?, stage.purple_flea.bets().len());
        depositors.arrive((*rate).into(), time).await?;
        let traded = Traded::after(stage, last, bets).await?;
        let per_s = traded.deposits as f64 / traded.deposited_s.max(time.as_secs_f64());
        // Random arrivals alone may exceed the limit by a few deposits.
        let slow = traded.deposited_s > time.as_secs_f64() / SLOW;
        let kept_up =
            traded.p99_ms <= LATE_MS && traded.backlog as f64 <= (BEHIND * per_s).max(A_FEW) && !slow;
        points.push(Point { asked_per_s: *rate, per_s, traded, kept_up });
        if !kept_up {
            break;
        }
    }
    Ok(points)
}

impl Point {
    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        let told = |value: f64| rounded(Some(value));
        json!({
            "asked_per_s": self.asked_per_s, "per_s": told(self.per_s), "kept_up": self.kept_up,
            "p50_ms": told(self.traded.p50_ms), "p99_ms": told(self.traded.p99_ms),
            "max_ms": told(self.traded.max_ms), "backlog": self.traded.backlog,
        })
    }

    /// Gives the table's cells: asked rate, rate, p50, p99, backlog, and whether the stack kept up.
    pub fn cells(&self) -> Vec<String> {
        let Traded { p50_ms, p99_ms, backlog, .. } = self.traded;
        vec![
            self.asked_per_s.to_string(),
            format!("{:.0}", self.per_s),
            format!("{p50_ms:.1}"),
            format!("{p99_ms:.1}"),
            backlog.to_string(),
            if self.kept_up { "yes" } else { "no" }.to_owned(),
        ]
    }
}

/// Gives the highest rate that the stack kept up with.
pub fn kept_up_per_s(points: &[Point]) -> Option<u32> {
    points.iter().filter(|point| point.kept_up).map(|point| point.asked_per_s).max()
}

/// Makes the chart.
pub fn chart(points: &[Point]) -> Chart {
    let line = |name: &str, accent, figure: fn(&Traded) -> f64| Line {
        name: name.to_owned(),
        accent,
        points: points.iter().map(|point| (point.asked_per_s.into(), figure(&point.traded))).collect(),
    };
    let end = match points.last() {
        Some(point) if !point.kept_up => {
            format!("; {} a second were too much", short(point.asked_per_s.into()))
        }
        _ => String::new(),
    };
    let marks = Scale::Log.marks(
        points.first().map_or(1.0, |point| point.asked_per_s.into()),
        points.last().map_or(10.0, |point| point.asked_per_s.into()),
    );
    Chart {
        title: "From a deposit's commit to its trade's, by deposits a second".to_owned(),
        subtitle: format!("the whole stack on one machine; Purple Flea is a simulator that takes 5 ms{end}"),
        x_label: "deposits a second",
        x_scale: Scale::Log,
        x_marks: marks.into_iter().map(|mark| (mark, short(mark))).collect(),
        y_label: "milliseconds",
        y_scale: Scale::Log,
        lines: vec![
            line("99 % within", true, |traded| traded.p99_ms),
            line("half within", false, |traded| traded.p50_ms),
        ],
    }
}
