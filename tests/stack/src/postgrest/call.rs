//! One call of a function, as PostgREST makes it: in a transaction, as the token's role, by named arguments.

use http::StatusCode;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_postgres::{Client, NoTls, Statement};

/// Most connections (PostgREST's `db-pool`).
const POOL: usize = 10;

/// Longest wait for one of them (`db-pool-acquisition-timeout`).
const ACQUISITION_TIMEOUT: Duration = Duration::from_secs(10);

/// The functions of a name that PostgREST would consider, as far as we serve them: what they take in (`VARIADIC` and
/// what is unnamed aside), how many of that have defaults, and whether they return nothing.
const CANDIDATES: &str = "select \
    array(select coalesce(a.name, '') from unnest(p.proargnames, p.proargmodes) with ordinality as a (name, mode, n) \
          where coalesce(a.mode, 'i') in ('i', 'b') order by a.n)::text[], \
    array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, n) order by n)::text[], \
    p.pronargdefaults::int, p.prorettype = 'void'::regtype \
    from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = $1 \
      and p.prokind = 'f' and not p.proretset and p.provariadic = 0 order by p.oid";

/// Who calls.
pub(super) struct Caller {
    pub(super) role: String,
    pub(super) claims: Value,
}

/// What a call that failed is answered with.
pub(super) struct Error {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

/// The pool.
pub(super) struct Database {
    url: String,
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
    queries: Mutex<HashMap<Asked, Arc<Query>>>,
}

/// A function's name, and the names of the arguments that are given.
type Asked = (String, Vec<String>);

/// How a function is called.
struct Query {
    text: String,
    /// Whether it returns nothing.
    void: bool,
}

struct Connection {
    client: Client,
    statements: HashMap<String, Statement>,
}

impl Database {
    pub(super) fn new(url: String) -> Self {
        Self { url, slots: Semaphore::new(POOL), idle: Mutex::default(), queries: Mutex::default() }
    }

    /// Calls a function; `None` where it returns nothing.
    pub(super) async fn call(
        &self,
        caller: &Caller,
        function: &str,
        names: &[&str],
        arguments: &str,
    ) -> Result<Option<String>, Error> {
        let slot = timeout(ACQUISITION_TIMEOUT, self.slots.acquire()).await;
        let Ok(Ok(_slot)) = slot else {
            let message = "Timed out acquiring connection from connection pool.";
            return Err(failed(StatusCode::GATEWAY_TIMEOUT, "PGRST003", message));
        };
        let mut connection = self.connection().await.map_err(|error| lost(&error))?;
        let query = self.query(&connection, function, names).await;
        let answer = match query {
            Ok(query) => connection.run(caller, &query, arguments).await,
            Err(error) => Err(error),
        };
        // Nobody gets a connection with a transaction in it.
        let clean = answer.is_ok() || connection.client.batch_execute("rollback").await.is_ok();
        if clean {
            self.idle().push(connection);
        }
        answer
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<Connection, tokio_postgres::Error> {
        loop {
            let kept = self.idle().pop();
            match kept {
                Some(connection) if connection.client.is_closed() => {}
                Some(connection) => return Ok(connection),
                None => break,
            }
        }
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(async move {
            // Its end shows at the client.
            let _ = connection.await;
        });
        Ok(Connection { client, statements: HashMap::new() })
    }

    /// How to call a function with these arguments. What was found once is not looked for again.
    async fn query(
        &self,
        connection: &Connection,
        function: &str,
        names: &[&str],
    ) -> Result<Arc<Query>, Error> {
        let known = (function.to_owned(), names.iter().map(|name| (*name).to_owned()).collect());
        if let Some(query) = self.queries.lock().unwrap_or_else(PoisonError::into_inner).get(&known) {
            return Ok(query.clone());
        }
        let rows = connection.client.query(CANDIDATES, &[&function]).await.map_err(|error| lost(&error))?;
        let mut fitting = Vec::new();
        for row in rows {
            let (all, types): (Vec<String>, Vec<String>) = (row.get(0), row.get(1));
            if all.len() != types.len() || all.iter().any(String::is_empty) {
                continue;
            }
            let needed = all.len().saturating_sub(usize::try_from(row.get::<_, i32>(2)).unwrap_or(0));
            let fits = names.iter().all(|name| all.iter().any(|known| known == name))
                && all.iter().take(needed).all(|name| names.contains(&name.as_str()));
            if fits {
                fitting.push((all.into_iter().zip(types).collect(), row.get(3)));
            }
        }
        match fitting.as_slice() {
            [] => Err(unknown(function, names)),
            [(parameters, void)] => {
                let query = Arc::new(Query { text: text(function, names, parameters, *void), void: *void });
                self.queries.lock().unwrap_or_else(PoisonError::into_inner).insert(known, query.clone());
                Ok(query)
            }
            several => Err(ambiguous(function, several)),
        }
    }
}

/// A function's parameters: names and types.
type Parameters = Vec<(String, String)>;

fn text(function: &str, names: &[&str], parameters: &Parameters, void: bool) -> String {
    let given: Vec<_> = parameters.iter().filter(|(name, _)| names.contains(&name.as_str())).collect();
    let columns: Vec<String> =
        given.iter().map(|(name, kind)| format!("{} {kind}", identifier(name))).collect();
    let passed: Vec<String> =
        given.iter().map(|(name, _)| format!("{0} => a.{0}", identifier(name))).collect();
    let call = format!("public.{}({})", identifier(function), passed.join(", "));
    let call = if void { format!("{call}::text") } else { format!("to_json({call})::text") };
    let from = if columns.is_empty() {
        "(select $1::text) as a".to_owned()
    } else {
        format!("json_to_record($1::text::json) as a ({})", columns.join(", "))
    };
    format!("select {call} from {from}")
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Connection {
    async fn run(
        &mut self,
        caller: &Caller,
        query: &Query,
        arguments: &str,
    ) -> Result<Option<String>, Error> {
        let answer = self.transaction(caller, &query.text, arguments).await;
        let answer = answer.map_err(|error| translate(&error, &caller.role))?;
        Ok((!query.void).then(|| answer.unwrap_or_else(|| "null".to_owned())))
    }

    async fn transaction(
        &mut self,
        caller: &Caller,
        query: &str,
        arguments: &str,
    ) -> Result<Option<String>, tokio_postgres::Error> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let begin = format!(
            "begin; set local role {}; set local request.jwt.claims = {}",
            quoted(&caller.role),
            quoted(&caller.claims.to_string())
        );
        self.client.batch_execute(&begin).await?;
        let statement = match self.statements.get(query) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(query).await?;
                self.statements.insert(query.to_owned(), statement.clone());
                statement
            }
        };
        let answer = self.client.query_one(&statement, &[&arguments]).await?.get(0);
        self.client.batch_execute("commit").await?;
        Ok(answer)
    }
}

