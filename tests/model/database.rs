//! The ledger's own SQL, on a Postgres of its own. The model calls the functions that PostgREST offers directly, by the names
//! of their arguments. `model.sql` adds a clock that moves, notifications that are written down, and a copy to go back to.

use serde_json::{Map, Value, json};
use stack::{
    postgres::{Cluster, OWNER, SUPERUSER},
    webhook,
};
use std::{
    cell::RefCell,
    collections::HashMap,
    fmt::Write,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};
use tokio_postgres::{Client, Error, Row, Statement, types::ToSql};

/// The role that PostgREST connects as, and the role of the function.
const API: &str = "authenticator";
const WORKER: &str = "purple_flea_worker";

/// The errors that another transaction may cause at any time. PostgREST passes them on, and the function tries again.
const PASSING: [&str; 4] = ["40001", "40P01", "55P03", "57014"];

/// How long the database has to tell what it does, by the machine's clock: it may be the part that hangs.
const ACTIVITY_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Database {
    cluster: Cluster,
    /// The connection of the operator, the sweeper and the model itself.
    admin: Connection,
    /// PostgREST's idle connections.
    idle: RefCell<Vec<Arc<Connection>>>,
    /// The depositors' idle connections.
    depositors: RefCell<Vec<Connection>>,
    /// Connections that still work though their callers are gone.
    abandoned: RefCell<Vec<Arc<Connection>>>,
    functions: HashMap<String, Function>,
}

/// A connection, and its prepared statements.
pub(super) struct Connection {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
}

/// A function of the schema `public`: the types of its arguments by their names.
struct Function {
    arguments: HashMap<String, String>,
}

/// PostgREST's answer: a status, and a body.
pub(super) type Reply = (u16, String);

/// Gives the wall clock's time after this much of a sequence.
pub(super) fn wall_clock(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + since
}

impl Connection {
    async fn open(cluster: &Cluster, login: &str, role: &str) -> Self {
        let client = cluster.connect(login).await.unwrap();
        let settings = format!("set role {role}; set client_min_messages = error; set timezone = 'UTC'");
        client.batch_execute(&settings).await.unwrap();
        Self { client, statements: Mutex::default() }
    }

    async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let prepared = self.statements.lock().unwrap().get(sql).cloned();
        let statement = match prepared {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql).await?;
                self.statements.lock().unwrap().insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        self.client.query(&statement, parameters).await
    }

    /// Runs statements that return no rows.
    pub(super) async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    }

    /// Calls a function as PostgREST does.
    async fn call(&self, sql: &str, arguments: &str) -> Reply {
        match self.rows(sql, &[&arguments]).await {
            Ok(rows) => (200, rows[0].get(0)),
            Err(error) => refused(&error),
        }
    }
}

/// Gives PostgREST's answer to an error of Postgres.
fn refused(error: &Error) -> Reply {
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    let code = error.code().code();
    let status = if PASSING.contains(&code) { 500 } else { 400 };
    (status, json!({ "code": code, "message": error.message(), "details": error.where_() }).to_string())
}

impl Database {
    pub(super) async fn start() -> Self {
        let cluster = Cluster::start().await.unwrap();
        let admin = Connection::open(&cluster, SUPERUSER, SUPERUSER).await;
        admin.run(include_str!("model.sql")).await;
        cluster.migrate(OWNER).await.unwrap();
        admin
            .run(&format!(
                "select purple_flea.set_secret('purple_flea_function_url', 'https://function.test'); \
                 select purple_flea.set_secret('purple_flea_webhook_secret', '{}')",
                webhook::SECRET
            ))
            .await;
        let functions = functions(&admin).await;
        Self {
            cluster,
            admin,
            idle: RefCell::default(),
            depositors: RefCell::default(),
            abandoned: RefCell::default(),
            functions,
        }
    }

