//! The component's own door: registration, signatures, sizes and what an unsigned caller meets.

use crate::front_door::{FrontDoor, soon};
use anyhow::Result;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use stack::{
    host::{AFTER_REPLY, Build, Host, Kind, Options as HostOptions, local_settings},
    http1,
    inngest::{Inngest, Options, SIGNING_KEY, signature},
    purple_flea::PurpleFlea,
    webhook::unix_s,
};

/// A function that a server with keys drives, and what it works with.
struct Door {
    host: Host,
    inngest: Inngest,
    purple_flea: PurpleFlea,
}

impl Door {
    async fn open(options: Options, changes: &[(&str, &str)]) -> Result<Self> {
        let inngest = Inngest::stand_in(options).await?;
        let purple_flea = PurpleFlea::start().await?;
        // The URL that is registered has to be known before the start.
        let (listener, url) = http1::listen().await?;
        drop(listener);
        let mut settings = local_settings(&purple_flea.url);
        settings.extend(inngest.settings().into_iter().map(|(name, value)| (name.to_owned(), value)));
        settings.insert("inngest_serve_url".to_owned(), format!("{url}/api/inngest"));
        settings.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let allowed_origins = Some(vec![purple_flea.url.clone(), inngest.url().to_owned()]);
        let listen = url.strip_prefix("http://").map(str::to_owned);
        let options =
            HostOptions { build: Build::Spin, settings, allowed_origins, listen, after_reply: AFTER_REPLY };
        let host = Host::start(Kind::Embedded, &options).await?;
        Ok(Self { host, inngest, purple_flea })
    }

    async fn send(
        &self,
        method: Method,
        query: &str,
        body: &[u8],
        signed: Option<&str>,
    ) -> Result<(u16, Value)> {
        let response = self.response(method, query, body, signed).await?;
        Ok((response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or_default()))
    }

