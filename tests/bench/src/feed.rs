//! Measures the event feed: what an event costs its transaction, a page of a long feed, an event's way to 1,000
//! subscribers, and deposits beside 1,000 receivers that hang.
//!
//! The receivers are threads of the bench, on the loopback interface, with TLS. Realtime's SQL is a stand-in. The rest is
//! as in `latency`.

mod cost;
mod delivery;
mod hanging;
mod listener;
mod page;
mod receivers;

use crate::{
    aside,
    deposits::Depositors,
    peers::{Machine, Platform},
    progress::Progress,
    rig::Rig,
    table::{Table, number},
};
use anyhow::Result;
use cost::Cost;
use delivery::Deliveries;
use hanging::Spells;
use page::Pages;
use serde_json::{Map, Value, json};

/// The goals: an event, a page, the last of 1,000 deliveries, all in milliseconds; and the p99 of deposits beside
/// receivers that hang, as a multiple of that without a listener.
const EVENT_MS: f64 = 0.2;
const PAGE_MS: f64 = 10.0;
const LAST_MS: f64 = 5_000.0;
const RATIO: f64 = 1.2;

/// All measurements of this section.
struct Figures {
    costs: Vec<Cost>,
    pages: Pages,
    deliveries: Deliveries,
    spells: Spells,
}

/// Measures, prints tables, and adds the figures to the report.
pub async fn run(quick: bool, report: &mut Map<String, Value>) -> Result<()> {
    let figures = aside::run(move || measure(quick)).await?;
    figures.print();
    report.insert("feed".to_owned(), figures.to_json());
    Ok(())
}

async fn measure(quick: bool) -> Result<Figures> {
    let machine = Machine::look()?;
    let mut progress = Progress::new(cost::steps() + page::steps() + 2 + hanging::steps(quick));
    let costs = cost::measure(quick, &mut progress).await?;
    let pages = page::measure(quick, &mut progress).await?;
    progress.step("feed: the whole stack starts");
    let rig = Rig::start(&machine, Platform::Embedded, &[]).await?;
    let mut depositors = Depositors::connect(&rig.stage).await?;
    depositors.once().await?;
    rig.stage.quiet().await?;
    progress.step("feed: an event for 1,000 subscribers");
    let deliveries = delivery::measure(&machine, &rig, quick).await?;
    let spells = hanging::measure(&machine, &rig, &mut depositors, quick, &mut progress).await?;
    progress.end();
    Ok(Figures { costs, pages, deliveries, spells })
}

impl Figures {
    /// Gives each goal, its figure, and whether it is met.
    fn goals(&self) -> Vec<(&'static str, Option<f64>, bool)> {
        let event = self.costs.iter().map(Cost::event_ms).reduce(f64::max);
        let ratio = self.spells.ratios().into_iter().flatten().reduce(f64::max);
        let met = |figure: Option<f64>, most: f64| figure.is_some_and(|figure| figure <= most);
        vec![
            ("an event with its message < 0.2 ms", event, met(event, EVENT_MS)),
            (
                "a page of 100 is one index scan, < 10 ms",
                self.pages.ms(),
                self.pages.is_one_scan() && met(self.pages.ms(), PAGE_MS),
            ),
            (
                "the last of 1,000 deliveries < 5,000 ms",
                self.deliveries.worst_ms(),
                met(self.deliveries.worst_ms(), LAST_MS),
            ),
            ("deposits' p99 beside 1,000 that hang ≤ 1.2 ×", ratio, met(ratio, RATIO)),
        ]
    }

    fn to_json(&self) -> Value {
        let goals: Map<String, Value> =
            self.goals().into_iter().map(|(name, _, met)| (name.to_owned(), json!(met))).collect();
        json!({
            "event_cost": self.costs.iter().map(Cost::to_json).collect::<Vec<_>>(),
            "page": self.pages.to_json(),
            "thousand_subscribers": self.deliveries.to_json(),
            "hanging_receivers": self.spells.to_json(),
            "goals_met": goals,
        })
    }

    fn print(&self) {
        let head = [
            "transaction",
            "events",
            "without, ms",
            "with events",
            "and messages",
            "ms an event",
            "with its message",
        ];
        table(1, &head, self.costs.iter().map(Cost::cells));
        table(1, &["a page of 100, in the database", "p50 ms", "p99 ms", "max ms"], self.pages.rows());
        println!("The plan: {}", self.pages.plan());
        let head = ["events for 1,000 subscribers", "a delivery: p50 ms", "the last: p50 ms", "max ms"];
        table(0, &head, [self.deliveries.cells()]);
        let head = [
            "50 deposits a second",
            "deposits",
            "p50 ms",
            "p99 ms",
            "max ms",
            "hung requests",
            "Postgres cores",
            "listener cores",
        ];
        table(1, &head, self.spells.rows());
        let goals = self.goals().into_iter().map(|(name, figure, met)| {
            vec![name.to_owned(), if met { "met" } else { "missed" }.to_owned(), number(figure, 2)]
        });
        table(2, &["goal", "", "measured"], goals);
    }
}

fn table(words: usize, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    let mut table = Table::new(words, head);
    rows.into_iter().for_each(|row| table.row(row));
    table.print();
}
