//! Measures the fast ways over Realtime: from a deposit to its trade where the doorbell notifies, beside pg_net; from a
//! settlement to its owner's callback; the specification's resident agent; and signals.
//!
//! Realtime is a stand-in, to which the delays are added that were measured of the real server. PostgreSQL, its SQL, the
//! function on its host, the listener and supabase-js are real.

mod doorbell;
mod owner;
mod program;
mod resident;
mod signals;

use crate::{
    aside,
    figures::rounded,
    peers::Machine,
    progress::Progress,
    table::{Table, number},
};
use anyhow::Result;
use doorbell::{Live, NotifyBy, Point, RATES};
use owner::Callbacks;
use resident::Resident;
use serde_json::{Map, Value, json};
use stack::realtime::{Delays, Options};

/// The user who owns all agents.
const OWNER_ID: &str = "11111111-1111-1111-1111-111111111111";

/// What Realtime is.
const REALTIME: &str = "a stand-in for Realtime with the delays that were measured of the real server";

/// The rates at which a quick run measures pg_net without a watch.
const QUICK_RATES: [u32; 3] = [5, 50, 200];

/// The goals, in milliseconds: p50 and p99 from a deposit to its trade, and from a settlement to its owner's callback.
const TRADE_MS: [f64; 2] = [15.0, 50.0];
const CALLBACK_MS: [f64; 2] = [5.0, 25.0];

/// How to get supabase-js, if it is not there.
const GET_SUPABASE_JS: &str = "scripts/bench installs supabase-js with npm";

/// All measurements of this section.
struct Figures {
    parts: [&'static str; 2],
    /// The doorbell, with the watch for the next deposit.
    watched: Vec<Point>,
    /// The doorbell without that watch, and pg_net.
    unwatched: Vec<Point>,
    pg_net: Vec<Point>,
    callbacks: Option<Callbacks>,
    resident: Option<Resident>,
    signals: signals::Figures,
}

/// Gives a project with the real server's delays, and with a hosted project's limits.
fn options() -> Options {
    Options { delays: Delays::Measured, ..Options::default() }
}

/// Measures, prints tables, and adds the figures to the report. What the section `latency` of the same run has measured
/// of pg_net is printed beside.
pub async fn run(quick: bool, report: &mut Map<String, Value>) -> Result<()> {
    let figures = aside::run(move || measure(quick)).await?;
    figures.print(report);
    report.extend(figures.to_json());
    Ok(())
}

async fn measure(quick: bool) -> Result<Figures> {
    let machine = Machine::look()?;
    let pg_nets: &[u32] = if quick { &QUICK_RATES } else { &RATES };
    let mut progress = Progress::new(2 * (1 + RATES.len()) + pg_nets.len() + 2 + signals::STEPS);
    progress.step("the whole stack starts, with Realtime and the listener");
    let mut live = Live::start(&machine, true).await?;
    let parts = [live.rig.pg_net.name(), live.rig.postgrest.name()];
    // The database's own limit of messages counts what came just before, so the highest rate is the last.
    progress.step("an owner hears results");
    let callbacks = owner::measure(&machine, &live.rig, &mut live.depositors, quick).await?;
    let mut watched = Vec::new();
    for rate in RATES {
        progress.step(&format!("{rate} deposits a second, by Realtime"));
        watched.push(live.at_rate(NotifyBy::Realtime, rate, quick).await?);
    }
    drop(live);
    progress.step("the whole stack starts, without a watch for the next job");
    let mut live = Live::start(&machine, false).await?;
    let (mut unwatched, mut pg_net) = (Vec::new(), Vec::new());
    for rate in RATES {
        progress.step(&format!("{rate} deposits a second, by Realtime, without a watch"));
        unwatched.push(live.at_rate(NotifyBy::Realtime, rate, quick).await?);
    }
    for rate in pg_nets {
        progress.step(&format!("{rate} deposits a second, by pg_net, without a watch"));
        pg_net.push(live.at_rate(NotifyBy::PgNet, *rate, quick).await?);
    }
    drop(live);
    progress.step("the specification's resident agent");
    let resident = resident::measure(&machine, quick).await?;
    let signals = signals::measure(quick, &mut progress).await?;
    progress.end();
    Ok(Figures { parts, watched, unwatched, pg_net, callbacks, resident, signals })
}

/// Gives a figure of each rate.
fn by_rate(points: &[Point], figure: fn(&Point) -> f64) -> Value {
    let of = |point: &Point| (point.pace.per_s.to_string(), rounded(Some(figure(point))));
    Value::Object(points.iter().map(of).collect())
}

const P50: fn(&Point) -> f64 = |point| point.pace.traded.p50_ms;
const P99: fn(&Point) -> f64 = |point| point.pace.traded.p99_ms;

/// Says whether two percentiles meet their goals; nothing if there are none.
fn met(p50_ms: Option<f64>, p99_ms: Option<f64>, goals: [f64; 2]) -> Option<bool> {
    let [most_p50, most_p99] = goals;
    Some(p50_ms? <= most_p50 && p99_ms? <= most_p99)
}

impl Figures {
    fn to_json(&self) -> Map<String, Value> {
        let (callbacks, resident) = (self.callbacks.as_ref(), self.resident.as_ref());
        let trades_met = |points: &[Point]| {
            points.iter().all(|point| met(Some(P50(point)), Some(P99(point)), TRADE_MS) == Some(true))
        };
        let both = |figure: fn(&Point) -> f64| {
            let [watched, unwatched] = [&self.watched, &self.unwatched].map(|points| by_rate(points, figure));
            json!({ "watched": watched, "unwatched": unwatched })
        };
        let mut all = Map::new();
        for (name, value) in [
            ("realtime", json!(REALTIME)),
            ("realtime_trade_p50_ms", by_rate(&self.watched, P50)),
            ("realtime_trade_p99_ms", by_rate(&self.watched, P99)),
            ("realtime_trade_unwatched_p50_ms", by_rate(&self.unwatched, P50)),
            ("realtime_trade_unwatched_p99_ms", by_rate(&self.unwatched, P99)),
            ("realtime_bells_per_s", both(|point| point.bells_per_s)),
            ("realtime_pg_net_requests", both(|point| point.requests as f64)),
            ("pg_net_trade_unwatched_p50_ms", by_rate(&self.pg_net, P50)),
            ("pg_net_trade_unwatched_p99_ms", by_rate(&self.pg_net, P99)),
            ("owner_callback_p50_ms", rounded(callbacks.and_then(|one| one.p50_ms))),
            ("owner_callback_p99_ms", rounded(callbacks.and_then(|one| one.p99_ms))),
            ("owner_callback_results", json!(callbacks.map(|one| one.results))),
            ("owner_callback_missed", json!(callbacks.map(|one| one.missed))),
            ("resident_p50_ms", rounded(resident.and_then(|one| one.p50_ms))),
            ("resident_p99_ms", rounded(resident.and_then(|one| one.p99_ms))),
            ("resident_deposits", json!(resident.map(|one| one.deposits))),
            ("resident_lost", json!(resident.map(|one| one.lost))),
            ("resident_doubled", json!(resident.map(|one| one.doubled))),
            ("supabase_js", json!(resident.map(|one| &one.version))),
            ("signal_1000_ms", rounded(self.signals.last_ms())),
            ("telling_share_of_settlement", rounded(self.signals.share())),
            ("signals", self.signals.to_json()),
            (
                "realtime_goals_met",
                json!({
                    "deposit to trade": trades_met(&self.watched),
                    "deposit to trade without a watch": trades_met(&self.unwatched),
                    "settlement to callback":
                        callbacks.and_then(|one| met(one.p50_ms, one.p99_ms, CALLBACK_MS)),
                }),
            ),
        ] {
            all.insert(name.to_owned(), value);
        }
        all
    }

