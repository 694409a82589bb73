//! Collects the measurements of all rounds, and computes the figures that the report tells.

use crate::{
    load::Sample,
    peers::{DENO, EMBEDDED, Form, Guest, Peer},
    requests::Load,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The number of connections at which CPU and memory are compared: a busy server, not yet a crowd.
pub const BUSY: usize = 32;

/// The number of connections at which memory is compared again: a crowd that a server must have room for.
pub const CROWD: usize = 256;

/// All measurements. The report tells the medians over all rounds.
#[derive(Default)]
pub struct Figures {
    /// Measured loads, by peer, load and number of connections.
    pub samples: BTreeMap<(Peer, Load, usize), Vec<Sample>>,
    /// Resident memory after one answer, in bytes.
    pub idle_bytes: BTreeMap<Peer, Vec<f64>>,
    /// Time from a process's start to its first answer, in milliseconds.
    pub start_ms: BTreeMap<(Peer, Form), Vec<f64>>,
}

/// Gives the middle value, or the mean of the two middle values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*values.get(middle.checked_sub(1)?)?, upper))
}

/// Gives the value that so many of all values, between 0 and 1, are at most.
pub fn percentile(values: &[f64], part: f64) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

impl Figures {
    /// Gives the median of one figure of a load.
    pub fn of(
        &self,
        peer: Peer,
        load: Load,
        connections: usize,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        median(self.samples.get(&(peer, load, connections))?.iter().map(figure))
    }

    /// Gives the median start, in milliseconds.
    pub fn start(&self, peer: Peer, form: Form) -> Option<f64> {
        median(self.start_ms.get(&(peer, form))?.iter().copied())
    }

    /// Gives the median memory after one answer, in bytes.
    pub fn idle(&self, peer: Peer) -> Option<f64> {
        median(self.idle_bytes.get(&peer)?.iter().copied())
    }

    /// Computes the compared figures, by their names in the report. A figure without measurements is `null`.
    pub fn ratios(&self) -> Map<String, Value> {
        let cpu = |peer, load| self.of(peer, load, BUSY, |sample| sample.cpu_us);
        let memory =
            |peer, connections| self.of(peer, Load::Bet, connections, |sample| sample.resident_bytes);
        let beside = |guest| Peer { guest, ..EMBEDDED };
        let over_empty = cpu(EMBEDDED, Load::Skip)
            .zip(cpu(beside(Guest::Empty), Load::Skip))
            .map(|(ours, empty)| ours - empty);
        let mut ratios = Map::new();
        for (name, value) in [
            ("cpu_per_bet_vs_deno", ratio(cpu(EMBEDDED, Load::Bet), cpu(DENO, Load::Bet))),
            ("cpu_per_bet_vs_bare", ratio(cpu(EMBEDDED, Load::Bet), cpu(beside(Guest::Bare), Load::Bet))),
            ("cpu_skip_over_empty_us", over_empty),
            ("memory_vs_deno", ratio(memory(EMBEDDED, BUSY), memory(DENO, BUSY))),
            ("memory_vs_deno_in_a_crowd", ratio(memory(EMBEDDED, CROWD), memory(DENO, CROWD))),
            ("start_vs_deno", ratio(self.start(EMBEDDED, Form::Warm), self.start(DENO, Form::Warm))),
        ] {
            ratios.insert(name.to_owned(), rounded(value));
        }
        ratios.insert("p99_one_connection_ms".to_owned(), Value::Object(self.alone()));
        ratios
    }

    /// Gives the 99th percentile of the latency on one connection, for each platform.
    fn alone(&self) -> Map<String, Value> {
        let mut all = Map::new();
        for ((peer, load, connections), samples) in &self.samples {
            if *connections == 1 && peer.guest == Guest::Function && matches!(load, Load::Skip | Load::Bet) {
                let p99_ms = median(samples.iter().map(|sample| sample.p99_ms));
                let Some(of_peer) = all.entry(peer.name()).or_insert_with(|| json!({})).as_object_mut()
                else {
                    continue;
                };
                of_peer.insert(load.name().to_owned(), rounded(p99_ms));
            }
        }
        all
    }

    /// Lists all figures by peer.
    pub fn to_json(&self) -> Value {
        let mut peers: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for ((peer, load, connections), samples) in &self.samples {
            let told = |figure: fn(&Sample) -> f64| rounded(median(samples.iter().map(figure)));
            let cpu = || samples.iter().map(|sample| sample.cpu_us);
            peers.entry(peer.name()).or_default().insert(
                format!("{}_{connections}", load.name()),
                json!({
                    "per_s": told(|s| s.per_s), "p50_ms": told(|s| s.p50_ms), "p99_ms": told(|s| s.p99_ms),
                    "cpu_us": told(|s| s.cpu_us), "resident_bytes": told(|s| s.resident_bytes),
                    "cpu_us_min": rounded(cpu().reduce(f64::min)), "cpu_us_max": rounded(cpu().reduce(f64::max)),
                }),
            );
        }
        for peer in self.idle_bytes.keys() {
            let idle = rounded(self.idle(*peer));
            peers.entry(peer.name()).or_default().insert("idle_bytes".to_owned(), idle);
        }
        for (peer, form) in self.start_ms.keys() {
            let start = rounded(self.start(*peer, *form));
            peers.entry(peer.name()).or_default().insert(format!("start_{}_ms", form.name()), start);
        }
        json!(peers)
    }
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    ours.zip(theirs).filter(|(_, theirs)| *theirs > 0.0).map(|(ours, theirs)| ours / theirs)
}

/// Rounds to three decimals. No measurement is more exact.
pub fn rounded(value: Option<f64>) -> Value {
    value.map_or(Value::Null, |value| json!((value * 1e3).round() / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_us: f64, resident_bytes: f64) -> Sample {
        Sample { per_s: 1.0, p50_ms: 1.0, p99_ms: cpu_us / 10.0, cpu_us, resident_bytes, sent: 1 }
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99), Some(198.0));
        assert_eq!(percentile(&values, 1.0), Some(200.0));
        assert_eq!(percentile(&[7.0], 0.5), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn ratios_are_of_medians_and_null_where_nothing_was_measured() {
        let mut figures = Figures::default();
        let bets = |cpus: [f64; 3]| cpus.map(|cpu| sample(cpu, 1e6)).to_vec();
        figures.samples.insert((EMBEDDED, Load::Bet, BUSY), bets([100.0, 150.0, 900.0]));
        figures.samples.insert((DENO, Load::Bet, BUSY), bets([60.0, 50.0, 40.0]));
        figures.samples.insert((EMBEDDED, Load::Skip, BUSY), bets([40.0, 40.5, 41.0]));
        let empty = Peer { guest: Guest::Empty, ..EMBEDDED };
        figures.samples.insert((empty, Load::Skip, BUSY), bets([30.0, 30.0, 30.0]));
        figures.samples.insert((DENO, Load::Bet, 1), bets([1.0, 2.0, 3.0]));
        let ratios = figures.ratios();
        assert_eq!(ratios["cpu_per_bet_vs_deno"], 3.0);
        assert_eq!(ratios["cpu_skip_over_empty_us"], 10.5);
        assert_eq!(ratios["cpu_per_bet_vs_bare"], Value::Null);
        assert_eq!(ratios["memory_vs_deno"], 1.0);
        assert_eq!(ratios["memory_vs_deno_in_a_crowd"], Value::Null);
        assert_eq!(ratios["p99_one_connection_ms"], json!({ "deno": { "bet": 0.2 } }));
    }
}
