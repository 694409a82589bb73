//! Reads the parameters of `GET /events` and `GET /records/{kind}/{id}` from the target of a request.
//!
//! A target is written down in many places: proxies, logs, histories. So no key is taken from it, and no message of this
//! module repeats a part of it.

use super::problem::Problem;
use crate::{domain::api_key, ledger::feed::PageRequest, time_budget};
use percent_encoding::percent_decode_str;

/// Events of a page whose caller names no limit.
const LIMIT_DEFAULT: u32 = 100;

/// Most events of a page. At one KiB each they fit into the longest reply that the function reads.
const LIMIT_MAX: u32 = 1_000;

/// Longest cursor, in characters. The ledger's have about 100.
const CURSOR_LIMIT_CHARS: usize = 512;

/// Most types of one request. There are about twenty.
const TYPES_LIMIT: usize = 64;

/// Longest name of a type, in characters.
const TYPE_LIMIT_CHARS: usize = 64;

/// Longest name of a kind of record, in characters.
const KIND_LIMIT_CHARS: usize = 30;

/// Longest id of a record, in bytes: an agent's.
const ID_LIMIT_BYTES: usize = 128;

/// The names under which other APIs take a key.
const KEY_NAMES: [&str; 9] = [
    "key",
    "api_key",
    "api-key",
    "apikey",
    "token",
    "access_token",
    "access-token",
    "authorization",
    "secret",
];

/// A request for events.
#[derive(Debug, PartialEq, Eq)]
pub struct EventsQuery {
    /// The page.
    pub page: PageRequest,
    /// How long the function waits for an event if there is none, in seconds: 0 to 20.
    pub wait_s: u64,
}

/// A request for a record.
#[derive(Debug, PartialEq, Eq)]
pub struct RecordName {
    /// The kind of record: lower-case letters and underscores.
    pub kind: String,
    /// The record's id: 1 to 128 bytes without control characters.
    pub id: String,
}

/// Refuses a query that shows a key, by a parameter's name or by a value's form.
pub fn refuse_keys(query: Option<&str>) -> Result<(), Problem> {
    let shows_key = |(name, value): (String, String)| {
        let named = KEY_NAMES.iter().any(|known| name.trim().eq_ignore_ascii_case(known));
        named || [name, value].iter().any(|text| looks_like_a_key(text))
    };
    if parameters(query).any(shows_key) { Err(Problem::KeyInQuery) } else { Ok(()) }
}

/// Reads the query of `GET /events`.
pub fn events(query: Option<&str>) -> Result<EventsQuery, Problem> {
    let (mut after, mut types, mut limit, mut wait_s) = (None, None, None, None);
    for (name, value) in parameters(query) {
        let place = match name.as_str() {
            "after" => &mut after,
            "types" => &mut types,
            "limit" => &mut limit,
            "wait_s" => &mut wait_s,
            _ => return Err(Problem::InvalidParameter(UNKNOWN_PARAMETER)),
        };
        if place.replace(value).is_some() {
            return Err(Problem::InvalidParameter(REPEATED_PARAMETER));
        }
    }
    if after.as_deref().is_some_and(|cursor| !is_cursor(cursor)) {
        return Err(Problem::CursorInvalid);
    }
    let limit = limit.map(|text| number(&text, 1, LIMIT_MAX, LIMIT_RANGE)).transpose()?;
    let wait_s = wait_s.map(|text| number(&text, 0, time_budget::FEED_WAIT_MAX_S, WAIT_RANGE)).transpose()?;
    let types = types.map(|text| self::types(&text)).transpose()?;
    let page = PageRequest { after, types, limit: limit.unwrap_or(LIMIT_DEFAULT) };
    Ok(EventsQuery { page, wait_s: wait_s.unwrap_or(0) })
}

