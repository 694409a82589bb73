//! Reads a request as PostgREST does: its method, path, query, headers and body.

use super::{error::Error, table::Change};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Names in a query that are neither arguments nor filters.
const RESERVED: [&str; 8] = ["select", "columns", "on_conflict", "order", "limit", "offset", "and", "or"];

/// The media type of one row, instead of an array of rows.
const OBJECT: &str = "application/vnd.pgrst.object+json";

/// The schema that the API shows.
const SCHEMA: &str = "public";

/// A request as it arrived.
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
}

/// The request's action.
pub(super) enum Action {
    /// Call a function.
    Call { function: String, arguments: Arguments },
    /// Read a table or a view: the names and values of the query.
    Read { table: String, query: Vec<(String, String)> },
    /// Insert rows into a table, or update its rows.
    Change(Change),
    /// Describe the schema.
    Describe,
}

/// The body that a caller prefers after a change of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returns {
    /// Nothing, because the caller did not say.
    Unsaid,
    /// Nothing.
    Nothing,
    /// The changed rows.
    Rows,
}

impl Returns {
    /// Gives the preference as the answer repeats it.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Unsaid => None,
            Self::Nothing => Some("return=minimal"),
            Self::Rows => Some("return=representation"),
        }
    }
}

/// The arguments of a call, or the values for a table.
pub(super) struct Arguments {
    /// The names of the given arguments.
    pub(super) names: BTreeSet<String>,
    /// The values, a JSON object or an array of objects; or a body that is no JSON.
    pub(super) text: String,
    /// The functions with a single parameter that the call may mean.
    pub(super) single: Single,
    /// Whether the call must not change anything.
    pub(super) read_only: bool,
}

/// The functions with a single parameter that are considered if no other fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Single {
    /// None of them.
    None,
    /// Those with a JSON parameter. (A function whose parameter has a name counts, but gets no argument.)
    Json,
    /// Those with a text parameter, which gets the body. No other functions are considered.
    Text,
    /// Those with an XML parameter, which gets the body. No other functions are considered.
    Xml,
}

impl Arguments {
    /// Tells whether the values are several objects.
    pub(super) fn is_array(&self) -> bool {
        self.text.trim_start().starts_with('[')
    }

    /// Reads the arguments from the query of a GET.
    fn of_query(query: &str) -> Self {
        let given: Map<String, Value> = pairs(query)
            .filter(|(name, value)| {
                !RESERVED.contains(&name.as_str()) && super::table::operator(value).is_none()
            })
            .map(|(name, value)| (name, value.into()))
            .collect();
        Self { read_only: true, ..Self::of_object(&given) }
    }

    fn of_object(object: &Map<String, Value>) -> Self {
        let names = object.keys().cloned().collect();
        let text = Value::Object(object.clone()).to_string();
        Self { names, text, single: Single::None, read_only: false }
    }

    /// Reads the arguments from the body of a POST.
    fn of_body(headers: &HeaderMap, body: &Bytes) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(body).into_owned();
        let raw = |text, single| Self { names: BTreeSet::new(), text, single, read_only: false };
        match content_type(headers).as_str() {
            "application/json" => Self::of_json(text),
            "text/plain" => Ok(raw(text, Single::Text)),
            "text/xml" => Ok(raw(text, Single::Xml)),
            "application/x-www-form-urlencoded" => {
                let given = pairs(&text).map(|(name, value)| (name, value.into())).collect();
                Ok(Self::of_object(&given))
            }
            other => {
                let message = format!("Content-Type not acceptable: {other}");
                Err(Error::new(StatusCode::BAD_REQUEST, "PGRST102", &message))
            }
        }
    }

    /// Reads the values for a table from the body.
    fn of_rows(headers: &HeaderMap, body: &Bytes) -> Result<Self, Error> {
        if content_type(headers) != "application/json" {
            return Err(Error::not_served("rows in another format than JSON"));
        }
        Self::of_json(String::from_utf8_lossy(body).into_owned())
    }

    fn of_json(text: String) -> Result<Self, Error> {
        let invalid = |message| Error::new(StatusCode::BAD_REQUEST, "PGRST102", message);
        let text = if text.is_empty() { "{}".to_owned() } else { text };
        let json: Value = serde_json::from_str(&text).map_err(|_| invalid("Empty or invalid json"))?;
        let names = |object: &Map<String, Value>| object.keys().cloned().collect::<BTreeSet<String>>();
        let given = match &json {
            Value::Object(object) => Some((text, names(object))),
            Value::Array(items) => match items.first() {
                None => None,
                Some(Value::Object(first)) => {
                    let first = names(first);
                    let alike = |item: &Value| item.as_object().is_some_and(|item| names(item) == first);
                    if !items.iter().all(alike) {
                        return Err(invalid("All object keys must match"));
                    }
                    Some((text, first))
                }
                Some(_) => return Err(invalid("All object keys must match")),
            },
            // Any other body counts as an empty array.
            _ => None,
        };
        let (text, names) = given.unwrap_or_else(|| ("[]".to_owned(), BTreeSet::new()));
        Ok(Self { names, text, single: Single::Json, read_only: false })
    }
}

