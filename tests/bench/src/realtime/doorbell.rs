//! The time from a deposit's commit to its trade's where Realtime notifies: the doorbell, which a listener hears. Beside it
//! the same with pg_net, on the same stack.

use super::{OWNER_ID, options, program::Program};
use crate::{
    deposits::Depositors,
    pace::{self, Pace, SILENCE},
    peers::Machine,
    rig::Rig,
};
use anyhow::{Result, ensure};
use stack::{postgres::SUPERUSER, postgrest::key, webhook};
use std::time::Duration;
use tokio::time::sleep;

/// Rates, in deposits a second.
pub const RATES: [u32; 4] = [1, 5, 50, 200];

/// How long each rate lasts. One deposit a second needs longer for any percentile.
const QUICK: Duration = Duration::from_secs(6);
const QUICK_SLOWEST: Duration = Duration::from_secs(10);
const FULL: Duration = Duration::from_secs(30);

/// The settings of a function that does not wait for another deposit, so that each deposit needs a notification.
const UNWATCHED: [(&str, &str); 1] = [("linger_ms", "0")];

const BELLS: &str = "select count(*) from realtime.messages where topic = 'doorbell'";

/// What notifies the function of deposits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyBy {
    /// A message of Realtime, which the listener hears.
    Realtime,
    /// A request of pg_net.
    PgNet,
}

/// The measurement of one rate.
pub struct Point {
    /// The deposits and their trades.
    pub pace: Pace,
    /// Bells a second.
    pub bells_per_s: f64,
    /// Requests that pg_net sent. With Realtime, one for each bell that the database refused to itself.
    pub requests: i64,
}

/// The stack with Realtime, the listener, and deposits.
pub struct Live {
    // It is dropped first, and so never calls for a stack that has ended.
    _listener: Program,
    /// The stack.
    pub rig: Rig,
    /// The connections that make deposits.
    pub depositors: Depositors,
    watched: bool,
}

impl Live {
    /// Starts them, and waits for a first trade. All agents have one owner. A function that is `watched` waits a while for
    /// another deposit, which then needs no notification.
    pub async fn start(machine: &Machine, watched: bool) -> Result<Self> {
        let changes: &[(&str, &str)] = if watched { &[] } else { &UNWATCHED };
        let rig = Rig::start_with_realtime(machine, changes, options()).await?;
        // As an operator of a project whose owner may not grant it.
        let superuser = rig.stage.cluster.connect(SUPERUSER).await?;
        let grant = "grant usage on schema realtime to purple_flea_worker; \
            grant select on realtime.messages to purple_flea_worker";
        superuser.batch_execute(grant).await?;
        let own = format!(
            "insert into auth.users (id) values ('{OWNER_ID}'); \
             update public.agents set owner_id = '{OWNER_ID}' where owner_id is null"
        );
        rig.stage.owner.batch_execute(&own).await?;
        let listener = listener(machine, &rig).await?;
        notify_by(&rig, NotifyBy::Realtime).await?;
        let mut depositors = Depositors::connect(&rig.stage).await?;
        depositors.once().await?;
        rig.stage.quiet().await?;
        sleep(SILENCE).await;
        Ok(Self { _listener: listener, rig, depositors, watched })
    }

    /// Measures one rate.
    pub async fn at_rate(&mut self, by: NotifyBy, per_s: u32, quick: bool) -> Result<Point> {
        notify_by(&self.rig, by).await?;
        let time = match (quick, per_s) {
            (true, 1) => QUICK_SLOWEST,
            (true, _) => QUICK,
            (false, _) => FULL,
        };
        let (bells, requests) = (self.bells().await?, self.rig.notifications().await?);
        let pace = pace::at_rate(&self.rig.stage, &mut self.depositors, per_s, time).await?;
        let bells = self.bells().await? - bells;
        let requests = self.rig.notifications().await? - requests;
        match by {
            NotifyBy::Realtime => {
                ensure!(self.watched || bells > 0, "no bell rang at {per_s} deposits a second")
            }
            NotifyBy::PgNet => ensure!(bells == 0, "{bells} bells rang although pg_net notifies"),
        }
        Ok(Point { bells_per_s: bells as f64 / pace.traded.deposited_s, requests, pace })
    }

    async fn bells(&self) -> Result<i64> {
        Ok(self.rig.stage.owner.query_one(BELLS, &[]).await?.get(0))
    }
}

async fn notify_by(rig: &Rig, by: NotifyBy) -> Result<()> {
    let name = match by {
        NotifyBy::Realtime => "realtime",
        NotifyBy::PgNet => "pg_net",
    };
    let set = format!("update purple_flea.ledger set notify_by = '{name}' where only_row");
    Ok(rig.stage.owner.batch_execute(&set).await?)
}

/// Starts the listener with its usual settings, and waits until it hears the doorbell.
async fn listener(machine: &Machine, rig: &Rig) -> Result<Program> {
    let program = machine.root.join("target/host/purple-flea-listener");
    ensure!(program.is_file(), "{} is not there; scripts/bench builds it", program.display());
    let realtime = rig.realtime.as_ref().map(|realtime| realtime.url()).unwrap_or_default();
    let environment = [
        ("SUPABASE_URL", rig.postgrest.url.as_str()),
        ("SUPABASE_KEY", &key("purple_flea_worker")?),
        ("SUPABASE_APIKEY", &key("anon")?),
        ("REALTIME_URL", &realtime),
        ("FUNCTION_URL", &rig.function_url),
        ("WEBHOOK_SECRET", webhook::SECRET),
    ];
    let listener = Program::start(&program, &[], &environment, &machine.scratch)?;
    listener.says(|line| line["code"] == "joined" && line["topic"] == "doorbell").await?;
    Ok(listener)
}