    /// Prints the tables, beside the figures that an earlier section has put into the report.
    fn print(&self, report: &Map<String, Value>) {
        println!(
            "\nFrom a deposit's commit to its trade's with notify_by = realtime, through {REALTIME},\nthe listener and {}; \
             beside it through {}. Purple Flea is a simulator that takes 5 ms.",
            self.parts[1], self.parts[0]
        );
        self.print_trades(report);
        println!(
            "Without a watch each deposit needs a notification. pg_net with the watch is the section `latency`."
        );
        self.print_callbacks();
        self.print_resident();
        self.signals.print();
    }

    fn print_trades(&self, report: &Map<String, Value>) {
        let head = [
            "deposits",
            "Realtime: p50 ms",
            "p99 ms",
            "pg_net: p50 ms",
            "p99 ms",
            "Realtime, unwatched: p50 ms",
            "p99 ms",
            "bells a second",
            "requests of pg_net",
            "pg_net, unwatched: p50 ms",
            "p99 ms",
        ];
        let mut table = Table::new(1, &head);
        for rate in RATES {
            let at = |points: &[Point], figure: fn(&Point) -> f64| {
                points.iter().find(|point| point.pace.per_s == rate).map(figure)
            };
            let earlier = |name: &str| report.get(name)?.get(rate.to_string())?.as_f64();
            let cells = [
                (at(&self.watched, P50), 1),
                (at(&self.watched, P99), 1),
                (earlier("trade_p50_ms"), 1),
                (earlier("trade_p99_ms"), 1),
                (at(&self.unwatched, P50), 1),
                (at(&self.unwatched, P99), 1),
                (at(&self.unwatched, |point| point.bells_per_s), 1),
                (at(&self.unwatched, |point| point.requests as f64), 0),
                (at(&self.pg_net, P50), 1),
                (at(&self.pg_net, P99), 1),
            ];
            let cells = cells.map(|(figure, decimals)| number(figure, decimals));
            table.row([vec![format!("{rate} a second")], cells.to_vec()].concat());
        }
        table.print();
    }

    fn print_callbacks(&self) {
        let Some(Callbacks { version, results, missed, p50_ms, p99_ms }) = &self.callbacks else {
            println!("\nAn owner's callback: not measured ({GET_SUPABASE_JS}).");
            return;
        };
        println!(
            "\nFrom a settlement's commit to the owner's callback (supabase-js {version}): p50 {} ms, p99 {} ms; \
             {missed} of {results} results were not heard.",
            number(*p50_ms, 1),
            number(*p99_ms, 1)
        );
    }

    fn print_resident(&self) {
        let Some(Resident { version, deposits, lost, doubled, p50_ms, p99_ms }) = &self.resident else {
            println!("The specification's resident agent: not run ({GET_SUPABASE_JS}).");
            return;
        };
        println!(
            "The specification's resident agent (supabase-js {version}) at {} deposits a second: p50 {} ms, p99 {} ms; \
             {lost} of {deposits} deposits were lost, {doubled} were doubled.",
            resident::PER_S,
            number(*p50_ms, 1),
            number(*p99_ms, 1)
        );
    }
}
