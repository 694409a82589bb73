//! Measures the function alone beside its peers. Purple Flea and the ledger are as fast as they can be.

use crate::{
    figures::{BUSY, CROWD, Figures},
    load::Run,
    peers::{Form, Guest, Machine, Mode, Peer, Platform},
    progress::Progress,
    requests::Load,
    server::Server,
    table::{Table, mib, number},
    upstream::Upstream,
};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::{fs, time::Duration};

/// Rounds of a quick run: the smallest number with a useful median.
const QUICK_ROUNDS: u32 = 3;

/// Rounds of a full run.
const FULL_ROUNDS: u32 = 5;

/// How long each load lasts: first the unmeasured part, then the measured one. The shortest has 1,000 requests of the
/// slowest peer.
const QUICK: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1_000));
const FULL: (Duration, Duration) = (Duration::from_millis(1_000), Duration::from_millis(3_000));

/// Starts in a round. A cold start compiles for seconds, and varies little.
const WARM_STARTS: u32 = 3;
const COLD_STARTS: u32 = 1;

/// How long the bench waits after a server's first answer before it reads the memory: the work after the reply is over
/// by then.
const IDLE: Duration = Duration::from_millis(300);

/// The options of a run.
pub struct Plan<'a> {
    /// Fewer and shorter loads.
    pub quick: bool,
    /// The number of rounds, if it differs from the usual one.
    pub rounds: Option<u32>,
    /// The peers to measure; empty for all.
    pub peers: &'a [String],
}

/// Measures the peers, prints tables, and adds the figures to the report. Needs a `LocalSet`.
pub async fn run(plan: &Plan<'_>, report: &mut Map<String, Value>) -> Result<()> {
    let machine = Machine::look()?;
    let upstream = Upstream::start()?;
    let mut peers = machine.peers(!plan.quick);
    peers.retain(|peer| plan.peers.is_empty() || plan.peers.contains(&peer.name()));
    for platform in [Platform::Embedded, Platform::Wasmtime, Platform::Spin, Platform::Deno] {
        if plan.peers.is_empty() && !peers.iter().any(|peer| peer.platform == platform) {
            eprintln!("Not measured, as it is not there: {platform:?}");
        }
    }
    for peer in &peers {
        machine.compile(*peer)?;
    }
    let rounds = plan.rounds.unwrap_or(if plan.quick { QUICK_ROUNDS } else { FULL_ROUNDS });
    let mut bench = Bench {
        plan,
        progress: Progress::new(rounds as usize * peers.iter().map(|peer| steps(*peer, plan)).sum::<usize>()),
        machine,
        upstream,
        figures: Figures::default(),
    };
    // Every round measures all peers, so that a disturbance of the machine affects all alike.
    for round in 1..=rounds {
        for peer in &peers {
            let name = peer.name();
            bench.measure(*peer, round).await.with_context(|| format!("{name} cannot be measured"))?;
        }
    }
    bench.progress.end();
    let artifact_bytes = fs::metadata(bench.machine.spin_component()).map(|file| file.len()).ok();
    print(&bench.figures, &peers, artifact_bytes);
    report.extend(bench.figures.ratios());
    report.insert("artifact_bytes".to_owned(), json!(artifact_bytes));
    report.insert(
        "function".to_owned(),
        json!({ "rounds": rounds, "connections": BUSY, "crowd": CROWD, "peers": bench.figures.to_json() }),
    );
    Ok(())
}

struct Bench<'a> {
    plan: &'a Plan<'a>,
    progress: Progress,
    machine: Machine,
    upstream: Upstream,
    figures: Figures,
}

/// Lists a peer's loads with their numbers of connections. The largest number comes last, because servers seldom give
/// memory back.
fn cases(peer: Peer, quick: bool) -> Vec<(Load, usize)> {
    let all = [1, BUSY, CROWD].into_iter().flat_map(|n| peer.loads().iter().map(move |load| (*load, n)));
    // A quick run measures only what the ratios need.
    let needed = |(load, connections): &(Load, usize)| {
        let ours = peer.guest == Guest::Function;
        match *connections {
            1 => ours && matches!(load, Load::Skip | Load::Bet),
            CROWD => ours && *load == Load::Bet,
            _ => true,
        }
    };
    all.filter(|case| !quick || needed(case)).collect()
}

fn steps(peer: Peer, plan: &Plan<'_>) -> usize {
    cases(peer, plan.quick).len() + peer.forms().len()
}

