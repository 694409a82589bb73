//! Loads very many settled jobs, as copies of one that the ledger claimed and settled. So the copies have every column
//! and satisfy every constraint.
//!
//! The superuser loads them without triggers: the triggers would report a million repeated jobs.

use super::Place;
use anyhow::{Context, Result};
use stack::postgres::{Cluster, SUPERUSER};
use tokio::try_join;
use tokio_postgres::Client;

/// Rows that one statement inserts.
const CHUNK: u64 = 500_000;

/// The first id of a copy, far above the ids of the sequence.
const FIRST_ID: u64 = 1_000_000_000;

/// The settled job that all others are copies of.
const MODEL: &str = "wallet-change-1";

/// When a copy was settled. The copies follow one another, and the last of ten million was settled four days ago.
const AT: &str = "(now() - interval '10 days' + n * interval '50 milliseconds')";

/// A table, and the columns that differ in each copy. All other columns are the model's.
struct Copies {
    from: &'static str,
    to: &'static str,
    /// The condition for the rows to copy.
    of: &'static str,
    different: &'static [(&'static str, &'static str)],
}

const DEPOSITS: Copies = Copies {
    from: "public.wallet_changes",
    to: "public.wallet_changes",
    of: "id = 1",
    different: &[("id", "ID"), ("created_at", "AT")],
};

const JOBS: Copies = Copies {
    from: "purple_flea.jobs",
    to: "purple_flea.jobs",
    of: "reference = 'MODEL'",
    different: &[
        ("reference", "REFERENCE"),
        ("idempotency_key", "REFERENCE || '-' || left(md5(n::text), 16)"),
        ("wallet_change_id", "ID"),
        ("changed_at", "AT"),
        ("created_at", "AT"),
        ("due_at", "AT"),
        ("expires_at", "AT + interval '1 day'"),
        ("claimed_at", "AT"),
        ("lease_until", "AT + interval '30 seconds'"),
        ("token", "gen_random_uuid()"),
        ("bet_day", "(AT at time zone 'UTC')::date"),
    ],
};

/// The three events of a job: made, claimed, executed.
const EVENTS: Copies = Copies {
    from: "purple_flea.job_events",
    to: "purple_flea.job_events",
    of: "reference = 'MODEL'",
    different: &[
        ("id", "nextval(pg_get_serial_sequence('purple_flea.job_events', 'id'))"),
        ("reference", "REFERENCE"),
        ("at", "AT"),
        ("token", "case when token is not null then gen_random_uuid() end"),
    ],
};

const TRADES: Copies = Copies {
    from: "public.trade_results",
    to: "public.trade_results",
    of: "reference = 'MODEL'",
    different: &[("id", "ID"), ("reference", "REFERENCE"), ("bet_id", "'bet_' || n"), ("created_at", "AT")],
};

/// Makes copies from number `before` up to `until`.
pub(super) async fn copies(cluster: &Cluster, place: Place, before: u64, until: u64) -> Result<()> {
    let (jobs, events) = match place {
        Place::Hot => (JOBS, EVENTS),
        Place::Archived => (
            Copies { to: "purple_flea.jobs_archive", ..JOBS },
            Copies { to: "purple_flea.job_events_archive", ..EVENTS },
        ),
    };
    let side_by_side = [cluster.connect(SUPERUSER).await?, cluster.connect(SUPERUSER).await?];
    for client in &side_by_side {
        client.batch_execute("set session_replication_role = replica").await?;
    }
    let [one, other] = &side_by_side;
    try_join!(
        async {
            jobs.make(one, before, until).await?;
            TRADES.make(one, before, until).await
        },
        async {
            DEPOSITS.make(other, before, until).await?;
            events.make(other, before, until).await
        },
    )?;
    // Without this, the server would write the copies to disk during a measurement.
    one.batch_execute("checkpoint").await?;
    Ok(())
}

impl Copies {
    async fn make(&self, client: &Client, before: u64, until: u64) -> Result<()> {
        let columns = "select array_agg(attname::text order by attnum) from pg_attribute \
                       where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''";
        let columns: Vec<String> = client.query_one(columns, &[&self.from]).await?.get(0);
        let value = |column: &String| {
            let different = self.different.iter().find(|(name, _)| name == column);
            different.map_or_else(|| format!("\"{column}\""), |(_, expression)| (*expression).to_owned())
        };
        let values: Vec<String> = columns.iter().map(value).collect();
        let insert = format!(
            "insert into {} (\"{}\") overriding system value select {} from {}, generate_series(FIRST, LAST) as n where {}",
            self.to,
            columns.join("\", \""),
            values.join(", "),
            self.from,
            self.of
        );
        let insert = insert
            .replace("REFERENCE", "('wallet-change-' || ID)")
            .replace("ID", &format!("(n + {FIRST_ID})"))
            .replace("AT", AT)
            .replace("MODEL", MODEL);
        let mut first = before;
        while first < until {
            let last = until.min(first + CHUNK);
            let chunk = insert.replace("FIRST", &(first + 1).to_string()).replace("LAST", &last.to_string());
            client.batch_execute(&chunk).await.with_context(|| self.to)?;
            first = last;
        }
        Ok(())
    }
}
