//! Compares the database's record with Purple Flea's own, deposit by deposit.

use super::{monkey::Report, neighbours, plan::Act};
use anyhow::Result;
use rust_decimal::Decimal;
use serde_json::json;
use stack::{
    local::{AGENT, Local},
    purple_flea::{Bet, Escrow},
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio_postgres::{Client, Row};

/// The most violations that are shown one by one.
const SHOWN: usize = 20;

/// The findings of a run.
pub(super) struct Verdict {
    states: BTreeMap<String, usize>,
    reasons: BTreeMap<String, usize>,
    deposits: usize,
    bets: usize,
    lost: usize,
    attempts: i64,
    /// The first reasons for which jobs became unknown.
    unknown_by: BTreeMap<String, i64>,
    acts: BTreeMap<Act, u32>,
    /// Violations of the promises, in words.
    pub(super) violations: Vec<String>,
}

const JOBS: &str = "select j.reference, j.idempotency_key, j.state, j.reason, j.wager::text, j.payout::text, j.result ->> 'outcome', \
    (select count(*) from public.trade_results t where t.reference = j.reference), \
    (select concat_ws(' ', t.wager, t.payout, t.outcome, t.bet_id) from public.trade_results t where t.reference = j.reference), \
    j.attempts::int8, j.agent_id from purple_flea.jobs j where j.kind = 'deposit'";

const ESCROWS: &str = "select j.reference, j.idempotency_key, j.state, j.reason from purple_flea.jobs j where j.kind = 'escrow'";

/// Compares both records and judges the run.
pub(super) async fn reach(stack: &Local, owner: &Client, api: &str, report: Report) -> Result<Verdict> {
    let mut verdict = Verdict {
        states: BTreeMap::new(),
        reasons: BTreeMap::new(),
        deposits: 0,
        bets: 0,
        lost: 0,
        attempts: 0,
        unknown_by: BTreeMap::new(),
        acts: report.acts,
        violations: report.violations,
    };
    let mut bets: HashMap<String, Vec<Bet>> = HashMap::new();
    for bet in stack.purple_flea.bets() {
        bets.entry(bet.key().unwrap_or("a bet without a key").to_owned()).or_default().push(bet);
    }
    verdict.bets = bets.values().map(Vec::len).sum();
    let jobs = owner.query(JOBS, &[]).await?;
    for job in &jobs {
        let key: &str = job.get(1);
        verdict.judge(job, bets.remove(key).unwrap_or_default(), api);
    }
    for (key, made) in bets {
        match made.len() {
            1 if report.seen.contains(&key) => verdict.lost += 1,
            _ if !report.seen.contains(&key) => {
                verdict.violations.push(format!("{key}: a bet that belongs to no job"));
            }
            count => verdict.violations.push(format!("{key} (lost): {count} bets were made on it")),
        }
    }
    let escrows = stack.purple_flea.escrows();
    for job in owner.query(ESCROWS, &[]).await? {
        verdict.judge_escrow(&job, &escrows);
    }
    verdict.count(owner, jobs.len()).await?;
    verdict.look_as_an_operator(owner).await?;
    verdict.count_unknown(owner).await?;
    let traps = stack.traps();
    if traps > 0 {
        verdict.violations.push(format!("the component trapped or failed {traps} times"));
    }
    Ok(verdict)
}

impl Verdict {
    fn judge(&mut self, job: &Row, bets: Vec<Bet>, api: &str) {
        let (reference, state): (&str, &str) = (job.get(0), job.get(2));
        let reason: Option<&str> = job.get(3);
        let rows: i64 = job.get(7);
        let mut wrong = |what: String| self.violations.push(format!("{reference} ({state}): {what}"));
        if bets.len() > 1 {
            wrong(format!("{} bets were made on it", bets.len()));
        }
        match (state, bets.first()) {
            ("executed", Some(bet)) => {
                let number = |column: usize| {
                    job.get::<_, Option<&str>>(column).and_then(|n| n.parse::<Decimal>().ok())
                };
                let outcome = if bet.won { "win" } else { "loss" };
                if number(4) != Some(bet.wager) || number(5) != Some(bet.payout) {
                    wrong(format!(
                        "{:?} staked and {:?} paid, and {} and {} at Purple Flea",
                        number(4),
                        number(5),
                        bet.wager,
                        bet.payout
                    ));
                }
                let told: Option<&str> = job.get(8);
                let expected = format!("{:.4} {:.4} {outcome} {}", bet.wager, bet.payout, bet.bet_id);
                if job.get::<_, Option<&str>>(6) != Some(outcome) || rows != 1 || told != Some(&expected) {
                    wrong(format!("trade_results has {rows} rows of it, {told:?}, and not {expected:?}"));
                }
            }
            ("executed", None) => wrong("no bet was made on it".to_owned()),
            ("unknown", Some(bet)) if api == "live" && bet.in_history => {
                wrong("its bet stands in the history and was not found".to_owned());
            }
            ("skipped" | "rejected" | "dead", Some(_)) => wrong("a bet was made on it".to_owned()),
            ("skipped" | "rejected" | "dead" | "unknown", _) => {}
            _ => wrong("it was forgotten".to_owned()),
        }
        if state != "executed" && rows != 0 {
            wrong(format!("it has {rows} rows in trade_results"));
        }
        if matches!(state, "skipped" | "rejected" | "dead" | "unknown") && reason.is_none() {
            wrong("it has no reason".to_owned());
        }
        *self.states.entry(state.to_owned()).or_default() += 1;
        if let Some(reason) = reason {
            *self.reasons.entry(format!("{state}: {reason}")).or_default() += 1;
        }
        self.attempts += job.get::<_, i64>(9);
    }

    fn judge_escrow(&mut self, job: &Row, escrows: &[Escrow]) {
        let [reference, key, state]: [&str; 3] = [job.get(0), job.get(1), job.get(2)];
        let made = escrows.iter().filter(|escrow| escrow.idempotency_key.as_deref() == Some(key)).count();
        let right = match state {
            "executed" => made == 1,
            "skipped" | "rejected" | "dead" => made == 0,
            "unknown" => made <= 1,
            _ => false,
        };
        if !right {
            self.violations.push(format!("{reference} ({state}): {made} escrows were made for it"));
        }
    }

    async fn count_unknown(&mut self, owner: &Client) -> Result<()> {
        let became = "select concat_ws(': ', e.changed_by, coalesce(e.why, 'without a reason')), count(*) from purple_flea.job_events e \
                      where e.kind = 'transition' and e.to_state = 'unknown' group by 1";
        for row in owner.query(became, &[]).await? {
            self.unknown_by.insert(row.get(0), row.get(1));
        }
        Ok(())
    }

    /// Checks that an operator sees every problem that needs one, and no problem that is over.
    async fn look_as_an_operator(&mut self, owner: &Client) -> Result<()> {
        let unseen = "select j.reference from purple_flea.jobs j where j.state = 'unknown' and not exists \
                      (select from purple_flea.stuck_jobs s where s.reference = j.reference and s.reason is not null)";
        for row in owner.query(unseen, &[]).await? {
            self.violations.push(format!("{} (unknown): an operator does not see it", row.get::<_, &str>(0)));
        }
        let restored = "select j.reference from purple_flea.jobs j where j.state = 'unknown' and j.changed_by = 'restore'";
        for row in owner.query(restored, &[]).await? {
            self.violations.push(format!(
                "{} (unknown): restored, and neither recorded nor released",
                row.get::<_, &str>(0)
            ));
        }
        for row in owner.query("select reference, doing, why from purple_flea.job_troubles", &[]).await? {
            let [reference, doing, why]: [&str; 3] = [row.get(0), row.get(1), row.get(2)];
            self.violations.push(format!("{reference}: still in trouble with {doing}: {why}"));
        }
        Ok(())
    }

    /// Counts jobs and bets over the whole run.
    async fn count(&mut self, owner: &Client, jobs: usize) -> Result<()> {
        let deposits = "select count(*) from public.wallet_changes where change_type = 'deposit'";
        self.deposits = usize::try_from(owner.query_one(deposits, &[]).await?.get::<_, i64>(0))?;
        if jobs != self.deposits {
            self.violations.push(format!("{} deposits have {jobs} jobs", self.deposits));
        }
        let jobless = "select w.id from public.wallet_changes w where w.change_type = 'deposit' \
                       and not exists (select from purple_flea.all_jobs j where j.wallet_change_id = w.id)";
        for row in owner.query(jobless, &[]).await? {
            self.violations.push(format!("deposit {} has no job", row.get::<_, i64>(0)));
        }
        // (The operator learns of an escrow that the application refuses, and the books decide about it.)
        let alarms = "select e.reference, e.kind, e.why from purple_flea.job_events e join purple_flea.jobs j using (reference) \
                      where e.kind in ('conflict', 'alarm') and not (j.kind = 'escrow' and e.why like '%' || $1)";
        for row in owner.query(alarms, &[&neighbours::REFUSAL]).await? {
            let [reference, kind, why]: [&str; 3] = [row.get(0), row.get(1), row.get(2)];
            self.violations.push(format!("{reference}: {kind} ({why})"));
        }
        let spent = "select coalesce(sum(case state when 'executed' then wager else stake end), 0)::text, \
                     (select max(daily_wager_limit) from purple_flea.trade_policies where agent_id = $1)::text from purple_flea.jobs \
                     where agent_id = $1 and state in ('executed', 'unknown') group by bet_day order by 1 desc limit 1";
        if let Some(row) = owner.query_opt(spent, &[&AGENT]).await?
            && let (Ok(spent), Some(Ok(limit))) = (
                row.get::<_, &str>(0).parse::<Decimal>(),
                row.get::<_, Option<&str>>(1).map(str::parse::<Decimal>),
            )
            && spent > limit
        {
            self.violations.push(format!("{AGENT} staked up to {spent} in a day, over its limit of {limit}"));
        }
        Ok(())
    }

    /// Prints the verdict for people, or as JSON for programs.
    pub(super) fn print(&self, as_json: bool, seed: u64, took: Duration) {
        let acts: BTreeMap<String, u32> =
            self.acts.iter().map(|(act, times)| (format!("{act:?}"), *times)).collect();
        if as_json {
            let line = json!({
                "seed": seed, "seconds": took.as_secs_f64(), "deposits": self.deposits, "bets": self.bets, "lost": self.lost,
                "attempts": self.attempts, "acts": acts, "unknown_by": self.unknown_by,
                "states": self.states, "reasons": self.reasons, "violations": self.violations,
            });
            println!("{line}");
            return;
        }
        println!();
        println!("{} deposits, {} claims, {} bets at Purple Flea", self.deposits, self.attempts, self.bets);
        for (state, count) in &self.states {
            println!("  {count:>6}  {state}");
        }
        for (reason, count) in &self.reasons {
            println!("          {count:>6}  {reason}");
        }
        if self.lost > 0 {
            println!("  {:>6}  bets of deposits that a restore or a fail-over has lost", self.lost);
        }
        for (why, count) in &self.unknown_by {
            println!("  {count:>6}  became unknown by the {why}");
        }
        if !acts.is_empty() {
            let acts: Vec<String> = acts.iter().map(|(act, times)| format!("{act} {times}")).collect();
            println!("  What happened: {}", acts.join(", "));
        }
        for violation in self.violations.iter().take(SHOWN) {
            println!("  VIOLATION  {violation}");
        }
        match self.violations.len() {
            0 => println!(
                "Verdict: no violation (seed {seed}). No deposit has two bets, none is forgotten, every cent agrees."
            ),
            count => println!("Verdict: {count} violations (seed {seed})."),
        }
    }
}