impl Bench<'_> {
    async fn measure(&mut self, peer: Peer, round: u32) -> Result<()> {
        let title = format!("round {round}, {}", peer.name());
        for form in peer.forms() {
            self.progress.step(&format!("{title}: {} start", form.name()));
            for _ in 0..if *form == Form::Cold { COLD_STARTS } else { WARM_STARTS } {
                let (_, _, start) = self.start(peer, *form, Mode::Standalone, false).await?;
                let start_ms = start.as_secs_f64() * 1e3;
                self.figures.start_ms.entry((peer, *form)).or_default().push(start_ms);
            }
        }
        for mode in [Mode::Standalone, Mode::Ledger] {
            let by_ledger = |load| load == Load::Duplicate;
            let cases = cases(peer, self.plan.quick).into_iter();
            let cases: Vec<_> =
                cases.filter(|(load, _)| by_ledger(*load) == (mode == Mode::Ledger)).collect();
            if cases.is_empty() {
                continue;
            }
            // The server starts as in production, from compiled code. A compiler's memory would not be the server's
            // own.
            let (mut server, authority, _) = self.start(peer, Form::Warm, mode, true).await?;
            if mode == Mode::Standalone {
                tokio::time::sleep(IDLE).await;
                self.figures.idle_bytes.entry(peer).or_default().push(server.resident_bytes() as f64);
            }
            for (load, connections) in cases {
                self.progress.step(&format!("{title}: {}, {connections} at once", load.name()));
                self.put_load(peer, load, connections, &authority, &mut server).await?;
            }
        }
        Ok(())
    }

    async fn start(
        &self,
        peer: Peer,
        form: Form,
        mode: Mode,
        tied: bool,
    ) -> Result<(Server, String, Duration)> {
        self.machine.start(peer, form, mode, &self.upstream.url, tied).await
    }

    async fn put_load(
        &mut self,
        peer: Peer,
        load: Load,
        connections: usize,
        authority: &str,
        server: &mut Server,
    ) -> Result<()> {
        let (warm_up, time) = if self.plan.quick { QUICK } else { FULL };
        let before = self.upstream.bets();
        let sample = Run { load, connections, warm_up, time }.on(authority, server).await?;
        let bets = self.upstream.bets() - before;
        let expected = if load == Load::Bet { sample.sent } else { 0 };
        if bets != expected {
            bail!("{} {} led to {bets} bets", sample.sent, load.name());
        }
        self.figures.samples.entry((peer, load, connections)).or_default().push(sample);
        Ok(())
    }
}

fn print(figures: &Figures, peers: &[Peer], artifact_bytes: Option<u64>) {
    let head = ["peer", "load", "at once", "req/s", "p50 ms", "p99 ms", "CPU µs", "MiB"];
    let mut loads = Table::new(2, &head);
    for (peer, load, connections) in figures.samples.keys() {
        let of = |figure: fn(&crate::load::Sample) -> f64| figures.of(*peer, *load, *connections, figure);
        loads.row(vec![
            peer.name(),
            load.name().to_owned(),
            connections.to_string(),
            number(of(|s| s.per_s), 0),
            number(of(|s| s.p50_ms), 3),
            number(of(|s| s.p99_ms), 3),
            number(of(|s| s.cpu_us), 1),
            mib(of(|s| s.resident_bytes)),
        ]);
    }
    loads.print();
    let mut starts = Table::new(1, &["peer", "idle MiB", "cold start ms", "warm start ms"]);
    for peer in peers {
        starts.row(vec![
            peer.name(),
            mib(figures.idle(*peer)),
            number(figures.start(*peer, Form::Cold), 1),
            number(figures.start(*peer, Form::Warm), 1),
        ]);
    }
    starts.print();
    let mut ratios = Table::new(1, &["figure", ""]);
    for (name, value) in figures.ratios() {
        // Each platform and load has a row of its own.
        match value {
            Value::Object(platforms) => {
                for (platform, value) in platforms {
                    let loads = value.as_object().into_iter().flatten();
                    loads.for_each(|(load, value)| {
                        ratios.row(vec![format!("{name}, {platform}, {load}"), value.to_string()]);
                    });
                }
            }
            value => ratios.row(vec![name, value.to_string()]),
        }
    }
    ratios.row(vec!["artifact_bytes".to_owned(), json!(artifact_bytes).to_string()]);
    ratios.print();
}
