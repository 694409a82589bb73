//! Measures the memory of the function's host by its inbound connections, beside Deno's.

use crate::{
    chart::{Chart, Line, Scale, short},
    figures::rounded,
    load::Run,
    peers::{DENO, EMBEDDED, Form, Machine, Mode, Peer},
    progress::Progress,
    requests::Load,
    upstream::Upstream,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;

/// Numbers of inbound connections, each with a bet under way. The largest comes last, because servers seldom give
/// memory back.
const CONNECTIONS: [usize; 6] = [1, 32, 128, 256, 512, 1_000];

/// How long each load lasts: first the unmeasured part, then the measured one.
const QUICK: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1_000));
const FULL: (Duration, Duration) = (Duration::from_millis(1_000), Duration::from_millis(3_000));

/// One mebibyte.
const MIB: f64 = 1_048_576.0;

/// The measurement of one server at one number of connections.
pub struct Point {
    peer: Peer,
    connections: usize,
    resident_bytes: f64,
}

/// Lists the servers to measure.
fn peers(machine: &Machine) -> Vec<Peer> {
    machine.peers(false).into_iter().filter(|peer| [EMBEDDED, DENO].contains(peer)).collect()
}

/// Counts the measurements.
pub fn steps(machine: &Machine) -> usize {
    peers(machine).len() * CONNECTIONS.len()
}

/// Measures one server after the other. Needs a `LocalSet`.
pub async fn measure(machine: &Machine, quick: bool, progress: &mut Progress) -> Result<Vec<Point>> {
    let upstream = Upstream::start()?;
    let (warm_up, time) = if quick { QUICK } else { FULL };
    let mut points = Vec::new();
    for peer in peers(machine) {
        machine.compile(peer)?;
        let (mut server, authority, _) =
            machine.start(peer, Form::Warm, Mode::Standalone, &upstream.url, true).await?;
        for connections in CONNECTIONS {
            progress.step(&format!("growth: {} with {connections} connections", peer.name()));
            let run = Run { load: Load::Bet, connections, warm_up, time };
            let sample = run.on(&authority, &mut server).await.with_context(|| peer.name())?;
            points.push(Point { peer, connections, resident_bytes: sample.resident_bytes });
        }
    }
    Ok(points)
}

impl Point {
    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        json!({
            "peer": self.peer.name(), "connections": self.connections,
            "resident_bytes": rounded(Some(self.resident_bytes)),
        })
    }

    /// Gives the table's cells: server, connections, MiB.
    pub fn cells(&self) -> Vec<String> {
        let mib = format!("{:.1}", self.resident_bytes / MIB);
        vec![self.peer.name(), self.connections.to_string(), mib]
    }
}

/// Makes the chart.
pub fn chart(points: &[Point]) -> Chart {
    let line = |peer: Peer, name: &str| Line {
        name: name.to_owned(),
        accent: peer == EMBEDDED,
        points: points
            .iter()
            .filter(|point| point.peer == peer)
            .map(|point| (point.connections as f64, point.resident_bytes / MIB))
            .collect(),
    };
    let mut lines = vec![line(EMBEDDED, "purple-flea-host"), line(DENO, "Deno")];
    lines.retain(|line| !line.points.is_empty());
    Chart {
        title: "Resident memory under load, by inbound connections".to_owned(),
        subtitle: "each connection has a bet under way, all the time".to_owned(),
        x_label: "connections",
        x_scale: Scale::Log,
        x_marks: CONNECTIONS.map(|connections| (connections as f64, short(connections as f64))).to_vec(),
        y_label: "MiB",
        y_scale: Scale::Linear,
        lines,
    }
}