    /// Gives the rows of a query of the model's.
    pub(super) async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.admin.rows(sql, parameters).await.unwrap_or_else(|error| panic!("{error:?}: {sql}"))
    }

    /// Gives the first column of a query's only row.
    pub(super) async fn one<T>(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> T
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.rows(sql, parameters).await.first().unwrap_or_else(|| panic!("{sql}: no row")).get(0)
    }

    /// Runs statements of an operator's, or of the model's.
    pub(super) async fn run(&self, sql: &str) {
        self.admin.run(sql).await;
    }

    /// Empties the database, and seeds the chance in SQL.
    pub(super) async fn clear(&self, seed: f64) {
        self.wait_for_abandoned_calls().await;
        self.run(&format!("select model.clear(); select setseed({seed})")).await;
        let idle = self.idle.borrow().clone();
        for connection in idle {
            connection.run(&format!("select setseed({seed})")).await;
        }
    }

    /// Tells whether the database has closed the model's own connection.
    pub(super) fn is_closed(&self) -> bool {
        self.admin.client.is_closed()
    }

    /// Tells which statements are under way or wait for a lock, after a run that did not end.
    pub(super) async fn activity(&self) -> String {
        let sql = "select \
                   concat_ws(' ', pid::text, pg_blocking_pids(pid)::text, state, wait_event, query) \
                   from pg_catalog.pg_stat_activity where backend_type = 'client backend' \
                   and state <> 'idle'";
        let read = async { self.cluster.connect(SUPERUSER).await.ok()?.query(sql, &[]).await.ok() };
        match tokio::time::timeout(ACTIVITY_WITHIN, read).await.ok().flatten() {
            Some(rows) => rows.iter().map(|row| row.get(0)).collect::<Vec<String>>().join("\n    "),
            None => "the database does not answer".to_owned(),
        }
    }

    /// Lets this many milliseconds pass; fewer than none set the clock back.
    pub(super) async fn shift(&self, ms: i64) {
        self.rows("select model.shift($1)", &[&ms]).await;
    }

    /// Waits for calls whose callers are gone.
    pub(super) async fn wait_for_abandoned_calls(&self) {
        let abandoned = std::mem::take(&mut *self.abandoned.borrow_mut());
        for connection in abandoned {
            connection.run("").await;
            self.idle.borrow_mut().push(connection);
        }
    }

    /// Lends a connection of PostgREST's.
    pub(super) async fn lend(&self) -> Lent<'_> {
        let idle = self.idle.borrow_mut().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => Arc::new(Connection::open(&self.cluster, API, WORKER).await),
        };
        Lent { database: self, connection: Some(connection), works: false }
    }

    /// Opens a new connection of the superuser.
    pub(super) async fn connect(&self) -> Connection {
        Connection::open(&self.cluster, SUPERUSER, SUPERUSER).await
    }

    /// Lends a depositor's connection. The caller gives it back.
    pub(super) async fn depositor(&self) -> Connection {
        let idle = self.depositors.borrow_mut().pop();
        match idle {
            Some(connection) => connection,
            None => self.connect().await,
        }
    }

    pub(super) fn give_back(&self, depositor: Connection) {
        self.depositors.borrow_mut().push(depositor);
    }

    /// Gives the statement that calls a function by the names of some arguments, or PostgREST's answer if the function or an
    /// argument is unknown.
    fn statement(&self, function: &str, arguments: &str) -> Result<String, Reply> {
        let named: Map<String, Value> = serde_json::from_str(arguments).unwrap();
        let unknown = || (404, json!({ "code": "PGRST202", "message": function }).to_string());
        let known = self.functions.get(function).ok_or_else(unknown)?;
        let (mut call, mut columns) = (String::new(), String::new());
        for name in named.keys() {
            let kind = known.arguments.get(name).ok_or_else(unknown)?;
            let comma = if call.is_empty() { "" } else { ", " };
            write!(call, "{comma}\"{name}\" => a.\"{name}\"").unwrap();
            write!(columns, "{comma}\"{name}\" {kind}").unwrap();
        }
        Ok(if named.is_empty() {
            format!("select to_json(public.{function}())::text where $1::text is not null")
        } else {
            format!(
                "select to_json(public.{function}({call}))::text \
                 from json_to_record($1::text::json) as a ({columns})"
            )
        })
    }
}

/// A connection that is in use.
pub(super) struct Lent<'a> {
    database: &'a Database,
    connection: Option<Arc<Connection>>,
    works: bool,
}

impl Lent<'_> {
    /// Calls a function as PostgREST does.
    pub(super) async fn call(&mut self, function: &str, arguments: &str) -> Reply {
        match self.database.statement(function, arguments) {
            Err(reply) => reply,
            Ok(sql) => {
                self.works = true;
                let connection = self.connection.as_ref().expect("call_beside has not taken the connection");
                let reply = connection.call(&sql, arguments).await;
                self.works = false;
                reply
            }
        }
    }

    /// Calls a function beside everything else, even after its caller is gone. The connection ends with the call.
    pub(super) fn call_beside(mut self, function: &str, arguments: &str) -> tokio::task::JoinHandle<Reply> {
        let connection = self.connection.take().expect("call_beside takes the connection once");
        let sql = self.database.statement(function, arguments);
        let arguments = arguments.to_owned();
        tokio::spawn(async move {
            match sql {
                Ok(sql) => connection.call(&sql, &arguments).await,
                Err(reply) => reply,
            }
        })
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let place = if self.works { &self.database.abandoned } else { &self.database.idle };
        place.borrow_mut().extend(self.connection.take());
    }
}

/// Reads the functions of the schema `public`, as PostgREST does.
async fn functions(admin: &Connection) -> HashMap<String, Function> {
    let sql = "select p.proname::text, coalesce(a.name, ''), \
               coalesce(format_type(a.type, null), '') \
               from pg_catalog.pg_proc p \
               left join lateral unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) as a (name, type) on true \
               where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'";
    let mut functions: HashMap<String, Function> = HashMap::new();
    for row in admin.rows(sql, &[]).await.unwrap() {
        let function = functions.entry(row.get(0)).or_insert_with(|| Function { arguments: HashMap::new() });
        let (name, kind): (String, String) = (row.get(1), row.get(2));
        if !name.is_empty() {
            function.arguments.insert(name, kind);
        }
    }
    functions
}
