//! Measures one way from a deposit's commit to its trade's: at a steady rate, for lone deposits, and for a burst.

use crate::{
    cpu::{Cpu, HOST},
    deposits::{Depositors, Traded, at_once},
    figures::median,
    stage::Stage,
};
use anyhow::Result;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Pause before a lone deposit: longer than a watch lasts (1.2 s), and longer than pg_net sleeps.
pub const SILENCE: Duration = Duration::from_secs(3);

/// How long the bench reads the CPU after a lone trade: as long as the watch waits for another job.
const LINGER: Duration = Duration::from_millis(1_200);

/// Deposits of a burst. The specification's own design needs 25 s to deliver them.
pub const BURST: u64 = 5_000;

/// The measurement of one rate. CPU time is for each deposit.
pub struct Pace {
    /// Deposits a second.
    pub per_s: u32,
    /// The deposits and their trades.
    pub traded: Traded,
    /// CPU time of Postgres, in milliseconds.
    pub postgres_ms: f64,
    /// CPU time of the worker, in milliseconds.
    pub worker_ms: f64,
}

/// The measurement of lone deposits.
pub struct Alone {
    /// The median time from commit to commit, in milliseconds.
    pub ms: f64,
    /// CPU time of Postgres while the worker waits for another deposit, in milliseconds.
    pub idle_postgres_ms: f64,
}

/// Makes deposits at a rate for a time.
pub async fn at_rate(stage: &Stage, depositors: &mut Depositors, per_s: u32, time: Duration) -> Result<Pace> {
    let (last, bets) = (stage.last_id().await?, stage.purple_flea.bets().len());
    let cpu = Cpu::of(stage).await?;
    depositors.arrive(per_s.into(), time).await?;
    stage.quiet().await?;
    let cpu = Cpu::of(stage).await?.since(&cpu);
    let traded = Traded::after(stage, last, bets).await?;
    let each = |ms: f64| ms / traded.deposits as f64;
    Ok(Pace { per_s, postgres_ms: each(cpu.postgres_ms()), worker_ms: each(cpu.ms(&[HOST])), traded })
}

/// Makes deposits that each follow a silence, so that pg_net delivers each and the function begins a new request.
pub async fn alone(stage: &Stage, depositors: &mut Depositors, count: u32) -> Result<Alone> {
    let (mut all_ms, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..count {
        sleep(SILENCE).await;
        let (last, bets) = (stage.last_id().await?, stage.purple_flea.bets().len());
        depositors.once().await?;
        stage.quiet().await?;
        let (before, from) = (Cpu::of(stage).await?, Instant::now());
        sleep(LINGER).await;
        // (Both readings cost the same, and one of them is part of the figure.)
        let used = Cpu::of(stage).await?.since(&before).postgres_ms();
        idle.push(used * LINGER.as_secs_f64() / from.elapsed().as_secs_f64());
        all_ms.push(Traded::after(stage, last, bets).await?.max_ms);
    }
    let middle = |values| median(values).unwrap_or_default();
    Ok(Alone { ms: middle(all_ms), idle_postgres_ms: middle(idle) })
}

/// Makes [`BURST`] deposits in one statement. Gives the time to the last trade, in seconds.
pub async fn burst(stage: &Stage) -> Result<f64> {
    let (last, bets) = (stage.last_id().await?, stage.purple_flea.bets().len());
    at_once(&stage.owner, BURST).await?;
    Ok(Traded::after(stage, last, bets).await?.traded_s)
}