/// PostgREST's status for an error of Postgres'.
fn translate(error: &tokio_postgres::Error, role: &str) -> Error {
    let Some(server) = error.as_db_error() else {
        return lost(error);
    };
    let (code, message) = (server.code().code(), server.message());
    let status = match code {
        "42501" if role == "anon" => StatusCode::UNAUTHORIZED,
        "42501" => StatusCode::FORBIDDEN,
        "42883" | "42P01" => StatusCode::NOT_FOUND,
        "23503" | "23505" => StatusCode::CONFLICT,
        "22023" if message.starts_with("role") && message.ends_with("does not exist") => {
            StatusCode::UNAUTHORIZED
        }
        "P0001" => StatusCode::BAD_REQUEST,
        "42P17" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => match code.get(..2).unwrap_or_default() {
            "08" | "53" | "57" => StatusCode::SERVICE_UNAVAILABLE,
            "0L" | "0P" | "28" => StatusCode::FORBIDDEN,
            // A lost race (40) and a lock that is taken (55) among them: asking again may help.
            "09" | "21" | "25" | "2D" | "38" | "39" | "3B" | "40" | "54" | "55" | "58" | "F0" | "HV"
            | "P0" | "XX" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        },
    };
    let body = json!({
        "code": code, "message": message, "details": server.detail(), "hint": server.hint(),
    });
    Error { status, body }
}

fn lost(error: &tokio_postgres::Error) -> Error {
    let message = "Database client error. Retrying the connection.";
    let mut lost = failed(StatusCode::SERVICE_UNAVAILABLE, "PGRST001", message);
    lost.body["details"] = error.to_string().into();
    lost
}

/// No function takes these arguments.
fn unknown(function: &str, names: &[&str]) -> Error {
    let (message, details) = if names.is_empty() {
        (" without parameters".to_owned(), " without parameters".to_owned())
    } else {
        let plural = if names.len() > 1 { "s" } else { "" };
        let names = names.join(", ");
        (format!("({names})"), format!(" with parameter{plural} {names}"))
    };
    let message = format!("Could not find the function public.{function}{message} in the schema cache");
    let mut unknown = failed(StatusCode::NOT_FOUND, "PGRST202", &message);
    unknown.body["details"] = format!(
        "Searched for the function public.{function}{details} or with a single unnamed json/jsonb parameter, but no \
         matches were found in the schema cache."
    )
    .into();
    unknown
}

/// Several functions do.
fn ambiguous(function: &str, several: &[(Parameters, bool)]) -> Error {
    let listed: Vec<String> = several
        .iter()
        .map(|(parameters, _)| {
            let parameters: Vec<String> =
                parameters.iter().map(|(name, kind)| format!("{name} => {kind}")).collect();
            format!("public.{function}({})", parameters.join(", "))
        })
        .collect();
    let message = format!("Could not choose the best candidate function between: {}", listed.join(", "));
    let mut ambiguous = failed(StatusCode::MULTIPLE_CHOICES, "PGRST203", &message);
    ambiguous.body["hint"] =
        "Try renaming the parameters or the function itself in the database so function \
                              overloading can be resolved"
            .into();
    ambiguous
}

fn failed(status: StatusCode, code: &str, message: &str) -> Error {
    Error { status, body: json!({ "code": code, "message": message, "details": null, "hint": null }) }
}