impl Request<'_> {
    /// Reads the action of a request below `/rest/v1`.
    pub(super) fn action(&self) -> Result<Action, Error> {
        let path: Vec<&str> = self.path.split('/').filter(|part| !part.is_empty()).collect();
        let reads = *self.method == Method::GET || *self.method == Method::HEAD;
        match path.as_slice() {
            ["rpc", function] => {
                let arguments = match *self.method {
                    Method::POST => Arguments::of_body(self.headers, self.body)?,
                    _ if reads => Arguments::of_query(self.query),
                    Method::OPTIONS => return Err(Error::not_served("OPTIONS")),
                    _ => {
                        let message = format!("Cannot use the {} method on RPC", self.method);
                        return Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, "PGRST101", &message));
                    }
                };
                Ok(Action::Call { function: (*function).to_owned(), arguments })
            }
            [table] if reads => {
                Ok(Action::Read { table: (*table).to_owned(), query: pairs(self.query).collect() })
            }
            [table] if *self.method == Method::POST || *self.method == Method::PATCH => {
                Ok(Action::Change(Change {
                    table: (*table).to_owned(),
                    query: pairs(self.query).collect(),
                    values: Arguments::of_rows(self.headers, self.body)?,
                    inserts: *self.method == Method::POST,
                }))
            }
            [_] => Err(Error::not_served(&format!("{} of a table", self.method))),
            [] if reads => Ok(Action::Describe),
            [] => {
                let message = format!("Unsupported HTTP method: {}", self.method);
                Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, "PGRST117", &message))
            }
            _ => Err(Error::not_found()),
        }
    }

    /// Refuses another schema than the API's.
    pub(super) fn check_profile(&self) -> Result<(), Error> {
        let reads = *self.method == Method::GET || *self.method == Method::HEAD;
        let profile = self.text(if reads { "accept-profile" } else { "content-profile" });
        if profile.is_none_or(|profile| profile == SCHEMA) {
            return Ok(());
        }
        let message = format!("The schema must be one of the following: {SCHEMA}");
        Err(Error::new(StatusCode::NOT_ACCEPTABLE, "PGRST106", &message))
    }

    /// Reads what the caller prefers to get. (The real one follows more preferences, and ignores unknown ones.)
    pub(super) fn returns(&self) -> Result<Returns, Error> {
        match self.text("prefer").map(str::trim) {
            None | Some("") => Ok(Returns::Unsaid),
            Some("return=minimal") => Ok(Returns::Nothing),
            Some("return=representation") => Ok(Returns::Rows),
            Some(other) => Err(Error::not_served(&format!("Prefer: {other}"))),
        }
    }

    /// Tells whether the caller accepts only one row, as an object.
    pub(super) fn wants_object(&self) -> bool {
        self.accepted().contains(&OBJECT)
    }

    /// Tells whether the caller accepts only one row. Refuses the request if it accepts no rows.
    pub(super) fn accepts_rows(&self) -> Result<bool, Error> {
        let object = self.wants_object();
        if !object {
            self.accepts(&["application/json"])?;
        }
        Ok(object)
    }

    fn text(&self, header: &str) -> Option<&str> {
        self.headers.get(header).and_then(|value| value.to_str().ok())
    }

    /// Lists the media types that the caller accepts.
    fn accepted(&self) -> Vec<&str> {
        self.text(header::ACCEPT.as_str()).unwrap_or("*/*").split(',').map(media_type).collect()
    }

    /// Refuses the request if its Accept header allows none of these types.
    pub(super) fn accepts(&self, sent: &[&str]) -> Result<(), Error> {
        let types = self.accepted();
        if types.iter().any(|kind| *kind == "*/*" || sent.contains(kind)) {
            return Ok(());
        }
        let message = format!("None of these media types are available: {}", types.join(", "));
        Err(Error::new(StatusCode::NOT_ACCEPTABLE, "PGRST107", &message))
    }

    /// Gives the headers as JSON, as functions find them in `request.headers`.
    pub(super) fn headers_json(&self) -> String {
        let headers = self.headers.iter().filter(|(name, _)| *name != header::COOKIE);
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers: Map<String, Value> =
            headers.map(|(name, value)| (name.as_str().to_owned(), text(value).into())).collect();
        Value::Object(headers).to_string()
    }
}

/// Gives the path and the query of a URI.
pub(super) fn parts(uri: &Uri) -> (&str, &str) {
    (uri.path(), uri.query().unwrap_or_default())
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned()
}

fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type(given.unwrap_or("application/json")).to_ascii_lowercase()
}

/// Gives a media type without its parameters.
fn media_type(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}
