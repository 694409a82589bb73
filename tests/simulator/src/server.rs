//! The simulator on the wire, faults included.

use super::{
    Fault, How, REQUESTS_LIMIT, Request, Shared, State,
    answer::{Answer, json_answer},
    chaos::Planned,
    routes::{self, Kind, Route},
};
use anyhow::{Error, Result, anyhow};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{net::TcpStream, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// How long a dripping server takes over each byte.
const DRIP: Duration = Duration::from_secs(1);

/// How long a connection on which nothing will ever come is kept: longer than anybody waits, and not for
/// ever, as nobody notices here when its caller goes.
const SILENCE: Duration = Duration::from_secs(120);

type Body = UnsyncBoxBody<Bytes, Error>;

pub(super) async fn accept(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            // A second handle on the same socket, to reset it by.
            let Ok((stream, handle)) = two_handles(stream) else {
                return;
            };
            let service = service_fn(|request| serve(&shared, &handle, request));
            // A caller that sends a whole request and goes away has made a bet all the same.
            let _ =
                http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

fn two_handles(stream: tokio::net::TcpStream) -> std::io::Result<(tokio::net::TcpStream, TcpStream)> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let handle = stream.try_clone()?;
    Ok((tokio::net::TcpStream::from_std(stream)?, handle))
}

async fn serve(
    shared: &Shared,
    handle: &TcpStream,
    request: http::Request<Incoming>,
) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let request = Request {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned(),
    };
    let kind = kind(&head.method, &request);
    let (planned, answer, delay) = {
        let mut state = shared.state();
        if state.requests.len() >= REQUESTS_LIMIT {
            state.requests.pop_front();
        }
        state.requests.push_back(request.clone());
        shared.requests.send_modify(|seen| *seen += 1);
        let planned = next_fault(&mut state, kind);
        let by_the_rules = planned.as_ref().is_none_or(|planned| planned.fault.after_the_bet);
        let answer = if by_the_rules {
            let hidden = planned.as_ref().is_some_and(|planned| planned.hidden);
            routes::answer(&mut state, &head.method, &request, hidden)
        } else {
            let body = serde_json::json!({"outcome": "win", "payout": 1_000_000, "fault": true});
            json_answer(StatusCode::OK, body)
        };
        (planned, answer, state.delay.filter(|_| kind.moves_money()))
    };
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    let Answer { status, content_type, body } = answer;
    let body = Bytes::from(body);
    let Some(Planned { fault: Fault { how, .. }, .. }) = planned else {
        return whole(status, &[("content-type", content_type.to_owned())], body);
    };
    let in_pieces = |body: Body, length: usize| {
        let head = Response::builder().status(status).header("content-type", content_type);
        Ok(head.header("content-length", length).body(body)?)
    };
    match how {
        How::Answer { status, headers, body } => whole(status, &headers, body.into()),
        How::Hang => {
            sleep(SILENCE).await;
            Err(anyhow!("hung"))
        }
        How::Reset => {
            socket2::SockRef::from(handle).set_linger(Some(Duration::ZERO))?;
            Err(anyhow!("reset"))
        }
        How::Drip => {
            let bytes = body.to_vec();
            let length = bytes.len();
            let drops = stream::iter(bytes).then(|byte| async move {
                sleep(DRIP).await;
                Ok(Frame::data(Bytes::from(vec![byte])))
            });
            in_pieces(StreamBody::new(drops).boxed_unsync(), length)
        }
        How::BreakOff => {
            let half = stream::iter([Ok(Frame::data(half(&body))), Err(anyhow!("broken off"))]);
            // The half leaves before the break does.
            let half = half.then(|frame| async move {
                if frame.is_err() {
                    sleep(Duration::from_millis(20)).await;
                }
                frame
            });
            in_pieces(StreamBody::new(half).boxed_unsync(), body.len())
        }
        How::OddNumber => {
            whole(status, &[("content-type", content_type.to_owned())], with_an_odd_number(&body))
        }
        How::Stall => {
            let end = stream::once(async {
                sleep(SILENCE).await;
                Err(anyhow!("stalled"))
            });
            let half = stream::iter([Ok(Frame::data(half(&body)))]).chain(end);
            in_pieces(StreamBody::new(half).boxed_unsync(), body.len())
        }
    }
}

fn kind(method: &http::Method, request: &Request) -> Kind {
    Route::of(method, request).map_or(Kind::Other, |(route, _)| route.kind)
}

fn next_fault(state: &mut State, kind: Kind) -> Option<Planned> {
    if let Some(fault) = state.next.pop_front().or_else(|| state.always.clone()) {
        return Some(Planned { fault, hidden: false });
    }
    let dice = state.chaos.as_mut()?;
    match kind {
        Kind::History => dice.with_the_history(),
        kind if kind.moves_money() => dice.with_a_bet(),
        _ => None,
    }
}

/// An answer of JSON with a nonce of a million digits in its proof; any other as it is.
fn with_an_odd_number(body: &Bytes) -> Bytes {
    let (Ok(mut answer), Ok(nonce)) =
        (serde_json::from_slice::<serde_json::Value>(body), "1e999999".parse::<serde_json::Number>())
    else {
        return body.clone();
    };
    if let Some(fields) = answer.as_object_mut() {
        let proof = fields.entry("proof").or_insert_with(|| serde_json::json!({}));
        if let Some(proof) = proof.as_object_mut() {
            proof.insert("nonce".to_owned(), nonce.into());
        }
    }
    answer.to_string().into()
}

fn half(body: &Bytes) -> Bytes {
    body.slice(..body.len() / 2)
}

fn whole(status: StatusCode, headers: &[(&'static str, String)], body: Bytes) -> Result<Response<Body>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(body).map_err(|never| match never {}).boxed_unsync())?)
}

#[cfg(test)]
mod tests;
