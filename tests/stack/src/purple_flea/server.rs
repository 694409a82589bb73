//! The simulator on the wire, faults included.

use super::{Fault, How, Request, Shared, State, games};
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
        headers: head.headers,
        body: String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned(),
    };
    let (fault, answer) = {
        let mut state = shared.state();
        state.requests.push(request.clone());
        shared.requests.send_replace(state.requests.len());
        let fault = next_fault(&mut state);
        let by_the_rules = fault.as_ref().is_none_or(|fault| fault.after_the_bet);
        let answer = if by_the_rules {
            games::answer(&mut state, &head.method, &request)
        } else {
            (
                StatusCode::OK,
                serde_json::json!({"outcome": "win", "payout": 1_000_000, "_info": {"fault": true}}),
            )
        };
        (fault, answer)
    };
    let body = Bytes::from(answer.1.to_string());
    let Some(Fault { how, .. }) = fault else {
        return whole(answer.0, &[("content-type", "application/json".to_owned())], body);
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

fn next_fault(state: &mut State) -> Option<Fault> {
    state.next.pop_front().or_else(|| state.always.clone())
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
