//! Measures the time from an event's commit to its delivery to each of 1,000 subscribers whose receivers answer at once.

use super::{
    listener::{self, SUBSCRIPTIONS},
    receivers::{Manner, Receivers},
};
use crate::{
    figures::{median, percentile, rounded},
    peers::Machine,
    rig::Rig,
    table::number,
};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Events that are measured, after one that is not.
const QUICK: usize = 5;
const FULL: usize = 20;

/// Longest wait for the deliveries of one event.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often the listener looks while nothing is due: the events come at any time of that.
const POLL_MS: u64 = 500;

/// Fires `agent.online` or `agent.offline` of an agent that makes no deposits.
const TOGGLE: &str = "update public.agents \
    set status = case when status = 'offline' then 'idle' else 'offline' end where id = 'watched'";

/// The commit of the last event, in seconds since 1970.
const COMMIT: &str = "select extract(epoch from pg_xact_commit_timestamp(e.xmin))::float8 \
    from public.frame_events e where e.subject = 'agent:watched' order by e.id desc limit 1";

/// The measurement.
pub struct Deliveries {
    /// The time to the last delivery of each event, in milliseconds.
    last_ms: Vec<f64>,
    /// The time to each delivery.
    all_ms: Vec<f64>,
}

/// Measures on a running stack.
pub async fn measure(machine: &Machine, rig: &Rig, quick: bool) -> Result<Deliveries> {
    let owner = &rig.stage.owner;
    owner.batch_execute("insert into public.agents (id, status) values ('watched', 'offline')").await?;
    let receivers = Receivers::start(Manner::Answer, &machine.scratch).await?;
    listener::subscribe(owner, &receivers).await?;
    let mut listener = listener::start(machine, rig, &receivers).await?;
    let mut found = Deliveries { last_ms: Vec::new(), all_ms: Vec::new() };
    for turn in 0..=if quick { QUICK } else { FULL } {
        let before = receivers.count();
        owner.batch_execute(TOGGLE).await?;
        let committed: f64 = owner.query_one(COMMIT, &[]).await?.get(0);
        let from = Instant::now();
        while receivers.count() < before + SUBSCRIPTIONS {
            listener.must_live()?;
            if from.elapsed() > TIMEOUT {
                bail!("{} deliveries came in {} s", receivers.count() - before, TIMEOUT.as_secs());
            }
            sleep(Duration::from_millis(5)).await;
        }
        // Until the listener has reported them all, and sleeps.
        sleep(Duration::from_millis(2 * POLL_MS + fastrand::u64(0..POLL_MS))).await;
        let times: Vec<f64> = receivers.times(before).iter().map(|at| (at - committed) * 1e3).collect();
        if times.len() != SUBSCRIPTIONS {
            bail!("{} deliveries came of one event", times.len());
        }
        if turn > 0 {
            found.last_ms.extend(percentile(&times, 1.0));
            found.all_ms.extend(times);
        }
    }
    drop(listener);
    listener::unsubscribe(owner).await?;
    Ok(found)
}

impl Deliveries {
    /// Gives the median time to an event's last delivery, in milliseconds.
    pub fn last_ms(&self) -> Option<f64> {
        median(self.last_ms.iter().copied())
    }

    /// Gives the longest time to an event's last delivery, in milliseconds.
    pub fn worst_ms(&self) -> Option<f64> {
        percentile(&self.last_ms, 1.0)
    }

    /// Gives the report's entry.
    pub fn to_json(&self) -> Value {
        json!({
            "subscribers": SUBSCRIPTIONS, "events": self.last_ms.len(),
            "delivery_p50_ms": rounded(median(self.all_ms.iter().copied())),
            "last_p50_ms": rounded(self.last_ms()), "last_max_ms": rounded(self.worst_ms()),
        })
    }

    /// Gives the table's cells: events, the median delivery, and the median and longest time to the last one.
    pub fn cells(&self) -> Vec<String> {
        let middle = median(self.all_ms.iter().copied());
        let times = [middle, self.last_ms(), self.worst_ms()].map(|ms| number(ms, 0));
        [vec![self.last_ms.len().to_string()], times.to_vec()].concat()
    }
}
