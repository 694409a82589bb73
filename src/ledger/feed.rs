//! Calls of the ledger on behalf of a tenant: a page of its events, a record, and a seat for a wait.

use super::{
    Ledger,
    object::{self, Object, Unreadable},
    rpc::{self, LedgerError},
    uuid,
};
use crate::{domain::api_key::ApiKey, runtime::Runtime};
use serde_json::{json, value::RawValue};

/// The part of the feed that a caller asks for. The function has checked the form of each member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The cursor after which the page begins, or `latest`. `None`: the page begins with the oldest event that is kept.
    pub after: Option<String>,
    /// The types of the page's events. `None`: all types.
    pub types: Option<Vec<String>>,
    /// Most events of the page: 1 to 1,000.
    pub limit: u32,
}

/// A page of the feed.
#[derive(Debug)]
pub struct Page {
    /// The events, in their order: an array of objects, unchanged.
    pub events: Box<RawValue>,
    /// Whether the page has no event.
    pub is_empty: bool,
    /// The cursor after which the next page begins.
    pub next: String,
    /// Whether the next page has events already.
    pub more: bool,
}

/// The reason why the ledger gives no page or no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedRefusal {
    /// The key is unknown or revoked.
    Unauthorized,
    /// The key does not have the scope.
    Forbidden,
    /// The cursor is forged, or another tenant's.
    CursorInvalid,
    /// Events after the cursor have been deleted. The text is the cursor of the oldest event that is kept.
    CursorTooOld(String),
    /// The cursor was made before a restore. The text is the cursor of the restored feed's start.
    CursorOfAnotherGeneration(String),
    /// There is no such type. The texts are the known types, if the ledger names them.
    UnknownType(Vec<String>),
    /// An operator has to confirm that the database was restored.
    RestoreUnconfirmed,
    /// There is no such record, or it is another tenant's.
    NotFound,
}

/// The ledger's answer: what the caller asked for, or a refusal.
pub type Answer<T> = Result<T, FeedRefusal>;

/// A request that waits for an event, with a name of its own.
#[derive(Debug)]
pub struct Waiter(String);

impl Waiter {
    /// Makes a waiter with a new name.
    pub fn new(runtime: &impl Runtime) -> Self {
        Self(uuid(runtime.random()))
    }
}

impl Ledger {
    /// Reads a page of the feed of the key's tenant.
    pub async fn read_events(
        &self,
        key: &ApiKey,
        page: &PageRequest,
        runtime: &impl Runtime,
    ) -> Result<Answer<Page>, LedgerError> {
        let body = json!({
            "key_hash": key.hash(), "after": page.after, "types": page.types, "most": page.limit,
        });
        let reply = self.call("read_events", &body, runtime).await?;
        read_page(rpc::text(&reply)?)
    }

    /// Reads a record of the key's tenant, unchanged.
    pub async fn read_record(
        &self,
        key: &ApiKey,
        kind: &str,
        id: &str,
        runtime: &impl Runtime,
    ) -> Result<Answer<Box<RawValue>>, LedgerError> {
        let body = json!({ "key_hash": key.hash(), "kind": kind, "id": id });
        let reply = self.call("read_record", &body, runtime).await?;
        read_record(rpc::text(&reply)?)
    }

    /// Takes a seat for a request that waits for `wait_s` seconds. Returns whether there was a free one.
    pub async fn take_feed_seat(
        &self,
        waiter: &Waiter,
        wait_s: u64,
        runtime: &impl Runtime,
    ) -> Result<bool, LedgerError> {
        let body = json!({ "waiter": waiter.0, "wait_s": wait_s });
        let reply = self.call("take_feed_seat", &body, runtime).await?;
        object::value(rpc::text(&reply)?)?.as_bool().ok_or(LedgerError::Unreadable)
    }

    /// Leaves the waiter's seat. A seat that cannot be left is free after the wait's time.
    pub async fn leave_feed_seat(&self, waiter: &Waiter, runtime: &impl Runtime) -> Result<(), LedgerError> {
        self.call("leave_feed_seat", &json!({ "waiter": waiter.0 }), runtime).await.map(drop)
    }
}

