//! Answers `GET /events` and `GET /records/{kind}/{id}`: the feed of a tenant's events, and the records that they are
//! about.
//!
//! The database decides which events a page has. The function only repeats the question while a page is empty and its
//! caller waits, once a second and with short calls, so that a wait holds no connection of the database.

use super::{
    problem::Problem,
    query::{self, EventsQuery},
    refusal::Refusal,
    response::json,
};
use crate::{
    config::Settings,
    domain::api_key::ApiKey,
    ledger::{
        Ledger,
        feed::{FeedRefusal, Page, PageRequest, Waiter},
    },
    runtime::Runtime,
    time_budget,
};
use http::{Response, Uri};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// The scope that opens `GET /events`.
const EVENTS_SCOPE: &str = "events:read";

/// The scope that opens `GET /records/{kind}/{id}`.
const RECORDS_SCOPE: &str = "records:read";

/// Why a request with `wait_s` was answered at once, without an event.
const TOO_MANY_WAITERS: &str = "too_many_waiters";

/// The time after which a caller that got no seat asks again, in seconds.
const NO_SEAT_RETRY_S: u64 = 5;

#[derive(Serialize)]
struct Body<'a> {
    events: &'a RawValue,
    next: &'a str,
    more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_waited: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

#[derive(Serialize)]
struct RecordBody<'a> {
    record: &'a RawValue,
}

/// Answers `GET /events`.
pub async fn events(
    settings: &Settings,
    target: &Uri,
    key: &ApiKey,
    runtime: &impl Runtime,
) -> Result<Response<Vec<u8>>, Problem> {
    let EventsQuery { page: request, wait_s } = query::events(target.query())?;
    let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
    let page = read(ledger, key, &request, runtime).await?;
    if wait_s == 0 || is_due(&page) {
        return Ok(reply(&page, false));
    }
    let waiter = Waiter::new(runtime);
    if !ledger.take_feed_seat(&waiter, wait_s, runtime).await? {
        return Ok(reply(&page, true));
    }
    let page = wait(ledger, key, request, page, Duration::from_secs(wait_s), runtime).await;
    // A seat that could not be left is free after its time.
    let _ = ledger.leave_feed_seat(&waiter, runtime).await;
    Ok(reply(&page?, false))
}

/// Answers `GET /records/{kind}/{id}`.
pub async fn record(
    settings: &Settings,
    target: &Uri,
    key: &ApiKey,
    runtime: &impl Runtime,
) -> Result<Response<Vec<u8>>, Problem> {
    let name = query::record(target.path(), target.query())?;
    let ledger = settings.ledger.as_ref().ok_or(Problem::LedgerNotConfigured)?;
    let answer = ledger.read_record(key, &name.kind, &name.id, runtime).await?;
    let record = answer.map_err(|refusal| problem(refusal, RECORDS_SCOPE))?;
    Ok(json(&RecordBody { record: &record }))
}

/// Looks once a second until there is an event, or until the time is over. Goes on from each page's own cursor, because
/// `latest` means another place at every look.
async fn wait(
    ledger: &Ledger,
    key: &ApiKey,
    mut request: PageRequest,
    mut page: Page,
    time: Duration,
    runtime: &impl Runtime,
) -> Result<Page, Problem> {
    let ends = runtime.monotonic().saturating_add(time);
    loop {
        let left = ends.saturating_sub(runtime.monotonic());
        if left.is_zero() || is_due(&page) {
            return Ok(page);
        }
        runtime.sleep(left.min(Duration::from_millis(time_budget::FEED_LOOK_INTERVAL_MS))).await;
        request.after = Some(page.next);
        page = read(ledger, key, &request, runtime).await?;
    }
}

/// Returns whether a page must not wait: it has events, or the next one has.
fn is_due(page: &Page) -> bool {
    !page.is_empty || page.more
}

async fn read(
    ledger: &Ledger,
    key: &ApiKey,
    request: &PageRequest,
    runtime: &impl Runtime,
) -> Result<Page, Problem> {
    ledger.read_events(key, request, runtime).await?.map_err(|refusal| problem(refusal, EVENTS_SCOPE))
}

fn reply(page: &Page, no_seat: bool) -> Response<Vec<u8>> {
    json(&Body {
        events: &page.events,
        next: &page.next,
        more: page.more,
        not_waited: no_seat.then_some(TOO_MANY_WAITERS),
        retry_after_s: no_seat.then_some(NO_SEAT_RETRY_S),
    })
}

fn problem(refusal: FeedRefusal, scope: &'static str) -> Problem {
    match refusal {
        FeedRefusal::Unauthorized => Refusal::KeyRefused.into(),
        FeedRefusal::Forbidden => Problem::MissingScope(scope),
        FeedRefusal::CursorInvalid => Problem::CursorInvalid,
        FeedRefusal::CursorTooOld(start) => Problem::CursorTooOld(start),
        FeedRefusal::CursorOfAnotherGeneration(start) => Problem::CursorOfAnotherGeneration(start),
        FeedRefusal::UnknownType(known) => Problem::UnknownType(known),
        FeedRefusal::RestoreUnconfirmed => Problem::RestoreUnconfirmed,
        FeedRefusal::NotFound => Problem::UnknownRecord,
    }
}

#[cfg(test)]
mod tests;
