//! Measures deposits beside 1,000 subscriptions whose receivers take each connection and never answer. Each round has three
//! spells: without a listener; with a listener and new subscriptions, which all have deliveries in flight and as many
//! waiting as they may have; and the time after that, when all have failed.

use super::{
    listener::{self, SUBSCRIPTIONS},
    receivers::{Manner, Receivers},
};
use crate::{
    cpu::Cpu,
    deposits::{Depositors, Traded, each_ms},
    figures::{percentile, rounded},
    peers::Machine,
    progress::Progress,
    rig::Rig,
    server::Server,
    table::number,
};
use anyhow::Result;
use serde_json::{Value, json};
use stack::postgres::SUPERUSER;
use std::time::Duration;
use tokio::time::sleep;

/// Deposits a second.
const PER_S: u32 = 50;

/// Rounds.
const QUICK: usize = 3;
const FULL: usize = 6;

/// How long each spell lasts. New subscriptions fail for the first time after 5 s.
const QUICK_TIME: Duration = Duration::from_secs(12);
const FULL_TIME: Duration = Duration::from_secs(30);

/// Pause after work that happens once.
const PAUSE: Duration = Duration::from_secs(3);

/// All measurements of one kind of spell.
#[derive(Default)]
pub struct Spell {
    /// The latency of each deposit, in milliseconds.
    all_ms: Vec<f64>,
    /// CPU time of Postgres, in milliseconds.
    postgres_ms: f64,
    /// CPU time of the listener, in milliseconds.
    listener_ms: f64,
    /// Requests that the receivers got.
    requests: usize,
    seconds: f64,
}

/// The three kinds of spells.
pub struct Spells {
    without: Spell,
    fresh: Spell,
    failing: Spell,
    /// Most deliveries that were pending after a spell.
    pending: i64,
}

/// Counts the measurements.
pub fn steps(quick: bool) -> usize {
    if quick { QUICK } else { FULL }
}

/// Measures on a running stack.
pub async fn measure(
    machine: &Machine,
    rig: &Rig,
    depositors: &mut Depositors,
    quick: bool,
    progress: &mut Progress,
) -> Result<Spells> {
    let (rounds, time) = if quick { (QUICK, QUICK_TIME) } else { (FULL, FULL_TIME) };
    let receivers = Receivers::start(Manner::Hang, &machine.scratch).await?;
    let owner = &rig.stage.owner;
    let superuser = rig.stage.cluster.connect(SUPERUSER).await?;
    let mut all =
        Spells { without: Spell::default(), fresh: Spell::default(), failing: Spell::default(), pending: 0 };
    for round in 1..=rounds {
        progress.step(&format!("feed: deposits without and beside receivers that hang, round {round}"));
        all.without.add(rig, depositors, time, None, &receivers).await?;
        listener::subscribe(owner, &receivers).await?;
        let listener = listener::start(machine, rig, &receivers).await?;
        all.fresh.add(rig, depositors, time, Some(&listener), &receivers).await?;
        all.failing.add(rig, depositors, time, Some(&listener), &receivers).await?;
        drop(listener);
        let pending = "select count(*) from purple_flea.event_deliveries";
        all.pending = all.pending.max(owner.query_one(pending, &[]).await?.get(0));
        listener::unsubscribe(owner).await?;
        // What the last spell left in memory is written now, and not beside the next.
        superuser.batch_execute("checkpoint").await?;
        sleep(PAUSE).await;
    }
    Ok(all)
}

impl Spell {
    /// Measures deposits for a while.
    async fn add(
        &mut self,
        rig: &Rig,
        depositors: &mut Depositors,
        time: Duration,
        listener: Option<&Server>,
        receivers: &Receivers,
    ) -> Result<()> {
        let stage = &rig.stage;
        let (last, bets) = (stage.last_id().await?, stage.purple_flea.bets().len());
        let requests = receivers.count();
        let used = || listener.map_or(Ok(Duration::ZERO), Server::cpu);
        let (cpu, used_before) = (Cpu::of(stage).await?, used()?);
        depositors.arrive(PER_S.into(), time).await?;
        stage.quiet().await?;
        self.listener_ms += (used()? - used_before).as_secs_f64() * 1e3;
        self.postgres_ms += Cpu::of(stage).await?.since(&cpu).postgres_ms();
        self.requests += receivers.count() - requests;
        self.seconds += time.as_secs_f64();
        // Fails unless each deposit led to one trade.
        Traded::after(stage, last, bets).await?;
        self.all_ms.extend(each_ms(stage, last).await?);
        Ok(())
    }

    fn at(&self, part: f64) -> Option<f64> {
        percentile(&self.all_ms, part)
    }

    /// Gives CPU time as a number of busy cores.
    fn cores(&self, ms: f64) -> Option<f64> {
        (self.seconds > 0.0).then(|| ms / 1e3 / self.seconds)
    }

    fn to_json(&self) -> Value {
        json!({
            "deposits": self.all_ms.len(), "p50_ms": rounded(self.at(0.5)), "p99_ms": rounded(self.at(0.99)),
            "max_ms": rounded(self.at(1.0)), "requests": self.requests,
            "postgres_cores": rounded(self.cores(self.postgres_ms)),
            "listener_cores": rounded(self.cores(self.listener_ms)),
        })
    }

    fn cells(&self) -> Vec<String> {
        let latencies = [0.5, 0.99, 1.0].map(|part| number(self.at(part), 1));
        let cores = [self.postgres_ms, self.listener_ms].map(|ms| number(self.cores(ms), 2));
        let requests = self.requests.to_string();
        [vec![self.all_ms.len().to_string()], latencies.to_vec(), vec![requests], cores.to_vec()].concat()
    }
}

impl Spells {
    /// Gives the p99 beside new subscriptions, and beside those that have failed, as multiples of the p99 without.
    pub fn ratios(&self) -> [Option<f64>; 2] {
        let without = self.without.at(0.99);
        [&self.fresh, &self.failing]
            .map(|spell| spell.at(0.99).zip(without).map(|(with, without)| with / without))
    }

    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        let [fresh, failing] = self.ratios().map(rounded);
        json!({
            "per_s": PER_S, "subscriptions": SUBSCRIPTIONS, "most_pending": self.pending,
            "without": self.without.to_json(), "fresh": self.fresh.to_json(), "failing": self.failing.to_json(),
            "p99_ratio_fresh": fresh, "p99_ratio_failing": failing,
        })
    }

    /// Gives the table's rows: the spell, deposits, p50, p99, longest, requests, Postgres' cores and the listener's.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, spell: &Spell| [vec![name.to_owned()], spell.cells()].concat();
        vec![
            row("without a listener", &self.without),
            row("beside 1,000 that hang, new", &self.fresh),
            row("beside 1,000 that hang, failing", &self.failing),
        ]
    }
}
