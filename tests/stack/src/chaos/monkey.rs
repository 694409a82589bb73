//! Makes the deposits, and injects faults meanwhile. The same seed gives the same faults, but never at the same
//! instant.

use super::{
    ask,
    disaster::DISASTER_DEPOSITS,
    neighbours,
    plan::{Act, ROUND_MS, ROUNDS, between, plan},
    retry,
};
use anyhow::Result;
use stack::{
    host::AFTER_REPLY,
    local::Local,
    postgres::{OWNER, SUPERUSER},
    postgrest::Trouble,
    webhook,
};
use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};
use tokio::{task::JoinSet, time::sleep};

/// The time after which a host of [`Act::CutOff`] cuts work off.
const CUT_OFF_AFTER: Duration = Duration::from_millis(300);

/// The number of answers in a row that are lost: those of a claim's three attempts, and three more.
const LOST_ANSWERS: u32 = 6;

/// One round in this many requests an escrow.
const ESCROW_EVERY: u32 = 2;

/// The report of a run.
#[derive(Default)]
pub(super) struct Report {
    /// The number of times that each act happened.
    pub(super) acts: BTreeMap<Act, u32>,
    /// The keys of all bets whose jobs a restore or a fail-over may have lost.
    pub(super) seen: HashSet<String>,
    /// Violations of the promises, in words.
    pub(super) violations: Vec<String>,
}

pub(super) struct Monkey {
    pub(super) chance: fastrand::Rng,
    pub(super) report: Report,
    /// The last dump, until it is restored.
    pub(super) dump: Option<PathBuf>,
    /// The number of copies of the primary.
    pub(super) copies: u32,
    /// The number of deposits at the last count.
    newest: u32,
    /// The tasks that run beside the rounds.
    pub(super) beside: JoinSet<()>,
}

