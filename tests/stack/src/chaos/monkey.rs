//! Who makes the deposits, and breaks things meanwhile: always the same things for the same seed, though never at the
//! same instant.

use anyhow::Result;
use stack::{
    local::Local,
    postgres::{OWNER, SUPERUSER},
    webhook,
};
use std::time::Duration;
use tokio::{task::JoinSet, time::sleep};

/// How many rounds a run has. Each makes its part of the deposits and breaks one thing.
const ROUNDS: u32 = 40;

/// How long a round lasts, in milliseconds, at least and at most.
const ROUND_MS: std::ops::Range<u64> = 200..700;

/// What breaks in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    /// The function's host is killed, and another starts in its place.
    KillHost,
    /// One of Postgres' processes is killed; the server recovers as after a crash.
    CrashPostgres,
    /// Whatever waits in pg_net's queue is lost.
    EmptyQueue,
    /// Doorbells are rung again, several times at once, for old deposits and for new ones.
    Double,
    /// Everybody's bets are held back until the next round.
    Pause,
    /// Nothing.
    Rest,
}

pub(super) struct Monkey {
    chance: fastrand::Rng,
}

impl Monkey {
    pub(super) fn new(seed: u64) -> Self {
        Self { chance: fastrand::Rng::with_seed(seed) }
    }

    /// Makes the deposits, in statements of one to many rows, while things break.
    pub(super) async fn run(mut self, stack: &mut Local, deposits: u32) -> Result<()> {
        let mut acts = self.plan();
        let mut rung = JoinSet::new();
        for round in 0..ROUNDS {
            let until =
                deposits / ROUNDS * (round + 1) + if round + 1 == ROUNDS { deposits % ROUNDS } else { 0 };
            let made = self.deposit(stack, until).await;
            let act = acts.pop().unwrap_or(Act::Rest);
            eprintln!("    round {:>2} of {ROUNDS}: {made} deposits, {act:?}", round + 1);
            match act {
                Act::KillHost => {
                    let pause = Duration::from_millis(self.chance.u64(0..500));
                    stack.restart_host(pause).await?;
                }
                Act::CrashPostgres => stack.cluster.crash().await?,
                Act::EmptyQueue => self.sql(stack, SUPERUSER, "delete from net.http_request_queue").await,
                Act::Double => self.double(stack, made, &mut rung),
                Act::Pause => self.sql(stack, OWNER, PAUSE).await,
                Act::Rest => {}
            }
            sleep(Duration::from_millis(self.chance.u64(ROUND_MS))).await;
            if act == Act::Pause {
                self.sql(stack, OWNER, UNPAUSE).await;
            }
            while rung.try_join_next().is_some() {}
        }
        Ok(())
    }

    /// Each round's act, shuffled.
    fn plan(&mut self) -> Vec<Act> {
        let mut acts = Vec::new();
        for (act, times) in [
            (Act::KillHost, 6),
            (Act::CrashPostgres, 2),
            (Act::EmptyQueue, 5),
            (Act::Double, 14),
            (Act::Pause, 4),
        ] {
            acts.extend([act].repeat(times));
        }
        acts.resize(ROUNDS as usize, Act::Rest);
        self.chance.shuffle(&mut acts);
        acts
    }

    /// Inserts until there are so many deposits. An insert whose connection breaks may have been made: what counts is
    /// what is there.
    async fn deposit(&mut self, stack: &Local, until: u32) -> u32 {
        let count = "select count(*)::int4 from public.wallet_changes where change_type = 'deposit'";
        loop {
            let Ok(client) = stack.cluster.connect(OWNER).await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            while let Ok(row) = client.query_one(count, &[]).await {
                let made = u32::try_from(row.get::<_, i32>(0)).unwrap_or(0);
                if made >= until {
                    return made;
                }
                let rows = self.chance.u32(1..=20).min(until - made);
                let insert = self.statement(rows);
                if client.batch_execute(&insert).await.is_err() {
                    break;
                }
            }
        }
    }

    fn statement(&mut self, rows: u32) -> String {
        let mut values = Vec::new();
        for _ in 0..rows {
            let agent = self.chance.u32(1..=super::AGENTS);
            let cents = self.chance.u32(100..50_000);
            let (whole, part) = (cents / 100, cents % 100);
            values.push(format!("('agent-{agent:03}', 'deposit', {whole}.{part:02}, {whole}.{part:02})"));
        }
        format!(
            "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) values {}",
            values.join(", ")
        )
    }

    /// Rings for some deposits again, each several times at the same time.
    fn double(&mut self, stack: &Local, made: u32, rung: &mut JoinSet<()>) {
        let url = format!("{}/execute-trade", stack.host.url);
        for _ in 0..20 {
            let reference = format!("wallet-change-{}", self.chance.u32(1..=made.max(1)));
            let body = format!("{{\"ledger\": true, \"reference\": \"{reference}\"}}");
            for _ in 0..self.chance.u32(2..=4) {
                let (url, reference, body) = (url.clone(), reference.clone(), body.clone());
                rung.spawn(async move {
                    // Whatever it is answered: what counts is what is done.
                    let _ = webhook::send(&url, &reference, body.as_bytes()).await;
                });
            }
        }
    }

    /// Does something to the database, if it is there.
    async fn sql(&self, stack: &Local, role: &str, sql: &str) {
        for _ in 0..100 {
            if let Ok(client) = stack.cluster.connect(role).await
                && client.batch_execute(sql).await.is_ok()
            {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

const PAUSE: &str = "update purple_flea.trade_policies set paused = true where agent_id is null";
const UNPAUSE: &str = "update purple_flea.trade_policies set paused = false where agent_id is null";
