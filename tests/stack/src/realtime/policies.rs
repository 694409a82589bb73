//! Asks the policies of `realtime.messages`, as the subscriber: Realtime writes a message, looks whether the subscriber
//! sees it, and takes it back; or lets the subscriber write one.

use super::token::{Claims, Refusal};
use anyhow::Result;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls, error::SqlState};

/// What the policies let a subscriber hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) broadcast: bool,
    /// `None` where nobody has asked.
    pub(super) presence: Option<bool>,
}

/// Realtime's connection for authorization. It asks one question after the other.
pub(super) struct Policies {
    url: String,
    client: Mutex<Option<Client>>,
}

const BECOME: &str = "select set_config('role', $1, true), set_config('realtime.topic', $2, true), \
    set_config('request.jwt.claims', $3, true), set_config('request.jwt.claim.sub', $4, true), \
    set_config('request.jwt.claim.role', $1, true), set_config('request.headers', '{}', true)";

const PROBE: &str = "insert into realtime.messages (topic, extension, id) values ($1, $2, $3::text::uuid)";

const SEEN: &str = "select m.extension from realtime.messages m where m.id = any($1::text[]::uuid[])";

/// The refusal of a subscriber that no policy lets in.
pub(super) fn unauthorized(topic: &str) -> Refusal {
    ("Unauthorized", format!("You do not have permissions to read from this Channel topic: {topic}"))
}

impl Policies {
    pub(super) fn new(url: String) -> Self {
        Self { url, client: Mutex::new(None) }
    }

    /// Asks what a subscriber may hear.
    pub(super) async fn reads(&self, topic: &str, claims: &Claims, presence: bool) -> Result<Reads, Refusal> {
        let extensions: &[&str] = if presence { &["broadcast", "presence"] } else { &["broadcast"] };
        let ask = async |client: &Client| {
            let mut ids = Vec::new();
            for extension in extensions {
                let id = uuid();
                client.execute(PROBE, &[&topic, extension, &id]).await?;
                ids.push(id);
            }
            become_subscriber(client, topic, claims).await?;
            client.query(SEEN, &[&ids]).await
        };
        let seen = self.rolled_back(ask).await?.map_err(|error| match error.code() {
            Some(&SqlState::CHECK_VIOLATION) => missing_partition(),
            _ => unauthorized(topic),
        })?;
        let sees = |extension: &str| seen.iter().any(|row| row.get::<_, &str>(0) == extension);
        Ok(Reads { broadcast: sees("broadcast"), presence: presence.then(|| sees("presence")) })
    }

    /// Asks whether a subscriber may write.
    pub(super) async fn writes(
        &self,
        topic: &str,
        claims: &Claims,
        extension: &str,
    ) -> Result<bool, Refusal> {
        let ask = async |client: &Client| {
            become_subscriber(client, topic, claims).await?;
            client.execute(PROBE, &[&topic, &extension, &uuid()]).await
        };
        match self.rolled_back(ask).await? {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
            Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => Err(missing_partition()),
            Err(error) => Err(("RlsPolicyError", error.to_string())),
        }
    }

    /// Reads the last messages of a topic, oldest first: their ids, events and payloads.
    pub(super) async fn replay(
        &self,
        topic: &str,
        since_ms: i64,
        limit: i64,
    ) -> Result<Vec<(String, String, Value)>, Refusal> {
        let read = "select id::text, event, payload::text from (select * from realtime.messages m \
            where m.topic = $1 and m.private and m.extension = 'broadcast' and m.event is not null \
              and m.inserted_at >= to_timestamp($2::float8 / 1000) at time zone 'UTC' \
            order by m.inserted_at desc limit $3) as m order by m.inserted_at";
        let ask = async |client: &Client| client.query(read, &[&topic, &(since_ms as f64), &limit]).await;
        let rows = self.rolled_back(ask).await?;
        let failed = || ("UnableToReplayMessages", "Realtime was unable to replay messages".to_owned());
        let rows = rows.map_err(|_| failed())?;
        let payload = |text: Option<&str>| serde_json::from_str(text.unwrap_or("null")).unwrap_or_default();
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), payload(row.get(2)))).collect())
    }

    /// Asks in a transaction that is rolled back.
    async fn rolled_back<T>(
        &self,
        ask: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Result<T, tokio_postgres::Error>, Refusal> {
        let away = |_| {
            let words = "Realtime was unable to connect to the project database";
            ("UnableToConnectToProject", words.to_owned())
        };
        let mut kept = self.client.lock().await;
        let client = match kept.take() {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.url).await.map_err(away)?,
        };
        client.batch_execute("begin").await.map_err(away)?;
        let answer = ask(&client).await;
        client.batch_execute("rollback").await.map_err(away)?;
        *kept = Some(client);
        Ok(answer)
    }
}

/// Opens a connection.
pub(super) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // The client sees the end of the connection.
        let _ = connection.await;
    });
    Ok(client)
}

async fn become_subscriber(
    client: &Client,
    topic: &str,
    claims: &Claims,
) -> Result<(), tokio_postgres::Error> {
    let all = claims.all.to_string();
    client.execute(BECOME, &[&claims.role, &topic, &all, &claims.sub]).await?;
    Ok(())
}

/// Makes a random id.
pub(super) fn uuid() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

fn missing_partition() -> Refusal {
    ("MissingPartition", "Realtime was unable to find the expected messages partition".to_owned())
}
