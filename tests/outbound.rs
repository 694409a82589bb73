//! How the function's requests leave: their heads, and their bodies.

use crate::{
    front_door::{FrontDoor, assert_problem, reply, row, soon},
    whole_stack::{NOTIFY_ALL, count, send, silence, sql},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use stack::{
    host::{AFTER_REPLY, Build, Host, Kind, Options, local_settings},
    http1,
    local::{AGENT, Local},
    webhook,
};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Bets of a round, which the function sends all at once.
const BETS: usize = 24;

/// More than a request has, so that one read takes all that has come.
const REQUEST_LIMIT_BYTES: usize = 16 * 1024;

/// A refusal that is final.
const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 28\r\n\r\n\
                       {\"error\": \"invalid_cashout\"}";

/// A request, as it came over its connection.
struct Arrival {
    /// Whether the connection had carried a request before.
    kept: bool,
    /// Whether the first bytes that came held the whole request.
    in_one_piece: bool,
}

/// A server in place of Purple Flea. It refuses the bets of a round when all of them have come, so that each comes over
/// a connection of its own.
#[derive(Clone)]
struct Server {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    count: watch::Sender<usize>,
}

impl Server {
    async fn start() -> Result<(Self, String)> {
        let (listener, url) = http1::listen().await?;
        let server = Self { arrivals: Arc::default(), count: watch::channel(0).0 };
        tokio::spawn(server.clone().accept(listener));
        Ok((server, url))
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self, mut stream: TcpStream) -> Result<()> {
        for kept in [false].into_iter().chain(std::iter::repeat(true)) {
            let mut request = Vec::with_capacity(REQUEST_LIMIT_BYTES);
            stream.read_buf(&mut request).await?;
            let in_one_piece = is_whole(&request)?;
            while !is_whole(&request)? {
                anyhow::ensure!(stream.read_buf(&mut request).await? > 0, "closed");
            }
            self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Arrival { kept, in_one_piece });
            let mut count = self.count.subscribe();
            self.count.send_modify(|count| *count += 1);
            let mine = *count.borrow_and_update();
            let all = mine.div_ceil(BETS) * BETS;
            count.wait_for(|count| *count >= all).await?;
            stream.write_all(REFUSAL.as_bytes()).await?;
        }
        Ok(())
    }
}

/// Tells whether bytes hold a whole request. Fails if they can not become one.
fn is_whole(request: &[u8]) -> Result<bool> {
    anyhow::ensure!(!request.is_empty(), "closed");
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    Ok(body.len() >= length.context("no content-length")?.parse()?)
}

/// Makes some deposits in one statement.
async fn deposits(stack: &Local, number: usize) -> Result<()> {
    let deposits = format!(
        "insert into public.wallet_changes (agent_id, change_type, change_amount, new_balance) \
         select '{AGENT}', 'deposit', 100, 100 from generate_series(1, {number})"
    );
    sql(stack, &deposits).await
}

/// A connection without `TCP_NODELAY` holds the second piece back until the server has acknowledged the first one.
#[tokio::test(flavor = "multi_thread")]
async fn bets_that_begin_at_once_leave_in_one_piece_each() -> Result<()> {
    let (server, url) = Server::start().await?;
    let stack = Local::start(Kind::LikeSpin, &[("purple_flea_url", &url)], None, |_| {}).await?;
    silence(&stack).await?;
    for round in 1..=2 {
        deposits(&stack, BETS).await?;
        let reply = send(&stack, &format!("notification-{round}"), NOTIFY_ALL).await?;
        assert_eq!(reply.body["jobs"], BETS, "{:?}", reply.body);
    }
    let open = "select count(*) from purple_flea.jobs where state <> 'rejected'";
    assert_eq!(count(&stack, open).await?, 0);
    let arrivals = server.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = arrivals.iter().filter(|arrival| arrival.kept).count();
    let in_pieces = arrivals.iter().filter(|arrival| arrival.kept && !arrival.in_one_piece).count();
    assert!(kept >= BETS / 2, "only {kept} requests came over kept connections");
    // A busy machine may stop the host between the two parts now and then.
    assert!(in_pieces <= kept / 4, "{in_pieces} of {kept} requests came in pieces");
    Ok(())
}

/// Their requests are on one instance of the component, where a trap would end them all.
#[tokio::test(flavor = "multi_thread")]
async fn bets_of_several_notifications_at_once_do_not_hinder_each_other() -> Result<()> {
    let stack = Local::start(Kind::Child, &[("bets_at_once", "8")], None, |_| {}).await?;
    stack.purple_flea.fund(AGENT, 50_000_000.into());
    silence(&stack).await?;
    for round in 0..5 {
        deposits(&stack, 64).await?;
        let ids = (0..8).map(|number| format!("notification-{round}-{number}"));
        let notifications = ids.map(async |id| send(&stack, &id, NOTIFY_ALL).await);
        for reply in join_all(notifications).await {
            assert_eq!(reply?.status, 200);
        }
    }
    assert_eq!(stack.traps(), 0, "the component trapped");
    assert_eq!(count(&stack, "select count(*) from purple_flea.jobs where state <> 'executed'").await?, 0);
    Ok(())
}

/// Listens in place of Purple Flea, and breaks each connection as soon as a head has come. Gives the URL.
async fn breaks_after_the_head() -> Result<String> {
    let (listener, url) = http1::listen().await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::with_capacity(REQUEST_LIMIT_BYTES);
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                stream.read_buf(&mut request).await?;
            }
        }
        anyhow::Ok(())
    });
    Ok(url)
}

/// A server that has closed an idle connection breaks it in this way when the next request comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_bet_whose_connection_breaks_before_its_body_left_is_reported_as_not_executed() -> Result<()> {
    let mut settings = local_settings(&breaks_after_the_head().await?);
    for (hold_ms, status, code, executed) in
        [("1000", 503, "not_reached", "no"), ("0", 502, "outcome_unknown", "unknown")]
    {
        settings.insert("purple_flea_hold_ms".to_owned(), hold_ms.to_owned());
        let (allowed_origins, listen) = (None, None);
        let (build, settings) = (Build::Spin, settings.clone());
        let options = Options { build, settings, allowed_origins, listen, after_reply: AFTER_REPLY };
        let host = Host::start(Kind::Embedded, &options).await?;
        let body = row(1, "100");
        let request = webhook::signed(&format!("{}/", host.url), "wallet-change-1", body.as_bytes())?;
        assert_problem(&reply(request.body(body.into())?).await?, status, code, executed);
        if executed == "no" {
            soon(host.log.find(|line| line.contains("broken_before_the_body"))).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bet_whose_body_is_held_back_is_made_once() -> Result<()> {
    let door = FrontDoor::with(&[("purple_flea_hold_ms", "100")]).await?;
    let reply = door.deposit(1, "100").await?;
    assert_eq!(reply.body["status"], "executed");
    let line = door.line(&["\"outcome\""]).await?;
    let ms: f64 = line["purple_flea_ms"].to_string().parse()?;
    assert!(ms >= 100.0, "{line}");
    assert_eq!(door.purple_flea.bets().len(), 1);
    Ok(())
}
