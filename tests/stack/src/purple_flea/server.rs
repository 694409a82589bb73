//! The simulator on the wire, faults included.

use super::{Fault, How, REQUESTS_LIMIT, Request, Shared, State, chaos::Planned, games};
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
use std::{future::pending, net::TcpStream, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

/// How long a dripping server takes over each byte.
const DRIP: Duration = Duration::from_secs(1);

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
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
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
    let (planned, answer, delay) = {
        let mut state = shared.state();
        if state.requests.len() >= REQUESTS_LIMIT {
            state.requests.drain(..REQUESTS_LIMIT / 2);
        }
        state.requests.push(request.clone());
        shared.requests.send_modify(|seen| *seen += 1);
        let planned = next_fault(&mut state, &request);
        let by_the_rules = planned.as_ref().is_none_or(|planned| planned.fault.after_the_bet);
        let answer = if by_the_rules {
            let hidden = planned.as_ref().is_some_and(|planned| planned.hidden);
            games::answer(&mut state, &head.method, &request, hidden)
        } else {
            let body = serde_json::json!({"outcome": "win", "payout": 1_000_000, "_info": {"fault": true}});
            games::Answer { status: StatusCode::OK, content_type: "application/json", body: body.to_string() }
        };
        (planned, answer, state.delay)
    };
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    let body = Bytes::from(answer.body);
    let Some(Planned { fault: Fault { how, .. }, .. }) = planned else {
        return whole(answer.status, &[("content-type", answer.content_type.to_owned())], body);
    };
    match how {
        How::Answer { status, headers, body } => whole(status, &headers, body.into()),
        How::Hang => pending().await,
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
            in_pieces(length, StreamBody::new(drops).boxed_unsync())
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
            in_pieces(body.len(), StreamBody::new(half).boxed_unsync())
        }
        How::Stall => {
            let half = stream::iter([Ok(Frame::data(half(&body)))]).chain(stream::pending());
            in_pieces(body.len(), StreamBody::new(half).boxed_unsync())
        }
    }
}

fn next_fault(state: &mut State, request: &Request) -> Option<Planned> {
    if let Some(fault) = state.next.pop_front().or_else(|| state.always.clone()) {
        return Some(Planned { fault, hidden: false });
    }
    let chaos = state.chaos.as_mut()?;
    if games::Route::of(&request.path).is_some() { chaos.with_a_bet() } else { chaos.with_the_history() }
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

fn in_pieces(length: usize, body: Body) -> Result<Response<Body>> {
    let response =
        Response::builder().header("content-type", "application/json").header("content-length", length);
    Ok(response.body(body)?)
}
