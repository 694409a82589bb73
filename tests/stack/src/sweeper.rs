//! A stand-in for pg_cron's job, or for a machine's timer. It calls `purple_flea.sweep()` every few seconds, also after
//! an absence of the database.

use crate::postgres::{Cluster, OWNER};
use std::time::Duration;
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::NoTls;

/// How often pg_cron's job runs.
pub const EVERY: Duration = Duration::from_secs(10);

/// A running sweeper. Ends when it is dropped.
pub struct Sweeper {
    _task: JoinSet<()>,
}

impl Sweeper {
    /// Starts a sweeper for a cluster with the project's SQL.
    pub fn start(cluster: &Cluster, every: Duration) -> Self {
        let url = cluster.url(OWNER);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                // A new connection for each call, as a timer's psql makes it.
                if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                    let connection = tokio::spawn(connection);
                    let _ = client.batch_execute("select purple_flea.sweep()").await;
                    drop(client);
                    let _ = connection.await;
                }
                sleep(every).await;
            }
        });
        Self { _task: task }
    }
}
