//! PostgREST's answers to errors: its own, and its status for each error of PostgreSQL.

use bytes::Bytes;
use http::{HeaderName, Response, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};

/// The answer to a failed request.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) status: StatusCode,
    body: Value,
    headers: Vec<(HeaderName, String)>,
}

impl Error {
    /// Makes an error of PostgREST's own.
    pub(super) fn new(status: StatusCode, code: &str, message: &str) -> Self {
        let body = json!({ "code": code, "message": message, "details": null, "hint": null });
        Self { status, body, headers: Vec::new() }
    }

    pub(super) fn details(mut self, details: impl Into<Value>) -> Self {
        self.body["details"] = details.into();
        self
    }

    pub(super) fn hint(mut self, hint: &str) -> Self {
        self.body["hint"] = hint.into();
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Refuses what the real PostgREST serves and the stand-in does not.
    pub(super) fn not_served(what: &str) -> Self {
        let message = format!("the stand-in for PostgREST does not serve {what}");
        Self::new(StatusCode::NOT_IMPLEMENTED, "", &message)
    }

    /// Makes the error for an unknown path.
    pub(super) fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, body: json!({}), headers: Vec::new() }
    }

    /// Makes the error for a failed connection.
    pub(super) fn no_connection(error: &tokio_postgres::Error) -> Self {
        let message = "Database connection error. Retrying the connection.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "PGRST000", message).details(error.to_string())
    }

    /// Makes the error for a broken connection.
    pub(super) fn connection_lost(why: impl Into<Value>) -> Self {
        let message = "Database client error. Retrying the connection.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "PGRST001", message).details(why)
    }

    /// Makes the error for a schema that has not been read since the database was away.
    pub(super) fn no_schema() -> Self {
        let message = "Could not query the database for the schema cache. Retrying.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "PGRST002", message)
    }

    /// Makes the error for another number of rows than the one that the caller accepts.
    pub(super) fn not_one_row(rows: i64) -> Self {
        let message = "JSON object requested, multiple (or no) rows returned";
        Self::new(StatusCode::NOT_ACCEPTABLE, "PGRST116", message)
            .details(format!("The result contains {rows} rows"))
    }

    /// Tells whether the answer is 503, after which PostgREST reads the schema again.
    pub(super) fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Makes the answer. A 503 names the time of PostgREST's next attempt to connect.
    pub(super) fn response(self, retry_after: Duration) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body.to_string()));
        *response.status_mut() = self.status;
        let mut headers = self.headers;
        headers.push((header::CONTENT_TYPE, "application/json; charset=utf-8".to_owned()));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.push((header::RETRY_AFTER, retry_after.as_secs().to_string()));
        }
        for (name, value) in headers {
            if let Ok(value) = value.parse() {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// Translates an error of PostgreSQL. A refusal is 401 for `anon`, and 403 for any other role.
pub(super) fn of_postgres(error: &tokio_postgres::Error, is_anon: bool) -> Error {
    let Some(server) = error.as_db_error() else {
        return Error::connection_lost(error.to_string());
    };
    let (code, message) = (server.code().code(), server.message());
    if code == "PGRST" {
        return raised(message, server.detail());
    }
    let status = status(code, message, is_anon);
    let mut answer = Error::new(status, code, message);
    answer.body["details"] = server.detail().into();
    answer.body["hint"] = server.hint().into();
    if status == StatusCode::UNAUTHORIZED {
        answer = answer.header(header::WWW_AUTHENTICATE, "Bearer");
    }
    answer
}

/// Gives the status for a SQLSTATE.
fn status(code: &str, message: &str, is_anon: bool) -> StatusCode {
    match code {
        "23503" | "23505" => StatusCode::CONFLICT,
        "25006" => StatusCode::METHOD_NOT_ALLOWED,
        // This is safeupdate's error. PostgREST blames the caller.
        "21000" if message.ends_with("requires a WHERE clause") => StatusCode::BAD_REQUEST,
        "21000" | "53400" | "42P17" => StatusCode::INTERNAL_SERVER_ERROR,
        "57P01" => StatusCode::SERVICE_UNAVAILABLE,
        "P0001" => StatusCode::BAD_REQUEST,
        "42883" if message.starts_with("function xmlagg(") => StatusCode::NOT_ACCEPTABLE,
        "42883" | "42P01" => StatusCode::NOT_FOUND,
        "42501" if is_anon => StatusCode::UNAUTHORIZED,
        "42501" => StatusCode::FORBIDDEN,
        _ => match code.get(..2).unwrap_or_default() {
            "08" | "53" => StatusCode::SERVICE_UNAVAILABLE,
            "0L" | "0P" | "28" => StatusCode::FORBIDDEN,
            "09" | "25" | "2D" | "38" | "39" | "3B" | "40" | "54" | "55" | "57" | "58" | "F0" | "HV"
            | "P0" | "XX" => StatusCode::INTERNAL_SERVER_ERROR,
            // A function may choose its status.
            "PT" => code
                .get(2..)
                .and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            _ => StatusCode::BAD_REQUEST,
        },
    }
}

/// The body that a function chose by `raise sqlstate 'PGRST'`.
#[derive(Deserialize)]
struct Chosen {
    code: String,
    message: String,
    details: Option<String>,
    hint: Option<String>,
}

/// The status and headers that a function chose.
#[derive(Deserialize)]
struct ChosenStatus {
    status: u16,
    headers: HashMap<String, String>,
}

/// Makes the answer that a function raised. If a part of it is no JSON, the answer is PostgREST's own error.
fn raised(message: &str, detail: Option<&str>) -> Error {
    let Ok(chosen) = serde_json::from_str::<Chosen>(message) else {
        let hint = "MESSAGE must be a JSON object with obligatory keys: 'code', 'message' and optional keys: 'details', 'hint'.";
        return unreadable(&format!("Invalid JSON value for MESSAGE: '{message}'"), hint);
    };
    let hint = "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' and optional key: 'status_text'.";
    let Some(detail) = detail else {
        return unreadable("DETAIL is missing in the RAISE statement", hint);
    };
    let Ok(answer) = serde_json::from_str::<ChosenStatus>(detail) else {
        return unreadable(&format!("Invalid JSON value for DETAIL: '{detail}'"), hint);
    };
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut error = Error::new(status, &chosen.code, &chosen.message);
    error.body["details"] = chosen.details.into();
    error.body["hint"] = chosen.hint.into();
    for (name, value) in answer.headers {
        if let Ok(name) = name.parse() {
            error = error.header(name, value);
        }
    }
    error
}

fn unreadable(details: &str, hint: &str) -> Error {
    let message = "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error";
    Error::new(StatusCode::INTERNAL_SERVER_ERROR, "PGRST121", message).details(details).hint(hint)
}
