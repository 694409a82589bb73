//! Serves the simulator over HTTP, with its faults.

use super::{
    Fault, How, REQUESTS_LIMIT, Request, Shared, State,
    answer::{Answer, json_answer},
    chaos::Planned,
    routes::{self, Kind, Route},
};
use anyhow::{Error, Result, anyhow};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
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

/// How long a slow answer takes for each byte.
const DRIP: Duration = Duration::from_secs(1);

/// How long a connection without an answer is kept: longer than any caller waits. It needs a limit, because the
/// simulator does not notice that its caller disconnects.
const SILENCE: Duration = Duration::from_secs(120);

/// How long a connection stays open after half an answer: long enough to send that half.
const BREAK_OFF_DELAY: Duration = Duration::from_millis(20);

type Body = UnsyncBoxBody<Bytes, Error>;

pub(super) async fn accept(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            // The second handle serves to reset the socket.
            let Ok((stream, handle)) = two_handles(stream) else {
                return;
            };
            let service = service_fn(|request| serve(&shared, &handle, request));
            // A caller that sends a whole request and then disconnects has still made a bet.
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
    let (fault, answer, delay) = execute(shared, &head.method, request);
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    match fault {
        None => right(answer),
        Some(fault) => misbehave(fault.how, answer, handle).await,
    }
}

/// Executes a request, unless a fault comes first. Gives the fault, if there is one, the right answer, and the delay of
/// the reply.
fn execute(
    shared: &Shared,
    method: &http::Method,
    request: Request,
) -> (Option<Fault>, Answer, Option<Duration>) {
    let kind = kind(method, &request);
    let mut state = shared.state();
    if state.requests.len() >= REQUESTS_LIMIT {
        state.requests.pop_front();
    }
    state.requests.push_back(request.clone());
    shared.requests.send_modify(|seen| *seen += 1);
    let planned = next_fault(&mut state, kind);
    let answer = if planned.as_ref().is_none_or(|planned| planned.fault.after_the_bet) {
        let hidden = planned.as_ref().is_some_and(|planned| planned.hidden);
        routes::answer(&mut state, method, &request, hidden)
    } else {
        json_answer(StatusCode::OK, serde_json::json!({"outcome": "win", "payout": 1_000_000, "fault": true}))
    };
    (planned.map(|planned| planned.fault), answer, state.delay.filter(|_| kind.moves_money()))
}

/// Sends the right answer.
fn right(answer: Answer) -> Result<Response<Body>> {
    let Answer { status, content_type, body } = answer;
    whole(status, &[("content-type", content_type.to_owned())], body.into())
}

/// Sends a fault's version of the right answer.
async fn misbehave(how: How, mut answer: Answer, handle: &TcpStream) -> Result<Response<Body>> {
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
        How::OddNumber => {
            answer.body = with_an_odd_number(answer.body);
            right(answer)
        }
        How::Drip => {
            let drops = stream::iter(answer.body.clone().into_bytes()).then(|byte| async move {
                sleep(DRIP).await;
                Ok(Frame::data(Bytes::from(vec![byte])))
            });
            in_pieces(&answer, StreamBody::new(drops).boxed_unsync())
        }
        How::BreakOff => {
            // The delay lets the first half leave before the connection breaks.
            let end = stream::once(async {
                sleep(BREAK_OFF_DELAY).await;
                Err(anyhow!("broken off"))
            });
            in_pieces(&answer, StreamBody::new(half(&answer).chain(end)).boxed_unsync())
        }
        How::Stall => {
            let end = stream::once(async {
                sleep(SILENCE).await;
                Err(anyhow!("stalled"))
            });
            in_pieces(&answer, StreamBody::new(half(&answer).chain(end)).boxed_unsync())
        }
    }
}

/// Sends the headers of an answer, with another body.
fn in_pieces(answer: &Answer, body: Body) -> Result<Response<Body>> {
    let head = Response::builder().status(answer.status).header("content-type", answer.content_type);
    Ok(head.header("content-length", answer.body.len()).body(body)?)
}

/// Gives the first half of an answer's body.
fn half(answer: &Answer) -> impl Stream<Item = Result<Frame<Bytes>>> + Send + 'static {
    let half = Bytes::from(answer.body.clone()).slice(..answer.body.len() / 2);
    stream::iter([Ok(Frame::data(half))])
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

/// Puts a nonce of a million digits into the proof of a JSON body. Other bodies stay as they are.
fn with_an_odd_number(body: String) -> String {
    let (Ok(mut answer), Ok(nonce)) =
        (serde_json::from_str::<serde_json::Value>(&body), "1e999999".parse::<serde_json::Number>())
    else {
        return body;
    };
    if let Some(fields) = answer.as_object_mut() {
        let proof = fields.entry("proof").or_insert_with(|| serde_json::json!({}));
        if let Some(proof) = proof.as_object_mut() {
            proof.insert("nonce".to_owned(), nonce.into());
        }
    }
    answer.to_string()
}

/// Sends an answer unchanged.
fn whole(status: StatusCode, headers: &[(&'static str, String)], body: Bytes) -> Result<Response<Body>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(body).map_err(|never| match never {}).boxed_unsync())?)
}

#[cfg(test)]
mod tests;
