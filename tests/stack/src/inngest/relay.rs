//! A relay of connections before an app, with a URL of its own from the start.

use crate::http1;
use anyhow::Result;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::{net::TcpStream, task::JoinSet};

/// A running relay. Ends when it is dropped.
pub(super) struct Relay {
    pub(super) url: String,
    target: Arc<Mutex<Option<String>>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Starts a relay that leads nowhere yet: it ends each connection at once.
    pub(super) async fn start() -> Result<Self> {
        let (listener, url) = http1::listen().await?;
        let target: Arc<Mutex<Option<String>>> = Arc::default();
        let (mut tasks, known) = (JoinSet::new(), target.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let to = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                connections.spawn(async move {
                    if let Some(to) = to
                        && let Ok(mut app) = TcpStream::connect(to).await
                    {
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut app).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url, target, _tasks: tasks })
    }

    /// Leads to the app at this URL.
    pub(super) fn lead_to(&self, app_url: &str) {
        let address = app_url.trim_start_matches("http://").to_owned();
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}