impl Monkey {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chance: fastrand::Rng::with_seed(seed),
            report: Report::default(),
            dump: None,
            copies: 0,
            newest: 0,
            beside: JoinSet::new(),
        }
    }

    /// Makes the deposits, in statements of one to many rows, while faults are injected.
    pub(super) async fn run(mut self, stack: &mut Local, deposits: u32) -> Result<Report> {
        for (round, act) in (0..ROUNDS).zip(plan(&mut self.chance)) {
            let until = deposits.saturating_sub(DISASTER_DEPOSITS) * (round + 1) / ROUNDS;
            let made = self.deposit(stack, until).await?;
            eprintln!("    round {:>2} of {ROUNDS}: {made} deposits, {act:?}", round + 1);
            let length = between(&mut self.chance, ROUND_MS);
            self.begin(stack, act, length).await?;
            sleep(length).await;
            self.end(stack, act).await?;
            *self.report.acts.entry(act).or_default() += 1;
            while self.beside.try_join_next().is_some() {}
        }
        // The last round may have lost some deposits.
        self.deposit(stack, deposits).await?;
        // A restore may have brought the triggers back.
        neighbours::triggers(stack, false).await?;
        retry(stack, OWNER, UNPAUSE).await?;
        Ok(self.report)
    }

    async fn begin(&mut self, stack: &mut Local, act: Act, length: Duration) -> Result<()> {
        match act {
            Act::KillHost => self.replace_host(stack, AFTER_REPLY).await,
            Act::CutOff => self.replace_host(stack, CUT_OFF_AFTER).await,
            Act::NoFiles => stack.host.limit_open_files(true),
            Act::CrashPostgres => {
                ask(stack, SUPERUSER, "select 1").await?;
                stack.cluster.crash().await
            }
            Act::BackUp => self.back_up(stack).await,
            Act::Restore => self.restore(stack).await,
            Act::FailOver => self.fail_over(stack, length).await,
            Act::EmptyQueue => retry(stack, SUPERUSER, "delete from net.http_request_queue where true").await,
            Act::Pause => retry(stack, OWNER, PAUSE).await,
            Act::BadTriggers => neighbours::triggers(stack, true).await,
            Act::Double => {
                self.double(stack);
                Ok(())
            }
            Act::OddNumbers => {
                neighbours::odd_numbers(stack);
                Ok(())
            }
            Act::HoldAgent => {
                neighbours::hold_agent(stack, &mut self.chance, &mut self.beside);
                Ok(())
            }
            Act::LockJobs => {
                neighbours::lock_jobs(stack, &mut self.chance, &mut self.beside);
                Ok(())
            }
            Act::LateAnswers => {
                stack.postgrest.misbehave_once(Trouble::Hang);
                Ok(())
            }
            Act::LostAnswers => {
                for _ in 0..LOST_ANSWERS {
                    stack.postgrest.misbehave_once(Trouble::AfterTheCall);
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self, stack: &mut Local, act: Act) -> Result<()> {
        match act {
            Act::CutOff => self.replace_host(stack, AFTER_REPLY).await,
            Act::Pause => retry(stack, OWNER, UNPAUSE).await,
            Act::BadTriggers => neighbours::triggers(stack, false).await,
            Act::NoFiles => stack.host.limit_open_files(false),
            _ => Ok(()),
        }
    }

    /// Kills the host, and starts another that lets work go on for `after_reply` after a reply.
    async fn replace_host(&mut self, stack: &mut Local, after_reply: Duration) -> Result<()> {
        stack.options.after_reply = after_reply;
        stack.restart_host(between(&mut self.chance, 0..500)).await
    }

    /// Inserts until there are `until` deposits. A broken connection does not tell whether its insert was made, so the
    /// count decides.
    async fn deposit(&mut self, stack: &Local, until: u32) -> Result<u32> {
        let count = "select count(*)::int4 from public.wallet_changes where change_type = 'deposit'";
        if self.chance.u32(0..ESCROW_EVERY) == 0 {
            let escrow = self.escrow();
            // A lost request for an escrow does not matter.
            if let Ok(client) = stack.cluster.connect(OWNER).await {
                let _ = client.batch_execute(&escrow).await;
            }
        }
        loop {
            let rows = ask(stack, OWNER, count).await?;
            let made = rows.first().and_then(|row| u32::try_from(row.get::<_, i32>(0)).ok()).unwrap_or(0);
            self.newest = made;
            if made >= until {
                return Ok(made);
            }
            let rows = self.chance.u32(1..=20).min(until - made);
            self.insert(stack, rows).await?;
        }
    }

    /// Inserts some deposits in one statement, if the database allows it.
    pub(super) async fn insert(&mut self, stack: &Local, rows: u32) -> Result<()> {
        let mut values = Vec::new();
        for _ in 0..rows {
            let agent = self.chance.u32(1..=super::AGENTS);
            let cents = self.chance.u32(100..50_000);
            let (whole, part) = (cents / 100, cents % 100);
            values.push(format!("('agent-{agent:03}', 'deposit', {whole}.{part:02}, {whole}.{part:02})"));
        }
        let insert = format!(
            "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values {}",
            values.join(", ")
        );
        if let Ok(client) = stack.cluster.connect(OWNER).await {
            let _ = client.batch_execute(&insert).await;
        }
        Ok(())
    }

    fn escrow(&mut self) -> String {
        let sender = self.chance.u32(1..=9);
        format!(
            "insert into public.escrow_requests (sender_id, receiver_id, amount, description) \
             values ('agent-{sender:03}', 'agent-{:03}', {}, 'by chance')",
            sender + 1,
            self.chance.u32(1..20)
        )
    }

    /// Sends the notifications of some deposits again, each several times at the same time.
    pub(super) fn double(&mut self, stack: &Local) {
        let url = format!("{}/execute-trade", stack.host.url);
        for _ in 0..20 {
            let reference = format!("wallet-change-{}", self.chance.u32(1..=self.newest.max(1)));
            let body = format!("{{\"ledger\": true, \"reference\": \"{reference}\"}}");
            for _ in 0..self.chance.u32(2..=4) {
                let (url, reference, body) = (url.clone(), reference.clone(), body.clone());
                self.beside.spawn(async move {
                    // The reply does not matter, only the effect.
                    let _ = webhook::send(&url, &reference, body.as_bytes()).await;
                });
            }
        }
    }
}

const PAUSE: &str = "update purple_flea.trade_policies set paused = true where agent_id is null";
const UNPAUSE: &str = "update purple_flea.trade_policies set paused = false where agent_id is null";