    async fn response(
        &self,
        method: Method,
        query: &str,
        body: &[u8],
        signed: Option<&str>,
    ) -> Result<Response<Vec<u8>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/inngest{query}", self.host.url))
            .header("content-type", "application/json")
            .header("content-length", body.len());
        if let Some(signed) = signed {
            request = request.header("x-inngest-signature", signed);
        }
        let response = soon(http1::send(request.body(body.to_vec())?)).await??.map(|body| body.to_vec());
        assert_eq!(
            response.headers()["x-inngest-sdk"],
            format!("purple-flea-edge:v{}", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(response.headers()["x-inngest-req-version"], "2");
        Ok(response)
    }
}

const QUERY: &str = "?fnId=purple-flea-no-such-function&stepId=step";

/// A call of this size, in bytes.
fn call(bytes: usize) -> Vec<u8> {
    let mut body = br#"{"ctx":{"run_id":"01KB"},"event":{"name":"a/b"},"steps":{},"padding":""#.to_vec();
    body.resize(bytes - 2, b'x');
    body.extend_from_slice(b"\"}");
    body
}

fn signed(body: &[u8]) -> Result<String> {
    signature(SIGNING_KEY, body, unix_s())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_put_registers_the_function_and_says_so() -> Result<()> {
    let door = Door::open(Options::with_keys(), &[]).await?;
    let response = door.response(Method::PUT, "?deployId=a%26b", b"", None).await?;
    let body: Value = serde_json::from_slice(response.body())?;
    assert_eq!(body["message"], "Successfully registered");
    assert_eq!(response.headers()["x-inngest-sync-kind"], "out_of_band");
    let (_, query, registered) = door.inngest.clock()?.registration().unwrap();
    assert_eq!(query, "deployId=a%26b");
    assert_eq!(registered["url"], format!("{}/api/inngest", door.host.url));
    // Nothing has changed since.
    assert_eq!(
        door.send(Method::PUT, "", b"", None).await?,
        (200, json!({ "message": "Successfully registered", "modified": false }))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_fails_says_why_and_shows_no_key() -> Result<()> {
    let other = "signkey-test-ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    let door = Door::open(Options::with_keys(), &[("inngest_signing_key", other)]).await?;
    let (status, body) = door.send(Method::PUT, "", b"", None).await?;
    let refused = "Inngest refuses the signing key: see `inngest_signing_key`";
    assert_eq!((status, body), (500, json!({ "message": refused, "modified": false })));
    // During a rotation the server may know the key before.
    let changes = [("inngest_signing_key", other), ("inngest_signing_key_fallback", SIGNING_KEY)];
    let door = Door::open(Options::with_keys(), &changes).await?;
    assert_eq!(door.send(Method::PUT, "", b"", None).await?.0, 200);
    let body = call(200);
    assert_eq!(door.send(Method::POST, QUERY, &body, Some(&signed(&body)?)).await?.0, 500);
    let door = Door::open(Options::with_keys(), &[("inngest_api_url", "http://127.0.0.1:1")]).await?;
    let (status, body) = door.send(Method::PUT, "", b"", None).await?;
    assert_eq!((status, &body["message"]), (500, &json!("Inngest was not reached: see `inngest_api_url`")));
    assert!(!door.host.log.lines().join("").contains("0123456789abcdef0123"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_fresh_signature_over_the_raw_bytes_is_accepted() -> Result<()> {
    let door = Door::open(Options::with_keys(), &[]).await?;
    let body = r#"{"ctx":{"run_id":"01KB"},"event":{"name":"a/b","data":{"s":"Zoë<>&  1e21"}},"steps":{}}"#
        .as_bytes();
    // A function that does not exist: the call itself is accepted.
    let accepted = 500;
    let good = signed(body)?;
    let other_key = signature(&SIGNING_KEY.replace('f', "e"), body, unix_s())?;
    let spaced = String::from_utf8(body.to_vec())?.replace(",\"steps\"", ", \"steps\"");
    for (sent, shown, status) in [
        (body, Some(good.clone()), accepted),
        // A replay within five minutes is the same call: what it does again is harmless by the steps themselves.
        (body, Some(good.clone()), accepted),
        (body, None, 401),
        (body, Some(other_key), 401),
        (body, Some(signature(SIGNING_KEY, body, unix_s() - 301)?), 401),
        (body, Some(signature(SIGNING_KEY, body, unix_s() + 310)?), 401),
        (body, Some(good.replace("s=", "s=0")), 401),
        (body, Some(String::new()), 401),
        (spaced.as_bytes(), Some(good.clone()), 401),
        (&b""[..], Some(good.clone()), 401),
    ] {
        let (said, reply) = door.send(Method::POST, QUERY, sent, shown.as_deref()).await?;
        assert_eq!(said, status, "{shown:?}: {reply}");
        if status == 401 {
            assert_eq!(reply, json!({ "message": "Unauthorized" }));
        }
    }
    // A PUT needs no signature, but a wrong one is refused.
    assert_eq!(door.send(Method::PUT, "", b"", Some(&good)).await?.0, 401);
    assert_eq!(door.send(Method::PUT, "", b"", Some(&signed(b"")?)).await?.0, 200);
    assert_eq!(door.send(Method::DELETE, "", b"", None).await?.0, 405);
    assert!(door.purple_flea.requests().is_empty());
    let refused =
        door.host.log.lines().iter().filter(|line| line.contains("\"cause\":\"wrong_signature\"")).count();
    assert_eq!(refused, 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_have_four_mebibytes_and_no_byte_more() -> Result<()> {
    let door = Door::open(Options::with_keys(), &[]).await?;
    let limit = 4 * 1024 * 1024;
    let body = call(limit);
    assert_eq!(door.send(Method::POST, QUERY, &body, Some(&signed(&body)?)).await?.0, 500);
    let body = call(limit + 1);
    let response = door.response(Method::POST, QUERY, &body, Some(&signed(&body)?)).await?;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-inngest-no-retry"]),
        (413, &"true".parse()?)
    );
    // No other path takes more than before, and neither does this one where Inngest may not call.
    let closed = FrontDoor::open().await?;
    let body = call(64 * 1024 + 1);
    let request = Request::post(closed.url("/api/inngest"))
        .header("content-type", "application/json")
        .header("content-length", body.len())
        .body(body)?;
    assert_eq!(soon(http1::send(request)).await??.status(), 413);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_calls_at_once_do_not_use_up_the_instances_memory() -> Result<()> {
    let door = Door::open(Options::with_keys(), &[]).await?;
    let body = call(4 * 1024 * 1024);
    let signature = signed(&body)?;
    let calls = (0..24).map(|_| door.send(Method::POST, QUERY, &body, Some(&signature)));
    let answers = futures_util::future::join_all(calls).await;
    for answer in answers {
        // A call that finds no room in time is tried again by Inngest.
        let (status, reply) = answer?;
        assert!(status == 500 || (status == 400 && reply["name"] == "incomplete_body"), "{status} {reply}");
    }
    let trapped = door.host.log.lines().iter().any(|line| line.contains("trapped"));
    assert!(!trapped, "{:?}", door.host.log.lines());
    Ok(())
}
