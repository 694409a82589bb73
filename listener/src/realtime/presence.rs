//! Presence: agents that their owners track on the topics `agent-fleet:<owner>`. The listener reports them to the database
//! while they are tracked, and the database checks whose they are.

use super::{Shared, channels::Heard, pool::Pool, protocol::Topic, tracked::Tracked};
use crate::log::{Level, Line};
use futures_util::{StreamExt, stream};
use purple_flea_edge::ledger::rpc::LedgerError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

/// The prefix of a topic of presence. The rest is the owner's id.
const PREFIX: &str = "agent-fleet:";

/// Owners of one answer of the database.
const PAGE: usize = 500;

/// Most answers that are read at once. With them the pool is full.
const PAGES_LIMIT: usize = 20;

/// How often the listener looks whom to report: an agent that has come is reported so soon.
const TICK: Duration = Duration::from_secs(1);

/// Reports under way at once.
const REPORTS_LIMIT: usize = 4;

#[derive(Debug, Deserialize)]
struct Owners {
    owners: Vec<String>,
    more: bool,
}

#[derive(Debug, Deserialize)]
struct Reported {
    noted: u64,
    refused: Vec<Value>,
}

/// One owner's topic.
#[derive(Default)]
struct Fleet {
    tracked: Tracked,
    /// When it was reported. `None`: not since it has changed.
    reported: Option<Instant>,
}

/// Keeps the owners' topics joined.
pub(crate) async fn follow(shared: Arc<Shared>, mut pool: Pool) {
    let mut told = 0;
    loop {
        match owners(&shared).await {
            Ok(wanted) => {
                let without_place = pool.want(&wanted);
                if without_place != told {
                    let mut line = Line::new(Level::Error, "presence");
                    (line.code, line.count) = (Some("topics_without_place"), Some(without_place));
                    line.print();
                }
                told = without_place;
            }
            Err(error) => shared.tell_of_failure("presence", &error),
        }
        if shared.stops_within(shared.timing.topics).await {
            return;
        }
    }
}

async fn owners(shared: &Shared) -> Result<BTreeSet<Topic>, LedgerError> {
    let mut topics = BTreeSet::new();
    let mut after: Option<String> = None;
    for _ in 0..PAGES_LIMIT {
        let reply = shared.ledger.call("fleet_owners", &json!({ "after": after, "most": PAGE })).await?;
        let page: Owners = serde_json::from_slice(&reply).map_err(|_| LedgerError::Unreadable)?;
        after = page.owners.last().cloned();
        let names = page.owners.into_iter().map(|owner| format!("{PREFIX}{owner}"));
        topics.extend(names.filter_map(|name| Topic::new(name, true, true)));
        if !page.more || after.is_none() {
            break;
        }
    }
    Ok(topics)
}

/// Reports who is tracked.
pub(crate) async fn report(shared: Arc<Shared>, mut heard: mpsc::Receiver<Heard>) {
    let mut fleets: BTreeMap<String, Fleet> = BTreeMap::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Reports run beside this loop: a database that hangs makes no socket wait.
    let mut reports = tokio::spawn(std::future::ready(()));
    loop {
        tokio::select! {
            one = heard.recv() => match one {
                Some(one) => take(&shared, &mut fleets, one),
                None => return,
            },
            _ = ticks.tick() => if reports.is_finished() {
                let due = due(&mut fleets, shared.timing.presence);
                reports = tokio::spawn(report_all(shared.clone(), due));
            },
        }
    }
}

fn take(shared: &Shared, fleets: &mut BTreeMap<String, Fleet>, heard: Heard) {
    let (topic, dropped) = match heard {
        Heard::PresenceState { topic, state } => {
            let dropped = fleets.entry(topic.clone()).or_default().tracked.replace(&state);
            (topic, dropped)
        }
        Heard::PresenceDiff { topic, diff } => {
            let dropped = fleets.entry(topic.clone()).or_default().tracked.change(&diff);
            (topic, dropped)
        }
        // Nobody knows who is there while the channel is not live. A join tells the whole state.
        Heard::Lost { topic } | Heard::Joined { topic } => {
            fleets.remove(&topic);
            return;
        }
        Heard::Broadcast { .. } => return shared.metrics.dropped("unknown_event"),
        Heard::Ready { .. } | Heard::Refused { .. } | Heard::Hostile | Heard::Nothing => return,
    };
    for _ in 0..dropped {
        shared.metrics.dropped("no_agent");
    }
    if let Some(fleet) = fleets.get_mut(&topic) {
        fleet.reported = None;
    }
}

/// Gives the owners whose agents are to be reported now, with them.
fn due(fleets: &mut BTreeMap<String, Fleet>, each: Duration) -> Vec<(String, Vec<String>)> {
    let mut due = Vec::new();
    for (topic, fleet) in fleets.iter_mut() {
        let is_due = fleet.reported.is_none_or(|at| at.elapsed() >= each);
        let agents: Vec<String> = fleet.tracked.agents().into_iter().map(str::to_owned).collect();
        if let (true, false, Some(owner)) = (is_due, agents.is_empty(), topic.strip_prefix(PREFIX)) {
            fleet.reported = Some(Instant::now());
            due.push((owner.to_owned(), agents));
        }
    }
    due
}

async fn report_all(shared: Arc<Shared>, due: Vec<(String, Vec<String>)>) {
    let reports = due.into_iter().map(|(owner, agents)| report_one(&shared, owner, agents));
    stream::iter(reports).for_each_concurrent(REPORTS_LIMIT, |report| report).await;
}

async fn report_one(shared: &Shared, owner: String, agents: Vec<String>) {
    let reply = shared.ledger.call("report_presence", &json!({ "owner": owner, "agents": agents })).await;
    let reported: Reported = match reply.map(|reply| serde_json::from_slice(&reply)) {
        Ok(Ok(reported)) => reported,
        Ok(Err(_)) => return shared.tell_of_failure("presence", &LedgerError::Unreadable),
        Err(error) => return shared.tell_of_failure("presence", &error),
    };
    shared.metrics.reported(reported.noted, reported.refused.len());
    if !reported.refused.is_empty() {
        let mut line = Line::new(Level::Warn, "presence");
        (line.code, line.topic, line.count) =
            (Some("not_the_owners"), Some(owner.as_str()), Some(reported.refused.len()));
        line.print();
    }
}
