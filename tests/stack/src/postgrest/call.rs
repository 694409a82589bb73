//! One call of a function, as PostgREST makes it: in a transaction, as the token's role, by named arguments.

use http::StatusCode;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_postgres::{Client, NoTls, Statement};

/// Most connections (PostgREST's `db-pool`).
const POOL: usize = 10;

/// Longest wait for one of them (`db-pool-acquisition-timeout`).
const ACQUISITION_TIMEOUT: Duration = Duration::from_secs(10);

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
    queries: Mutex<HashMap<String, String>>,
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
        let query = self.query(&connection, function, names).await?;
        let result = connection.run(caller, &query, arguments).await;
        match result {
            Ok(answer) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                Ok(answer)
            }
            Err(error) => {
                if connection.client.batch_execute("rollback").await.is_ok() {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                }
                Err(translate(&error, &caller.role))
            }
        }
    }

    async fn connection(&self) -> Result<Connection, tokio_postgres::Error> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
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

    /// The text that calls a function with these arguments. What was found once is not looked for again.
    async fn query(&self, connection: &Connection, function: &str, names: &[&str]) -> Result<String, Error> {
        let known = format!("{function}({})", names.join(","));
        if let Some(query) = self.queries.lock().unwrap_or_else(PoisonError::into_inner).get(&known) {
            return Ok(query.clone());
        }
        let candidates = "select coalesce(p.proargnames, '{}')::text[], p.pronargdefaults::int, \
             array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, n) order by n)::text[], \
             p.prorettype = 'void'::regtype from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = $1";
        let rows = connection.client.query(candidates, &[&function]).await.map_err(|error| lost(&error))?;
        for row in rows {
            let (all, types): (Vec<String>, Vec<String>) = (row.get(0), row.get(2));
            let needed = all.len() - usize::try_from(row.get::<_, i32>(1)).unwrap_or(0);
            let fits = names.iter().all(|name| all.iter().any(|known| known == name))
                && all.iter().take(needed).all(|name| names.contains(&name.as_str()));
            if !fits {
                continue;
            }
            let given: Vec<(&String, &String)> =
                all.iter().zip(&types).filter(|(name, _)| names.contains(&name.as_str())).collect();
            let columns: Vec<String> = given.iter().map(|(name, kind)| format!("\"{name}\" {kind}")).collect();
            let passed: Vec<String> = given.iter().map(|(name, _)| format!("\"{name}\" => a.\"{name}\"")).collect();
            let call = format!("public.\"{function}\"({})", passed.join(", "));
            let call = if row.get(3) { format!("{call}::text") } else { format!("to_json({call})::text") };
            let from = if columns.is_empty() {
                "(select $1::text) as a".to_owned()
            } else {
                format!("json_to_record($1::text::json) as a ({})", columns.join(", "))
            };
            let query = format!("select {call} from {from}");
            self.queries.lock().unwrap_or_else(PoisonError::into_inner).insert(known, query.clone());
            return Ok(query);
        }
        let message = format!("Could not find the function public.{known} in the schema cache");
        Err(failed(StatusCode::NOT_FOUND, "PGRST202", &message))
    }
}

impl Connection {
    async fn run(
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
        let answer = self.client.query_one(&statement, &[&arguments]).await?.get::<_, Option<String>>(0);
        self.client.batch_execute("commit").await?;
        Ok(answer.filter(|text| !text.is_empty()))
    }
}

/// PostgREST's status for an error of Postgres'.
fn translate(error: &tokio_postgres::Error, role: &str) -> Error {
    let Some(server) = error.as_db_error() else {
        return lost(error);
    };
    let code = server.code().code();
    let status = match code {
        "42501" if role == "anon" => StatusCode::UNAUTHORIZED,
        "42501" => StatusCode::FORBIDDEN,
        "42883" | "42P01" => StatusCode::NOT_FOUND,
        "23503" | "23505" => StatusCode::CONFLICT,
        _ if code.starts_with("08") || code.starts_with("53") || code.starts_with("57") => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_REQUEST,
    };
    let body = json!({
        "code": code, "message": server.message(), "details": server.detail(), "hint": server.hint(),
    });
    Error { status, body }
}

fn lost(error: &tokio_postgres::Error) -> Error {
    let message = "Database client error. Retrying the connection.";
    let mut lost = failed(StatusCode::SERVICE_UNAVAILABLE, "PGRST001", message);
    lost.body["details"] = error.to_string().into();
    lost
}

fn failed(status: StatusCode, code: &str, message: &str) -> Error {
    Error { status, body: json!({ "code": code, "message": message, "details": null, "hint": null }) }
}
