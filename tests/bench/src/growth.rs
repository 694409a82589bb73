//! Measures the stack as each quantity grows: deposits a second, waiting deposits, settled jobs, connections. Draws a
//! chart for each. pg_net, PostgREST and Purple Flea are as in `latency`.

mod backlog;
mod memory;
mod rate;
mod settled;

use crate::{
    aside,
    peers::{Machine, Platform},
    progress::Progress,
    rig::Rig,
    table::Table,
};
use anyhow::Result;
use serde_json::{Map, Value, json};

/// All measurements of this section.
struct Figures {
    rate: Vec<rate::Point>,
    backlog: Vec<backlog::Point>,
    settled: Vec<settled::Point>,
    memory: Vec<memory::Point>,
}

/// Measures, prints tables, draws charts, and adds the figures to the report. Needs a `LocalSet`.
pub async fn run(quick: bool, report: &mut Map<String, Value>) -> Result<()> {
    let machine = Machine::look()?;
    let steps = rate::steps(quick) + backlog::steps(quick) + settled::steps(quick) + memory::steps(&machine);
    let mut progress = Progress::new(steps);
    let memory = memory::measure(&machine, quick, &mut progress).await?;
    // Only a full run, whose figures the documents tell, replaces their charts.
    let folder = if quick { machine.scratch.clone() } else { machine.root.join("docs") };
    let figures = aside::run(move || async move {
        let rig = Rig::start(&machine, Platform::Embedded, &[]).await?;
        let rate = rate::measure(&rig.stage, quick, &mut progress).await?;
        let backlog = backlog::measure(&rig.stage, quick, &mut progress).await?;
        drop(rig);
        let settled = settled::measure(quick, &mut progress).await?;
        progress.end();
        Ok(Figures { rate, backlog, settled, memory })
    })
    .await?;
    figures.print();
    for (name, chart) in [
        ("rate", rate::chart(&figures.rate)),
        ("backlog", backlog::chart(&figures.backlog, quick)),
        ("settled", settled::chart(&figures.settled)),
        ("memory", memory::chart(&figures.memory)),
    ] {
        let path = folder.join(format!("growth-{name}.svg"));
        chart.draw(&path)?;
        eprintln!("Drawn: {}", path.display());
    }
    report.insert("growth".to_owned(), figures.to_json());
    report.insert("kept_up_per_s".to_owned(), json!(rate::kept_up_per_s(&figures.rate)));
    Ok(())
}

impl Figures {
    fn to_json(&self) -> Value {
        json!({
            "rate": self.rate.iter().map(rate::Point::to_json).collect::<Vec<_>>(),
            "backlog": self.backlog.iter().map(backlog::Point::to_json).collect::<Vec<_>>(),
            "cpu_share": backlog::cpu_share(&self.backlog),
            "settled": self.settled.iter().map(settled::Point::to_json).collect::<Vec<_>>(),
            "memory": self.memory.iter().map(memory::Point::to_json).collect::<Vec<_>>(),
        })
    }

    fn print(&self) {
        let head = ["asked for a second", "deposited", "p50 ms", "p99 ms", "backlog", "kept up"];
        table(0, &head, self.rate.iter().map(rate::Point::cells));
        let head = ["backlog", "trades/s", "Postgres ms each", "host ms each", "all CPU ms each"];
        table(0, &head, self.backlog.iter().map(backlog::Point::cells));
        let cpu = backlog::cpu_share(&self.backlog);
        let parts = cpu["parts"].as_object().into_iter().flatten();
        let percent = |part: &Value| format!("{:.0} %", part.as_f64().unwrap_or_default() * 100.0);
        table(1, &["CPU meanwhile", "part"], parts.map(|(who, part)| vec![who.clone(), percent(part)]));
        let head = ["settled jobs", "", "claim ms", "settle ms", "loaded s"];
        table(1, &head, self.settled.iter().map(settled::Point::cells));
        table(1, &["memory", "connections", "MiB"], self.memory.iter().map(memory::Point::cells));
    }
}

fn table(words: usize, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let mut table = Table::new(words, head);
    rows.for_each(|row| table.row(row));
    table.print();
}
