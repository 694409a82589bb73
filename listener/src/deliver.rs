//! One delivery: find the address, connect, encrypt, send, read the answer's head. Each phase has its own limit.

use crate::{
    ledger::{Delivery, Did, Format, Outcome},
    log::milliseconds,
    resolver::{Refusal, Resolver},
    target::Target,
};
use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use purple_flea_edge::webhook::signature::{ID, SIGNATURE, Secret, TIMESTAMP};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest time to find the host's addresses.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time to connect, to all addresses together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);

/// Longest time to connect to one of several addresses.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time to encrypt the connection.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time to read the answer's body. Its status has decided already.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of the answer's body that are read, so that a polite receiver sees its answer taken.
const BODY_LIMIT_BYTES: usize = 4096;

/// Most bytes of the answer's head.
const HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// Most headers of an answer.
const HEADERS_LIMIT: usize = 64;

/// Longest wait that a receiver may ask for, in seconds. The database has a lower limit.
const RETRY_AFTER_LIMIT_S: u64 = 86_400;

/// The time of all phases but the answer: a delivery that begins later than this before its lease ends is given back.
pub(crate) const OVERHEAD: Duration = Duration::from_secs(17);

/// The listener's name for receivers.
const AGENT: &str = concat!("purple-flea-listener/", env!("CARGO_PKG_VERSION"));

/// Delivers to receivers.
pub(crate) struct Sender {
    pub(crate) resolver: Resolver,
    pub(crate) tls: TlsConnector,
    /// Longest time from a request to the head of its answer.
    pub(crate) answer_timeout: Duration,
}

/// Ends the task of a connection with the delivery.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Sender {
    /// Delivers once, and tells what became of it. A redirect is a failure.
    pub(crate) async fn deliver(self: &Arc<Self>, delivery: &Delivery) -> Outcome {
        let began = Instant::now();
        let result = self.send(delivery).await;
        let mut outcome = outcome(delivery, Did::Failed);
        outcome.ms = milliseconds(began.elapsed());
        match result {
            Ok((status, _)) if status.is_success() => {
                (outcome.did, outcome.status) = (Did::Delivered, Some(status.as_u16()));
            }
            Ok((status, headers)) => {
                outcome.status = Some(status.as_u16());
                outcome.error = Some(if status.is_redirection() { "redirect" } else { "status" });
                outcome.retry_after_s = retry_after_s(&headers, SystemTime::now());
            }
            Err(code) => outcome.error = Some(code),
        }
        outcome
    }

    async fn send(&self, delivery: &Delivery) -> Result<(StatusCode, HeaderMap), &'static str> {
        let target = Target::parse(&delivery.url).ok_or("url_refused")?;
        let addresses = timeout(RESOLVE_TIMEOUT, self.resolver.resolve(&target))
            .await
            .map_err(|_| "name_timed_out")?
            .map_err(|refusal| match refusal {
                Refusal::NotResolved => "name_not_resolved",
                Refusal::NotPublic => "address_refused",
            })?;
        let stream =
            timeout(CONNECT_TIMEOUT, connect(&addresses)).await.map_err(|_| "connect_timed_out")??;
        let encrypted = timeout(TLS_TIMEOUT, self.tls.connect(target.server_name.clone(), stream))
            .await
            .map_err(|_| "tls_timed_out")?
            .map_err(|_| "tls_failed")?;
        let request = request(delivery, &target).ok_or("secret_unreadable")?;
        let answer = timeout(self.answer_timeout, exchange(encrypted, request)).await;
        let (answer, _connection) = answer.map_err(|_| "answer_timed_out")?.map_err(|_| "broken")?;
        let (head, mut body) = answer.into_parts();
        let _ = timeout(BODY_TIMEOUT, read(&mut body)).await;
        Ok((head.status, head.headers))
    }
}

/// Makes an outcome of a delivery without an answer.
pub(crate) fn outcome(delivery: &Delivery, did: Did) -> Outcome {
    Outcome {
        subscription: delivery.subscription.clone(),
        event: delivery.event,
        token: delivery.token.clone(),
        did,
        status: None,
        error: None,
        retry_after_s: None,
        ms: 0,
    }
}

/// Connects to the first address that answers. No name is looked up here.
async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, &'static str> {
    let mut code = "not_connected";
    for address in addresses {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(_)) => code = "not_connected",
            Err(_) => code = "connect_timed_out",
        }
    }
    Err(code)
}

