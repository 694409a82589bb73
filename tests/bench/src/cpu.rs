//! Tells how much CPU each part uses: Postgres' processes by their client, the function's host, and the stand-ins'
//! threads.

use crate::{server, stage::Stage};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use stack::process::family;
use std::{collections::BTreeMap, fs, time::Duration};

/// The kernel's unit of time in `/proc/PID/stat`: 1/100 s, on every machine that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// Fields of `/proc/PID/stat`, counted after the name: the process's own time, the time of its ended children, the
/// parent.
const OWN: [usize; 2] = [11, 12];
const CHILDREN: [usize; 2] = [13, 14];
const PARENT: usize = 1;

/// The backends that PostgREST keeps for claims, waits and settlements.
pub const FUNCTION: &str = "postgres_function";
/// The backends that insert deposits.
pub const DEPOSITORS: &str = "postgres_depositors";
/// Vacuum, checkpoints, the logger and pg_net's worker.
pub const OTHERS: &str = "postgres_others";
/// The function's host.
pub const HOST: &str = "host";

/// CPU time so far, by the part that used it.
#[derive(Debug, Default, Clone)]
pub struct Cpu(BTreeMap<String, Duration>);

impl Cpu {
    /// Reads the CPU time of all parts up to now.
    pub async fn of(stage: &Stage) -> Result<Self> {
        let sql = "select pid, case usename when 'authenticator' then 'postgres_function' \
                   when 'postgres' then 'postgres_depositors' else 'postgres_others' end, pg_backend_pid() \
                   from pg_stat_activity";
        let rows = stage.owner.query(sql, &[]).await?;
        let us: i32 = rows.first().context("no session is connected")?.get(2);
        let works_for: BTreeMap<u32, &str> =
            rows.iter().map(|row| (row.get::<_, i32>(0).unsigned_abs(), row.get(1))).collect();
        let postmaster = stat(&format!("/proc/{us}/stat")).context("Postgres is gone")?.number(PARENT);
        let mut all = BTreeMap::<String, Duration>::new();
        for pid in family(u32::try_from(postmaster)?) {
            let whose = works_for.get(&pid).copied().unwrap_or(OTHERS);
            *all.entry(whose.to_owned()).or_default() += server::cpu(pid).unwrap_or_default();
        }
        // The kernel does not tell which children ended. Most were vacuum's.
        let ended = stat(&format!("/proc/{postmaster}/stat")).map(|stat| stat.time(CHILDREN));
        *all.entry(OTHERS.to_owned()).or_default() += ended.unwrap_or_default();
        all.insert(HOST.to_owned(), stage.worker.cpu()?);
        for thread in fs::read_dir("/proc/self/task")?.flatten() {
            if let Some(stat) = stat(&thread.path().join("stat").to_string_lossy()) {
                *all.entry(stat.name.clone()).or_default() += stat.time(OWN);
            }
        }
        Ok(Self(all))
    }

    /// Gives the CPU time that each part has used since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let used = |(who, now): (&String, &Duration)| {
            let before = earlier.0.get(who).copied().unwrap_or_default();
            (who.clone(), now.saturating_sub(before))
        };
        Self(self.0.iter().map(used).collect())
    }

    /// Sums the CPU time of some parts, in milliseconds.
    pub fn ms(&self, whose: &[&str]) -> f64 {
        whose.iter().filter_map(|who| self.0.get(*who)).sum::<Duration>().as_secs_f64() * 1e3
    }

    /// Sums the CPU time of Postgres, in milliseconds.
    pub fn postgres_ms(&self) -> f64 {
        self.ms(&[FUNCTION, DEPOSITORS, OTHERS])
    }

    /// Sums the CPU time of all parts, in milliseconds.
    pub fn all_ms(&self) -> f64 {
        self.0.values().sum::<Duration>().as_secs_f64() * 1e3
    }

    /// Gives each part's share of `of_ms`, to three decimals. Parts without a share are left out.
    pub fn parts(&self, of_ms: f64) -> Map<String, Value> {
        let part = |(who, used): (&String, &Duration)| {
            let part = (used.as_secs_f64() * 1e3 / of_ms * 1e3).round() / 1e3;
            (part > 0.0).then(|| (who.clone(), json!(part)))
        };
        self.0.iter().filter_map(part).collect()
    }
}

/// A line of `/proc/PID/stat`.
struct Stat {
    name: String,
    fields: Vec<u64>,
}

fn stat(path: &str) -> Option<Stat> {
    read(&fs::read_to_string(path).ok()?)
}

fn read(line: &str) -> Option<Stat> {
    // The name stands in parentheses and may contain parentheses.
    let (before, after) = line.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let fields = after.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    Some(Stat { name: name.to_owned(), fields })
}

impl Stat {
    fn number(&self, field: usize) -> u64 {
        self.fields.get(field).copied().unwrap_or(0)
    }

    fn time(&self, fields: [usize; 2]) -> Duration {
        TICK * u32::try_from(fields.map(|field| self.number(field)).iter().sum::<u64>()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_told_by_part_and_as_shares() {
        let cpu = |host, calls| {
            let ms = Duration::from_millis;
            Cpu([(HOST.to_owned(), ms(host)), (FUNCTION.to_owned(), ms(calls))].into())
        };
        let used = cpu(150, 1_000).since(&cpu(50, 700));
        assert_eq!((used.all_ms(), used.postgres_ms(), used.ms(&[HOST])), (400.0, 300.0, 100.0));
        assert_eq!(Value::Object(used.parts(400.0)), json!({ "host": 0.25, "postgres_function": 0.75 }));
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let line = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 120 30 400 5 0";
        let stat = read(line).expect("it can be read");
        assert_eq!((stat.name.as_str(), stat.number(PARENT)), ("a) b (c", 1));
        assert_eq!((stat.time(OWN), stat.time(CHILDREN)), (150 * TICK, 405 * TICK));
    }
}
