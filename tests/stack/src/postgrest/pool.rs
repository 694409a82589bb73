//! PostgREST's access to the database: a pool of connections, a transaction for each request as the token's role, and
//! the schema. The pool reads the schema again after a change or an absence of the database.

use super::{
    error::{Error, of_postgres},
    request::Single,
    routine::Routine,
    sql,
    token::Caller,
};
use http::StatusCode;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::timeout,
};
use tokio_postgres::{Client, NoTls, Row, Statement, types::ToSql};

/// The most connections (PostgREST's `db-pool`).
const POOL: usize = 10;

/// The longest wait for one of them (`db-pool-acquisition-timeout`).
const ACQUISITION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a transaction that fails with 40001 is repeated. The real PostgREST was seen to repeat it for 20 s, and has no
/// limit; a test must have one.
const REPEAT_FOR: Duration = Duration::from_secs(20);

/// The search path of functions: the API's schema and `db-extra-search-path`, as on hosted Supabase.
const SEARCH_PATH: &str = "\"public\", \"extensions\"";

/// Reads the settings of the roles that the pool's own role may become. PostgREST applies them to the transaction, if
/// the role may set them.
const ROLE_SETTINGS: &str = "select r.rolname::text, s.name, lower(s.value) \
    from pg_auth_members m \
    join pg_roles r on r.oid = m.roleid \
    cross join unnest(r.rolconfig) as c (setting) \
    cross join lateral (select split_part(c.setting, '=', 1), substr(c.setting, strpos(c.setting, '=') + 1)) as s (name, value) \
    join pg_settings p on p.name = s.name \
    where m.member = current_user::regrole::oid \
      and (p.context = 'user' or has_parameter_privilege(current_user::regrole::oid, p.name, 'set'))";

/// The one setting that the transaction's beginning contains.
const ISOLATION: &str = "default_transaction_isolation";

/// A function's name, the names of the given arguments, whether the values are several objects, and the other
/// functions that count.
pub(super) type Asked = (String, BTreeSet<String>, bool, Single);

/// PostgREST's knowledge of the database.
#[derive(Default)]
pub(super) struct Schema {
    /// The settings of roles.
    roles: HashMap<String, Vec<(String, String)>>,
    /// The functions called so far. The real one knows all functions from the start.
    routines: Mutex<HashMap<Asked, Arc<Routine>>>,
}

impl Schema {
    pub(super) fn known(&self, asked: &Asked) -> Option<Arc<Routine>> {
        self.routines.lock().unwrap_or_else(PoisonError::into_inner).get(asked).cloned()
    }

    pub(super) fn learn(&self, asked: Asked, routine: Arc<Routine>) {
        self.routines.lock().unwrap_or_else(PoisonError::into_inner).insert(asked, routine);
    }
}

/// The work of a request in its transaction.
pub(super) struct Work<'a> {
    pub(super) caller: &'a Caller,
    /// The values that functions find in `request.method` and so on.
    pub(super) request: [(&'static str, String); 3],
    /// Settings of the function's own.
    pub(super) settings: &'a [(String, String)],
    pub(super) read_only: bool,
    pub(super) text: &'a str,
    pub(super) argument: Option<&'a str>,
    /// Whether the caller accepts exactly one row. With another number nothing changes.
    pub(super) one_row: bool,
}

/// The pool and its state.
pub(super) struct Database {
    url: String,
    slots: Semaphore,
    state: Mutex<State>,
    /// Wakes the reader of the schema.
    outdated: Notify,
}

struct State {
    schema: Option<Arc<Schema>>,
    idle: Vec<Connection>,
    /// The number of the current connections. Connections with a lower number are closed.
    generation: u64,
    /// The first of the doubling waits before the schema is read again.
    first_retry: Duration,
    /// The current wait.
    retry: Duration,
}

/// A connection and its place in the pool.
pub(super) struct Lease<'a> {
    connection: Connection,
    _slot: SemaphorePermit<'a>,
}

struct Connection {
    client: Client,
    /// Prepared statements by their role. A plan that was made for one role may lack the checks for another.
    statements: HashMap<(String, String), Statement>,
    generation: u64,
}

impl Database {
    pub(super) fn new(url: String, first_retry: Duration) -> Self {
        let state = State {
            schema: Some(Arc::default()),
            idle: Vec::new(),
            generation: 0,
            first_retry,
            retry: Duration::ZERO,
        };
        Self { url, slots: Semaphore::new(POOL), state: Mutex::new(state), outdated: Notify::new() }
    }

    /// Sets the wait before the second look for a lost database.
    pub(super) fn set_first_retry(&self, first_retry: Duration) {
        self.state().first_retry = first_retry;
    }

    /// Gives the wait before the second look for a lost database.
    pub(super) fn first_retry(&self) -> Duration {
        self.state().first_retry
    }

    /// Gives the wait before the next look for a lost database.
    pub(super) fn retry(&self) -> Duration {
        self.state().retry
    }

    /// Gives the schema, unless the database is away.
    pub(super) fn schema(&self) -> Result<Arc<Schema>, Error> {
        self.state().schema.clone().ok_or_else(Error::no_schema)
    }

    /// Makes the reader read the schema again soon.
    pub(super) fn look_again(&self) {
        self.outdated.notify_one();
    }

    /// Reads the schema.
    pub(super) async fn read(&self) -> Result<(), Error> {
        let lease = self.lease().await?;
        let rows = lease.client().query(ROLE_SETTINGS, &[]).await;
        let rows = rows.map_err(|error| Error::connection_lost(error.to_string()))?;
        let mut schema = Schema::default();
        for row in rows {
            schema.roles.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
        }
        self.state().schema = Some(Arc::new(schema));
        self.give_back(lease);
        Ok(())
    }