/// Reads the path of `GET /records/{kind}/{id}`, which has no query.
pub fn record(path: &str, query: Option<&str>) -> Result<RecordName, Problem> {
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(Problem::InvalidParameter(NO_PARAMETERS));
    }
    let (kind, id) = super::route::record_of(path).ok_or(Problem::NotFound)?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from);
    let kind = decoded(kind).filter(|kind| is_name(kind, KIND_LIMIT_CHARS));
    let kind = kind.ok_or(Problem::InvalidParameter(KIND_FORM))?;
    let is_id = |id: &String| (1..=ID_LIMIT_BYTES).contains(&id.len()) && !id.contains(char::is_control);
    let id = decoded(id).filter(is_id).ok_or(Problem::InvalidParameter(ID_FORM))?;
    Ok(RecordName { kind, id })
}

const UNKNOWN_PARAMETER: &str = "The parameters of this path are `after`, `types`, `limit` and `wait_s`.";

const REPEATED_PARAMETER: &str =
    "Send each parameter once. `types` takes several types, separated by commas.";

const NO_PARAMETERS: &str = "This path takes no parameters.";

const LIMIT_RANGE: &str = "`limit` must be a whole number from 1 to 1000.";

const WAIT_RANGE: &str = "`wait_s` must be a whole number of seconds from 0 to 20.";

const TYPES_FORM: &str = "`types` must be 1 to 64 event types, separated by commas without spaces, such as `trade.executed,escrow.ended`.";

const KIND_FORM: &str = "The kind of a record must be 1 to 30 characters of a-z and _, such as `trade`.";

const ID_FORM: &str =
    "The id of a record must be 1 to 128 bytes of UTF-8 without control characters, percent-encoded.";

/// Returns the decoded parameters of a query. Bytes that are no UTF-8 become U+FFFD, which no parameter may hold.
pub(super) fn parameters(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        (decoded(name), decoded(value))
    })
}

fn looks_like_a_key(text: &str) -> bool {
    let text = text.trim_start().trim_start_matches(['+', '"', '\'']);
    let bare = text
        .get(..7)
        .filter(|scheme| scheme.eq_ignore_ascii_case("bearer "))
        .map_or(text, |_| text.get(7..).unwrap_or_default().trim_start());
    bare.get(..api_key::PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(api_key::PREFIX))
}

