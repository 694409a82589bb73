//! Measures a claim and a settlement after very many jobs were settled. The settled jobs are either archived, as the
//! sweeper does after a week, or still in `jobs`.

use crate::{
    chart::{Chart, Line, Scale, short},
    figures::{median, rounded},
    progress::Progress,
    settlement::{Round, round},
};
use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};
use stack::{
    local::AGENT,
    pg_net::PgNet,
    postgres::{Cluster, SUPERUSER},
};
use std::time::{Duration, Instant};

mod load;

/// Numbers of settled jobs.
const QUICK: [u64; 3] = [0, 10_000, 100_000];
const FULL: [u64; 5] = [0, 10_000, 100_000, 1_000_000, 10_000_000];

/// Most settled jobs that are loaded into `jobs`. Ten million would need some 15 GB with eleven indexes, and a quarter
/// of an hour to load. The sweeper's archiving keeps every deployment below that.
const HOT_MOST: u64 = 1_000_000;

/// Disk space of a settled job with its deposit, its three events and its trade while it is loaded, and the space to
/// leave free. In bytes.
const JOB_BYTES: u64 = 3_000;
const SPARE_BYTES: u64 = 5_000_000_000;

/// Jobs of one claim, as many as a busy function claims (`bets_at_once`).
const CLAIM: usize = 64;

/// Claims that are measured, after some that are not.
const QUICK_CLAIMS: usize = 20;
const FULL_CLAIMS: usize = 40;
const WARM_UP: usize = 6;

/// The table that holds the settled jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In `jobs_archive`.
    Archived,
    /// In `jobs`.
    Hot,
}

/// The measurement of one number of settled jobs.
pub struct Point {
    settled: u64,
    place: Place,
    claim: Duration,
    settle: Duration,
    loaded: Duration,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Archived => "archived",
            Self::Hot => "hot",
        }
    }

    fn sizes(self, quick: bool) -> impl Iterator<Item = u64> {
        let all = if quick { QUICK.as_slice() } else { FULL.as_slice() };
        all.iter().copied().filter(move |size| self == Self::Archived || *size <= HOT_MOST)
    }
}

/// Counts the measurements.
pub fn steps(quick: bool) -> usize {
    [Place::Archived, Place::Hot].map(|place| place.sizes(quick).count()).iter().sum()
}

/// Measures both tables, each in a cluster of its own.
pub async fn measure(quick: bool, progress: &mut Progress) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for place in [Place::Archived, Place::Hot] {
        let cluster = Cluster::start().await?;
        // The trigger sends notifications. No function receives them.
        let _pg_net = PgNet::start(&cluster).await?;
        cluster.install("http://127.0.0.1:9/execute-trade", AGENT).await?;
        let superuser = cluster.connect(SUPERUSER).await?;
        // Vacuum now and then would change one figure and not the next.
        superuser.batch_execute("alter system set autovacuum = off").await?;
        superuser.batch_execute("select pg_reload_conf()").await?;
        // All settled jobs are copies of this one, which the ledger claims and settles as usual.
        round(&superuser, 1).await?;
        let mut before = 0;
        for settled in place.sizes(quick) {
            let needed = (settled - before) * JOB_BYTES + SPARE_BYTES;
            if before > 0 && free_bytes(&cluster)? < needed {
                eprintln!(
                    "Not measured, as {} GB of disk are not free: {settled} settled jobs",
                    needed >> 30
                );
                break;
            }
            progress.step(&format!("growth: {settled} settled jobs, {}", place.name()));
            let from = Instant::now();
            load::copies(&cluster, place, before, settled).await.context("settled jobs cannot be loaded")?;
            let loaded = from.elapsed();
            before = settled;
            let (claim, settle) = rounds(&cluster, if quick { QUICK_CLAIMS } else { FULL_CLAIMS }).await?;
            points.push(Point { settled, place, claim, settle, loaded });
        }
    }
    Ok(points)
}

fn free_bytes(cluster: &Cluster) -> Result<u64> {
    let disk = statvfs(&cluster.log_path())?;
    Ok(disk.blocks_available() * disk.fragment_size())
}

/// Gives the medians of claims and settlements in one session. PostgREST keeps its sessions, too.
async fn rounds(cluster: &Cluster, count: usize) -> Result<(Duration, Duration)> {
    let client = cluster.connect(SUPERUSER).await?;
    let (mut claims, mut settles) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + count {
        if number == WARM_UP {
            // Autovacuum does this within a minute of the first jobs.
            client.batch_execute("analyze").await?;
        }
        let Round { claim, settle } = round(&client, CLAIM).await?;
        if number >= WARM_UP {
            claims.push(claim.as_secs_f64());
            settles.push(settle.as_secs_f64());
        }
    }
    let middle = |values| Duration::from_secs_f64(median(values).unwrap_or_default());
    Ok((middle(claims), middle(settles)))
}

impl Point {
    fn claim_ms(&self) -> f64 {
        self.claim.as_secs_f64() * 1e3
    }

    fn settle_ms(&self) -> f64 {
        self.settle.as_secs_f64() * 1e3
    }

    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        json!({
            "settled": self.settled, "place": self.place.name(), "jobs": CLAIM,
            "claim_ms": rounded(Some(self.claim_ms())), "settle_ms": rounded(Some(self.settle_ms())),
            "load_s": rounded(Some(self.loaded.as_secs_f64())),
        })
    }

    /// Gives the table's cells: table, settled jobs, claim time, settlement time, loading time.
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.place.name().to_owned(),
            short(self.settled as f64),
            format!("{:.1}", self.claim_ms()),
            format!("{:.1}", self.settle_ms()),
            format!("{:.0}", self.loaded.as_secs_f64()),
        ]
    }
}

/// Makes the chart. A logarithmic axis has no zero, so the chart shows zero settled jobs at a thousand.
pub fn chart(points: &[Point]) -> Chart {
    let place = |settled: u64| (settled as f64).max(1_000.0);
    let line = |name: &str, of: Place, figure: fn(&Point) -> f64| Line {
        name: name.to_owned(),
        accent: of == Place::Archived,
        points: points.iter().filter(|p| p.place == of).map(|p| (place(p.settled), figure(p))).collect(),
    };
    let archived = points.iter().filter(|point| point.place == Place::Archived);
    Chart {
        title: format!("Claiming and settling {CLAIM} jobs, by how many have been settled before"),
        subtitle: "those archived, as the sweeper does after a week; or all still in the hot table"
            .to_owned(),
        x_label: "settled jobs",
        x_scale: Scale::Log,
        x_marks: archived.map(|point| (place(point.settled), short(point.settled as f64))).collect(),
        y_label: "milliseconds for 64 jobs",
        y_scale: Scale::Linear,
        lines: vec![
            line("claim, archived", Place::Archived, Point::claim_ms),
            line("settle, archived", Place::Archived, Point::settle_ms),
            line("claim, all hot", Place::Hot, Point::claim_ms),
            line("settle, all hot", Place::Hot, Point::settle_ms),
        ],
    }
}
