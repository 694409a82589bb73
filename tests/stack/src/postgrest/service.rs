//! Does PostgREST's part of a request: checks its token, and executes its action in one transaction.

use super::{
    error::Error,
    pool::{Database, Lease, Schema, Work},
    request::{Action, Arguments, Request, Returns},
    routine::Routine,
    table::{self, Change},
    token::{self, Caller},
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use std::sync::Arc;

/// The media type of most answers.
const JSON: &str = "application/json";

/// Answers a request.
pub(super) async fn perform(
    database: &Database,
    request: &Request<'_>,
) -> Result<Response<Full<Bytes>>, Error> {
    let caller = token::caller(request.headers)?;
    let schema = database.schema()?;
    request.check_profile()?;
    match request.action()? {
        Action::Call { function, arguments } => {
            call(database, &schema, &caller, request, &function, &arguments).await
        }
        Action::Read { table, query } => read(database, &caller, request, &table, &query).await,
        Action::Change(change) => write(database, &caller, request, &change).await,
        Action::Describe => {
            request.accepts(&["application/openapi+json", JSON])?;
            let work = Work { text: table::DESCRIPTION, ..reading(&caller, request) };
            let row = database.work(database.lease().await?, &work).await?;
            Ok(response("application/openapi+json; charset=utf-8", row.get(0)))
        }
    }
}

async fn call(
    database: &Database,
    schema: &Schema,
    caller: &Caller,
    request: &Request<'_>,
    function: &str,
    arguments: &Arguments,
) -> Result<Response<Full<Bytes>>, Error> {
    let lease = database.lease().await?;
    let routine = find_routine(schema, &lease, function, arguments).await;
    let accepted = routine.and_then(|routine| {
        if request.wants_object() {
            return Err(Error::not_served("one object from a function"));
        }
        request.accepts(&[JSON]).map(|()| routine)
    });
    let routine = match accepted {
        Ok(routine) => routine,
        Err(error) => return Err(give_back_after(database, lease, error)),
    };
    let work = Work {
        settings: &routine.settings,
        read_only: arguments.read_only || !routine.volatile,
        text: &routine.text,
        argument: routine.has_arguments.then_some(arguments.text.as_str()),
        ..reading(caller, request)
    };
    let row = database.work(lease, &work).await?;
    if routine.void {
        return Ok(bare(StatusCode::NO_CONTENT));
    }
    Ok(response("application/json; charset=utf-8", row.get(0)))
}

async fn read(
    database: &Database,
    caller: &Caller,
    request: &Request<'_>,
    table: &str,
    query: &[(String, String)],
) -> Result<Response<Full<Bytes>>, Error> {
    request.returns()?;
    let one_row = request.accepts_rows()?;
    let text = table::read(table, query, one_row)?;
    let work = Work { text: &text, one_row, ..reading(caller, request) };
    let row = database.work(database.lease().await?, &work).await?;
    let mut response = rows(one_row, row.get(0));
    set_range(&mut response, row.get(1));
    Ok(response)
}

async fn write(
    database: &Database,
    caller: &Caller,
    request: &Request<'_>,
    change: &Change,
) -> Result<Response<Full<Bytes>>, Error> {
    let returns = request.returns()?;
    let one_row = request.accepts_rows()?;
    let text = change.sql(returns, one_row)?;
    let lease = database.lease().await?;
    if let Err(error) = change.check_columns(lease.client()).await {
        return Err(give_back_after(database, lease, error));
    }
    let argument = Some(change.values.text.as_str());
    let work = Work { text: &text, argument, one_row, read_only: false, ..reading(caller, request) };
    let row = database.work(lease, &work).await?;
    let returned = returns == Returns::Rows;
    let mut response = if returned { rows(one_row, row.get(0)) } else { bare(StatusCode::NO_CONTENT) };
    if change.inserts {
        *response.status_mut() = StatusCode::CREATED;
    }
    // PostgREST does not tell where inserted rows are among the others.
    set_range(&mut response, if change.inserts { 0 } else { row.get(1) });
    if let Some(applied) = returns.name() {
        response.headers_mut().insert("preference-applied", HeaderValue::from_static(applied));
    }
    Ok(response)
}

/// Makes work that changes nothing and has no text.
fn reading<'a>(caller: &'a Caller, request: &Request<'_>) -> Work<'a> {
    let path = if request.path.is_empty() { "/" } else { request.path };
    Work {
        caller,
        request: [
            ("request.method", request.method.to_string()),
            ("request.path", path.to_owned()),
            ("request.headers", request.headers_json()),
        ],
        settings: &[],
        read_only: true,
        text: "",
        argument: None,
        one_row: false,
    }
}

/// Finds the way to call a function with these arguments. A result is kept for later calls.
async fn find_routine(
    schema: &Schema,
    lease: &Lease<'_>,
    function: &str,
    arguments: &Arguments,
) -> Result<Arc<Routine>, Error> {
    let asked = (function.to_owned(), arguments.names.clone(), arguments.is_array(), arguments.single);
    if let Some(routine) = schema.known(&asked) {
        return Ok(routine);
    }
    let routine = Arc::new(Routine::find(lease.client(), function, arguments).await?);
    schema.learn(asked, routine.clone());
    Ok(routine)
}

/// Gives a connection back to the pool, unless the error says that it is broken.
fn give_back_after(database: &Database, lease: Lease<'_>, error: Error) -> Error {
    if !error.is_unavailable() {
        database.give_back(lease);
    }
    error
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn response(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Makes the answer with the rows of a table, or with one row as an object.
fn rows(one_row: bool, body: String) -> Response<Full<Bytes>> {
    let object = "application/vnd.pgrst.object+json; charset=utf-8";
    response(if one_row { object } else { "application/json; charset=utf-8" }, body)
}

/// Tells how many rows there are, from the first on.
fn set_range(response: &mut Response<Full<Bytes>>, rows: i64) {
    let range = if rows == 0 { "*/*".to_owned() } else { format!("0-{}/*", rows - 1) };
    response.headers_mut().extend(range.parse().map(|range| (header::CONTENT_RANGE, range)));
}