    /// Reads the schema whenever it may have changed. While reading fails, every request is refused, and the waits
    /// double, up to 32 times the first. So after a longer absence it takes long to find the database again.
    pub(super) async fn keep_reading(&self) {
        loop {
            self.outdated.notified().await;
            loop {
                self.flush();
                if self.read().await.is_ok() {
                    self.state().retry = Duration::ZERO;
                    break;
                }
                let wait = {
                    let mut state = self.state();
                    state.schema = None;
                    state.retry = (state.retry * 2).clamp(state.first_retry, state.first_retry * 32);
                    state.retry
                };
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Drops all connections.
    fn flush(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.idle.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a connection.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Error> {
        let slot = timeout(ACQUISITION_TIMEOUT, self.slots.acquire()).await;
        let Ok(Ok(slot)) = slot else {
            let message = "Timed out acquiring connection from connection pool.";
            return Err(Error::new(StatusCode::GATEWAY_TIMEOUT, "PGRST003", message));
        };
        let (kept, generation) = {
            let mut state = self.state();
            (state.idle.pop(), state.generation)
        };
        let connection = match kept {
            // The real pool, too, finds a broken connection only by using it.
            Some(connection) if connection.client.is_closed() => {
                return Err(Error::connection_lost("no connection to the server\n"));
            }
            Some(connection) => connection,
            None => Connection {
                client: connect(&self.url).await.map_err(|error| Error::no_connection(&error))?,
                statements: HashMap::new(),
                generation,
            },
        };
        Ok(Lease { connection, _slot: slot })
    }

    /// Takes back a connection without a transaction.
    pub(super) fn give_back(&self, lease: Lease<'_>) {
        let mut state = self.state();
        if lease.connection.generation == state.generation {
            state.idle.push(lease.connection);
        }
    }

    /// Executes a request's work. Repeats a transaction that fails with 40001, even if the caller has hung up.
    pub(super) async fn work(&self, mut lease: Lease<'_>, work: &Work<'_>) -> Result<Row, Error> {
        let schema = self.schema()?;
        let begin = work.begin(&schema);
        let begun = Instant::now();
        loop {
            let answer = lease.connection.transaction(&begin, work).await;
            let lost_a_race = answer.as_ref().is_err_and(is_serialization_failure);
            // A connection with an open transaction never goes back to the pool.
            let clean = answer.is_ok() || lease.connection.client.batch_execute("rollback").await.is_ok();
            if clean && lost_a_race && begun.elapsed() < REPEAT_FOR {
                continue;
            }
            if clean {
                self.give_back(lease);
            }
            let row = answer.map_err(|error| of_postgres(&error, work.caller.is_anon()))?;
            return match work.surplus(&row) {
                None => Ok(row),
                Some(rows) => Err(Error::not_one_row(rows)),
            };
        }
    }
}

/// Opens a connection.
async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // The client sees the end of the connection.
        let _ = connection.await;
    });
    Ok(client)
}

fn is_serialization_failure(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| error.code().code() == "40001")
}

impl Lease<'_> {
    pub(super) fn client(&self) -> &Client {
        &self.connection.client
    }
}

impl Work<'_> {
    /// Gives the number of rows, if the caller does not accept that number.
    fn surplus(&self, row: &Row) -> Option<i64> {
        let rows = self.one_row.then(|| row.get::<_, i64>(1))?;
        (rows != 1).then_some(rows)
    }

    /// Gives the beginning of the transaction: its isolation, then the settings. A later setting replaces an earlier
    /// one.
    fn begin(&self, schema: &Schema) -> String {
        let of_role = schema.roles.get(&self.caller.role).map(Vec::as_slice).unwrap_or_default();
        let isolation = self.settings.iter().chain(of_role).find(|(name, _)| name == ISOLATION);
        let isolation = match isolation.map(|(_, value)| value.as_str()) {
            Some("serializable") => "serializable",
            Some("repeatable read") => "repeatable read",
            _ => "read committed",
        };
        let mode = if self.read_only { "read only" } else { "read write" };
        let claims = self.caller.claims.to_string();
        let own = |(name, value): &(String, String)| (name.clone(), value.clone());
        let settings = [("search_path".to_owned(), SEARCH_PATH.to_owned())]
            .into_iter()
            // The role's settings come before the role, so the pool's own rights set them.
            .chain(of_role.iter().map(own))
            .chain([("role".to_owned(), self.caller.role.clone()), ("request.jwt.claims".to_owned(), claims)])
            .chain(self.request.iter().map(|(name, value)| ((*name).to_owned(), value.clone())))
            .chain(self.settings.iter().map(own))
            .filter(|(name, _)| name != ISOLATION)
            .map(|(name, value)| {
                format!("set_config({}, {}, true)", sql::literal(&name), sql::literal(&value))
            });
        let settings: Vec<String> = settings.collect();
        format!("begin isolation level {isolation} {mode}; select {}", settings.join(", "))
    }
}

impl Connection {
    async fn transaction(&mut self, begin: &str, work: &Work<'_>) -> Result<Row, tokio_postgres::Error> {
        self.client.batch_execute(begin).await?;
        let known = (work.caller.role.clone(), work.text.to_owned());
        let statement = match self.statements.get(&known) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(work.text).await?;
                self.statements.insert(known, statement.clone());
                statement
            }
        };
        let argument = work.argument.as_ref().map(|argument| argument as &(dyn ToSql + Sync));
        let row = self.client.query_one(&statement, argument.as_slice()).await?;
        let end = if work.surplus(&row).is_none() { "commit" } else { "rollback" };
        self.client.batch_execute(end).await?;
        Ok(row)
    }
}
