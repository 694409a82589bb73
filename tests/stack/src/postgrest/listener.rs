//! Listens for changes of the schema, as PostgREST does.

use super::pool::Database;
use anyhow::Result;
use std::future::poll_fn;
use tokio::{sync::mpsc, time::sleep};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// A connection that listens for `notify pgrst`.
pub(super) struct Listener {
    /// Keeps the connection open.
    _client: Client,
    payloads: mpsc::UnboundedReceiver<String>,
}

impl Listener {
    /// Connects and begins to listen.
    pub(super) async fn start(url: &str) -> Result<Self> {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
        let (sender, payloads) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = sender.send(notification.payload().to_owned());
                }
            }
        });
        client.batch_execute("listen pgrst").await?;
        Ok(Self { _client: client, payloads })
    }

    /// Makes the pool read the schema again after each change. After a lost connection it waits before it opens
    /// another, twice as long each time. It cannot hear changes in that time.
    pub(super) async fn run(mut self, url: &str, database: &Database) {
        loop {
            while let Some(payload) = self.payloads.recv().await {
                if matches!(payload.as_str(), "" | "reload schema" | "reload config") {
                    database.look_again();
                }
            }
            let mut wait = database.first_retry();
            self = loop {
                sleep(wait).await;
                match Self::start(url).await {
                    Ok(listener) => break listener,
                    Err(_) => wait = (wait * 2).min(database.first_retry() * 32),
                }
            };
            database.look_again();
        }
    }
}