fn is_cursor(text: &str) -> bool {
    (1..=CURSOR_LIMIT_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Reads a number of digits alone. Any other text gets the message.
fn number<T: std::str::FromStr + PartialOrd>(
    text: &str,
    least: T,
    most: T,
    message: &'static str,
) -> Result<T, Problem> {
    let digits = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { text.parse().ok() } else { None };
    number.filter(|number| *number >= least && *number <= most).ok_or(Problem::InvalidParameter(message))
}

fn types(text: &str) -> Result<Vec<String>, Problem> {
    let is_type = |name: &str| {
        name.len() <= TYPE_LIMIT_CHARS
            && name.contains('.')
            && name.split('.').all(|part| is_name(part, TYPE_LIMIT_CHARS))
    };
    let types: Vec<String> = text.split(',').take(TYPES_LIMIT.saturating_add(1)).map(str::to_owned).collect();
    if types.len() <= TYPES_LIMIT && types.iter().all(|name| is_type(name)) {
        Ok(types)
    } else {
        Err(Problem::InvalidParameter(TYPES_FORM))
    }
}

fn is_name(text: &str, limit_chars: usize) -> bool {
    (1..=limit_chars).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> Problem {
        events(Some(query)).unwrap_err()
    }

    #[test]
    fn a_query_without_parameters_asks_for_the_first_page_and_does_not_wait() {
        for query in [None, Some(""), Some("&")] {
            let EventsQuery { page, wait_s } = events(query).unwrap();
            assert_eq!((page.after, page.types, page.limit, wait_s), (None, None, 100, 0));
        }
    }

    #[test]
    fn the_parameters_are_read_from_a_percent_encoded_query() {
        let EventsQuery { page, wait_s } = events(Some(
            "types=trade.executed%2Cframe.submission.created&after=aZ-_9&limit=1000&wait%5Fs=20",
        ))
        .unwrap();
        let types = vec!["trade.executed".to_owned(), "frame.submission.created".to_owned()];
        assert_eq!((page.after.as_deref(), page.types, page.limit), (Some("aZ-_9"), Some(types), 1_000));
        assert_eq!(wait_s, 20);
    }

    #[test]
    fn a_number_out_of_its_range_is_refused_with_the_range() {
        for text in ["0", "1001", "10001", "-1", "+1", "1.0", "1e2", "ten", "", " 1", "99999999999999999999"]
        {
            assert_eq!(refused(&format!("limit={text}")), Problem::InvalidParameter(LIMIT_RANGE), "{text}");
        }
        for text in ["21", "-1", "", "0.5", "soon"] {
            assert_eq!(refused(&format!("wait_s={text}")), Problem::InvalidParameter(WAIT_RANGE), "{text}");
        }
    }

    #[test]
    fn types_of_another_form_are_refused_with_the_form() {
        let many = vec!["a.b"; 65].join(",");
        let long = format!("a.{}", "b".repeat(63));
        for text in
            ["", ",", "a", "a.", ".a", "a..b", "A.b", "a.b,", "a.b%20,c.d", "a.b;c.d", "%00.a", &many, &long]
        {
            assert_eq!(refused(&format!("types={text}")), Problem::InvalidParameter(TYPES_FORM), "{text}");
        }
        assert!(events(Some(&format!("types={}", vec!["a.b"; 64].join(",")))).is_ok());
    }

    #[test]
    fn a_text_that_can_be_no_cursor_is_refused_without_asking_the_ledger() {
        for text in ["", "a%00b", "a=", "a.b", "%FF", &"a".repeat(513)] {
            assert_eq!(refused(&format!("after={text}")), Problem::CursorInvalid, "{text}");
        }
        assert!(events(Some("after=latest")).is_ok());
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        for query in ["Limit=1", "since=1", "wait=1", "limit[]=1"] {
            assert_eq!(refused(query), Problem::InvalidParameter(UNKNOWN_PARAMETER), "{query}");
        }
        assert_eq!(refused("limit=1&limit=2"), Problem::InvalidParameter(REPEATED_PARAMETER));
        assert_eq!(refused("after=a&%61fter=b"), Problem::InvalidParameter(REPEATED_PARAMETER));
    }

    #[test]
    fn a_key_in_the_query_is_recognised_by_its_name_or_its_form() {
        for query in [
            "key=x",
            "API_KEY=x",
            "limit=1&apikey=x",
            "token",
            "access_token=x",
            "%6Bey=x",
            "after=ek_abc",
            "q=%65k_abc",
            "q=EK_ABC",
            "ek_abc",
            "q=Bearer%20ek_abc",
            "q=+ek_abc",
        ] {
            assert_eq!(refuse_keys(Some(query)), Err(Problem::KeyInQuery), "{query}");
        }
        for query in [None, Some("after=week_1"), Some("types=api_key.used"), Some("limit=1&&wait_s=2")] {
            assert_eq!(refuse_keys(query), Ok(()), "{query:?}");
        }
    }

    #[test]
    fn a_record_is_named_by_the_path_alone() {
        let named = |path: &str| record(path, None);
        let name = named("/records/trade/wallet-change-42").unwrap();
        assert_eq!((name.kind.as_str(), name.id.as_str()), ("trade", "wallet-change-42"));
        assert_eq!(named("/records/agent/a%2Fb%20%C3%BC").unwrap().id, "a/b ü");
        for path in ["/records/Trade/1", "/records/a.b/1", &format!("/records/{}/1", "a".repeat(31))] {
            assert_eq!(named(path), Err(Problem::InvalidParameter(KIND_FORM)), "{path}");
        }
        for path in
            ["/records/agent/%00", "/records/agent/%FF", &format!("/records/agent/{}", "a".repeat(129))]
        {
            assert_eq!(named(path), Err(Problem::InvalidParameter(ID_FORM)), "{path}");
        }
        assert_eq!(record("/records/trade/1", Some("x=1")), Err(Problem::InvalidParameter(NO_PARAMETERS)));
    }
}