fn read_page(reply: &str) -> Result<Answer<Page>, LedgerError> {
    let reply = Object::read(reply)?;
    if let Some(refusal) = refusal(&reply)? {
        return Ok(Err(refusal));
    }
    let events = reply.raw("events")?.ok_or(Unreadable)?;
    Ok(Ok(Page {
        is_empty: Object::read_all(events.get())?.is_empty(),
        events: events.to_owned(),
        next: reply.text("next")?,
        more: reply.flag("more")?,
    }))
}

fn read_record(reply: &str) -> Result<Answer<Box<RawValue>>, LedgerError> {
    let reply = Object::read(reply)?;
    match refusal(&reply)? {
        Some(refusal) => Ok(Err(refusal)),
        None => Ok(Ok(reply.not_null("record")?.ok_or(Unreadable)?.to_owned())),
    }
}

/// Reads the refusal of a reply, if it is one.
fn refusal(reply: &Object) -> Result<Option<FeedRefusal>, Unreadable> {
    Ok(Some(match reply.text("state")?.as_str() {
        "ok" => return Ok(None),
        "unauthorized" => FeedRefusal::Unauthorized,
        "forbidden" => FeedRefusal::Forbidden,
        "cursor_invalid" => FeedRefusal::CursorInvalid,
        "cursor_too_old" => FeedRefusal::CursorTooOld(reply.text("start")?),
        "cursor_of_another_generation" => FeedRefusal::CursorOfAnotherGeneration(reply.text("start")?),
        "unknown_type" => FeedRefusal::UnknownType(known_types(reply)?),
        "restore_unconfirmed" => FeedRefusal::RestoreUnconfirmed,
        "unknown_kind" | "not_found" => FeedRefusal::NotFound,
        _ => return Err(Unreadable),
    }))
}

fn known_types(reply: &Object) -> Result<Vec<String>, Unreadable> {
    let strings = |field: &RawValue| serde_json::from_str(field.get()).map_err(|_| Unreadable);
    Ok(reply.not_null("known")?.map(strings).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_its_events_as_the_ledger_wrote_them() {
        let text = r#"{"state": "ok", "events": [{"id": 7, "cursor": "c", "event": {"n": 1.50}}], "next": "c", "more": true}"#;
        let page = read_page(text).unwrap().unwrap();
        assert_eq!(page.events.get(), r#"[{"id": 7, "cursor": "c", "event": {"n": 1.50}}]"#);
        assert_eq!((page.is_empty, page.next.as_str(), page.more), (false, "c", true));
        let empty = read_page(r#"{"state":"ok","events":[ ],"next":"c","more":false}"#).unwrap().unwrap();
        assert!(empty.is_empty);
    }

    #[test]
    fn a_refusal_is_read_with_the_cursor_from_which_the_caller_can_go_on() {
        let refusal = |text: &str| read_page(text).unwrap().unwrap_err();
        assert_eq!(refusal(r#"{"state":"unauthorized"}"#), FeedRefusal::Unauthorized);
        assert_eq!(refusal(r#"{"state":"forbidden"}"#), FeedRefusal::Forbidden);
        assert_eq!(
            refusal(r#"{"state":"cursor_too_old","start":"s"}"#),
            FeedRefusal::CursorTooOld("s".to_owned())
        );
        assert_eq!(
            refusal(r#"{"state":"unknown_type","known":["a.b"]}"#),
            FeedRefusal::UnknownType(vec!["a.b".to_owned()])
        );
        assert_eq!(refusal(r#"{"state":"unknown_type"}"#), FeedRefusal::UnknownType(Vec::new()));
        for state in ["unknown_kind", "not_found"] {
            let text = format!(r#"{{"state":"{state}"}}"#);
            assert_eq!(read_record(&text).unwrap().unwrap_err(), FeedRefusal::NotFound);
        }
    }

    #[test]
    fn a_reply_of_another_form_is_unreadable() {
        for text in [
            "{}",
            "[]",
            r#"{"state":"of_tomorrow"}"#,
            r#"{"state":"cursor_too_old"}"#,
            r#"{"state":"ok","events":[],"more":false}"#,
            r#"{"state":"ok","events":{},"next":"c","more":false}"#,
            r#"{"state":"ok","events":[7],"next":"c","more":false}"#,
            r#"{"state":"unknown_type","known":[7]}"#,
        ] {
            assert!(read_page(text).is_err(), "{text}");
        }
        assert!(read_record(r#"{"state":"ok","record":null}"#).is_err());
    }
}