/// Writes the request: signed, or for Inngest with the event key in its path. Returns `None` if the secret is none for
/// this format.
fn request(delivery: &Delivery, target: &Target) -> Option<Request<Full<Bytes>>> {
    let secret = delivery.secret.as_deref()?;
    let request = match delivery.format {
        Format::Standard => {
            let now_s = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
            let signature =
                Secret::parse(secret)?.signature(&delivery.webhook_id, now_s, delivery.body.as_bytes())?;
            Request::post(target.path.as_str())
                .header(ID, &delivery.webhook_id)
                .header(TIMESTAMP, now_s)
                .header(SIGNATURE, signature)
        }
        Format::Inngest => Request::post(target.path_of_event_key(secret)?.as_str()),
    };
    request
        .header(HOST, &target.authority)
        .header(CONTENT_TYPE, "application/json")
        .header(CONTENT_LENGTH, delivery.body.len())
        .header(USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(delivery.body.clone())))
        .ok()
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Connection), hyper::Error> {
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_LIMIT).max_buf_size(HEAD_LIMIT_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let connection = Connection(tokio::spawn(async move {
        // The sender sees an error of the connection.
        let _ = connection.await;
    }));
    Ok((sender.send_request(request).await?, connection))
}

async fn read(body: &mut Incoming) {
    let mut count = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        count = count.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if count >= BODY_LIMIT_BYTES {
            return;
        }
    }
}

/// Reads `retry-after`: seconds, or a date.
fn retry_after_s(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).map_or(0, |wait| wait.as_secs()),
    };
    Some(seconds.min(RETRY_AFTER_LIMIT_S))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_receiver_asks_for_a_wait_in_seconds_or_with_a_date_and_a_day_at_most() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after_s(&headers, now)
        };
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked("99999999"), Some(86_400));
        assert_eq!(asked("Tue, 14 Nov 2023 22:14:20 GMT"), Some(60));
        assert_eq!(asked("Tue, 14 Nov 2023 22:12:20 GMT"), Some(0));
        for other in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(asked(other), None, "{other}");
        }
        assert_eq!(retry_after_s(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_delivery_without_a_readable_secret_is_not_sent() {
        let target = Target::parse("https://hooks.example.com/a").unwrap();
        let mut delivery = Delivery {
            subscription: "s".to_owned(),
            event: 1,
            token: "t".to_owned(),
            attempt: 1,
            webhook_id: "evt_1".to_owned(),
            url: "https://hooks.example.com/a".to_owned(),
            format: Format::Standard,
            secret: None,
            body: "{}".to_owned(),
        };
        assert!(request(&delivery, &target).is_none());
        delivery.secret = Some("whsec_c2hvcnQ=".to_owned());
        assert!(request(&delivery, &target).is_none());
        delivery.secret = Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let request = request(&delivery, &target).unwrap();
        assert_eq!((request.uri().path(), &request.headers()["host"]), ("/a", &target.authority));
        assert_eq!(request.headers()["content-length"], "2");
    }

    #[test]
    fn a_delivery_to_inngest_has_its_key_in_the_path_and_no_signature() {
        let mut delivery = Delivery {
            subscription: "s".to_owned(),
            event: 1,
            token: "t".to_owned(),
            attempt: 1,
            webhook_id: "evt_1".to_owned(),
            url: "https://inn.gs".to_owned(),
            format: Format::Inngest,
            secret: Some("a-key_1".to_owned()),
            body: "{}".to_owned(),
        };
        for (url, path) in [
            ("https://inn.gs", "/e/a-key_1"),
            ("https://inn.gs/", "/e/a-key_1"),
            ("https://inngest.example.com:8288/prefix", "/prefix/e/a-key_1"),
        ] {
            let request = request(&delivery, &Target::parse(url).unwrap()).unwrap();
            assert_eq!(request.uri().path(), path);
            assert!(!request.headers().contains_key(SIGNATURE));
        }
        let target = Target::parse(&delivery.url).unwrap();
        for secret in ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "", "a/../b", "a?b", "a b"] {
            delivery.secret = Some(secret.to_owned());
            assert!(request(&delivery, &target).is_none(), "{secret}");
        }
    }
}
